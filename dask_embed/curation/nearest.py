"""The nearest rows of texts, vectors or rows: what users call."""

from __future__ import annotations

import dataclasses
from typing import Any

import pyarrow as pa
from dask.tokenize import tokenize

from dask_embed._options import named_options
from dask_embed._validation import (
    boolean,
    column_name,
    local_path,
    one_of,
    positive_integer,
    require_size,
)
from dask_embed.columns import stored_vectors
from dask_embed.columns.frames import require_frame
from dask_embed.curation import indexes
from dask_embed.curation.indexes import IndexSettings
from dask_embed.curation.measures import MEASURES
from dask_embed.curation.neighbours import Search, Side
from dask_embed.curation.queries import Queries, no_effect, queries_of
from dask_embed.curation.ranking import require_single_values
from dask_embed.curation.searches import Nearest
from dask_embed.curation.spaces import (
    PACKED,
    require_one_space,
    require_same_space,
    require_vector_column,
)
from dask_embed.curation.vectors import token_dimension
from dask_embed.lazy._dask import new_collection
from dask_embed.lazy.arrays import lazy_dimension

METRICS = (*MEASURES, "maxsim")
_ENGINES = ("exact", "faiss")


@named_options
def nearest(
    frame: Any,
    queries: Any = None,
    k: int = 10,
    *,
    column: str = "embedding",
    id: str | None = None,
    metric: str | None = None,
    query_column: str | None = None,
    query_id: str | None = None,
    prompt: str | None = None,
    prompt_name: str | None = None,
    lists: bool = False,
    engine: str = "exact",
    n_lists: int | None = None,
    n_probe: int = 16,
    index: Any = None,
    check: bool = True,
) -> Any:
    """Return the nearest rows of texts, of vectors, or of every row; lazy.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
        The rows that are searched.
    queries : str, sequence of str, DataFrame or array, optional
        What neighbours are looked for. Texts are embedded by the model, and with the prompt, that
        made the column; of a pandas, cuDF or Dask DataFrame the vector column is taken; an array is
        of shape (queries, dimension). By default every row of `frame` is a query, and not its own
        neighbour.
    k : int
        Neighbours of each query; there are fewer if `frame` has fewer rows.
    column : str
        The vector column of `frame`: float32, float16, int8, uint8, packed signs (``"binary"``,
        ``"ubinary"``), or the token vectors that ``pooling="none"`` gives.
    id : str, optional
        The column that knows a row. Without it the position does, counted from 0 over all
        partitions.
    metric : {"cosine", "dot", "euclidean", "hamming", "maxsim"}, optional
        As sentence-transformers' ``util`` defines the first three; the third is minus the distance,
        ``"hamming"`` minus the number of bits that differ: more is always nearer. ``"maxsim"`` sums
        the best product of each token of the query. By default ``"hamming"`` where the column is
        known to be packed signs, ``"maxsim"`` of token vectors, else ``"cosine"``.
    query_column, query_id : str, optional
        Columns of the queries' frame: its vectors, by default named as `column`, and what knows its
        rows, by default their position.
    prompt, prompt_name : str, optional
        As in `dask_embed.Embedder`, for texts: models with a prompt for questions need it.
    lists : bool
        Return the queries' frame with the columns ``neighbours`` and ``similarities``, lists,
        instead of a row for each neighbour.
    engine : {"exact", "faiss"}
        ``"faiss"`` (extra ``faiss``) finds most of them in less time: inverted lists of each
        partition, of which the nearest `n_probe` are searched.
    n_lists : int, optional
        Inverted lists of a partition, by default four times the square root of its rows.
    n_probe : int
        Lists that are searched for a query.
    index : str or Path, optional
        A folder that all workers see, to keep the indexes of the partitions in: a later search of
        the same frame uses them again.
    check : bool
        Refuse queries of another model than that of the column, or stored in another type.

    Returns
    -------
    dask.dataframe.DataFrame
        ``query``, ``rank`` from 1, ``neighbour``, ``similarity`` (float32), in the order of the
        queries; `query` is the text of one. Rows without a vector are no neighbours and have none.

    Raises
    ------
    TypeError, ValueError
        Before any work, if the arguments do not fit each other or the frame.

    Notes
    -----
    Of equally near rows the one of the lowest id is nearer. Similarities are computed for each pair
    alone, in float64, so that results do not depend on partitions. Memory: a partition of vectors,
    a block of products of 16 MiB, and `k` results of each query and partition. Every partition of
    queries meets every one of the rows: some thousands of either are too many tasks.
    """
    require_frame("nearest", frame, lazy=True)
    positive_integer("k", k, allow_none=False)
    column_name("column", column)
    boolean("lists", lists)
    one_of("engine", engine, _ENGINES)
    require_single_values(frame, "id", id)
    _side(frame, column, id)
    made = require_one_space(frame, column, check)
    metric = _metric(frame, column, metric, made.told.get("precision"))
    of_queries = {"query_column": query_column, "query_id": query_id}
    prompts = {"prompt": prompt, "prompt_name": prompt_name}
    rows = Queries(frame, column, id, made)
    asked = _asked(queries, rows, of_queries, prompts, check)
    sides = _sides(frame, column, id, asked, metric, check)
    given = {"n_lists": n_lists, "n_probe": n_probe, "index": index}
    settings = _index(engine, metric, given, frame[sides[1].reads])
    search = Search(k, metric, *sides, same=queries is None, lists=lists, index=settings)
    return _lazily(asked.frame, frame, search)


