"""Lines of JSON, CSV and text as lazy dataframes, whose types are the same in every partition."""

from __future__ import annotations

import codecs
import dataclasses
import functools
import io
from collections.abc import Callable, Iterable
from typing import Any

import dask
import dask.dataframe as dd
import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.json as pa_json
import pyarrow.parquet as pq
from fsspec.core import url_to_fs
from fsspec.utils import infer_compression, read_block

from dask_embed._validation import meant, shown, shown_error
from dask_embed.columns.types import of_children
from dask_embed.jobs.command.ending import USAGE, Ended
from dask_embed.jobs.command.inputs import WHOLE, Inputs
from dask_embed.jobs.engine import nested_dtype

_SAMPLE = 2**20
_SAMPLED_FILES = 20
# Of lines, by default: some ten thousand texts.
_PARTITION = 16 * 2**20
# Bytes that Arrow reads at a time: a number of 32 bits.
_LARGEST_BLOCK = 2**31 - 1


@dataclasses.dataclass(frozen=True)
class Part:
    """Some lines of a file: those that begin after `start`, within `length` bytes.

    Attributes
    ----------
    identity : str
        What is another if the file is: its time and size, or what its store says.
    """

    file: str
    start: int
    length: int | None
    identity: str


def open_inputs(inputs: Inputs, size: int | None, wanted: Iterable[str] | None) -> Any:
    """Return the rows of files as a lazy Dask DataFrame.

    Parameters
    ----------
    inputs : Inputs
    size : int, optional
        Bytes of files in a partition.
    wanted : iterable of str, optional
        Columns that are used: others need not be alike in all rows of JSON.

    Raises
    ------
    ValueError, OSError
        If a file cannot be read.
    Ended
        If the files do not have a column that is used.
    """
    if inputs.kind == "parquet":
        from dask_embed.jobs.reading import read_parquet

        options = {} if size is None else {"blocksize": size, "split_row_groups": "adaptive"}
        return read_parquet(list(inputs.given), **options)
    columns = None if wanted is None else list(wanted)
    schema = _schema(inputs, columns)
    parts = _parts(inputs, None if inputs.kind in WHOLE else size or _PARTITION)
    rows = _Rows(inputs.kind, schema, strict=columns is None)
    frame = dd.from_map(rows, parts, meta=to_pandas(schema.empty_table()))
    assert not isinstance(frame, dd.Series)
    return frame


def bad_files(inputs: Inputs) -> dict[str, str]:
    """Return the files that cannot be read to their end, and why; each is read, as tasks of Dask.

    Local schedulers and workers of the current client run them.
    """
    tasks = [dask.delayed(_problem, pure=False)(file, inputs.kind) for file in inputs.files]
    found = dask.compute(*tasks)
    return {file: told for file, told in zip(inputs.files, found, strict=True) if told is not None}


def _problem(file: str, kind: str) -> str | None:
    """Return why a file cannot be read to its end, None if it can."""
    try:
        if kind == "parquet":
            with fsspec.open(file, "rb") as opened, pq.ParquetFile(opened) as parquet:
                for group in range(parquet.num_row_groups):
                    parquet.read_row_group(group)
        else:
            _READERS[kind](_bytes(Part(file, 0, None, "")), None, True)
    except (pa.ArrowException, OSError, ValueError, EOFError) as error:
        return shown_error(error)
    return None


@dataclasses.dataclass(frozen=True)
class _Rows:
    """Reads a part of a file, as a task."""

    kind: str
    schema: pa.Schema
    strict: bool

    @property
    def __name__(self) -> str:
        """What plans call it, and names of tasks begin with."""
        return f"{self.kind}-files"

    def __call__(self, part: Part) -> pd.DataFrame:
        try:
            table = _READERS[self.kind](_bytes(part), self.schema, self.strict)
        except (pa.ArrowException, ValueError, EOFError) as error:
            at = f" after byte {part.start}" if part.start else ""
            raise ValueError(f"the file {part.file!r}{at}: {shown_error(error)}") from error
        return to_pandas(table.select(self.schema.names))

    def __dask_tokenize__(self) -> Any:
        return type(self).__name__, self.kind, str(self.schema), self.strict


def _parts(inputs: Inputs, size: int | None) -> list[Part]:
    found: list[Part] = []
    for file in inputs.files:
        fs, path = url_to_fs(file)
        info, identity = fs.info(path), str(fs.ukey(path))
        length = info.get("size")
        # one that is compressed holds more bytes than its size tells
        if size is None or length is None or infer_compression(file):
            found.append(Part(file, 0, None, identity))
        else:
            starts = range(0, max(length, 1), size)
            found += [Part(file, start, size, identity) for start in starts]
    return found


def _bytes(part: Part) -> bytes:
    with fsspec.open(part.file, "rb", compression="infer") as file:
        if part.length is None:
            content = bytes(file.read())
        else:
            content = bytes(read_block(file, part.start, part.length, b"\n"))
    return content if part.start else content.removeprefix(codecs.BOM_UTF8)


