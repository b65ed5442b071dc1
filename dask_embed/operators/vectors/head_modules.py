"""What follows the transformer of an embedder: what its checkpoint says, and what it was told."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

from dask_embed._validation import shown
from dask_embed.models.checkpoint import Checkpoint
from dask_embed.models.dual import require_token_vectors
from dask_embed.models.modules import HeadModule, Normalize, Pooling, Truncate


def head_modules(
    checkpoint: Checkpoint,
    name: str,
    *,
    pooling: Any,
    normalize: str | bool,
    truncate_dim: int | None,
) -> tuple[HeadModule, ...]:
    """Return the modules behind the transformer of model `name`, none for token vectors.

    Raises
    ------
    ValueError
        If the checkpoint gives no such vectors.
    """
    _require_one_vector(checkpoint, name, pooling)
    if pooling == ("none",):
        require_token_vectors(name, checkpoint.config, "pooling='none'")
        if truncate_dim or normalize is True:
            raise ValueError(
                "pooling='none' gives the model's token vectors as they are; "
                "truncate_dim and normalize=True do not apply"
            )
        return ()
    first = checkpoint.default_pooling
    if pooling != "auto":
        first = dataclasses.replace(first, modes=tuple(pooling))
    modules: list[HeadModule] = [first, *checkpoint.modules]
    while normalize is False and isinstance(modules[-1], Normalize):
        modules.pop()  # one before a layer is part of what the layer was trained on
    truncate = truncate_dim or checkpoint.sentence.truncate_dim
    if truncate is not None:
        if truncate_dim is None:  # a saved one may be above the model's own dimension
            truncate = min(truncate, dimension_of(checkpoint, modules))
        modules.append(Truncate(truncate))
    if normalize is True and not isinstance(modules[-1], Normalize):
        modules.append(Normalize())
    return tuple(modules)


def _require_one_vector(checkpoint: Checkpoint, name: str, pooling: Any) -> None:
    if checkpoint.multi_vector is not None:
        raise ValueError(
            f"model {name!r} is a multi-vector model (MultiVectorMask); use MultiVectorEmbedder"
        )
    if checkpoint.splade is not None:
        raise ValueError(f"model {name!r} gives sparse vectors (SpladePooling); use SparseEmbedder")
    if checkpoint.static is not None and pooling not in ("auto", ("mean",)):
        raise ValueError(
            f"model {name!r} is a table of vectors (StaticEmbedding), whose pooling is the mean; "
            f"got pooling={shown(pooling)}"
        )


def normalized_before_cut(modules: Sequence[HeadModule]) -> bool:
    """Return whether vectors are cut after they were scaled to length one, and stay so."""
    *_, before, last = (None, None, *modules)
    return isinstance(last, Truncate) and isinstance(before, Normalize)


def dimension_of(checkpoint: Checkpoint, modules: Iterable[HeadModule]) -> int:
    """Return the number of values of a vector behind `modules`."""
    dimension = checkpoint.hidden_size
    for module in modules:
        dimension = module.output_dimension(dimension)
    return dimension


def pooling_modes(pooling: Any) -> tuple[str, ...]:
    """Return the names of pooling modes, of a name or several."""
    if not isinstance(pooling, str | tuple | list):
        raise TypeError(
            f"pooling must be the name of a pooling mode or a tuple of names, got {shown(pooling)}"
        )
    return Pooling((pooling,) if isinstance(pooling, str) else tuple(pooling)).modes
