"""What each step of a corpus's way left over, and why the rest went."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import dask
import pandas as pd

from dask_embed._options import named_options
from dask_embed.columns.frames import require_frame
from dask_embed.curation.marks import DropDuplicates, Duplicates, MarkDuplicates
from dask_embed.jobs.inspection import stats
from dask_embed.lazy._dask import Expr, Filter, Len, Projection, new_collection
from dask_embed.lazy.append import OperatorRows
from dask_embed.lazy.explain import described
from dask_embed.operators.fused import parts_of

_SECONDS = ("tokenize_seconds", "forward_seconds", "convert_seconds")
_COLUMNS = ("step", "rows_in", "rows_out", "dropped", "share", "why", "tokens", "seconds")


@named_options
def curation_report(frame: Any, *, client: Any = None) -> pd.DataFrame:
    """Return the rows in and out of each step that a frame was made by; computes the counts.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
        As written: with the steps that drop rows, and the operators.
    client : distributed.Client, optional
        See `dask_embed.stats`.

    Returns
    -------
    pandas.DataFrame
        A row for each filter, other change of the number of rows, and operator, in the order of
        the plan: ``step``; ``rows_in`` and ``rows_out``; ``dropped`` and the ``share`` of the rows
        in; ``why``, reasons with the rows that each took, where a step that marks rows or
        `TextQuality` tells, and each bucket of fuzzy duplicates of which not all pairs were
        compared, with its rows and the best one of them; of an operator that has run already
        ``tokens`` and ``seconds``, by
        `dask_embed.stats`. A notebook shows it as a table.

    Raises
    ------
    TypeError
        If `frame` is no Dask DataFrame.

    Notes
    -----
    Only what decides about rows is computed, all of it together: models whose results no filter
    reads do not run.

    Examples
    --------
    >>> import dask.dataframe as dd
    >>> import pandas as pd
    >>> import dask_embed as de
    >>> ddf = dd.from_pandas(pd.DataFrame({"text": ["one", "two", "one"]}), npartitions=2)
    >>> report = de.curation_report(ddf.ml.drop_exact_duplicates("text"))
    >>> report[["rows_in", "rows_out", "why"]].values.tolist()
    [[3, 2, '1 duplicate']]
    """
    require_frame("curation_report", frame, lazy=True)
    steps = list(_steps(frame.expr))
    wanted = [(_rows(node.frame), _rows(node), _reasons(node), _buckets(node)) for node in steps]
    counted = dask.compute(wanted)[0]
    ran = stats(client)
    lines = [
        _line(node, before, after, [*_each(reasons), *_told_of(buckets)], ran)
        for node, (before, after, reasons, buckets) in zip(steps, counted, strict=True)
    ]
    return pd.DataFrame(lines, columns=[*_COLUMNS]).astype({"tokens": "Int64"})


def _steps(node: Expr) -> Iterator[Expr]:
    """Yield the nodes that a frame was made by and that are steps to a person, the first first."""
    way = []
    while "frame" in type(node)._parameters and isinstance(node.frame, Expr):
        way.append(node)
        node = node.frame
    for each in reversed(way):
        if isinstance(each, OperatorRows) or (
            not isinstance(each, MarkDuplicates) and not _keeps_rows(each)
        ):
            yield each


def _keeps_rows(node: Expr) -> bool:
    keeps = getattr(node, "_is_length_preserving", False) or getattr(node, "keeps_rows", False)
    return keeps or isinstance(node, Projection)


def _rows(node: Expr) -> Any:
    return new_collection(Len(node))


def _reasons(node: Expr) -> Any:
    """Return how often each reason is given for the rows that a filter drops, {} if none is."""
    if isinstance(node, DropDuplicates):
        marks = new_collection(node.marks)
        kept, reason = (f"{node.finding.prefix}{name}" for name in ("kept", "reason"))
        return marks[~marks[kept]][reason].value_counts()
    columns = _condition(node) if isinstance(node, Filter) else []
    told = [name for column in columns for name in _told_by(column) if name in node.frame.columns]
    if not told:
        return {}
    rows = new_collection(node.frame)
    dropped = rows[~new_collection(node.predicate).fillna(False)]
    return dropped[told[0]].value_counts()


def _marks(node: Expr) -> Duplicates | None:
    """Return the step that finds the duplicates which a node drops."""
    if isinstance(node, Filter):
        return node.frame if isinstance(node.frame, MarkDuplicates) else None
    return node if isinstance(node, Duplicates) else None


def _buckets(node: Expr) -> Any:
    marks = _marks(node)
    large = None if marks is None else getattr(marks.finding, "large", None)
    return None if marks is None or large is None else large(marks.frame)


def _told_of(buckets: pd.DataFrame | None) -> list[str]:
    """Return each of some buckets in words; the same rows are in one for each of several bands."""
    if buckets is None:
        return []
    each = buckets.drop_duplicates().sort_values("rows", ascending=False)
    rows, examples = each["rows"].tolist(), each["example"].tolist()
    told = zip(rows, examples, strict=True)
    return [f"bucket of {count:,} rows like {example}" for count, example in told]


def _condition(node: Filter) -> list[str]:
    return [
        str(each.columns[0])
        for each in node.predicate.walk()
        if isinstance(each, Projection) and each.ndim == 1
    ]


def _told_by(column: str) -> list[str]:
    """Return the columns that may tell why a condition does not hold."""
    return [f"{column.removesuffix('kept')}reason", f"{column}_reason"]


def _each(reasons: Any) -> list[str]:
    return [f"{count} {reason}" for reason, count in dict(reasons).items()]


def _line(
    node: Any, before: int, after: int, told: list[str], ran: pd.DataFrame
) -> tuple[Any, ...]:
    why = ", ".join(told)
    marks = _marks(node)
    step = described(node) if marks is None else marks.told
    dropped = before - after
    tokens, seconds = _spent(node, ran)
    return step, before, after, dropped, dropped / max(before, 1), why, tokens, seconds


def _spent(node: Expr, ran: pd.DataFrame) -> tuple[Any, Any]:
    """Return tokens and seconds of the operators of a node, null if none of them has run."""
    if not isinstance(node, OperatorRows):
        return None, None
    names = {type(part).__name__ for part in parts_of(node.operator)}
    records = ran[ran["operator"].isin(names)]
    if not len(records):
        return None, None
    return int(records["tokens"].sum()), float(records[[*_SECONDS]].sum().sum())
