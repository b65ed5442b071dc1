"""What neighbours are looked for, as a Dask DataFrame with a vector column."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
from dask.utils import is_dataframe_like

from dask_embed._validation import column_name, shown, strings
from dask_embed.columns.frames import is_dask_frame
from dask_embed.curation.ranking import require_single_values
from dask_embed.curation.spaces import require_vector_column, ways_apart
from dask_embed.curation.vectors import vector_series
from dask_embed.jobs.lineage import origins
from dask_embed.jobs.origin import UNKNOWN, Origin
from dask_embed.models.spec import Model
from dask_embed.operators import Embedder, MultiVectorEmbedder

LABEL = "query"
VECTORS = "embedding"
_STORED = (np.float32, np.float16, np.int8, np.uint8)
# Whether vectors are of length one, or were before they were cut.
_SCALED = ("normalized", "normalized_before_cut")
_EMBEDDERS = ("Embedder", "LateChunkEmbedder", "MultiVectorEmbedder")


@dataclasses.dataclass(frozen=True)
class Queries:
    """Vectors whose neighbours are looked for.

    Attributes
    ----------
    frame : dask.dataframe.DataFrame
    column : str
        Its vector column.
    label : str or None
        The column that knows its rows; their position where there is none.
    origin : Origin
        What made the vectors.
    """

    frame: Any
    column: Any
    label: Any
    origin: Origin = UNKNOWN


def queries_of(
    given: Any,
    made: Origin,
    column: Any,
    *,
    query_column: Any,
    query_id: Any,
    prompts: dict[str, Any],
) -> Queries:
    """Return texts, a frame or an array as `Queries`.

    Parameters
    ----------
    given : str, sequence of str, DataFrame or array
    made : Origin
        What made the vectors that are searched, of the column `column`.
    query_column, query_id : str, optional
        Columns of a frame.
    prompts : dict
        ``prompt`` and ``prompt_name``, of texts.

    Raises
    ------
    TypeError, ValueError
        If it is anything else, or texts of which nothing tells the model.
    """
    if is_dataframe_like(getattr(given, "_meta", given)):
        no_effect(prompts, "texts as queries")
        return _of_frame(given, column if query_column is None else query_column, query_id)
    of_frame = {"query_column": query_column, "query_id": query_id}
    no_effect(of_frame, "a dataframe as queries")
    if isinstance(given, str):
        given = [given]
    if isinstance(given, Sequence) and given and all(isinstance(each, str) for each in given):
        return _of_texts(strings("queries", given), made, column, prompts)
    no_effect(prompts, "texts as queries")
    return _of_array(given)


def no_effect(options: dict[str, Any], without: str) -> None:
    """Raise ValueError for an option that is given and would be left out of account."""
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"{name}={shown(value)} has no effect without {without}")


def _of_frame(frame: Any, column: Any, label: Any) -> Queries:
    column_name("query_column", column)
    require_vector_column(frame, column, "query_column", tokens=True)
    require_single_values(frame, "query_id", label)
    if not is_dask_frame(frame):
        frame = dd.from_pandas(frame, npartitions=1, sort=False)
    origin = origins(frame[[column]]).get(column, UNKNOWN)
    return Queries(frame, column, label, origin)


def _of_array(given: Any) -> Queries:
    try:
        array = np.asarray(given)
        if array.dtype.kind in "fiu" and array.dtype not in _STORED:
            array = array.astype(np.float32)
    except (TypeError, ValueError):
        array = np.empty(0, object)
    if array.ndim != 2 or not array.size or array.dtype.kind not in "fiu":
        raise TypeError(
            "queries must be texts, a dataframe with a vector column, or numbers of shape "
            f"(queries, dimension); got {shown(given)}"
        )
    if not np.isfinite(array).all():
        raise ValueError("queries hold NaN or infinite numbers")
    frame = pd.DataFrame({VECTORS: vector_series(array)})
    return Queries(dd.from_pandas(frame, npartitions=1, sort=False), VECTORS, None)


def _of_texts(
    texts: tuple[str, ...], made: Origin, column: Any, prompts: dict[str, Any]
) -> Queries:
    embedder = embedder_of(made, column, **prompts)
    frame = pd.DataFrame({LABEL: pd.Series(texts, dtype="str")})
    rows = embedder(dd.from_pandas(frame, npartitions=1, sort=False))
    return Queries(rows, VECTORS, LABEL, origins(rows).get(VECTORS, UNKNOWN))


def embedder_of(
    made: Origin, column: Any, prompt: str | None = None, prompt_name: str | None = None
) -> Embedder | MultiVectorEmbedder:
    """Return an embedder of column `query` as that which made a column.

    Raises
    ------
    ValueError
        If what made it is not known well enough, or no embedder of texts.
    """
    told = made.told
    model = _model_of(told, column)
    prompts: dict[str, Any] = {"prompt": prompt, "prompt_name": prompt_name}
    if told["operator"] == "MultiVectorEmbedder":
        return MultiVectorEmbedder(model, column=LABEL, output=VECTORS, side="query", **prompts)
    if prompt is None and prompt_name is None:
        prompts["prompt"] = told.get("prompt")
    embedder = Embedder(
        model,
        column=LABEL,
        output=VECTORS,
        pooling=tuple(told["pooling"]),
        chat=bool(told.get("chats", False)),
        max_chars=told.get("max_chars"),
        max_length=told.get("max_length"),
        on_long=told.get("on_long", "truncate"),
        precision=told.get("precision", "float32"),
        ranges=told.get("ranges"),
        **prompts,
    )
    return _as_made(embedder, made, column)


def _model_of(told: dict[str, Any], column: Any) -> Model:
    """Return the model that made a column."""
    if told.get("operator") not in _EMBEDDERS:
        by = f"it was made by {told['operator']}" if "operator" in told else "nothing tells it"
        raise ValueError(
            f"queries are texts, which need the model of column {column!r}, but {by} (rows in "
            "memory forget what made them): embed the queries and give a dataframe or an array"
        )
    fields = {field.name for field in dataclasses.fields(Model)} - {"name", "revision"}
    settings = {name: told[name] for name in fields & told.keys()}
    hidden = [name for name, value in settings.items() if "token-" in str(value)]
    if hidden or isinstance(told.get("ranges"), str):
        raise ValueError(
            f"queries are texts, but of what made column {column!r} only a token of "
            f"{(hidden or ['ranges'])[0]} is known: embed the queries and give a dataframe"
        )
    return Model(told["model"], revision=told.get("revision"), **settings)


def _as_made(embedder: Embedder, made: Origin, column: Any) -> Embedder:
    """Return the embedder with vectors of the dimension and length that are told."""
    told = made.told
    if embedder.resolved()["dimension"] != told["dimension"]:
        embedder = dataclasses.replace(embedder, truncate_dim=told["dimension"])
    resolved = embedder.resolved()
    if any(resolved.get(name) != told.get(name) for name in _SCALED):
        embedder = dataclasses.replace(embedder, normalize=told["normalized"])
    ways = ways_apart(made, Origin(embedder.pinned().provenance()))
    if ways:
        raise ValueError(
            f"queries are texts, but an embedder as that of column {column!r} differs from it in "
            f"{', '.join('.'.join(way) for way in ways)}: embed the queries and give a dataframe"
        )
    return embedder
