"""The code in the pages of docs/ runs as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

import dask_embed as de
from dask_embed import operators

FOLDER = Path(__file__).parent.parent / "docs"
PAGES = (
    *(
        "index.md",
        "how_do_i.md",
        "meters.md",
        "neighbours.md",
        "operators.md",
        "own_operators.md",
        "parquet.md",
        "resume.md",
        "tables.md",
    ),
    "curation.md",
)


def blocks(page: str) -> list[str]:
    """Return the Python code of a page, block by block."""
    text = (FOLDER / page).read_text("utf8")
    return re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


def run(page: str) -> dict[str, Any]:
    """Run the code of a page from the top, and return its names."""
    names: dict[str, Any] = {"__name__": "page"}
    found = blocks(page)
    assert found
    for code in found:
        exec(compile(code, page, "exec", dont_inherit=True), names)
    return names


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(
    page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run(page)
    assert capsys.readouterr().out.strip()


def test_every_public_name_is_in_the_reference() -> None:
    """By itself or, of a module, with its members; and nothing that is not public."""
    named = re.findall(r"^::: dask_embed\.(\w+)$", (FOLDER / "api.md").read_text("utf8"), re.M)
    named.remove("operators")
    assert sorted([*named, *operators.__all__]) == sorted(de.__all__)


def test_the_rooms_that_the_design_names() -> None:
    """Every folder of the package stands in the table, and holds the modules named beside it."""
    package = FOLDER.parent / "dask_embed"
    seen = set()
    for line in (FOLDER / "design.md").read_text("utf8").splitlines():
        cells = line.split(" | ")
        rooms = [package / name for name in re.findall(r"`(\w+)/`", cells[1] if cells[1:] else "")]
        seen |= set(rooms)
        held = {path.stem for room in rooms for path in (*room.rglob("*.py"), *room.iterdir())}
        assert not rooms or set(re.findall(r"`([a-z_]+)`", cells[2])) <= held
    assert seen == {path.parent for path in package.glob("*/__init__.py")}


def test_every_page_is_in_the_navigation() -> None:
    settings = (FOLDER.parent / "mkdocs.yml").read_text("utf8")
    assert sorted(re.findall(r"(\w+\.md)$", settings, re.M)) == sorted(
        page.name for page in FOLDER.glob("*.md")
    )
