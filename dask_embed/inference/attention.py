"""Attention over a packed batch: sequences one after the other, none sees another.

A packed batch is one row of tokens whose sequences are told apart by their offsets, so that no
padding is computed. Where they part into branches, the batch says so (`Layout`). The function is
registered with transformers under `PACKED_ATTENTION`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface

PACKED_ATTENTION = "dask_embed_packed"
# Arguments of transformers' attention functions that change the result and are not done here.
_NOT_PACKED = ("position_bias", "s_aux", "softcap", "head_mask", "relative_attention_bias")


class Layout(Protocol):
    """Which tokens of a packed batch see which, where they are not plain sequences."""

    def attend(
        self,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        causal: bool,
        sliding_window: int | None,
        scaling: float | None,
    ) -> torch.Tensor:
        """Return what `packed_attention` does, from what it was given."""


# The batch that is running: layers of some models (Nemotron) do not pass arguments on.
_batch: ContextVar[tuple[torch.Tensor | None, int | None, Layout | None]] = ContextVar(
    "dask_embed_batch", default=(None, None, None)
)


@contextlib.contextmanager
def packed_batch(
    offsets: torch.Tensor, longest: int, layout: Layout | None = None
) -> Iterator[None]:
    """Tell `packed_attention` within the block where the sequences of the batch begin."""
    token = _batch.set((offsets, longest, layout))
    try:
        yield
    finally:
        _batch.reset(token)


class NotPackableError(RuntimeError):
    """The model asks of its attention what the packed function does not do."""


def packed_attention(
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
    """Attend within each sequence of a packed batch.

    Parameters
    ----------
    module : torch.nn.Module
        The attention layer; its `is_causal` counts when the argument is None.
    query, key, value : torch.Tensor
        Shape (1, heads, tokens, head size); key and value may have fewer heads.
    attention_mask : None
        The registered mask function gives none.
    scaling : float, optional
        Factor of the scores, 1 / sqrt(head size) by default.
    dropout : float
        Has no effect at inference.
    is_causal : bool, optional
    sliding_window : int, optional
        A token sees others at a distance below this.

    Returns
    -------
    output : torch.Tensor
        Shape (1, tokens, heads, head size).
    weights : None

    Raises
    ------
    NotPackableError
        If the model passes a bias or anything else that this function would have to ignore.
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
    attend: Any = _attend_as_one if torch.compiler.is_compiling() else _attend
    return attend(query, key, value, causal, sliding_window, scaling), None


def _attend(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    causal: bool,
    sliding_window: int | None,
    scaling: float | None,
) -> torch.Tensor:
    """Attend within the sequences of the running batch."""
    offsets, longest, layout = _batch.get()
    if offsets is None or longest is None:
        raise NotPackableError("no batch is running: packed attention needs its offsets")
    if layout is not None:
        return layout.attend(query, key, value, causal, sliding_window, scaling)
    window = None if sliding_window is None or longest <= sliding_window else sliding_window
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        return _fused(query, key, value, offsets, longest, causal, window, scaling)
    return _by_length(query, key, value, offsets, causal, window, scaling)


# For `torch.compile` the loop over the sequences is one step that it does not look into.
_attend_as_one = torch.library.custom_op("dask_embed::attend", _attend, mutates_args=())


@_attend_as_one.register_fake
def _(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    causal: bool,
    sliding_window: int | None,
    scaling: float | None,
) -> torch.Tensor:
    _, heads, tokens, _ = query.shape
    return query.new_empty(1, tokens, heads, value.shape[-1])


def _fused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    longest: int,
    causal: bool,
    window: int | None,
    scaling: float | None,
) -> torch.Tensor:
    from torch.nn.attention.varlen import varlen_attn

    reach = -1 if window is None else window - 1
    output: Any = varlen_attn(
        query[0].transpose(0, 1),
        key[0].transpose(0, 1),
        value[0].transpose(0, 1),
        offsets,
        offsets,
        longest,
        longest,
        scale=scaling,
        window_size=(reach, 0 if causal else reach),
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output.unsqueeze(0)


def _by_length(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    offsets: torch.Tensor,
    causal: bool,
    window: int | None,
    scaling: float | None,
) -> torch.Tensor:
    """Run runs of equally long sequences together, as a batch that needs no padding."""
    heads, tokens = query.shape[1:3]
    output = query.new_empty(1, tokens, heads, value.shape[-1])
    for start, rows, length in _equal_runs(offsets.tolist()):
        stop = start + rows * length
        q, k, v = (
            part[0, :, start:stop].unflatten(1, (rows, length)).transpose(0, 1)
            for part in (query, key, value)
        )
        mask = None
        if window is not None and length > window:
            mask = window_mask(length, window, causal, query.device)
        attended = scaled_dot_product_attention(
            q,
            k,
            v,
            attn_mask=mask,
            is_causal=causal and mask is None,
            scale=scaling,
            enable_gqa=heads != key.shape[1],
        )
        output[0, start:stop].view(rows, length, heads, -1).copy_(attended.transpose(1, 2))
    return output


def _equal_runs(offsets: list[int]) -> list[tuple[int, int, int]]:
    """Return (first token, sequences, length) for each run of neighbours of one length."""
    runs: list[tuple[int, int, int]] = []
    for start, stop in pairwise(offsets):
        length = stop - start
        if runs and runs[-1][2] == length:
            first, rows, _ = runs[-1]
            runs[-1] = (first, rows + 1, length)
        elif length:
            runs.append((start, 1, length))
    return runs


def window_mask(length: int, window: int, causal: bool, device: torch.device) -> torch.Tensor:
    """Return who sees whom of a sequence within a sliding window, bool (length, length)."""
    position = torch.arange(length, device=device)
    distance = position[:, None] - position[None, :]
    near = distance.abs() < window
    return near & (distance >= 0) if causal else near


def _no_mask(*args: Any, **kwargs: Any) -> None:
    """Packed attention needs no mask: the offsets say who sees whom."""


AttentionInterface.register(PACKED_ATTENTION, packed_attention)
AttentionMaskInterface.register(PACKED_ATTENTION, _no_mask)
