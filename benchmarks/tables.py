"""Tables of benchmarks, on the screen and in the page that shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "performance.md"


def markdown(head: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Return a table in Markdown: the first column to the left, the others to the right."""
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def finish(name: str, table: str, report: dict[str, Any], output: str | None, page: bool) -> None:
    """Print a table, and write figures to a file and the table to its place in the page."""
    print(table)
    if output:
        Path(output).write_text(json.dumps(report, indent=2))
    if page:
        text = PAGE.read_text("utf8")
        start, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
        before, rest = text.split(start)
        PAGE.write_text(f"{before}{start}\n{table}\n\n{end}{rest.split(end)[1]}", "utf8")
