"""The specification of a model: which checkpoint, and how to run it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from dask_embed._validation import one_of

DTYPES = ("auto", "float32", "bfloat16", "float16")
AUTOCAST_DTYPES = (None, "bfloat16", "float16")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class Model:
    """Name a checkpoint and how it is loaded; a plain value that any process can load again.

    Parameters
    ----------
    name : str
        Hugging Face Hub id (``"sentence-transformers/all-MiniLM-L6-v2"``) or a local folder.
    revision : str, optional
        Branch, tag or commit of a Hub id. Operators resolve it to a commit when they are
        applied, so that every worker loads the same weights. For a local folder it is the
        folder's fingerprint; a folder with another content is then an error.
    dtype : {"auto", "float32", "bfloat16", "float16"}
        Type of the weights. ``"auto"`` is float32 on a CPU and bfloat16 on a GPU that has it.
    autocast : {None, "bfloat16", "float16"}
        Keep the weights as they are and run matrix products in this type (`torch.autocast`).
    device : str
        ``"auto"`` (the worker's GPU, else the CPU), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    attention : str
        ``"auto"`` runs batches without padding where that gives the same result, and padded
        otherwise; ``"padded"`` always pads; any other name (``"eager"``, ``"sdpa"``,
        ``"flash_attention_2"``) is handed to transformers and runs padded.
    compile : bool
        Run the model through `torch.compile`. Compiling takes a minute or so on each worker, at
        load; on a CPU it needs a C++ compiler. Shapes are dynamic, so that texts of other
        lengths compile nothing anew.
    trust_remote_code : bool
        Allow the checkpoint to bring Python code of its own.
    allow_pickle : bool
        Allow weights stored as pickle (``pytorch_model.bin``), which can run any code when
        loaded. By default only safetensors are read.
    cache_dir : str, optional
        Folder of the Hub cache; by default the environment's (``HF_HUB_CACHE``).
    local_files_only : bool
        Never ask the Hub, use what the cache holds.
    model_kwargs : mapping, optional
        More keyword arguments for ``from_pretrained``; values must be hashable.

    Notes
    -----
    There is no access token here: workers take it from their own environment (``HF_TOKEN``),
    so that it never reaches a graph, a key or a log.
    """

    name: str
    revision: str | None = None
    dtype: str = "auto"
    autocast: str | None = None
    device: str = "auto"
    attention: str = "auto"
    compile: bool = False
    trust_remote_code: bool = False
    allow_pickle: bool = False
    cache_dir: str | None = None
    local_files_only: bool = False
    model_kwargs: Any = field(default=())

    def __post_init__(self) -> None:
        if isinstance(self.name, Path):
            object.__setattr__(self, "name", str(self.name))
        if not isinstance(self.name, str) or not self.name.strip():
            raise TypeError(
                f"model must be a Hub id, a local folder or a dask_embed.Model, got {self.name!r}"
            )
        one_of("dtype", self.dtype, DTYPES)
        one_of("autocast", self.autocast, AUTOCAST_DTYPES)
        one_of("compile", self.compile, (True, False))
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise ValueError(
                f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {self.device!r}"
            )
        object.__setattr__(self, "model_kwargs", _hashable_items(self.model_kwargs))

    @classmethod
    def of(cls, model: str | Path | Model) -> Model:
        """Return `model` itself, or the specification with defaults for a name."""
        return model if isinstance(model, Model) else cls(model)  # type: ignore[arg-type]

    def pinned(self, name: str, revision: str) -> Model:
        """Return the same model under a resolved name and revision."""
        return replace(self, name=name, revision=revision)


def _hashable_items(kwargs: Any) -> tuple[tuple[str, Any], ...]:
    try:
        items = kwargs.items() if isinstance(kwargs, Mapping) else tuple(kwargs or ())
        pairs = tuple(sorted((str(key), value) for key, value in items))
        hash(pairs)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"model_kwargs must map names to hashable values, got {kwargs!r} ({error})"
        ) from None
    return pairs
