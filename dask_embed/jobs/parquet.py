"""Parquet files with vectors that any reader opens.

A pandas Arrow list column written by `DataFrame.to_parquet` cannot be read back, because the
name of its type in the pandas metadata is one that pandas does not understand. Here that name
is ``object``, as for any nested column, and what made each vector column is written beside it.
"""

from __future__ import annotations

import json
import os
from typing import Any

import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
from dask.dataframe.io.parquet.arrow import ArrowDatasetEngine

from dask_embed.columns import to_host
from dask_embed.columns.transfer import readable_metadata
from dask_embed.expr import OperatorRows, Quantize
from dask_embed.operators.together import parts_of

METADATA_KEY = "dask_embed"


class VectorEngine(ArrowDatasetEngine):
    """Dask's Arrow engine, with pandas metadata that every reader understands."""

    @classmethod
    def _pandas_to_arrow_table(
        cls, df: pd.DataFrame, preserve_index: bool = False, schema: pa.Schema | None = None
    ) -> pa.Table:
        table = super()._pandas_to_arrow_table(df, preserve_index=preserve_index, schema=schema)
        return table.replace_schema_metadata(readable_metadata(table.schema))


def to_parquet(frame: Any, path: Any, *, overwrite: bool = False, **options: Any) -> Any:
    """Write a Dask DataFrame to a folder of Parquet files, one per partition.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
        pandas or cuDF backed; files are the same.
    path : str or Path
        Folder, also remote (``"s3://..."``).
    overwrite : bool
        Replace what the folder holds. By default a folder with Parquet files is an error,
        because old and new files would be read as one dataset.
    **options
        What ``dask.dataframe.to_parquet`` takes, such as ``compute=False``, ``write_index``,
        ``append``, ``compression``, ``partition_on`` and ``storage_options``.

    Returns
    -------
    None, or a Dask scalar with ``compute=False``.

    Raises
    ------
    FileExistsError
        If the folder holds Parquet files and neither `overwrite` nor ``append`` is given.

    Notes
    -----
    Vector columns stay Arrow fixed-size lists of float32: pandas gives arrays, DuckDB and
    Polars give their array types. The file metadata ``dask_embed`` is json: this library's
    version, and per column that an operator made what made it: the model, its revision, for
    vectors dimension and pooling, for chunks their limit and boundaries.
    """
    path = os.fspath(path)
    if not overwrite and not options.get("append"):
        _refuse_to_mix(path, options.get("storage_options"))
    metadata = {METADATA_KEY: json.dumps(_provenance(frame))}
    metadata.update(options.pop("custom_metadata", None) or {})
    if type(frame._meta).__module__.split(".")[0] == "cudf":
        frame = frame.map_partitions(to_host, meta=to_host(frame._meta))
    return dd.to_parquet(
        frame,
        path,
        engine=VectorEngine,
        overwrite=overwrite,
        custom_metadata=metadata,
        **options,
    )


def read_parquet(path: Any, **options: Any) -> Any:
    """Read Parquet files lazily, with vectors, lists and structs of the types that operators give.

    Parameters
    ----------
    path : str, Path or list
        As in ``dask.dataframe.read_parquet``.
    **options
        What ``dask.dataframe.read_parquet`` takes, such as ``columns`` and ``filters``.

    Returns
    -------
    dask.dataframe.DataFrame
        Columns of vectors, lists and structs have their `pandas.ArrowDtype`; vectors are what
        `to_array` takes.
    """
    arrow = {"types_mapper": _nested_dtype, **options.pop("arrow_to_pandas", {})}
    path = path if isinstance(path, list) else os.fspath(path)
    return dd.read_parquet(path, arrow_to_pandas=arrow, **options)


def _nested_dtype(dtype: pa.DataType) -> pd.ArrowDtype | None:
    """Return the type that operators give to vectors, lists and structs; None for other types."""
    return pd.ArrowDtype(_plainly_named(dtype)) if pa.types.is_nested(dtype) else None


def _plainly_named(dtype: pa.DataType) -> pa.DataType:
    """Return the type with the names of list values that Arrow uses, whatever the file has."""
    if pa.types.is_fixed_size_list(dtype):
        return pa.list_(_plainly_named(dtype.value_type), dtype.list_size)
    if pa.types.is_list(dtype):
        return pa.list_(_plainly_named(dtype.value_type))
    if pa.types.is_struct(dtype):
        return pa.struct([(field.name, _plainly_named(field.type)) for field in dtype])
    return dtype


def _provenance(frame: Any) -> dict[str, Any]:
    """Describe each result column of `frame` that an operator of its expression made."""
    from dask_embed import __version__

    columns: dict[str, dict[str, Any]] = {}
    for node in frame.expr.find_operations(OperatorRows):
        for operator in parts_of(node.operator):
            made = [name for name in operator.result_columns if name in frame.columns]
            # The last to make a column comes first; an earlier one had its name and was cut away.
            columns = {name: operator.provenance() for name in made} | columns
    for node in frame.expr.find_operations(Quantize):
        if node.column in columns:
            columns[node.column]["precision"] = node.precision
    return {"version": __version__, "columns": columns}


def _refuse_to_mix(path: str, storage_options: dict[str, Any] | None) -> None:
    import fsspec

    filesystem, folder = fsspec.core.url_to_fs(path, **(storage_options or {}))
    present = [name for name in filesystem.find(folder) if name.endswith((".parquet", ".parq"))]
    if present:
        raise FileExistsError(
            f"{path!r} already holds {len(present)} Parquet files; old and new would be read as "
            "one dataset: choose another folder, or overwrite=True, or append=True"
        )
