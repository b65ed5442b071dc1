"""Approximate neighbours by faiss's inverted lists, an index for each partition."""

from __future__ import annotations

import dataclasses
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from dask_embed.curation.measures import Measure
from dask_embed.curation.pairwise import Best, Neighbours

METRICS = ("cosine", "dot", "euclidean")
_ROWS_PER_LIST = 39  # that faiss wants to train on


@dataclasses.dataclass(frozen=True)
class IndexSettings:
    """How an index is made and searched.

    Attributes
    ----------
    metric : str
    lists : int or None
        Inverted lists of a partition; by default four times the square root of its rows.
    probes : int
        Lists that are searched for a query.
    folder : str or None
        Where indexes are kept.
    token : str
        Of the frame and what else an index is made from: what is kept under it is used again.
    """

    metric: str
    lists: int | None
    probes: int
    folder: str | None
    token: str


class Index:
    """An index of the vectors of a partition, which faiss pickles."""

    def __init__(self, found: Any, settings: IndexSettings) -> None:
        self._index, self._settings = found, settings

    def search(
        self, queries: np.ndarray, vectors: np.ndarray, k: int, leave_out: np.ndarray | None
    ) -> Neighbours:
        """Return the nearest rows as the index finds them, with their true similarities."""
        measure, best = Measure(self._settings.metric), Best(len(queries), k)
        if not len(queries) or self._index is None:
            return Neighbours(best.rows, best.similarities)
        wanted = min(k + (leave_out is not None), len(vectors))
        # as parameters of the search: other threads may use the index
        parameters = faiss().SearchParametersIVF(nprobe=self._settings.probes)
        asked = np.ascontiguousarray(measure.comparable(queries))
        _, rows = self._index.search(asked, wanted, params=parameters)
        query, place = np.nonzero(rows >= 0)
        found = rows[query, place]
        if leave_out is not None:
            others = found != leave_out[query]
            query, found = query[others], found[others]
        best.add(query, found, measure.between(queries, query, vectors, found))
        return Neighbours(best.rows, best.similarities)


def build_index(rows: Any, settings: IndexSettings, number: int, count: int) -> Index:
    """Return the index of a partition: the one that was kept, or a new one."""
    vectors = rows.vectors
    if not len(vectors):
        return Index(None, settings)
    if settings.folder is None:
        return Index(_built(vectors, settings), settings)
    file = Path(settings.folder) / f"{settings.token}-{number}-of-{count}.faiss"
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        whole = file.with_name(f"{file.name}.{uuid.uuid4().hex}")
        faiss().write_index(_built(vectors, settings), str(whole))
        os.replace(whole, file)  # another worker never reads half of one
    return Index(faiss().read_index(str(file)), settings)


def _built(vectors: np.ndarray, settings: IndexSettings) -> Any:
    library = faiss()
    values = np.ascontiguousarray(Measure(settings.metric).comparable(vectors))
    count, dimension = values.shape
    lists = settings.lists or 4 * int(np.sqrt(count))
    lists = max(1, min(lists, count // _ROWS_PER_LIST))
    inner = settings.metric != "euclidean"
    quantizer = library.IndexFlatIP(dimension) if inner else library.IndexFlatL2(dimension)
    kind = library.METRIC_INNER_PRODUCT if inner else library.METRIC_L2
    index = library.IndexIVFFlat(quantizer, dimension, lists, kind)
    index.cp.min_points_per_centroid = 1  # or it warns of partitions of few rows
    index.train(values)
    index.add(values)
    return index


def faiss() -> Any:
    """Return the library.

    Raises
    ------
    ImportError
        If it is not installed, with what to install.
    """
    try:
        import faiss as library
    except ImportError as error:
        raise ImportError(
            "engine='faiss' needs faiss: pip install 'dask-embed[faiss]' (faiss-cpu)"
        ) from error
    return library
