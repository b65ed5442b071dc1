"""What a sentence-transformers checkpoint does to tokens and vectors, as plain values.

`dask_embed.models.module_files` reads them from its json files, `dask_embed.inference.heads` runs
them. Source: sentence-transformers 2 to 6.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask_embed._validation import meant, shown, shown_error
from dask_embed.models.bounds import require_size_of_file

# In the order in which sentence-transformers concatenates them.
SENTENCE_TRANSFORMERS_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
SPLADE_STRATEGIES, SPLADE_ACTIVATIONS = ("max", "sum"), ("relu", "log1p_relu")
POOLING_MODES = (*SENTENCE_TRANSFORMERS_MODES.values(), "sum", "none")


@dataclass(frozen=True)
class Pooling:
    """Token vectors of a text to one vector: the `modes`, concatenated."""

    modes: tuple[str, ...]
    include_prompt: bool = True

    def __post_init__(self) -> None:
        for mode in self.modes:
            if mode not in POOLING_MODES:
                raise ValueError(
                    f"pooling must be 'auto' or among {', '.join(map(repr, POOLING_MODES))}; "
                    f"got {shown(mode)}{meant(mode, POOLING_MODES)}"
                )
        if not self.modes or ("none" in self.modes and len(self.modes) > 1):
            raise ValueError(f"pooling {self.modes!r} cannot be concatenated")

    def output_dimension(self, dimension: int) -> int:
        return len(self.modes) * dimension


@dataclass(frozen=True)
class Dense:
    """A linear layer with an activation, after pooling."""

    path: str
    in_features: int
    out_features: int
    bias: bool = True
    activation: str = "torch.nn.modules.activation.Tanh"
    residual: bool = False

    def output_dimension(self, dimension: int) -> int:
        _require_dimension(f"Dense module {self.path!r}", self.in_features, dimension)
        return self.out_features


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalization of the vector."""

    path: str
    dimension: int

    def output_dimension(self, dimension: int) -> int:
        _require_dimension(f"LayerNorm module {self.path!r}", self.dimension, dimension)
        return dimension


@dataclass(frozen=True)
class Truncate:
    """Keep the first `dimension` values of the vector (Matryoshka embeddings)."""

    dimension: int

    def output_dimension(self, dimension: int) -> int:
        if self.dimension > dimension:
            raise ValueError(
                f"truncate_dim must be at most the model's dimension {dimension}, "
                f"got {self.dimension}"
            )
        return self.dimension


@dataclass(frozen=True)
class Normalize:
    """Scale the vector to Euclidean length one; the zero vector stays zero."""

    def output_dimension(self, dimension: int) -> int:
        return dimension


@dataclass(frozen=True)
class StaticEmbedding:
    """A vector of each token from a table, and their mean: in place of a transformer."""

    path: str


@dataclass(frozen=True)
class SpladePooling:
    """Scores of the vocabulary for each token of a text to one weight of each of its words."""

    strategy: str = "max"
    activation: str = "relu"


@dataclass(frozen=True)
class MultiVector:
    """A vector for each token of a text, but for some: what late interaction scores.

    Attributes
    ----------
    skiplist_words : tuple of str
        Tokens whose vectors are left out, of texts that are what `skiplist_tasks` says.
    skiplist_tasks : tuple of str
    keep_only_token_ids : tuple of int
        If there are any, of documents the vectors of these alone are kept.
    """

    skiplist_words: tuple[str, ...] = ()
    skiplist_tasks: tuple[str, ...] = ("document",)
    keep_only_token_ids: tuple[int, ...] = ()


VectorModule = Dense | LayerNorm | Truncate | Normalize
HeadModule = Pooling | VectorModule
Pooled = Pooling | StaticEmbedding | SpladePooling | MultiVector


def read_json(file: Path, kind: type = dict) -> Any:
    """Return what a json file holds, an object unless `kind` is list.

    Raises
    ------
    ValueError
        If the file is not json, or holds something else.
    """
    try:
        require_size_of_file(file)
        content = json.loads(file.read_text("utf8"))
    except (OSError, RecursionError, ValueError) as error:
        raise ValueError(f"{str(file)!r} is not valid json: {shown_error(error)}") from error
    if not isinstance(content, kind):
        wanted = "a list" if kind is list else "an object"
        raise ValueError(f"{str(file)!r} must hold {wanted}, got {type(content).__name__}")
    return content


def first_json(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the object in the first of some files that says something, empty without any."""
    for name in names:
        if (folder / name).is_file() and (content := read_json(folder / name)):
            return dict(content)
    return {}


def _require_dimension(what: str, expected: int, given: int) -> None:
    if expected != given:
        raise ValueError(
            f"{what} takes vectors of {expected} values but the modules before it give {given}"
        )
