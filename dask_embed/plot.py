"""Pictures of a corpus: a map of its vectors, similarities, what a threshold drops, and pairs.

Each function takes matplotlib axes and returns them. A Dask DataFrame is computed in one go, for
what is shown and no more: coordinates or counts, never all vectors in one place.
"""

from __future__ import annotations

from typing import Any

import dask
import numpy as np
import pandas as pd

from dask_embed._drawing import axes_or_new, draw_counts, draw_points, table_of
from dask_embed._options import named_options
from dask_embed._validation import (
    column_name,
    integer_from_zero,
    number_or_none,
    one_of,
    positive_integer,
    shown,
)
from dask_embed.columns import stored_vectors
from dask_embed.columns.arrays import dimension_of
from dask_embed.columns.frames import is_dask_frame, require_frame
from dask_embed.curation import looking
from dask_embed.curation.ranking import require_single_values
from dask_embed.curation.thresholds import duplicates_by_threshold, prefix_of
from dask_embed.lazy.arrays import lazy_dimension

__all__ = ["duplicates", "map", "pairs", "similarities"]

_BINS = 50


@named_options
def map(
    frame: Any,
    column: Any = "embedding",
    *,
    color: Any = None,
    method: str = "pca",
    points: int = 50_000,
    seed: int = 0,
    ax: Any = None,
) -> Any:
    """Draw vectors in two dimensions; computes.

    Parameters
    ----------
    frame : pandas.DataFrame or dask.dataframe.DataFrame
    column : str
        A vector column of numbers; rows without a vector are left out.
    color : str, optional
        A column that colors the points: up to 20 different values have a legend, numbers a bar.
    method : {"pca", "pacmap"}
        ``"pca"``: the two directions in which all vectors differ most. ``"pacmap"`` (Wang et al.
        2021, ``pip install pacmap``) keeps neighbours together: it is fitted to 10,000 rows,
        chosen by a hash, and each row drawn where the nearest of these is.
    points : int
        Of more rows a histogram is drawn, without `color`.
    seed : int
        Of pacmap.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit the frame.
    ImportError
        Without matplotlib, or pacmap where that is asked for.
    """
    require_frame("plot.map", frame)
    one_of("method", method, ("pca", "pacmap"))
    positive_integer("points", points, allow_none=False)
    integer_from_zero("seed", seed)
    names = _present(frame, {"column": column, "color": color})
    stored_vectors(_meta(frame)[column])
    ax = axes_or_new(ax)
    lazy = is_dask_frame(frame)
    dimension = lazy_dimension(frame[column]) if lazy else dimension_of(frame[column])
    parts = _parts(frame[names])
    found = _coordinates(parts, (column, dimension), method, seed)
    extents = [_later(looking.extent)(each) for each in found]
    given = [
        _later(looking.drawn)(part, column, each, extents, points, color)
        for part, each in zip(parts, found, strict=True)
    ]
    shown_parts, sides = dask.compute(given, extents)
    ax.set(xticks=[], yticks=[], aspect="equal")
    if isinstance(shown_parts[0], np.ndarray):
        draw_counts(ax, sum(shown_parts), sides)
    else:
        draw_points(ax, pd.concat(shown_parts, ignore_index=True), color)
    return ax


@named_options
def similarities(
    frame: Any,
    column: Any = None,
    *,
    threshold: float | None = None,
    bins: int = _BINS,
    ax: Any = None,
) -> Any:
    """Draw how often each similarity comes, and a threshold; computes.

    Parameters
    ----------
    frame : pandas.DataFrame or dask.dataframe.DataFrame
        Rows with a similarity: what ``.ml.nearest`` found, or the marks of duplicates.
    column : str, optional
        The column; by default the only one whose name ends with ``similarity``.
    threshold : float, optional
        Drawn as a line, with the share of values at or above it.
    bins : int
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
    """
    require_frame("plot.similarities", frame)
    positive_integer("bins", bins, allow_none=False)
    number_or_none("threshold", threshold)
    name = _similarity(frame) if column is None else column
    _present(frame, {"column": name})
    if not pd.api.types.is_numeric_dtype(_meta(frame)[name].dtype):
        raise TypeError(f"column {name!r} is of {_meta(frame)[name].dtype}, numbers are needed")
    ax = axes_or_new(ax)
    parts = _parts(frame[[name]])
    ends = [_later(looking.ends)(part, name) for part in parts]
    edges = _later(looking.edges)(ends, bins, threshold)
    edges, counts = dask.compute(
        edges, [_later(looking.counted)(each, name, edges) for each in parts]
    )
    total = sum(counts)
    ax.stairs(total, edges, fill=True, color="C0", alpha=0.7)
    ax.set(xlabel=str(name), ylabel="rows")
    if threshold is not None:
        share = total[edges[:-1] >= threshold].sum() / max(1, total.sum())
        ax.axvline(threshold, color="C3", label=f"{share:.1%} at {threshold:g} or more")
        ax.legend(frameon=False)
    return ax


