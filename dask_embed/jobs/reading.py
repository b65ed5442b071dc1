"""Reading Parquet files with the types that operators give."""

from __future__ import annotations

import inspect
import os
from glob import has_magic
from typing import Any

import dask
import dask.dataframe as dd
import pyarrow.fs as pa_fs
from dask.tokenize import normalize_token

from dask_embed._options import known_options
from dask_embed._secrets import Unshown, UnshownText
from dask_embed._validation import shown, shown_error, usable_text
from dask_embed.jobs.engine import ArrowFiles, VectorEngine
from dask_embed.jobs.folder import require_whole
from dask_embed.jobs.places import places
from dask_embed.jobs.row_expr import DIGEST

_NOT_OPTIONS = ("path", "engine", "kwargs")
# What Dask's reader takes; the last are dictionaries for pyarrow.
_OF_PYARROW = ("dataset", "read", "open_file_options")
_READER_OPTIONS = (
    *(name for name in inspect.signature(dd.read_parquet).parameters if name not in _NOT_OPTIONS),
    *_OF_PYARROW,
)

# Dask would name reads by what is shown
normalize_token.register(UnshownText, str)


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

    Raises
    ------
    TypeError
        If Dask's reader has no such option: it would leave it out in silence.
    FileNotFoundError
        If there are no such files.
    OSError
        If a job of this library began to write the folder and did not finish.

    Notes
    -----
    Files that pandas or Dask wrote by their own ``to_parquet`` are read, too; pandas itself
    cannot read the vectors in those.
    """
    if "engine" in options:
        raise TypeError("engine is no option: vectors are read by pyarrow; leave it out")
    known_options("read_parquet", options, _READER_OPTIONS)
    _require_kinds(options)
    paths = path if isinstance(path, list | tuple | set) else [path]
    given: Any = [_text_of(each) for each in paths]
    if not given:
        raise ValueError(f"path must name a folder or files, got {shown(path)}")
    if _is_arrow(filesystem := options.get("filesystem")):
        # Dask's reader for these has no types for vectors; the files are the same to the other
        storage = options.pop("storage_options", None)
        wrapped, given = places(given, filesystem, storage)
        options["filesystem"] = ArrowFiles(wrapped.fs)
    if dask.config.get("dataframe.backend", "pandas") != "cudf":
        options["engine"] = VectorEngine
    fs, found = places(given, options.get("filesystem"), options.get("storage_options"))
    if any(has_magic(str(each)) and not fs.glob(each) for each in given):
        told = given if len(given) > 1 else given[0]
        raise FileNotFoundError(f"there are no Parquet files at {shown(told)}")
    require_whole(fs, found)
    if options.get("storage_options"):
        # Dask's node shows its arguments
        options["storage_options"] = Unshown(options["storage_options"])
    frame = _read(given if len(given) > 1 else given[0], options)
    if DIGEST in frame.columns and options.get("columns") is None:
        options["columns"] = [name for name in frame.columns if name != DIGEST]
        frame = _read(given if len(given) > 1 else given[0], options)
    return frame


def _text_of(path: Any) -> str:
    """Return a path of what is to be read as a text."""
    text = os.fspath(path) if isinstance(path, os.PathLike) else path
    if not isinstance(text, str):
        raise TypeError(f"path must name a folder or files, got {shown(path)}")
    usable_text("path", text)
    if not text or "\0" in text:
        raise ValueError(f"path must name a folder or files, got {shown(path)}")
    return UnshownText(text)


def _require_kinds(options: dict[str, Any]) -> None:
    """Raise TypeError for options that Dask's reader would look into without end."""
    for name in (*_OF_PYARROW, "arrow_to_pandas"):
        value = options.get(name, {})
        if not isinstance(value, dict) and not (value is None and name == "arrow_to_pandas"):
            raise TypeError(f"{name} must be a dictionary, got {shown(value)}")
    blocksize = options.get("blocksize")
    if not isinstance(blocksize, str | int | float | None):
        raise TypeError(f"blocksize must be a number of bytes or a text, got {shown(blocksize)}")


def _read(given: Any, options: dict[str, Any]) -> Any:
    """Return what Dask reads; its errors hold a line about its backends before what is wrong."""
    try:
        return dd.read_parquet(given, **options)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"there are no Parquet files at {shown(given)}") from error
    except Exception as error:  # of Dask, fsspec or pyarrow, which look at options late
        wrong = shown_error(error.__cause__ or error)
        raise ValueError(f"{shown(given)} cannot be read as Parquet files: {wrong}") from error


def _is_arrow(filesystem: Any) -> bool:
    named = isinstance(filesystem, str) and filesystem in ("arrow", "pyarrow")
    return named or isinstance(filesystem, pa_fs.FileSystem)
