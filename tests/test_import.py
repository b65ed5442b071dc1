"""Importing the package is cheap, and the accessor is there whatever is imported first."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import dask_embed as de

SECONDS = 0.3


def run(code: str) -> str:
    """Return what a fresh interpreter prints; warnings are errors in it."""
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


@pytest.mark.alone
def test_import_time():
    """Best of five, measured inside a fresh interpreter."""
    code = (
        "import time; start = time.perf_counter(); import dask_embed;"
        "print(time.perf_counter() - start)"
    )
    assert min(float(run(code)) for _ in range(5)) < SECONDS


def test_import_brings_nothing_heavy():
    """No model library, no dataframe library and no part of Dask's dataframes is imported."""
    code = "import sys, dask_embed; print(*sys.modules)"
    modules = run(code).split()
    assert "dask_embed" in modules
    heavy = {"torch", "transformers", "cudf", "pandas", "pyarrow", "numpy", "dask.dataframe"}
    assert heavy.intersection(modules) == set()


def test_dask_frames_do_not_bring_torch():
    """Importing Dask's dataframes with the accessor imports no model library either."""
    code = (
        "import sys, dask_embed, dask.dataframe; dask.dataframe.DataFrame.ml; print(*sys.modules)"
    )
    assert {"torch", "transformers", "cudf"}.intersection(run(code).split()) == set()


FRAMES = {
    "pandas": "import pandas; frame = pandas.DataFrame({'text': ['a']})",
    "dask": (
        "import dask.dataframe, pandas;"
        "frame = dask.dataframe.from_pandas(pandas.DataFrame({'text': ['a']}), npartitions=1)"
    ),
}


@pytest.mark.parametrize("library", FRAMES)
def test_accessor_of_frames_that_were_there_before(library):
    steps = [FRAMES[library], "import dask_embed", "print(frame.ml.embed.__name__)"]
    assert run("; ".join(steps)) == "embed"


def test_accessor_of_frames_that_are_made_later():
    """That of a Dask frame has what that of a pandas frame has, and to_parquet."""
    code = "; ".join(
        [
            "import dask_embed",
            FRAMES["pandas"],
            "print(hasattr(frame.ml, 'embed'))",
            FRAMES["dask"],
            "print(hasattr(frame.ml, 'to_parquet'), hasattr(frame.partitions[0].ml, 'embed'))",
        ]
    )
    assert run(code).split() == ["True"] * 3


@pytest.mark.parametrize("name", de.__all__)
def test_public_names(name):
    """Every public name is there, with a docstring, under its own name."""
    value = getattr(de, name)
    assert value.__doc__
    assert value.__name__.rpartition(".")[2] == name


def test_public_names_are_sorted_and_complete():
    assert list(de.__all__) == sorted(de.__all__)
    assert set(de.__all__) <= set(dir(de))
    expected = {"Embedder", "Model", "datasets", "explain", "progress", "read_parquet", "to_array"}
    assert expected <= set(de.__all__)


def test_type_checkers_see_the_same_names():
    """What a type checker reads is what a name becomes when it is asked for."""
    homes = {}
    for node in ast.walk(ast.parse(Path(de.__file__).read_text("utf8"))):
        if isinstance(node, ast.ImportFrom) and node.module != "dask_embed.operators":
            homes |= dict.fromkeys((each.name for each in node.names), node.module)
    seen = {name: homes.get(name) for name in de._HOMES}
    assert seen == de._HOMES


def test_star_import():
    """``from dask_embed import *`` gives the public names and no other."""
    code = (
        "names = set(dir()); from dask_embed import *;"
        "print(*sorted(set(dir()) - names - {'names'}))"
    )
    assert run(code).split() == sorted(de.__all__)


def test_functions_are_not_hidden_by_modules():
    """A function stays one when the module that defines it is imported first."""
    names = ["explain", "progress", "read_parquet", "to_array", "unload"]
    homes = ", ".join(getattr(de, name).__module__ for name in names)
    hidden = f"[name for name in {names} if not callable(getattr(dask_embed, name))]"
    assert run(f"import {homes}; import dask_embed; print({hidden})") == "[]"


def test_unknown_name():
    """An unknown name is an AttributeError that says so, as for any module."""
    with pytest.raises(AttributeError, match=r"'dask_embed'.*'Embeder'"):
        de.Embeder  # noqa: B018


def test_version():
    from importlib.metadata import version

    assert de.__version__ == version("dask-embed")


@pytest.mark.parametrize("name", ["py.typed", "embed.yaml", "accessor.pyi"])
def test_files_beside_the_code_are_packaged(name):
    """The types and the defaults are there, and setup.cfg names them for a wheel."""
    import configparser
    from importlib.resources import files
    from pathlib import Path

    package = Path(str(files("dask_embed")))
    assert (package / name).is_file()
    setup = configparser.ConfigParser()
    setup.read(package.parent / "setup.cfg")
    assert name in setup["options.package_data"]["dask_embed"].replace(" ", "").split(",")


def test_what_is_private_to_dask_stands_in_one_module():
    """A new version of Dask can break one module: no other imports what it does not publish."""
    package = Path(de.__file__).parent
    private = re.compile(
        r"^\s*(from|import) (dask|distributed)\b(\.\w+)*\.(_\w+|dask_expr)|"
        r"^\s*from (dask|distributed)(\.\w+)* import (.*\W)?_\w",
        re.MULTILINE,
    )
    found = {
        str(path.relative_to(package))
        for path in package.rglob("*.py")
        if private.search(path.read_text())
    }
    assert found == {str(Path("lazy", "_dask.py"))}