@named_options
def duplicates(
    frame: Any, thresholds: Any = None, *, prefix: str | None = None, ax: Any = None
) -> Any:
    """Draw which share of the rows each threshold would drop; computes.

    Parameters
    ----------
    frame, thresholds, prefix
        See `dask_embed.duplicates_by_threshold`; or its result as `frame`.
    ax : matplotlib.axes.Axes, optional

    Returns
    -------
    matplotlib.axes.Axes
    """
    require_frame("plot.duplicates", frame)
    table = frame
    if not {"threshold", "share"} <= set(frame.columns):
        table = duplicates_by_threshold(frame, thresholds, prefix=prefix)
    ax = axes_or_new(ax)
    ax.plot(table["threshold"], table["share"], drawstyle="steps-pre", color="C0")
    ax.set(xlabel="threshold", ylabel="share of rows dropped", ylim=(0, None))
    ax.yaxis.set_major_formatter(lambda value, _: f"{value:.0%}")
    return ax


@named_options
def pairs(
    frame: Any,
    column: Any = "text",
    *,
    id: Any = None,
    rows: int = 10,
    prefix: str | None = None,
) -> Html:
    """Return duplicates side by side as an HTML table, least similar first; computes.

    Parameters
    ----------
    frame : pandas.DataFrame or dask.dataframe.DataFrame
        Rows with the marks of a step, such as ``.ml.mark_fuzzy_duplicates`` appends.
    column : str
        The text.
    id : str, optional
        The column that the step was given as `id`; without one the number of a row is used.
    rows : int
        How many pairs.
    prefix : str, optional
        What the names of the marks begin with; needed only if there are those of several steps.

    Returns
    -------
    Html
        A string that a notebook shows as HTML: texts are escaped, words that only one has marked.
    """
    require_frame("plot.pairs", frame)
    positive_integer("rows", rows, allow_none=False)
    begin = prefix_of(frame, prefix)
    known = f"{begin}row" if id is None else id
    marks = [f"{begin}similarity", known, f"{begin}duplicate_of", column]
    _present(frame, {"column": column, "id": known})
    parts = _parts(frame[list(dict.fromkeys(marks))])
    found = [_later(looking.least_similar)(part, marks, rows) for part in parts]
    texts = [_later(looking.texts_of)(part, known, column, found, rows) for part in parts]
    lists, kept = dask.compute(found, texts)
    originals = {row: text for part in kept for row, text in part.items()}
    chosen = looking.least([pair for part in lists for pair in part], rows)
    return Html(table_of(chosen, originals))


class Html(str):
    """HTML that a notebook shows, and a string for all else."""

    __slots__ = ()

    def _repr_html_(self) -> str:
        return str(self)


# ------------------------------------------------------------------------------------ what is asked
def _present(frame: Any, columns: dict[str, Any]) -> list[Any]:
    """Return the columns that are named, each once."""
    for argument, name in columns.items():
        column_name(argument, name, allow_none=argument == "color")
        if name is not None and list(frame.columns).count(name) != 1:
            raise ValueError(
                f"{argument} names column {shown(name)}, which the dataframe does not have once; "
                f"its columns are {shown(list(frame.columns))}"
            )
        if argument in ("color", "id"):
            require_single_values(frame, argument, name)
    return list(dict.fromkeys(name for name in columns.values() if name is not None))


def _similarity(frame: Any) -> Any:
    found = [name for name in frame.columns if str(name).endswith("similarity")]
    if len(found) != 1:
        raise ValueError(
            f"column must name the similarity, of which there are {len(found)}; the columns are "
            f"{shown(list(frame.columns))}"
        )
    return found[0]


def _meta(frame: Any) -> Any:
    return frame._meta if is_dask_frame(frame) else frame


# -------------------------------------------------------------------------------- what is computed
def _later(function: Any) -> Any:
    return dask.delayed(function, pure=True)


def _parts(frame: Any) -> list[Any]:
    """Return the partitions of a frame, not computed."""
    return list(frame.to_delayed()) if is_dask_frame(frame) else [frame]


def _coordinates(parts: list[Any], of: tuple[Any, int], method: str, seed: int) -> list[Any]:
    if method == "pca":
        onto = _later(looking.directions)([_later(looking.moments)(part, *of) for part in parts])
        return [_later(looking.projected)(part, *of, onto) for part in parts]
    looking.require_pacmap()
    hashes = [_later(looking.some_hashes)(part, *of) for part in parts]
    some = [_later(looking.some_vectors)(part, *of, hashes) for part in parts]
    known = _later(looking.pacmap_of)(some, seed)
    return [_later(looking.placed)(part, *of, known) for part in parts]
