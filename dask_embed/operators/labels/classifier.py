"""Texts, or pairs of texts, to labels."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed._validation import one_of
from dask_embed.models.checkpoint import Checkpoint
from dask_embed.operators.labels.base import LabelOperator, softmax, stacked
from dask_embed.tokens.encoded import Encoded, Row
from dask_embed.tokens.lists import TokenLists

if TYPE_CHECKING:
    from dask_embed.inference.rows import Chunk
    from dask_embed.inference.runner import Runner

FUNCTIONS = ("auto", "softmax", "sigmoid", "none")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classifier(LabelOperator):
    """Append the label of each text and its score; lazy on a Dask DataFrame.

    Parameters
    ----------
    model : str, Path or Model
        A checkpoint with a head for sequence classification.
    column : str
        The text column.
    pair : str, optional
        A second text column; text and pair are classified together. Where it is empty, the text
        is classified alone, as the pipeline does.
    output : str
        Name of the label column: str, or a list of str (see `top_k` and `threshold`).
    score : str, optional
        Name of the score column, by default ``<output>_score``: float32, or a list of float32.
    scores : str, optional
        Name of a column with the scores of all labels, a struct of float32, one field a label.
    top_k : int or "all", optional
        Give a list of so many labels, best first, in place of the best one.
    threshold : float, optional
        Only labels whose score is at least this. Of a classifier that chooses one of several
        labels, rows below it get null. Of one that gives several labels at a time (sigmoid), rows
        get a list of all labels that reach it, which may be empty, unless `top_k` says otherwise.
        From 0 to 1 where scores are of softmax or sigmoid.
    function_to_apply : {"auto", "softmax", "sigmoid", "none"}
        From logits to scores. ``"auto"`` is what transformers' pipeline does: sigmoid for several
        labels at a time or a single one, softmax for one of several, none for regression.
    max_length, on_long, padding_side, batch_size, tokens_per_batch, on_error
        See `ModelOperator`. Of a pair that is too long the longer text is cut first.

    Raises
    ------
    TypeError, ValueError
        When it is applied and before any work, if an argument, a column or the checkpoint does
        not fit: no head for classification, more `top_k` than labels.

    Examples
    --------
    Keep what a model is sure of; the model runs when the files are written::

        out = de.Classifier("owner/sentiment", scores="all_scores")(ddf)
        out[(out["label"] == "positive") & (out["label_score"] > 0.9)].ml.to_parquet("sure")

    Notes
    -----
    A regression, or a model with one label, has its value as the score. A text without any token
    (an empty string, where the tokenizer adds no special tokens) gets null.

    Source: transformers' ``TextClassificationPipeline``, with ``truncation=True``.
    """

    method: ClassVar[str] = "classify"

    column: str = "text"
    pair: str | None = None
    function_to_apply: str = "auto"

    incidental: ClassVar[frozenset[str]] = frozenset({"column", "pair"})

    task: ClassVar[str] = "classify"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("function_to_apply", self.function_to_apply, FUNCTIONS)

    def output_types(self, checkpoint: Checkpoint) -> dict[str, pa.DataType]:
        function = self._function(checkpoint)
        if function != "none":
            self.require_probability(function)
        return self.label_types(labels_of(checkpoint), independent=function == "sigmoid")

    def describe(self, checkpoint: Checkpoint) -> str:
        labels = labels_of(checkpoint)
        shown = ", ".join(labels[:5]) + (", ..." if len(labels) > 5 else "")
        return f"{len(labels)} labels ({shown}), {self._function(checkpoint)} of the logits"

    def encode(self, runner: Runner, rows: list[Row]) -> Encoded:
        """Return a sequence for each row: of text and pair, of the text alone if that is empty."""
        alone = np.array([not row[-1] for row in rows], bool)
        if self.pair is None or not alone.any():
            return super().encode(runner, rows)
        single, paired = np.flatnonzero(alone), np.flatnonzero(~alone)
        parts = [
            super().encode(runner, [rows[place][:1] for place in single.tolist()]),
            super().encode(runner, [rows[place] for place in paired.tolist()]),
        ]
        return _merged([single, paired], parts)

    def tokens_key(self) -> Hashable:
        key = super().tokens_key()
        return key if self.pair is None else (key, "alone where the pair is empty")

    def forward(self, model: Any, tokens: TokenLists) -> Any:
        logits = model.logits(tokens)
        labels = labels_of(model.loaded.checkpoint)
        if logits.shape[1:] != (len(labels),):
            raise ValueError(
                f"model {self.spec.name!r} gives {tuple(logits.shape[1:])} values for each text, "
                f"but its configuration names {len(labels)} labels"
            )
        return logits

    def postprocess(self, model: Any, chunk: Chunk) -> Mapping[str, Any]:
        checkpoint = model.loaded.checkpoint
        labels, function = labels_of(checkpoint), self._function(checkpoint)
        logits, valid = stacked(chunk.results, len(labels))
        scores = apply_function(function, logits)
        return self.label_columns(labels, scores, valid, independent=function == "sigmoid")

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
    """Return the names of a checkpoint's labels, in the order of its logits.

    Raises
    ------
    ValueError
        If the configuration names none, or leaves some of the logits without a name.
    """
    names: dict[Any, Any] = dict(getattr(checkpoint.config, "id2label", None) or {})
    if not names or sorted(names) != list(range(len(names))):
        raise ValueError(
            f"the configuration of {str(checkpoint.folder)!r} must name every label in id2label, "
            f"from 0 on; it has {list(names)[:10]}"
        )
    return [str(names[number]) for number in range(len(names))]


def apply_function(name: str, logits: np.ndarray) -> np.ndarray:
    """Return the scores of logits of shape (rows, labels)."""
    if name == "sigmoid":
        with np.errstate(over="ignore"):  # the sigmoid of -100 is 1 / infinity
            return 1.0 / (1.0 + np.exp(-logits))
    return softmax(logits) if name == "softmax" else logits


def _merged(places: list[np.ndarray], parts: list[Encoded]) -> Encoded:
    """Return the sequences of several sets of rows as those of all rows.

    Parameters
    ----------
    places : list of numpy.ndarray
        For each part its rows among all.
    parts : list of Encoded
    """

    rows = np.concatenate([at[part.rows] for at, part in zip(places, parts, strict=True)])
    tokens = [part.samples for part in parts]
    types = None
    if any(each.types is not None for each in tokens):
        kinds = [np.zeros(len(t.values), np.int8) if t.types is None else t.types for t in tokens]
        types = np.concatenate(kinds)
    offsets = np.cumsum([0, *np.concatenate([each.lengths for each in tokens])])
    joined = TokenLists(np.concatenate([each.values for each in tokens]), offsets, types)
    order = np.argsort(rows, kind="stable")
    failures = {
        int(at[row]): message
        for at, part in zip(places, parts, strict=True)
        for row, message in part.failures.items()
    }
    return Encoded(rows[order], joined.take(order), failures=failures)
