"""Parquet files with vectors that any reader opens.

A pandas Arrow list column written by `DataFrame.to_parquet` cannot be read back, because the
name of its type in the pandas metadata is one that pandas does not understand. Here that name
is ``object``, as for any nested column, and what made each vector column is written beside it.
"""

from __future__ import annotations

import json
import os
from typing import Any

import dask
import dask.dataframe as dd
import pyarrow as pa
import pyarrow.dataset as pa_dataset
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
from dask.dataframe.io.parquet.arrow import _wrapped_fs
from dask.utils import natural_sort_key

from dask_embed._secrets import refuse_secrets
from dask_embed._validation import boolean
from dask_embed.columns import to_host
from dask_embed.expr import OperatorRows
from dask_embed.jobs.engine import ArrowFiles, VectorEngine, nested_types, plainly_named
from dask_embed.operators.together import parts_of
from dask_embed.quantize_expr import Quantize

METADATA_KEY = "dask_embed"
# Options of `to_parquet` that are true or false, among them what deletes files.
_SWITCHES = ("append", "compute", "ignore_divisions", "overwrite", "write_index")
# Where a name may be that of a local folder or file, and what tells its content.
_REVISIONS = {
    "model": "revision",
    "adapter": "adapter_revision",
    "tokenizer": "tokenizer_revision",
    "weights": "revision",
    "prototypes": "revision",
}


class WritingEngine(VectorEngine):
    """The engine that checks what is appended against what is there."""

    @classmethod
    def initialize_write(  # type: ignore[override]  # Dask names its arguments
        cls,
        df: Any,
        fs: Any,
        path: str,
        append: bool = False,
        schema: Any = "infer",
        custom_metadata: Any = None,
        **options: Any,
    ) -> Any:
        started = super().initialize_write(df, fs, path, schema=schema, **options)
        if not append:
            return started
        written = _last_schema(fs, path)
        if written is not None:
            shared = [name for name in written.names if name in df.columns]
            _require_same_origin(path, shared, written.metadata, custom_metadata)
            _require_same_types(path, written, df)
        # Dask compares names of types, and that of nested columns is ``object`` in files.
        named = df.astype(dict.fromkeys(nested_types(df), object))
        # The schema is that of the frame as it is.
        schema = started[-1]["schema"]
        return super().initialize_write(named, fs, path, append=True, schema=schema, **options)


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
    ValueError
        If ``append`` is given and the last file has other columns or types, or says that another
        operator, model, revision or setting made a column.

    Notes
    -----
    Vector columns stay Arrow fixed-size lists of float32: pandas gives arrays, DuckDB and
    Polars give their array types. The file metadata ``dask_embed`` is json: this library's
    version, and per column that an operator made what made it: the model, its revision, for
    vectors dimension and pooling, for chunks their limit and boundaries.
    """
    for name, value in {"overwrite": overwrite, **options}.items():
        if name in _SWITCHES:
            boolean(name, value)
    refuse_secrets("custom_metadata", options.get("custom_metadata"))
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
        engine=WritingEngine,
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

    Notes
    -----
    Files that pandas or Dask wrote by their own ``to_parquet`` are read, too; pandas itself
    cannot read the vectors in those.
    """
    paths = path if isinstance(path, list | tuple | set) else [path]
    given: Any = [os.fspath(each) for each in paths]
    if _is_arrow(filesystem := options.get("filesystem")):
        # Dask's reader for these has no types for vectors; the files are the same to the other
        storage = options.pop("storage_options", None)
        wrapped, given, _, _ = VectorEngine.extract_filesystem(given, filesystem, {}, {}, storage)
        options["filesystem"] = ArrowFiles(wrapped.fs)
    if dask.config.get("dataframe.backend", "pandas") != "cudf":
        options["engine"] = VectorEngine
    return dd.read_parquet(given if len(given) > 1 else given[0], **options)


def _is_arrow(filesystem: Any) -> bool:
    return isinstance(filesystem, pa_fs.FileSystem) or filesystem in ("arrow", "pyarrow")


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


def _last_schema(filesystem: Any, path: str) -> pa.Schema | None:
    """Return the schema of the file that was appended last, None of an empty folder."""
    files = pa_dataset.dataset(path, filesystem=_wrapped_fs(filesystem), format="parquet").files
    if not files:
        return None
    with filesystem.open(max(files, key=natural_sort_key), mode="rb") as file:
        return pq.read_schema(file)


def _require_same_types(path: str, written: pa.Schema, frame: Any) -> None:
    for name, given in nested_types(frame).items():
        if name not in written.names:
            continue  # Dask names all columns that differ
        present = written.field(name).type
        if plainly_named(present) != plainly_named(given):
            raise ValueError(
                f"append=True needs the types of the files in {path!r}: column {name!r} is "
                f"{present} there, but {given} in the frame"
            )


def _require_same_origin(
    path: str,
    names: list[str],
    written: dict[bytes, bytes] | None,
    metadata: dict[str, str] | None,
) -> None:
    """Raise ValueError unless files and frame say the same about what made their columns."""
    before = json.loads((written or {}).get(METADATA_KEY.encode(), b"{}"))
    now = json.loads((metadata or {}).get(METADATA_KEY, "{}"))
    for name in names:
        there, here = (told.get("columns", {}).get(name, {}) for told in (before, now))
        differing = _without_local_names(there).items() ^ _without_local_names(here).items()
        if not differing:
            continue
        always = ["operator", "model", "revision"]
        shown = dict.fromkeys([*always, *sorted(dict(differing))] if there and here else always)
        told = [
            ", ".join(f"{key}={made[key]!r}" for key in shown if key in made) or "nothing"
            for made in (there, here)
        ]
        raise ValueError(
            f"append=True would mix values of different origin in column {name!r} of {path!r}: "
            f"what made it is {told[0]} in the files, but {told[1]} in the frame"
        )


def _without_local_names(made: dict[str, Any]) -> dict[str, str]:
    """Return json of each setting; where a local folder lies does not count, its content does."""
    return {
        key: json.dumps(value, sort_keys=True)
        for key, value in made.items()
        if not str(made.get(_REVISIONS.get(key, ""))).startswith("local-")
    }


def _refuse_to_mix(path: str, storage_options: dict[str, Any] | None) -> None:
    import fsspec

    filesystem, folder = fsspec.core.url_to_fs(path, **(storage_options or {}))
    present = [name for name in filesystem.find(folder) if name.endswith((".parquet", ".parq"))]
    if present:
        raise FileExistsError(
            f"{path!r} already holds {len(present)} Parquet files; old and new would be read as "
            "one dataset: choose another folder, or overwrite=True, or append=True"
        )
