"""What pictures of a corpus draw: points or counts on axes of matplotlib, pairs as a table."""

from __future__ import annotations

import html
from typing import Any

import numpy as np
import pandas as pd

from dask_embed._validation import shown
from dask_embed.curation import looking

_MOST_COLORS = 20  # of a legend


def axes_or_new(ax: Any) -> Any:
    """Return axes that were given, else new ones."""
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise ImportError("dask_embed.plot needs matplotlib: pip install matplotlib") from error
    if ax is None:
        return pyplot.subplots()[1]
    if not hasattr(ax, "stairs"):
        raise TypeError(f"ax must be matplotlib axes, got {shown(ax)}")
    return ax


def draw_counts(ax: Any, counts: np.ndarray, sides: list[looking.Extent]) -> None:
    low = np.min([side.low for side in sides], axis=0)
    high = np.max([side.high for side in sides], axis=0)
    image = ax.imshow(
        np.log1p(counts.T),
        origin="lower",
        extent=(low[0], high[0], low[1], high[1]),
        aspect="auto",
        cmap="Blues",
    )
    bar = ax.figure.colorbar(image, ax=ax, label="rows")
    steps = [first * 10**zeros for zeros in range(7) for first in (1, 3)]
    ticks = [tick for tick in (0, *steps) if tick <= counts.max()]
    bar.set_ticks(np.log1p(ticks), labels=[f"{tick:,}" for tick in ticks])


def draw_points(ax: Any, points: pd.DataFrame, color: Any) -> None:
    size = float(np.clip(20_000 / max(1, len(points)), 1, 30))
    style = {"s": size, "linewidths": 0}
    if color is None:
        ax.scatter(points["x"], points["y"], **style, alpha=0.6)
        return
    values = points["color"]
    if values.nunique() > _MOST_COLORS and pd.api.types.is_numeric_dtype(values.dtype):
        drawn = ax.scatter(points["x"], points["y"], c=values.to_numpy("float64"), **style)
        ax.figure.colorbar(drawn, ax=ax, label=str(color))
        return
    if values.nunique() > _MOST_COLORS:
        raise ValueError(
            f"color names column {color!r} with {values.nunique()} different values; up to "
            f"{_MOST_COLORS} have a color each"
        )
    for number, (value, rows) in enumerate(points.groupby("color", dropna=False)):
        ax.scatter(rows["x"], rows["y"], **style, color=f"C{number}", label=str(value), alpha=0.8)
    ax.legend(
        title=str(color), frameon=False, bbox_to_anchor=(1, 1), loc="upper left", markerscale=2
    )


def table_of(found: list[looking.Pair], originals: dict[Any, Any]) -> str:
    cell = "style='text-align: left; vertical-align: top; white-space: pre-wrap; padding: 4px'"
    head = "".join(f"<th {cell}>{name}</th>" for name in ("similarity", "kept", "dropped"))
    lines = []
    for pair in found:
        texts = looking.with_differences(originals.get(pair.kept), pair.text)
        known = (html.escape(str(each)) for each in (pair.kept, pair.row))
        sides = (
            f"<td {cell}><small>{name}</small><br>{text}</td>"
            for name, text in zip(known, texts, strict=True)
        )
        lines.append(f"<tr><td {cell}>{pair.similarity:.3f}</td>{''.join(sides)}</tr>")
    return f"<table><tr>{head}</tr>{''.join(lines)}</table>"
