"""The page `docs/rows.md`: what each step sends through a model, and why where it is not the least.

Run it to write the page: ``python tests/row_table.py``.
"""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parent.parent / "docs" / "rows.md"

# Rows that the same step sends through a counting function in Daft 0.7.26 (`udf`), Polars 2.1
# (`map_batches`, `is_elementwise`) and Spark 4.3 (`pandas_udf`), as recorded; None: not tried.
Recorded = tuple[int | None, int | None, int | None]
RECORDED: dict[str, Recorded] = {
    "everything": (100, 100, 100),
    "head": (5, 5, 5),
    "tail": (None, 4, None),
    "len": (0, 0, 0),
    "unused": (0, 0, 0),
    "filter ==": (25, 25, 25),
    "filter isin": (50, 50, 50),
    "filter result and other": (25, 25, 35),
    "filter result, then other": (25, 25, 35),
    "filter mean": (None, 100, None),
    "filter cumsum": (None, 100, None),
    "filter after assign, of other": (25, 25, 25),
    "filter after assign, of result": (25, 25, 25),
    "filter after rename result": (25, 25, 25),
    "filter after fillna of others": (25, 25, 25),
    "filter after reset_index": (None, 100, None),
    "filter after sort_values": (25, 25, 50),
    "filter after merge": (100, 25, 100),
    "filter after dropna": (25, 25, 25),
    "filter after drop_duplicates": (100, 25, 25),
    "filter after concat": (50, 25, 50),
    "dropna of other": (90, 90, 100),
    "len of dropna": (0, 0, 0),
    "head of dropna": (5, 5, 5),
    "fillna of other, head": (5, 5, 5),
    "drop_duplicates by other": (100, 100, 100),
    "drop_duplicates, unused": (None, 0, None),
    "sort_values, head": (100, 34, 100),
    "merge": (100, 100, 100),
    "merge leftsemi": (50, 100, 100),
    "len of merge": (0, 0, 0),
    "concat, head": (125, 75, 5),
    "groupby size": (0, 0, 0),
    "groupby agg of other": (None, 0, None),
    "assign head": (5, 5, 5),
    "assign over result": (0, 0, 0),
    "assign rename result, unused": (0, 0, 0),
    "assign rename result, head": (None, 5, None),
    "repartition to fewer, head": (5, None, 100),
    "melt of others": (None, 0, None),
}

FUNCTION = "nobody knows what a function does, unless `declare_columns` says it"
OVERLAP = "the parts may overlap: they share one run"
# The least rows of steps that send more, and why they do; None where it depends on chance.
MORE: dict[str, tuple[int | None, str]] = {
    "iterrows": (1, "Dask computes one partition after the other"),
    "map_partitions, head": (5, FUNCTION),
    "map_partitions, unused": (0, FUNCTION),
    "filter after map_partitions": (25, FUNCTION),
    "filter after where": (13, "`where` changes the result, too, and the column of the filter"),
    "filter after persist": (25, "`persist` runs what it is called on"),
    "concat of parts": (50, OVERLAP),
    "groupby first": (4, "the aggregation reads the result of every row"),
}

HEAD = """# Rows through a model

A frame of 100 rows in 4 partitions, an operator that counts its rows, then the step. *Least* is
what the result needs, *sent* what reaches the operator, *mapped* what reaches the same operator as
a function of `map_partitions`. Daft, Polars and Spark are as recorded (Daft 0.7.26 `udf`, Polars
2.1 `map_batches` with `is_elementwise`, Spark 4.3 `pandas_udf`, each with a counting function); a
dash: not tried. The steps are written out in `tests/support/row_steps.py`; a test holds each row of
the table.

Rows that a later step leaves out are not run, so they do not fail either.

| step | least | sent | mapped | Daft | Polars | Spark | why more |
|---|---|---|---|---|---|---|---|
"""


def row(name: str, least: int | None, sent: int, mapped: int) -> str:
    """Return the line of a step."""
    why = ""
    if name in MORE:
        least, why = MORE[name]
    others = [_number(each) for each in RECORDED.get(name, (None, None, None))]
    cells = [name, _number(sent if least is None else least), str(sent), str(mapped), *others, why]
    return f"| {' | '.join(cells)} |".replace("|  |", "| |")


def told() -> dict[str, str]:
    """Return the lines of the page by their step."""
    lines = re.findall(r"^\| (.+?) \| .*$", PAGE.read_text("utf8"), re.M)
    whole = re.findall(r"^\| .+? \| .*$", PAGE.read_text("utf8"), re.M)
    return dict(zip(lines, whole, strict=True))


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def main() -> None:
    """Write the page."""
    import dask
    import dask.dataframe as dd
    from lazy.test_row_steps import outcome
    from support.counting import Length, mapped
    from support.row_steps import STEPS, table

    dask.config.set(scheduler="sync")
    frame = dd.from_pandas(table(), npartitions=4)
    lines = []
    for name, (step, least) in STEPS.items():
        sent, _ = outcome(step, Length()(frame))
        most, _ = outcome(step, mapped(frame, Length()))
        lines.append(row(name, least, sent, most))
    PAGE.write_text(HEAD + "\n".join(lines) + "\n", "utf8")


if __name__ == "__main__":
    main()
