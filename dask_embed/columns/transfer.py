"""Arrow tables that carry list columns between processes and into files.

pandas names the type of an Arrow list column in a way that it cannot read back
(``fixed_size_list<item: float>[384][pyarrow]``, pandas-dev/pandas#59738), and a table made from
such a frame has that name in its metadata. Parquet files would not open, and Dask's shuffle
between workers fails. So here are functions in place of Dask's for pandas, which they call;
frames without list columns go through unchanged. Where Dask's own writer would make such files
they warn: pandas' registry of types is of no help, since its Arrow type refuses the name first.
"""

from __future__ import annotations

import contextlib
import json
import warnings
from contextvars import ContextVar
from typing import Any

import pandas as pd
import pyarrow as pa
from dask.dataframe import backends  # noqa: F401 - registers Dask's own functions first
from dask.dataframe.dispatch import (
    from_pyarrow_table_dispatch,
    pyarrow_schema_dispatch,
    to_pyarrow_table_dispatch,
)

from dask_embed.runtime.within import set_within


def readable_metadata(schema: pa.Schema) -> dict[bytes, bytes]:
    """Return the metadata of `schema` with nested columns named ``object``, as pandas can read."""
    metadata = dict(schema.metadata or {})
    if b"pandas" not in metadata:
        return metadata
    described = json.loads(metadata[b"pandas"])
    nested = set(_nested_names(schema))
    for column in described["columns"]:
        if column["name"] in nested:
            column["numpy_type"] = "object"
    metadata[b"pandas"] = json.dumps(described).encode()
    return metadata


def _nested_names(schema: pa.Schema) -> list[str]:
    return [field.name for field in schema if pa.types.is_nested(field.type)]


_dask_pandas_to_table = to_pyarrow_table_dispatch.dispatch(pd.DataFrame)
_dask_table_to_pandas = from_pyarrow_table_dispatch.dispatch(pd.DataFrame)
_dask_schema = pyarrow_schema_dispatch.dispatch(pd.DataFrame)
_readable: ContextVar[bool] = ContextVar("readable", default=False)


def readable_files() -> contextlib.AbstractContextManager[None]:
    """Say that files which are planned here get metadata that pandas can read."""
    return set_within(_readable, True)


@pyarrow_schema_dispatch.register(pd.DataFrame)
def schema_of_pandas(frame: pd.DataFrame, **options: Any) -> pa.Schema:
    """Return the schema of the files that a frame is written to."""
    if _readable.get():
        frame = _with_texts(frame)
    schema = _dask_schema(frame, **options)
    nested = [
        name for name in _nested_names(schema) if isinstance(frame.dtypes.get(name), pd.ArrowDtype)
    ]
    if nested and not _readable.get():
        warnings.warn(
            f"pandas will not read column {nested[0]!r} of these files "
            f"({schema.field(nested[0]).type}): write with .ml.to_parquet, or read with "
            "dask_embed.read_parquet",
            stacklevel=2,
        )
    return schema


def _with_texts(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a frame of the types to write in which columns of objects are of texts.

    Dask has objects for them that Arrow knows no type of.
    """
    is_object = pd.api.types.is_object_dtype
    objects = [name for name, dtype in frame.dtypes.items() if is_object(dtype)]
    frame = frame.copy(deep=False)
    for name in objects:
        frame[name] = pd.Series("", frame.index, dtype="str")
    return frame.set_axis(frame.index.astype("str")) if is_object(frame.index.dtype) else frame


@to_pyarrow_table_dispatch.register(pd.DataFrame)
def pandas_to_table(frame: pd.DataFrame, **options: Any) -> pa.Table:
    """Return the Arrow table of a frame that goes to another worker."""
    table = _dask_pandas_to_table(frame, **options)
    if not _nested_names(table.schema):
        return table
    return table.replace_schema_metadata(readable_metadata(table.schema))


@from_pyarrow_table_dispatch.register(pd.DataFrame)
def table_to_pandas(meta: pd.DataFrame, table: pa.Table, **options: Any) -> pd.DataFrame:
    """Return the frame of a table that came from another worker."""
    lists = {
        name: dtype.pyarrow_dtype
        for name, dtype in meta.dtypes.items()
        if isinstance(dtype, pd.ArrowDtype) and pa.types.is_nested(dtype.pyarrow_dtype)
    }
    if not lists:
        return _dask_table_to_pandas(meta, table, **options)
    plain = table.replace_schema_metadata(readable_metadata(table.schema)).drop_columns([*lists])
    frame = _dask_table_to_pandas(meta.drop(columns=[*lists]), plain, **options)
    for name, dtype in lists.items():
        array = pd.arrays.ArrowExtensionArray(table[name].cast(dtype))
        frame[name] = pd.Series(array, index=frame.index)
    return frame[[name for name in table.column_names if name in frame.columns]]