def _schema(inputs: Inputs, wanted: list[str] | None) -> pa.Schema:
    """Return the types of columns, as the first rows of the first files have them."""
    if inputs.kind == "text":
        return pa.schema([("text", pa.string())])
    found = []
    for file in inputs.files[:_SAMPLED_FILES]:
        try:
            sample = _SAMPLERS[inputs.kind](file)
        except (pa.ArrowException, ValueError, EOFError) as error:
            raise ValueError(f"the file {file!r}: {shown_error(error)}") from error
        found.append(pa.schema([(field.name, _stable(field.type)) for field in sample]))
    try:
        schema = pa.unify_schemas(found, promote_options="permissive")
    except pa.ArrowException as error:
        raise ValueError(f"the files differ in their columns: {shown_error(error)}") from error
    fields = [(field.name, _known(field.type)) for field in schema]
    if wanted is None:
        return pa.schema(fields)
    for name in wanted:
        if name not in schema.names:
            raise Ended(
                f"column {name!r} is not in the files{meant(name, schema.names)}; their columns "
                f"are {shown(schema.names)}",
                USAGE,
            )
    return pa.schema([field for field in fields if field[0] in wanted])


def _stable(dtype: pa.DataType) -> pa.DataType:
    """Return the type in which later rows can be read too: texts that look like dates are texts."""
    return _replaced(dtype, pa.types.is_temporal)


def _known(dtype: pa.DataType) -> pa.DataType:
    """Return the type of a column, text where all of its first values are null."""
    return _replaced(dtype, pa.types.is_null)


def _replaced(dtype: pa.DataType, by_text: Callable[[pa.DataType], bool]) -> pa.DataType:
    if by_text(dtype):
        return pa.string()
    return of_children(dtype, lambda each: _replaced(each, by_text))


def _sample_of_json(file: str) -> pa.Schema:
    with fsspec.open(file, "rb", compression="infer") as opened:
        content = opened.read(_SAMPLE)
        if len(content) == _SAMPLE:
            content = content[: content.rfind(b"\n") + 1] or content + opened.readline()
    return _read_json(content.removeprefix(codecs.BOM_UTF8), None, True).schema


def _sample_of_csv(file: str, delimiter: str = ",") -> pa.Schema:
    options = pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
    with fsspec.open(file, "rb", compression="infer") as opened:
        return pa_csv.open_csv(opened, parse_options=options).schema


def _block(content: bytes) -> int:
    return min(max(len(content), 1), _LARGEST_BLOCK)


def _read_json(content: bytes, schema: pa.Schema | None, strict: bool) -> pa.Table:
    if not content.strip():
        return (schema or pa.schema([])).empty_table()
    table = pa_json.read_json(
        io.BytesIO(content),
        read_options=pa_json.ReadOptions(block_size=_block(content)),
        parse_options=pa_json.ParseOptions(
            explicit_schema=schema,
            unexpected_field_behavior="infer" if strict else "ignore",
        ),
    )
    if schema is not None and strict:
        _require_known(table.schema, schema)
    return table


def _require_known(found: pa.Schema, schema: pa.Schema) -> None:
    """Raise ValueError for a field that the first rows of the first files do not have."""
    for field in found:
        if field.name not in schema.names or field.type != schema.field(field.name).type:
            raise ValueError(
                f"{field.name!r} is {field.type}, and the first rows have not the like: name the "
                "columns that are wanted by --columns, or give all rows the same fields"
            )


def _read_csv(
    content: bytes, schema: pa.Schema | None, strict: bool, delimiter: str = ","
) -> pa.Table:
    types = None if schema is None else dict(zip(schema.names, schema.types, strict=True))
    return pa_csv.read_csv(
        io.BytesIO(content),
        read_options=pa_csv.ReadOptions(block_size=_block(content)),
        parse_options=pa_csv.ParseOptions(delimiter=delimiter, newlines_in_values=True),
        convert_options=pa_csv.ConvertOptions(column_types=types),
    )


def _read_text(content: bytes, schema: pa.Schema | None, strict: bool) -> pa.Table:
    lines = content.decode("utf-8").split("\n")
    if lines and not lines[-1]:
        lines.pop()
    return pa.table({"text": pa.array([line.removesuffix("\r") for line in lines], pa.string())})


_READERS: dict[str, Callable[[bytes, pa.Schema | None, bool], pa.Table]] = {
    "json": _read_json,
    "csv": _read_csv,
    "tsv": functools.partial(_read_csv, delimiter="\t"),
    "text": _read_text,
}
_SAMPLERS: dict[str, Callable[[str], pa.Schema]] = {
    "json": _sample_of_json,
    "csv": _sample_of_csv,
    "tsv": functools.partial(_sample_of_csv, delimiter="\t"),
}


def to_pandas(table: pa.Table) -> pd.DataFrame:
    """Return a table whose integers and truth values keep their type where some are null."""
    return table.to_pandas(types_mapper=_dtype)


def _dtype(dtype: pa.DataType) -> Any:
    if dtype == pa.int64():
        return pd.Int64Dtype()
    if pa.types.is_boolean(dtype):
        return pd.BooleanDtype()
    return nested_dtype(dtype)
