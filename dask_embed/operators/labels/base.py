"""Scores of labels to columns: the best label, some of them, or all."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed._validation import number_or_none, one_of, positive_integer, shown
from dask_embed.operators.model import ModelOperator


@dataclasses.dataclass(frozen=True, kw_only=True)
class LabelOperator(ModelOperator):
    """What operators share that give labels and their scores.

    Parameters
    ----------
    output : str
        Name of the label column: str, or a list of str (see `top_k` and `threshold`).
    score : str, optional
        Name of the score column, by default ``<output>_score``: float32, or a list of float32.
    scores : str, optional
        Name of a column with the scores of all labels, a struct of float32, one field a label.
    top_k : int or "all", optional
        Give a list of so many labels, best first, in place of the best one.
    threshold : float, optional
        Only labels whose score is at least this. A best label below it is null. Where scores do
        not depend on each other, so that several labels may be right, and `top_k` is not given,
        rows get a list of all labels that reach it. Where scores are probabilities, from 0 to 1.
    """

    output: str = "label"
    score: str | None = None
    scores: str | None = None
    top_k: int | str | None = None
    threshold: float | None = None

    incidental: ClassVar[frozenset[str]] = frozenset({"score", "scores"})

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.top_k, str):
            one_of("top_k", self.top_k, ("all",))
        else:
            positive_integer("top_k", self.top_k)
        number_or_none("threshold", self.threshold)

    @property
    def result_columns(self) -> tuple[str, ...]:
        score = f"{self.output}_score" if self.score is None else self.score
        return (self.output, score) if self.scores is None else (self.output, score, self.scores)

    def require_probability(self, function: str) -> None:
        """Raise ValueError unless a score that `function` gives can be `threshold`."""
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(
                f"threshold must be from 0 to 1, as scores of {function} are; got "
                f"{shown(self.threshold)}"
            )

    def label_types(self, labels: Sequence[str], *, independent: bool) -> dict[str, pa.DataType]:
        """Return name and Arrow type of the result columns.

        Parameters
        ----------
        labels : sequence of str
        independent : bool
            The score of a label does not depend on those of the others.

        Raises
        ------
        ValueError
            If there are fewer labels than `top_k`, or `scores` is asked for and two have one name.
        """
        if isinstance(self.top_k, int) and self.top_k > len(labels):
            raise ValueError(f"top_k must be at most {len(labels)}, the labels; got {self.top_k}")
        label, score = pa.string(), pa.float32()
        types: list[pa.DataType] = [label, score]
        if self._list_length(labels, independent) is not None:
            types = [pa.list_(label), pa.list_(score)]
        if self.scores is not None:
            twice = [name for place, name in enumerate(labels) if name in labels[:place]]
            if twice:
                raise ValueError(
                    f"scores={shown(self.scores)} has one field a label, but two labels are called "
                    f"{twice[0]!r}; leave it out, or give the labels other names"
                )
            types.append(pa.struct([(name, score) for name in labels]))
        return dict(zip(self.result_columns, types, strict=True))

    def label_columns(
        self, labels: Sequence[str], scores: np.ndarray, valid: np.ndarray, *, independent: bool
    ) -> dict[str, pa.Array]:
        """Return the result columns.

        Parameters
        ----------
        labels : sequence of str
        scores : numpy.ndarray
            float32, shape (rows, labels).
        valid : numpy.ndarray
            bool, shape (rows,): which rows have scores; the others become null.
        independent : bool
            As for `label_types`.
        """
        length = self._list_length(labels, independent)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : length or 1]
        best = np.take_along_axis(scores, order, axis=1)
        kept = np.ones(best.shape, bool) if self.threshold is None else best >= self.threshold
        names = np.array([*labels], dtype=object)[order]
        if length is None:
            missing = ~(kept[:, 0] & valid)
            columns = [
                pa.array(names[:, 0], pa.string(), mask=missing),
                pa.array(np.ascontiguousarray(best[:, 0]), mask=missing),
            ]
        else:
            columns = [
                _lists(names, kept, valid, pa.string()),
                _lists(best, kept, valid, pa.float32()),
            ]
        if self.scores is not None:
            fields = [pa.array(column) for column in np.ascontiguousarray(scores.T)]
            columns.append(pa.StructArray.from_arrays(fields, [*labels], mask=pa.array(~valid)))
        return dict(zip(self.result_columns, columns, strict=True))

    def _list_length(self, labels: Sequence[str], independent: bool) -> int | None:
        """Return the most labels of a row, None where a row has one label and no list."""
        if isinstance(self.top_k, int):
            return self.top_k
        if self.top_k == "all" or (independent and len(labels) > 1 and self.threshold is not None):
            return len(labels)
        return None


def softmax(logits: np.ndarray) -> np.ndarray:
    """Return the softmax over the last axis."""
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return shifted / shifted.sum(axis=-1, keepdims=True)


def stacked(results: Sequence[Any], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Return results as one float32 array of `width` columns, zero where None, and which are not.

    A sequence without tokens has no result.
    """
    valid = np.array([result is not None for result in results], bool)
    values = np.zeros((len(results), width), np.float32)
    if valid.any():
        values[valid] = np.stack([result for result in results if result is not None])
    return values, valid


def _lists(values: np.ndarray, kept: np.ndarray, valid: np.ndarray, dtype: pa.DataType) -> pa.Array:
    """Return the kept values of each row, shape (rows, values), as a list column."""
    kept = kept & valid[:, None]
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum(kept.sum(axis=1), out=offsets[1:])
    mask = None if valid.all() else pa.array(~valid)
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values[kept], dtype), mask=mask)
