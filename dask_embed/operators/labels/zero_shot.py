"""Texts to any labels, by a model that tells what follows from a text."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed._validation import shown, usable_text
from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.operators.labels.base import LabelOperator, softmax, stacked
from dask_embed.operators.labels.classifier import labels_of
from dask_embed.operators.limits import most_tokens
from dask_embed.tokens.encoded import Encoded, Row
from dask_embed.tokens.sequences import SequenceSettings, tokens_kept, too_long

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dask_embed.inference.rows import Chunk
    from dask_embed.inference.runner import Runner
    from dask_embed.tokens.lists import TokenLists


@dataclasses.dataclass(frozen=True, kw_only=True)
class ZeroShotClassifier(LabelOperator):
    """Append the one of `labels` that fits each text best; lazy on a Dask DataFrame.

    Parameters
    ----------
    model : str, Path or Model
        A checkpoint with a head for sequence classification that was trained to tell entailment
        from contradiction (natural language inference).
    column : str
        The text column.
    labels : sequence of str
        The labels to choose from.
    hypothesis_template : str
        Sentence about the text with ``{}`` in place of the label.
    multi_label : bool
        Whether each label may be right or wrong for itself. A score is then entailment against
        contradiction; otherwise the scores of a text add up to one.
    output : str
        Name of the label column: str, or a list of str (see `top_k` and `threshold`).
    score : str, optional
        Name of the score column, by default ``<output>_score``: float32, or a list of float32.
    scores : str, optional
        Name of a column with the scores of all labels, a struct of float32, one field a label.
    top_k : int or "all", optional
        Give a list of so many labels, best first, in place of the best one.
    threshold : float, optional
        Only labels whose score is at least this, from 0 to 1: null below it. With `multi_label`,
        rows get a list of all labels that reach it, which may be empty, unless `top_k` says
        otherwise.
    entailment_id : int, optional
        The model's label for entailment, by default the first that begins with "entail".
    max_length, on_long, padding_side, batch_size, tokens_per_batch, on_error
        See `ModelOperator`. The text is cut, never the hypothesis; a row whose hypothesis leaves
        no room for the text cannot be used.

    Raises
    ------
    TypeError, ValueError
        When it is made or applied, before any work, if an argument, a column or the checkpoint
        does not fit: a template without ``{}``, a model that names no entailment.

    Examples
    --------
    Any labels will do; nothing runs before the result is used::

        topics = de.ZeroShotClassifier("owner/nli", labels=["sports", "politics"])
        topics(ddf)["label"].value_counts().compute()

    Notes
    -----
    A row costs as many passes as there are labels. With a single label, its score is entailment
    against contradiction, as with `multi_label`. The label of contradiction is the first one, or
    the last if the first is entailment.

    Source: transformers' ``ZeroShotClassificationPipeline``; Yin, Hay and Roth, "Benchmarking
    Zero-shot Text Classification", 2019.
    """

    method: ClassVar[str] = "classify_zero_shot"

    column: str = "text"
    labels: Sequence[str] = ()
    hypothesis_template: str = "This example is {}."
    multi_label: bool = False
    entailment_id: int | None = None

    incidental: ClassVar[frozenset[str]] = frozenset({"column"})

    task: ClassVar[str] = "classify"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "labels", _checked_labels(self.labels))
        self.require_probability("entailment")
        usable_text("hypothesis_template", self.hypothesis_template)
        _hypotheses(self.hypothesis_template, self.labels)
        number = self.entailment_id
        if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
            raise TypeError(f"entailment_id must be the number of a label, got {shown(number)}")

    def output_types(self, checkpoint: Checkpoint) -> dict[str, pa.DataType]:
        self._logit_ids(checkpoint)
        return self.label_types(self.labels, independent=self._independent)

    def describe(self, checkpoint: Checkpoint) -> str:
        shown = ", ".join(self.labels[:5]) + (", ..." if len(self.labels) > 5 else "")
        return f"{len(self.labels)} labels ({shown}) by {self.hypothesis_template!r}"

    def encode(self, runner: Runner, rows: list[Row]) -> Encoded:
        limit = self.limit(runner.loaded.checkpoint)
        settings = self._settings(runner.loaded.checkpoint)
        tokenizer = runner.own_tokenizer(settings, settings.build)
        hypotheses = _hypotheses(self.hypothesis_template, self.labels)
        count = len(hypotheses)
        _, tokens, _ = tokenizer(
            [row[0] for row in rows for _ in hypotheses], hypotheses * len(rows)
        )
        owners = np.repeat(np.arange(len(rows)), count)
        if self.on_long == "truncate":
            return Encoded(owners, tokens)
        failures = {int(owners[place]): text for place, text in too_long(tokens, limit).items()}
        kept = np.flatnonzero(~np.isin(owners, list(failures)))
        return Encoded(owners[kept], tokens.take(kept), failures=failures)

    def tokens_key(self) -> Hashable:
        hypotheses = frozenset(_hypotheses(self.hypothesis_template, self.labels))
        return self._tokens_key((self._settings(read_checkpoint(self.spec)), hypotheses))

    def _settings(self, checkpoint: Checkpoint) -> SequenceSettings:
        cut = tokens_kept(self.limit(checkpoint), self.on_long)
        return SequenceSettings(cut, truncation="only_first")

    def special_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return tokenizer.num_special_tokens_to_add(pair=True)

    def needed_tokens(self, checkpoint: Checkpoint) -> dict[str, int]:
        hypotheses = _hypotheses(self.hypothesis_template, self.labels)
        longest = most_tokens(self.spec, hypotheses)
        return {"of the longest hypothesis": longest, "of the text": 1}

    def characters(self, row: Row) -> int:
        return len(self.labels) * super().characters(row)

    def forward(self, model: Any, tokens: TokenLists) -> Any:
        logits = model.logits(tokens)
        return logits[:, list(self._logit_ids(model.loaded.checkpoint))]

    def postprocess(self, model: Any, chunk: Chunk) -> Mapping[str, Any]:
        logits, valid = stacked(chunk.results, 2)
        pairs = logits.reshape(len(chunk.rows), len(self.labels), 2)
        scores = softmax(pairs)[..., 1] if self._independent else softmax(pairs[..., 1])
        whole = np.all(valid.reshape(len(chunk.rows), len(self.labels)), axis=1)
        return self.label_columns(self.labels, scores, whole, independent=self._independent)

    @property
    def _independent(self) -> bool:
        return self.multi_label or len(self.labels) == 1

    def _logit_ids(self, checkpoint: Checkpoint) -> tuple[int, int]:
        """Return the numbers of the model's labels for contradiction and entailment."""
        names = labels_of(checkpoint)
        number: Any = self.entailment_id
        if number is None:
            given: dict[str, Any] = dict(checkpoint.config.label2id or {})
            found = [place for name, place in given.items() if name.lower().startswith("entail")]
            if not found:
                raise ValueError(
                    f"model {self.spec.name!r} must have a label that begins with 'entail'; it has "
                    f"{names[:5]}. If it was trained on entailment, say which one with "
                    "entailment_id="
                )
            number = found[0]
        if len(names) < 2 or not 0 <= number < len(names):
            raise ValueError(
                f"entailment_id must be one of at least two labels of model {self.spec.name!r}, "
                f"which has {len(names)}; got {number}"
            )
        return (len(names) - 1 if number == 0 else 0), number


def _checked_labels(labels: Any) -> tuple[str, ...]:
    if isinstance(labels, str) or not isinstance(labels, Sequence):
        raise TypeError(f"labels must be a list of strings, got {shown(labels)}")
    for label in labels:
        if not isinstance(label, str) or not label.strip():
            raise TypeError(f"labels must be strings that are not empty, got {shown(label)}")
        usable_text("labels", label)
    if not labels or len(set(labels)) != len(labels):
        raise ValueError(
            f"labels must be at least one, and all different; got {shown(list(labels))}"
        )
    return tuple(labels)


def _hypotheses(template: Any, labels: Sequence[str]) -> list[str]:
    """Return the template with each of the labels in it."""
    try:
        sentences = [template.format(label) for label in labels]
        has_a_place = template.format("one") != template.format("another")
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "hypothesis_template must be a sentence with one {} for the label, got "
            f"{shown(template)} ({error})"
        ) from None
    if not has_a_place:
        raise ValueError(
            f"hypothesis_template must hold {{}} in place of the label, got {shown(template)}"
        )
    if len(set(sentences)) < len(sentences):
        raise ValueError(
            "hypothesis_template must give each label a sentence of its own, got "
            f"{shown(template)} "
            f"for {list(labels)}"
        )
    return sentences
