"""Texts, or pairs of texts, to labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed._validation import number_or_none, one_of, positive_integer
from dask_embed.models.checkpoint import Checkpoint
from dask_embed.operators.model import ModelOperator

if TYPE_CHECKING:
    from dask_embed.inference.rows import Chunk
    from dask_embed.tokenization import TokenLists

FUNCTIONS = ("auto", "softmax", "sigmoid", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier(ModelOperator):
    """Append the label of each text and its score; lazy on a Dask DataFrame.

    Parameters
    ----------
    model : str, Path or Model
        A checkpoint with a head for sequence classification.
    column : str
        The text column.
    pair : str, optional
        A second text column; text and pair are classified together.
    output : str
        Name of the label column, str.
    score : str, optional
        Name of the score column, float32; by default ``<output>_score``.
    scores : str, optional
        Name of a column with the scores of all labels, a struct of float32, one field a label.
    top_k : int, optional
        Labels to give, best first: `output` becomes a list of str and `score` a list of float32.
    threshold : float, optional
        Only labels whose score is at least this: null, or a shorter list, where there is none.
    function_to_apply : {"auto", "softmax", "sigmoid", "none"}
        From logits to scores. ``"auto"`` is what transformers' pipeline does: sigmoid for several
        labels at a time or a single one, softmax for one of several, none for regression.
    max_length, on_long, padding_side, batch_size, tokens_per_batch, on_error
        See `ModelOperator`.

    Notes
    -----
    A model with one label scores it; regression gives the value as score.

    Source: transformers' ``TextClassificationPipeline``.
    """

    column: str = "text"
    pair: str | None = None
    output: str = "label"
    score: str | None = None
    scores: str | None = None
    top_k: int | None = None
    threshold: float | None = None
    function_to_apply: str = "auto"

    task: ClassVar[str] = "classify"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_integer("top_k", self.top_k)
        one_of("function_to_apply", self.function_to_apply, FUNCTIONS)
        number_or_none("threshold", self.threshold)
        if len(set(self.result_columns)) != len(self.result_columns):
            raise ValueError(f"output columns must differ, got {list(self.result_columns)}")

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.column,) if self.pair is None else (self.column, self.pair)

    @property
    def result_columns(self) -> tuple[str, ...]:
        names = (self.output, self.score or f"{self.output}_score")
        return names if self.scores is None else (*names, self.scores)

    def output_types(self, checkpoint: Checkpoint) -> dict[str, pa.DataType]:
        labels = labels_of(checkpoint)
        if self.top_k is not None and self.top_k > len(labels):
            raise ValueError(f"top_k must be at most {len(labels)}, the labels; got {self.top_k}")
        label, score = pa.string(), pa.float32()
        if self.top_k is not None:
            label, score = pa.list_(label), pa.list_(score)
        types = [label, score]
        if self.scores is not None:
            types.append(pa.struct([(name, pa.float32()) for name in labels]))
        return dict(zip(self.result_columns, types, strict=True))

    def describe(self, checkpoint: Checkpoint) -> str:
        labels = labels_of(checkpoint)
        shown = ", ".join(labels[:5]) + (", ..." if len(labels) > 5 else "")
        return f"{len(labels)} labels ({shown}), {self._function(checkpoint)} of the logits"

    def provenance(self) -> dict[str, Any]:
        chosen = {"top_k": self.top_k, "threshold": self.threshold}
        return {**super().provenance(), **chosen, "function_to_apply": self.function_to_apply}

    def forward(self, model: Any, tokens: TokenLists) -> Any:
        return model.logits(tokens, self._side(model))

    def postprocess(self, model: Any, chunk: Chunk) -> Mapping[str, Any]:
        checkpoint = model.loaded.checkpoint
        labels = np.array(labels_of(checkpoint), dtype=object)
        present = [result is not None for result in chunk.results]
        logits = np.full((len(present), len(labels)), np.nan, np.float32)
        if any(present):
            logits[present] = np.stack([r for r in chunk.results if r is not None])
        scores = apply_function(self._function(checkpoint), logits)
        order = np.argsort(-scores, axis=1, kind="stable")[:, : self.top_k or 1]
        best = np.take_along_axis(scores, order, axis=1)
        columns: list[Any] = list(self._columns(labels[order], best, present))
        if self.scores is not None:
            columns.append(_struct(labels, scores, present))
        return dict(zip(self.result_columns, columns, strict=True))

    def _columns(
        self, labels: np.ndarray, scores: np.ndarray, present: list[bool]
    ) -> tuple[list[Any], list[Any]]:
        """Return the label and score columns of the best labels, shapes (rows, labels)."""
        kept = scores >= (-np.inf if self.threshold is None else self.threshold)
        rows = list(zip(labels, scores, kept, present, strict=True))
        if self.top_k is None:
            return (
                [names[0] if ok and keep[0] else None for names, _, keep, ok in rows],
                [values[0] if ok and keep[0] else None for _, values, keep, ok in rows],
            )
        return (
            [names[keep].tolist() if ok else None for names, _, keep, ok in rows],
            [values[keep].tolist() if ok else None for _, values, keep, ok in rows],
        )

    def _side(self, model: Any) -> str:
        return self.padding_side or model.loaded.tokenizer.padding_side

    def _function(self, checkpoint: Checkpoint) -> str:
        if self.function_to_apply != "auto":
            return self.function_to_apply
        config = checkpoint.config
        kind = getattr(config, "problem_type", None)
        if kind == "regression":
            return "none"
        if kind == "multi_label_classification" or config.num_labels == 1:
            return "sigmoid"
        return "softmax"


def labels_of(checkpoint: Checkpoint) -> list[str]:
    """Return the names of a checkpoint's labels, in the order of its logits."""
    names: dict[Any, str] = dict(checkpoint.config.id2label or {})
    return [str(names[number]) for number in sorted(names)]


def apply_function(name: str, logits: np.ndarray) -> np.ndarray:
    """Return the scores of logits of shape (rows, labels)."""
    if name == "sigmoid":
        return 1.0 / (1.0 + np.exp(-logits))
    if name == "softmax":
        shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return shifted / shifted.sum(axis=-1, keepdims=True)
    return logits


def _struct(labels: np.ndarray, scores: np.ndarray, present: list[bool]) -> pa.Array:
    arrays = [pa.array(column) for column in np.ascontiguousarray(scores.T)]
    mask = pa.array([not ok for ok in present])
    return pa.StructArray.from_arrays(arrays, names=labels.tolist(), mask=mask)
