"""The attention of every batch without padding: who sees whom is the batch's own layout.

A batch is one row of tokens, several texts one after the other. Its `Layout` says what each token
sees: its own sequence (`sequences.py`), its branch and the trunk (`branches.py`), or the states
that decoding has kept (`generation/layouts.py`). It travels in a context variable, since layers of
some models (Nemotron) do not pass arguments on. One function, registered with transformers, asks
it; it runs in a copy of the model, which shares the weights, so that the model itself stays as it
was loaded.
"""

from __future__ import annotations

import contextlib
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch
from transformers import AttentionInterface, AttentionMaskInterface

from dask_embed.loading.copies import sharing_copy
from dask_embed.runtime.within import set_within

ATTENTION = "dask_embed"
# Arguments of transformers' attention functions that change the result and are not done here.
_NOT_PACKED = ("position_bias", "s_aux", "softcap", "head_mask", "relative_attention_bias")

M = TypeVar("M", bound=torch.nn.Module)


@dataclass(frozen=True)
class LayerSettings:
    """What a layer asks of its attention.

    Attributes
    ----------
    causal : bool
        A token sees those before it and itself.
    window : int or None
        A token sees others at a distance below this.
    scaling : float or None
        Factor of the scores, 1 / sqrt(head size) by default.
    number : int or None
        Its place among the layers, if it knows that.
    """

    causal: bool
    window: int | None = None
    scaling: float | None = None
    number: int | None = None


class Layout(Protocol):
    """Which tokens of a batch see which."""

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        settings: LayerSettings,
    ) -> torch.Tensor:
        """Attend within one layer.

        Parameters
        ----------
        query, key, value : torch.Tensor
            Shape (1, heads, tokens, head size); key and value may have fewer heads.
        settings : LayerSettings

        Returns
        -------
        torch.Tensor
            Shape (1, tokens, heads, head size).
        """


_layout: ContextVar[Layout | None] = ContextVar("dask_embed_layout", default=None)


def laid_out(layout: Layout) -> contextlib.AbstractContextManager[None]:
    """Let the batch that runs within the block attend as `layout` says."""
    return set_within(_layout, layout)


class NotPackableError(RuntimeError):
    """The model asks of its attention what no layout does."""


def attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend as the layout of the running batch says.

    Parameters
    ----------
    module : torch.nn.Module
        The attention layer; its `is_causal` counts when the argument is None.
    query, key, value : torch.Tensor
        As `Layout` takes them.
    attention_mask : None
        The registered mask function gives none.
    scaling : float, optional
    dropout : float
        Has no effect at inference.
    is_causal : bool, optional
    sliding_window : int, optional

    Returns
    -------
    output : torch.Tensor
        Shape (1, tokens, heads, head size).
    weights : None

    Raises
    ------
    NotPackableError
        If the model passes a bias or anything else that would have to be ignored.
    """
    given = [name for name in _NOT_PACKED if kwargs.get(name) is not None]
    if attention_mask is not None or given:
        raise NotPackableError(
            f"{type(module).__name__} cannot run packed: it uses "
            + (", ".join(given) if given else "a mask")
        )
    if query.shape[2] != key.shape[2]:
        raise NotPackableError(f"{type(module).__name__} attends to other tokens than its own")
    causal = bool(getattr(module, "is_causal", True) if is_causal is None else is_causal)
    number = getattr(module, "layer_idx", None)
    number = number if isinstance(number, int) else None
    attend: Any = _attend_as_one if torch.compiler.is_compiling() else _attend
    return attend(query, key, value, causal, sliding_window, scaling, number), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    causal: bool,
    window: int | None,
    scaling: float | None,
    number: int | None,
) -> torch.Tensor:
    layout = _layout.get()
    if layout is None:
        raise NotPackableError("no batch is running: its layout is needed")
    return layout.attend(query, key, value, LayerSettings(causal, window, scaling, number))


# For `torch.compile` the loop over the sequences is one step that it does not look into.
_attend_as_one = torch.library.custom_op("dask_embed::attend", _attend, mutates_args=())


@_attend_as_one.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    causal: bool,
    window: int | None,
    scaling: float | None,
    number: int | None,
) -> torch.Tensor:
    _, heads, tokens, _ = query.shape
    return query.new_empty(1, tokens, heads, value.shape[-1])


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """The layout says who sees whom."""


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, _no_mask)


def laid_out_copy(model: M) -> M:
    """Return a model with the weights of `model` that attends as layouts say, and only so."""
    copied: Any = sharing_copy(model)
    copied.set_attn_implementation(ATTENTION)
    return copied
