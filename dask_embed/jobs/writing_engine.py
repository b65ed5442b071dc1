"""Dask's Parquet engine as it writes a folder of ours: types, and files that are whole."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any, ClassVar

import pandas as pd
import pyarrow as pa

from dask_embed._validation import shown, shown_error
from dask_embed.columns.frames import encoding_told
from dask_embed.columns.types import number_type
from dask_embed.jobs.commit import Aside
from dask_embed.jobs.engine import VectorEngine, nested_types
from dask_embed.jobs.folder import data_files, make_folder
from dask_embed.jobs.folder_types import folder_types, types_told
from dask_embed.jobs.origin import other_columns_told, require_same_types
from dask_embed.jobs.writing import last_schema

# The name of folders of rows without a value.
_NULL_FOLDER = "__HIVE_DEFAULT_PARTITION__"
# What Arrow takes for one in a name of a folder.
_INTEGER = re.compile("-?[0-9]+")


class WritingEngine(VectorEngine):
    """The engine that checks what is appended against what is there."""

    tells_files: ClassVar[bool] = False
    """Whether a task gives the sizes of its files instead of what Dask wants for ``_metadata``."""
    asks: ClassVar[str] = "append=True"
    """What asks to add rows, for messages."""

    @classmethod
    def initialize_write(  # type: ignore[override]  # Dask names its arguments
        cls,
        df: Any,
        fs: Any,
        path: str,
        append: bool = False,
        schema: Any = "infer",
        **options: Any,
    ) -> Any:
        make_folder(fs, path)
        options["ignore_divisions"] = True  # `require_room` has looked at them
        started = super().initialize_write(df, fs, path, schema=schema, **options)
        if not append:
            return started
        written = last_schema(fs, path, data_files(fs, path))
        require_same_types(path, written, df, cls.asks)
        _require_same_folders(path, written, df, list(options.get("partition_on") or ()))
        # Dask compares names of types, and that of nested columns is ``object`` in files.
        named = df.astype({**dict.fromkeys(nested_types(df), object), **_named_types(df, written)})
        # The schema is that of the frame as it is.
        schema = started[-1]["schema"]
        with other_columns_told(path, cls.asks):
            return super().initialize_write(named, fs, path, append=True, schema=schema, **options)

    @classmethod
    def write_partition(
        cls,
        df: Any,
        path: str,
        fs: Any,
        filename: str,
        partition_on: Any,
        *rest: Any,
        **options: Any,
    ) -> Any:
        """Write files, which get their names when all of the partition are whole."""
        write = super().write_partition
        aside = Aside(fs)
        try:
            with _unwritable_text_told(df, filename):
                told = write(df, path, aside, filename, partition_on, *rest, **options)
            sizes = aside.commit()
        finally:
            aside.discard()
        if cls.tells_files or not told:  # Dask's tells nothing where no ``_metadata`` is wanted
            told = [{"meta": None, "files": sizes}]
        return [{**each, "made": aside.made} for each in told]


class ResumingEngine(WritingEngine):
    """The engine of a job that can be gone on with, which says what files it wrote.

    Two that do the same job give files the same names. In a store the first one stays.
    """

    tells_files = True


class RowsEngine(ResumingEngine):
    """The engine of a job that adds rows by their ids."""

    asks = "resume='rows'"


@contextlib.contextmanager
def _unwritable_text_told(partition: Any, filename: str) -> Iterator[None]:
    """Raise ValueError for what cannot be written, with row and column where it is a text."""
    try:
        with encoding_told(f"{filename!r} cannot be written", partition):
            yield
    except (pa.ArrowException, ValueError) as error:
        wrong = error.__cause__ or error.__context__ or error  # Dask tells of it in many lines
        if not isinstance(wrong, pa.ArrowException):
            raise
        raise ValueError(
            f"{filename!r} cannot be written: {shown_error(wrong)}; columns of objects are written "
            "as texts, unless schema={column: pyarrow type} says otherwise"
        ) from error


def _named_types(frame: Any, written: pa.Schema) -> dict[str, str]:
    """Return the types that files name for columns which hold the same: pandas has several.

    Texts of operators are ``str``, and what Dask reads from files are ``string``; numbers may be of
    types that have nulls. Where a row of a file is null, its integers were floats in pandas, and
    its truth values objects.
    """
    columns = (written.pandas_metadata or {}).get("columns", ())
    named = {each["name"]: each["numpy_type"] for each in columns}
    return {
        name: named[name]
        for name, dtype in frame.dtypes.items()
        if name in named and _is_written_as(dtype, written.field(name).type)
    }


def _is_written_as(dtype: Any, written: pa.DataType) -> bool:
    if isinstance(dtype, pd.StringDtype):
        return pa.types.is_string(written) or pa.types.is_large_string(written)
    return number_type(dtype) == written


def _require_same_folders(path: str, written: pa.Schema, frame: Any, columns: list[str]) -> None:
    """Raise ValueError where names of folders would be read as another type than is appended."""
    there, here = types_told(written), folder_types(frame, columns)
    for name in columns:
        if there and there.get(name) != here.get(name):
            raise ValueError(
                f"append=True needs the types of the files in {path!r}: column {name!r}, which "
                f"names folders, is {there.get(name)} there, but {here.get(name)} in the frame"
            )


def with_folder_names(partition: Any, columns: list[str], typed: list[str]) -> Any:
    """Return a partition whose `columns` name folders, if readers get their values back from these.

    Parameters
    ----------
    partition : DataFrame
    columns : list of str
    typed : list of str
        Those of `columns` whose type files say.

    Raises
    ------
    ValueError
        If they would get others, or none.
    """
    for column in columns:
        values = partition[column]
        null = values.isna()
        if null.any():
            labels = partition.index[null.to_numpy()].tolist()
            raise ValueError(
                f"partition_on names folders by the values of {column!r}, and {len(labels)} rows "
                f"of a partition have none (index {shown(labels)}): readers would not get the "
                "column back; give these rows a value (.fillna), or drop them"
            )
        for value in values.unique():
            _require_name(column, value)
            if column not in typed and isinstance(value, str) and _INTEGER.fullmatch(value):
                raise ValueError(
                    f"partition_on names folders by the values of {column!r}, whose categories are "
                    f"not known: readers would take the text {shown(value)} for a number; know "
                    "them (.cat.as_known()), or make them texts (.astype(str))"
                )
    return partition


def _require_name(column: str, value: Any) -> None:
    """Raise ValueError for a value whose folder readers would take for that of another."""
    told = f"partition_on names folders by the values of {column!r}, where a value must not"
    if str(value) == _NULL_FOLDER:
        raise ValueError(f"{told} be {_NULL_FOLDER!r}: readers would take it for none")
    if "/" in str(value) or "%" in str(value):
        raise ValueError(f"{told} hold '/' or '%': readers would get another; got {shown(value)}")