def _asked(
    queries: Any, rows: Queries, of_queries: dict[str, Any], prompts: dict[str, Any], check: bool
) -> Queries:
    """Return what neighbours are looked for, by default the rows themselves."""
    if queries is None:
        no_effect({**of_queries, **prompts}, "queries")
        return rows
    asked = queries_of(queries, rows.origin, rows.column, **of_queries, prompts=prompts)
    require_same_space(rows.column, rows.origin, "the queries are", asked.origin, check)
    return asked


def _lazily(queries: Any, frame: Any, search: Search) -> Any:
    wanted = search.rows.reads
    if search.same:  # one expression for both sides, so that partitions are the same
        both = frame if search.lists else frame[wanted]
        return new_collection(Nearest(both.expr, both.expr, search))
    asked = queries if search.lists else queries[search.queries.reads]
    return new_collection(Nearest(asked.expr, frame[wanted].expr, search))


def _side(frame: Any, column: Any, label: Any) -> Side:
    """Return which columns are read, the vectors among them."""
    require_vector_column(frame, column, tokens=True)
    dimension = token_dimension(frame._meta[column]) or lazy_dimension(frame[column])
    return Side(column, dimension, label)


def _metric(frame: Any, column: Any, metric: str | None, precision: Any) -> str:
    """Return the metric that is meant, if the column has it."""
    if metric is not None:
        one_of("metric", metric, METRICS)
    tokens = token_dimension(frame._meta[column]) is not None
    packed = precision in PACKED
    if metric is None:
        return "maxsim" if tokens else "hamming" if packed else "cosine"
    if tokens != (metric == "maxsim"):
        needs = "metric='maxsim'" if tokens else "another metric than 'maxsim'"
        raise ValueError(f"column {column!r} holds {_holds(tokens)}: use {needs}, got {metric!r}")
    if packed and metric != "hamming":
        raise ValueError(
            f"column {column!r} holds packed signs (precision {precision!r}): use "
            f"metric='hamming', got {metric!r}"
        )
    if metric == "hamming" and not _is_bytes(frame, column):
        raise ValueError(
            f"metric='hamming' needs packed signs, as precision='ubinary' gives; column "
            f"{column!r} is of {frame._meta[column].dtype}"
        )
    return metric


def _is_bytes(frame: Any, column: Any) -> bool:
    return stored_vectors(frame._meta[column])[0] in (pa.int8(), pa.uint8())


def _sides(
    frame: Any, column: Any, label: Any, asked: Queries, metric: str, check: bool
) -> tuple[Side, Side]:
    """Return which columns of queries and rows are read; their vectors have to fit each other.

    Raises
    ------
    ValueError
        If they are of another dimension, or stored in types that are not to be compared.
    """
    rows = _side(frame, column, label)
    queries = _side(asked.frame, asked.column, asked.label)
    tokens = token_dimension(asked.frame._meta[asked.column]) is not None
    if tokens != (metric == "maxsim"):
        raise ValueError(
            f"column {column!r} holds {_holds(not tokens)}, the queries hold {_holds(tokens)}"
        )
    signs = (
        metric == "hamming"
        and not _is_bytes(asked.frame, asked.column)
        and queries.dimension == 8 * rows.dimension
    )
    if not signs and queries.dimension != rows.dimension:
        raise ValueError(
            f"the queries are of dimension {queries.dimension}, the vectors of column {column!r} "
            f"of {rows.dimension}"
        )
    if metric != "maxsim" and not signs and check:
        _require_same_type(frame, column, asked)
    return dataclasses.replace(queries, signs=signs), rows


def _require_same_type(frame: Any, column: Any, asked: Queries) -> None:
    stored = stored_vectors(frame._meta[column])[0]
    given = stored_vectors(asked.frame._meta[asked.column])[0]
    if stored == given or (pa.types.is_floating(stored) and pa.types.is_floating(given)):
        return
    raise ValueError(
        f"column {column!r} holds vectors of {stored}, the queries are of {given}: store them in "
        "the same precision, with the same ranges (dask_embed.quantize); check=False compares "
        "the numbers as they are"
    )


def _holds(tokens: bool) -> str:
    return "token vectors" if tokens else "one vector a row"


def _index(
    engine: str, metric: str, settings: dict[str, Any], searched: Any
) -> IndexSettings | None:
    """Return how indexes are made, None where the search is exact.

    Rows stand in an index in the order of their ids, so `searched` has that column, too.
    """
    defaults = {"n_lists": None, "n_probe": 16, "index": None}
    if engine == "exact":
        given = {
            name: value
            for name, value in settings.items()
            if type(value) is not type(defaults[name]) or value != defaults[name]
        }
        no_effect(given, "engine='faiss'")
        return None
    if metric not in indexes.METRICS:
        raise ValueError(
            f"engine='faiss' has {', '.join(map(repr, indexes.METRICS))}; for metric={metric!r} "
            "use engine='exact'"
        )
    require_size("n_probe", settings["n_probe"])
    positive_integer("n_lists", settings["n_lists"])
    folder = settings["index"]
    if folder is not None:
        folder = str(local_path("index", folder).resolve())
    version = indexes.faiss().__version__
    token = tokenize(searched.expr._name, metric, settings["n_lists"], version)
    return IndexSettings(metric, settings["n_lists"], settings["n_probe"], folder, token)
