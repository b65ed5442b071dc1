"""Static embeddings: a table with a vector for each token, and no transformer.

Source: `StaticEmbedding` of sentence-transformers 6.2, which also reads the tables of model2vec.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from dask_embed._validation import shown, shown_error
from dask_embed.models.bounds import require_sizes
from dask_embed.models.growth import require_bounded_growth
from dask_embed.models.patterns import require_patterns_that_end, require_short_texts
from dask_embed.models.spec import Model
from dask_embed.models.tensor_files import require_whole

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
# By the name of the table: sentence-transformers', model2vec's.
_TABLES = ("embedding.weight", "embeddings")
# Options of a model that say nothing of a table.
_WITHOUT_MEANING = (
    *("autocast", "model_kwargs", "adapter", "quantization", "device_map", "tokenizer"),
    *("factory", "labels", "compile"),
)


@dataclass(frozen=True)
class StaticTable:
    """The table of a folder, as the header of its file says.

    Attributes
    ----------
    folder : Path
        Where its weights and its tokenizer lie.
    table : str
        The name of its tensor.
    tokens : int
        How many ids have a vector.
    dimension : int
    """

    folder: Path
    table: str
    tokens: int
    dimension: int


def read_static_table(folder: Path) -> StaticTable:
    """Return what the header of a table's file says.

    Raises
    ------
    ValueError
        If there is no such file, or it holds no table.
    """
    from safetensors import safe_open

    file = folder / WEIGHTS
    require_whole([file], folder, "checkpoint")
    if not (folder / TOKENIZER).is_file():
        raise ValueError(f"StaticEmbedding in {str(folder)!r} needs its {TOKENIZER}")
    with safe_open(file, framework="numpy") as opened:
        shapes = {key: tuple(opened.get_slice(key).get_shape()) for key in opened.keys()}  # noqa: SIM118
    table = next((name for name in _TABLES if name in shapes), None)
    if table is None or len(shapes[table]) != 2:
        raise ValueError(
            f"{str(file)!r} holds no table of vectors ({' or '.join(_TABLES)}); it has "
            f"{shown(shapes)}"
        )
    rows, dimension = shapes[table]
    tokens = shapes.get("mapping", (rows,)) if table == _TABLES[1] else (rows,)
    require_sizes({"vocab_size": tokens[0], "hidden_size": dimension}, repr(str(file)))
    return StaticTable(folder, table, tokens[0], dimension)


def require_static(model: Model) -> None:
    """Raise ValueError for options of `model` that a table has no use for."""
    for field in dataclasses.fields(model):
        value = getattr(model, field.name)
        if field.name in _WITHOUT_MEANING and value != field.default and value:
            raise ValueError(_without_meaning(model, field.name, value))
    if model.dtype not in ("auto", "float32"):
        raise ValueError(_without_meaning(model, "dtype", model.dtype))


def _without_meaning(model: Model, name: str, value: Any) -> str:
    return (
        f"model {model.name!r} is a table of vectors (StaticEmbedding), to which {name}="
        f"{shown(value)} does not apply; leave it out"
    )


@functools.lru_cache(maxsize=8)
def static_tokenizer(table: StaticTable, revision: str) -> Tokenizer:
    """Return the tokenizer of a table, as sentence-transformers sets it up; do not change it.

    Raises
    ------
    ValueError
        If it is damaged, is not run here, or gives tokens that have no vector.
    """
    from tokenizers import Tokenizer

    source = f"the tokenizer of StaticEmbedding in {str(table.folder)!r}"
    try:
        tokenizer = Tokenizer.from_file(str(table.folder / TOKENIZER))
    except Exception as error:  # the library raises bare exceptions
        raise ValueError(f"{source} cannot be loaded: {shown_error(error)}") from error
    loaded = SimpleNamespace(backend_tokenizer=tokenizer)
    require_short_texts(loaded, source)
    require_bounded_growth(loaded, source)
    require_patterns_that_end(loaded, source)
    highest = max(tokenizer.get_vocab(with_added_tokens=True).values(), default=-1)
    if highest >= table.tokens:
        raise ValueError(
            f"{source} gives tokens up to {highest}, but its table has vectors up to "
            f"{table.tokens - 1}; use the tokenizer that it was made with"
        )
    tokenizer.no_padding()
    return tokenizer
