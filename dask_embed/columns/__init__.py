"""Text in, results out, per dataframe library.

`pandas` and `cudf` partitions are told apart by `dask.utils.Dispatch`; `columns.cudf` is
imported only when a cuDF object arrives.
"""

from __future__ import annotations

import importlib
from typing import Any

from dask.utils import Dispatch

from dask_embed.columns.types import Result, TextColumn, TokenVectors, VectorColumn, Vectors

__all__ = [
    "Result",
    "TextColumn",
    "TokenVectors",
    "VectorColumn",
    "Vectors",
    "append_columns",
    "check_text",
    "empty_columns",
    "keeps_on_device",
    "read_text",
    "read_vectors",
    "stored_vectors",
    "to_host",
    "vectors_to_array",
]

check_text = Dispatch("dask_embed_check_text")
"""``(series) -> None``: raise TypeError unless the type of `series` can hold text."""

read_text = Dispatch("dask_embed_read_text")
"""``(series) -> TextColumn``: the values as Python strings, nulls as None, bad rows apart."""

stored_vectors = Dispatch("dask_embed_stored_vectors")
"""``(series) -> (pyarrow.DataType, dimension or None)`` of its vectors, else raise TypeError."""

read_vectors = Dispatch("dask_embed_read_vectors")
"""``(series, dimension) -> VectorColumn``: the vectors without a copy, bad rows apart."""

append_columns = Dispatch("dask_embed_append_columns")
"""``(frame, {name: Result}) -> frame``: a new frame with the columns at its end."""

empty_columns = Dispatch("dask_embed_empty_columns")
"""``(frame, {name: pyarrow.DataType}) -> frame``: as `append_columns`, for a frame of no rows."""

vectors_to_array = Dispatch("dask_embed_vectors_to_array")
"""``(series, dimension) -> array``: float array of shape (rows, dimension), null rows NaN."""

to_host = Dispatch("dask_embed_to_host")
"""``(frame) -> pandas.DataFrame`` with Arrow list columns."""

keeps_on_device = Dispatch("dask_embed_keeps_on_device")
"""``(frame) -> bool``: results stay in GPU memory."""

_ALL = (
    check_text,
    read_text,
    stored_vectors,
    read_vectors,
    append_columns,
    empty_columns,
    vectors_to_array,
    to_host,
    keeps_on_device,
)


def _register(library: Any) -> None:
    for function in _ALL:
        implementation = getattr(library, function.__name__.removeprefix("dask_embed_"))
        for cls in (library.DataFrame, library.Series):
            function.register(cls, implementation)


def _lazily(package: str) -> None:
    def register() -> None:
        _register(importlib.import_module(f"dask_embed.columns.{package}"))

    for function in _ALL:
        function.register_lazy(package, register)


_lazily("pandas")
_lazily("cudf")
