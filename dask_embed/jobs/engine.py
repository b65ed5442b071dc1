"""Dask's Parquet engine, for columns of vectors, lists and structs.

A pandas Arrow list column written by `DataFrame.to_parquet` cannot be read back, because the
name of its type in the pandas metadata is one that pandas does not understand
(pandas-dev/pandas#59738). Here that name is ``object``, as for any nested column, in what is
written and in what is read.
"""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from dask.tokenize import normalize_token
from fsspec.implementations.arrow import ArrowFSWrapper

from dask_embed._validation import shown, shown_error
from dask_embed.columns.transfer import readable_metadata
from dask_embed.jobs.folder_types import partitioning, values_of
from dask_embed.lazy._dask import ArrowDatasetEngine


class VectorEngine(ArrowDatasetEngine):
    """Dask's Arrow engine, with pandas metadata that every reader understands."""

    @classmethod
    def multi_support(cls) -> bool:
        return True  # Dask's own says so of itself by name

    @classmethod
    def _pandas_to_arrow_table(
        cls, df: pd.DataFrame, preserve_index: bool = False, schema: pa.Schema | None = None
    ) -> pa.Table:
        table = super()._pandas_to_arrow_table(df, preserve_index=preserve_index, schema=schema)
        return table.replace_schema_metadata(readable_metadata(table.schema))

    @classmethod
    def _collect_dataset_info(cls, *args: Any) -> dict[str, Any]:
        """Find files; values that name folders get the types that the first file says."""
        *others, options = args
        given = options.get("dataset", {})
        as_given = {**options, "dataset": {**given}}  # Dask takes it out
        found = super()._collect_dataset_info(*[*others, as_given])
        if "partitioning" in given:
            return found
        by_type = partitioning(found["ds"], found["physical_schema"])
        if by_type is None:
            return found
        named = {**options, "dataset": {**given, "partitioning": by_type}}
        found = super()._collect_dataset_info(*[*others, named])
        for each in found["partitions"]:  # Dask makes categories of them
            each.keys = values_of(found["ds"], each.name)
        return found

    @classmethod
    def read_partition(  # type: ignore[override]  # all it takes but three goes on
        cls, fs: Any, pieces: Any, columns: list[str], *rest: Any, **options: Any
    ) -> pd.DataFrame:
        """Read a partition; a file without a column that others have is told by its name."""
        wanted = list(columns)
        try:
            return super().read_partition(fs, pieces, columns, *rest, **options)
        except KeyError:
            for piece in pieces if isinstance(pieces, list) else [pieces]:
                _require_columns(fs, piece if isinstance(piece, str) else piece[0], wanted)
            raise

    @classmethod
    def _read_table(cls, path_or_frag: Any, *rest: Any, **options: Any) -> pa.Table:
        """Read a table; what Arrow cannot read is told with the name of its file."""
        try:
            return super()._read_table(path_or_frag, *rest, **options)
        except (pa.ArrowException, OSError) as error:
            if getattr(error, "errno", None):
                raise  # of the disk or the store, and names the file
            file = getattr(path_or_frag, "path", path_or_frag)
            raise OSError(f"the file {file!r} cannot be read: {shown_error(error)}") from error

    @classmethod
    def _arrow_table_to_pandas(  # type: ignore[override]  # all it takes but two goes on
        cls, arrow_table: pa.Table, categories: Any, **options: Any
    ) -> pd.DataFrame:
        # A mapping of its own for each call: Dask writes into the one that it is given, which
        # all partitions share.
        conversion = {"types_mapper": nested_dtype, **(options.pop("arrow_to_pandas", None) or {})}
        if arrow_table.num_columns:  # Arrow forgets the rows of a table without any
            metadata = readable_metadata(arrow_table.schema)
            arrow_table = arrow_table.replace_schema_metadata(metadata)
        return super()._arrow_table_to_pandas(
            arrow_table, categories, arrow_to_pandas=conversion, **options
        )


def _require_columns(fs: Any, fragment: Any, wanted: list[str]) -> None:
    """Raise ValueError if a file lacks one of the columns that are wanted of all."""
    file = getattr(fragment, "path", fragment)
    with fs.open(file) as opened:
        names = pq.read_schema(opened).names
    for name in wanted:
        if name not in names:
            raise ValueError(
                f"the file {file!r} has no column {name!r}, which others have; its columns are "
                f"{shown(names)}"
            )


class ArrowFiles(ArrowFSWrapper):
    """A filesystem of Arrow under fsspec, whose token is the same each time it is made."""

    def __dask_tokenize__(self) -> Any:
        return normalize_token(self.fs)


def nested_dtype(dtype: pa.DataType) -> pd.ArrowDtype | None:
    """Return the type that operators give to vectors, lists and structs; None for other types."""
    return pd.ArrowDtype(plainly_named(dtype)) if pa.types.is_nested(dtype) else None


def nested_types(frame: Any) -> dict[str, pa.DataType]:
    """Return the Arrow types of the columns of vectors, lists and structs of a frame."""
    return {
        name: dtype.pyarrow_dtype
        for name, dtype in frame.dtypes.items()
        if isinstance(dtype, pd.ArrowDtype) and pa.types.is_nested(dtype.pyarrow_dtype)
    }


def plainly_named(dtype: pa.DataType) -> pa.DataType:
    """Return the type with the names of list values that Arrow uses, whatever the file has."""
    if pa.types.is_fixed_size_list(dtype):
        return pa.list_(plainly_named(dtype.value_type), dtype.list_size)
    if pa.types.is_list(dtype):
        return pa.list_(plainly_named(dtype.value_type))
    if pa.types.is_struct(dtype):
        return pa.struct([(field.name, plainly_named(field.type)) for field in dtype])
    return dtype
