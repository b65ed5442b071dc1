"""Tokenizers of checkpoints without their weights."""

from __future__ import annotations

import copy
import functools
import threading
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.models.pin import pinned
from dask_embed.models.sources import load_tokenizer
from dask_embed.models.spec import Model
from dask_embed.runtime.registry import parts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

T = TypeVar("T")

_loading = threading.Lock()


def tokenizer_checkpoint(model: Model) -> Checkpoint:
    """Return the checkpoint of `model`, which needs no weights."""
    return read_checkpoint(model, needs_weights=False)


def pinned_tokenizer(model: Model) -> Model:
    """Return `model` resolved to a folder or commit, for its tokenizer alone."""
    return pinned(model, tokenizer_checkpoint(model))


def tokenizer_of(model: Model) -> PreTrainedTokenizerBase:
    """Return the tokenizer of `model`, to look at: neither call nor change it."""
    checkpoint = tokenizer_checkpoint(model)
    with _loading:
        return _loaded(model, checkpoint.root, checkpoint.revision)


def tokenizer_for(checkpoint: Checkpoint, spec: Model) -> PreTrainedTokenizerBase:
    """Return the tokenizer of `spec`, as sentence-transformers would set it up."""
    tokenizer = load_tokenizer(checkpoint.tokenizer_folder, spec)
    if checkpoint.sentence.do_lower_case:
        if not tokenizer.is_fast:
            name = type(tokenizer).__name__
            raise ValueError(f"do_lower_case is set, which tokenizer {name} cannot do")
        _lowercase_first(tokenizer.backend_tokenizer)
    return tokenizer


def _lowercase_first(tokenizer: Any) -> None:
    from tokenizers import normalizers

    present = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *present])


def fresh_tokenizer(model: Model, checkpoint: Checkpoint) -> PreTrainedTokenizerBase:
    """Return a tokenizer that nothing keeps, to call and to change."""
    with _loading:
        return tokenizer_for(checkpoint, model)


def require_rust(model: Model, needing: str) -> None:
    """Raise unless the tokenizer of `model` says where tokens come from.

    Parameters
    ----------
    model : Model
    needing : str
        What needs that, for the message.

    Raises
    ------
    ValueError
        If it is in Python.
    """
    if (
        model.tokenizer is None
        and (tokenizer_checkpoint(model).folder / "tokenizer.json").is_file()
    ):
        return  # without reading a vocabulary of many megabytes
    tokenizer = tokenizer_of(model)
    if not tokenizer.is_fast:
        raise ValueError(
            f"{needing} needs a tokenizer in Rust (tokenizer.json), which says where tokens come "
            f"from; that of model {model.name!r} is {type(tokenizer).__name__}, in Python"
        )


def own_tokenizer(model: Model, key: Hashable, build: Callable[[Any], T]) -> T:
    """Return what `build` gave for `key` in this process, calling it at most once.

    Parameters
    ----------
    model : Model
    key : hashable
        What sets it apart from other users of the same tokenizer.
    build : callable
        Takes a copy of the tokenizer that is its own to change, in which nothing limits the
        length of a text.
    """

    def built() -> T:
        tokenizer = copy.deepcopy(tokenizer_of(model))
        tokenizer.model_max_length = int(1e30)  # longer texts are no cause to warn
        return build(tokenizer)

    revision = tokenizer_checkpoint(model).revision
    return parts.get_or_build(("tokenizer", model, revision, key), built)


@functools.lru_cache(maxsize=8)
def _loaded(model: Model, root: Path, revision: str) -> PreTrainedTokenizerBase:
    return tokenizer_for(tokenizer_checkpoint(model), model)
