"""Log-likelihoods of sequences to the columns of rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

if TYPE_CHECKING:
    from dask_embed.inference.rows import Chunk

PerRow = list[np.ndarray]


def choices(
    chunk: Chunk, lists: Sequence[tuple[str, ...]], *, mean: bool
) -> tuple[list[str], tuple[list[float], list[float]], tuple[PerRow, PerRow]]:
    """Choose the best of the candidates in each row's list, the first of equals.

    Returns
    -------
    best : list of str
    of_best : tuple
        Its score and its probability in each row.
    of_all : tuple
        The scores and the probabilities of all candidates of each row, in the order of its list.
    """
    scores = [
        _scores(chunk, numbers, len(texts), mean=mean)
        for numbers, texts in zip(chunk.by_row(), lists, strict=True)
    ]
    weights = [np.exp(row - row.max()) for row in scores]
    probabilities = [row / row.sum() for row in weights]
    first = [int(row.argmax()) for row in scores]
    best = [texts[place] for texts, place in zip(lists, first, strict=True)]
    of_best = (_at(scores, first), _at(probabilities, first))
    return best, of_best, (scores, probabilities)


def structs(values: PerRow, names: Sequence[str]) -> pa.Array:
    """Return the values of all rows as structs of float32, a field for each name."""
    arrays = [pa.array(column, pa.float32()) for column in np.stack(values, axis=1)]
    return pa.StructArray.from_arrays(arrays, names=list(names))


def likelihoods(chunk: Chunk) -> list[Any]:
    """Return log-likelihood, number of tokens that have one, and perplexity of each row."""
    sums, counts = np.zeros(len(chunk.rows)), np.zeros(len(chunk.rows), np.int64)
    roles = chunk.tokens.types
    assert roles is not None, "sequences to score come with roles"
    for number, (row, values) in enumerate(zip(chunk.owners, chunk.results, strict=True)):
        if values is not None and len(values):
            start, stop = chunk.tokens.offsets[number : number + 2]
            sums[row] += values[0]
            counts[row] += np.count_nonzero(roles[start:stop])
    with np.errstate(over="ignore"):
        perplexity = np.exp(-sums / np.maximum(counts, 1))
    return [sums, counts, pa.array(perplexity, mask=counts == 0)]


def next_tokens(
    result: tuple[np.ndarray, np.ndarray], word: Callable[[int], str]
) -> list[dict[str, Any]]:
    """Return tokens, best first, with what they stand for and their log-probability."""
    ids, values = result
    return [
        {"token": token, "token_str": word(token), "logprob": value}
        for token, value in zip(ids.tolist(), values.tolist(), strict=True)
    ]


def _scores(chunk: Chunk, numbers: range, count: int, *, mean: bool) -> np.ndarray:
    """Return the score of each candidate of a row, whose sequences have these numbers."""
    assert chunk.context is not None, "sequences come with their candidates"
    scores = np.full(count, np.nan)
    for number in numbers:
        own = chunk.context[number]
        for value, ids, places in zip(chunk.results[number], own.tokens, own.places, strict=True):
            scores[places] = value / len(ids) if mean else value
    return scores


def _at(rows: PerRow, places: list[int]) -> list[float]:
    return [float(row[place]) for row, place in zip(rows, places, strict=True)]
