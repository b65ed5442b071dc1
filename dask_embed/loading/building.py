"""Whether transformers can build the model that a configuration describes, told without weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dask_embed._validation import meant, shown, shown_error
from dask_embed.models.foreign import told_as
from dask_embed.models.spec import Model
from dask_embed.models.tasks import empty_model
from dask_embed.runtime.libraries import importing

if TYPE_CHECKING:
    from dask_embed.models.checkpoint import Checkpoint

_OWN_ATTENTION = ("auto", "padded", "eager")
_OF_KERNELS = ("/", "|", ":")  # in names of kernels of the Hub, which only a worker may have
_built: set[tuple[Any, ...]] = set()


def require_buildable(model: Model, task: str, checkpoint: Checkpoint) -> None:
    """Raise ValueError if transformers cannot build a model: activations, rotations, sizes.

    Its constructor runs as it does when weights are loaded, with tensors that have shapes and no
    memory. What brings code of its own is built by workers alone.
    """
    _require_attention(model.attention)
    if model.trust_remote_code or model.factory is not None:
        return
    key = (checkpoint.root, checkpoint.revision, task, model.labels, model.model_kwargs)
    if key in _built:
        return
    source = f"the config.json of {str(checkpoint.folder)!r}"
    with importing(), _unknown_names(checkpoint.config, source), _without_memory():
        empty_model(task, checkpoint)
    _built.add(key)


@contextlib.contextmanager
def _without_memory() -> Iterator[None]:
    """Build modules as transformers does before it reads weights."""
    import torch  # noqa: PLC0415 - when a frame meets a model
    from transformers import initialization  # noqa: PLC0415 - when a frame meets a model

    with (
        initialization.no_tie_weights(),
        torch.device("meta"),
        initialization.meta_device_safe_creation_ops(),
    ):
        yield


@contextlib.contextmanager
def _unknown_names(config: Any, source: str) -> Iterator[None]:
    """Tell which entry has a name that no table of transformers has, and other errors in a line."""
    what = f"{source} describes a model that transformers cannot build"
    with told_as(what):
        try:
            yield
        except KeyError as error:
            for entry, value in _entries(config.to_dict()):
                if error.args == (value,) and isinstance(value, str):
                    raise ValueError(f"{source} has {_unknown(entry, value)}") from error
            raise
        except RuntimeError as error:  # of sizes: there is no memory to run out
            raise ValueError(f"{what}: {shown_error(error)}") from error


def _unknown(entry: str, value: str) -> str:
    from transformers.activations import ACT2FN  # noqa: PLC0415 - when a frame meets a model
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS  # noqa: PLC0415 - when a frame meets a model

    tables = {"act": ACT2FN, "type": ["default", *ROPE_INIT_FUNCTIONS]}
    known = next((sorted(names) for part, names in tables.items() if part in entry), [])
    allowed = f"; it must be one of {', '.join(known)}" if known else ""
    return f"{entry}={shown(value)}, which transformers does not know{meant(value, known)}{allowed}"


def _entries(written: Any) -> Iterator[tuple[str, Any]]:
    for name, value in written.items():
        if isinstance(value, dict):
            yield from _entries(value)
        yield str(name), value


def _require_attention(name: str) -> None:
    if name in _OWN_ATTENTION or any(sign in name for sign in _OF_KERNELS):
        return
    with importing():
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS  # noqa: PLC0415 - when a frame meets a model
    every = sorted(map(str, ALL_ATTENTION_FUNCTIONS.valid_keys()))
    known = [*_OWN_ATTENTION, *(each for each in every if each.isidentifier())]
    if name not in known:
        raise ValueError(
            f"attention must be one of {', '.join(map(repr, known))}; got {shown(name)}"
            f"{meant(name, known)}"
        )
