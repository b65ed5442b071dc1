"""Texts to labelled spans: entities, parts of speech, personal data."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed._validation import meant, one_of, shown
from dask_embed.inference.encoding import encode_spans
from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.models.tokenizers import require_rust
from dask_embed.operators.labels.classifier import labels_of
from dask_embed.operators.limits import require_window
from dask_embed.operators.model import ModelOperator
from dask_embed.text.entities import LabelScheme, Tagged, follows_no_space, words
from dask_embed.text.windows import every_token_once, merged
from dask_embed.tokens.encoded import Encoded, Row
from dask_embed.tokens.sequences import (
    SequenceSettings,
    SequenceTokenizer,
    check_stride,
    tokens_kept,
)

if TYPE_CHECKING:
    from dask_embed.inference.rows import Chunk
    from dask_embed.inference.runner import Runner
    from dask_embed.tokens.lists import TokenLists

AGGREGATIONS = ("none", "simple", "first", "average", "max")
_ENTITY = [
    ("label", pa.string()),
    ("score", pa.float32()),
    ("start", pa.int64()),
    ("end", pa.int64()),
    ("text", pa.string()),
]
_TOKEN = [*_ENTITY, ("index", pa.int64()), ("word", pa.string())]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenClassifier(ModelOperator):
    """Append the labelled spans of each text; lazy on a Dask DataFrame.

    Parameters
    ----------
    model : str, Path or Model
        A checkpoint with a head for token classification, and a tokenizer in Rust.
    column : str
        The text column.
    output : str
        Name of the new column, a list of struct (see Notes).
    aggregation : {"none", "simple", "first", "average", "max"}
        What becomes one span. ``"none"``: each token. ``"simple"``: neighbours of one tag, where
        ``B-`` begins anew. The others do the same with words, whose label is that of the first
        token, of the one with the highest score, or the best of their mean probabilities.
    ignore_labels : tuple of str
        Labels that give no span: with ``"none"`` full names, else names without ``B-`` or ``I-``.
    stride : int, optional
        Read texts of more than `max_length` tokens in windows that share so many tokens; by
        default they are cut, or refused with ``on_long="error"``.
    max_length, on_long, padding_side, batch_size, tokens_per_batch, on_error
        See `ModelOperator`.

    Notes
    -----
    Each span is ``label`` (str), ``score`` (float32; softmax over the labels, the mean of what it
    joins), ``start`` and ``end`` (int64, characters of the text) and ``text``, the text from start
    to end. With ``"none"`` also ``index`` (int64, place among the tokens, special ones included)
    and ``word`` (str, the token). Tokens of some tokenizers begin with the space before the word,
    and so do their spans. A text without spans gives an empty list.

    Where windows overlap, spans are those of transformers' pipeline with the same stride: of
    spans that overlap the longest stays. With ``"none"``, which it does not do, each token is
    labelled by the window in which it is farthest from an edge.

    Words are told apart as the pipeline does it: by the prefix that continues a word ("##"), and
    with tokenizers that have none by spaces.

    Source: transformers' ``TokenClassificationPipeline``.
    """

    method: ClassVar[str] = "classify_tokens"

    column: str = "text"
    output: str = "entities"
    aggregation: str = "none"
    ignore_labels: tuple[str, ...] = ("O",)
    stride: int | None = None

    incidental: ClassVar[frozenset[str]] = frozenset({"column"})

    task: ClassVar[str] = "classify-tokens"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("aggregation", self.aggregation, AGGREGATIONS)
        check_stride(self.stride, self.on_long)
        given = self.ignore_labels
        if not isinstance(given, tuple | list) or not all(isinstance(name, str) for name in given):
            raise TypeError(f"ignore_labels must be a tuple of names of labels, got {shown(given)}")
        object.__setattr__(self, "ignore_labels", tuple(given))

    def output_types(self, checkpoint: Checkpoint) -> dict[str, pa.DataType]:
        names = self._names(labels_of(checkpoint))
        for name in self.ignore_labels:
            if name not in (*names, "O"):  # the default fits also where no label is "O"
                raise ValueError(
                    f"ignore_labels must be of {names}, got {shown(name)}{meant(name, names)}"
                )
        require_rust(self.spec, type(self).__name__)
        require_window(self.stride, self.limit(checkpoint), self._special_tokens)
        return {self.output: pa.list_(pa.struct(self._fields))}

    def describe(self, checkpoint: Checkpoint) -> str:
        labels = labels_of(checkpoint)
        shown = ", ".join(labels[:5]) + (", ..." if len(labels) > 5 else "")
        return f"spans of {len(labels)} labels ({shown}), aggregation {self.aggregation}"

    def load(self, runner: Runner) -> _Labeller:
        self._tokenizer(runner)  # a tokenizer that does not fit is an error of all rows
        return _Labeller(runner)

    def longest_row(self, checkpoint: Checkpoint) -> int | None:
        return self.limit(checkpoint) if self.stride is None else None

    def encode(self, runner: Runner, rows: list[Row]) -> Encoded:
        most = self.limit(runner.loaded.checkpoint) if self.on_long == "error" else None
        return encode_spans(self._tokenizer(runner), [row[0] for row in rows], most=most)

    def tokens_key(self) -> Hashable:
        return self._tokens_key(self._settings(read_checkpoint(self.spec)))

    def forward(self, model: _Labeller, tokens: TokenLists) -> list[Any]:
        """Return for each sequence its probabilities, or of each token the best and its label."""
        probabilities = model.runner.logits(tokens).softmax(-1)
        cuts = tokens.offsets[1:-1]
        if self.aggregation == "average":
            return np.split(probabilities.cpu().numpy(), cuts)
        scores, labels = (part.cpu().numpy() for part in probabilities.max(-1))
        return list(zip(np.split(labels, cuts), np.split(scores, cuts), strict=True))

    def postprocess(self, model: _Labeller, chunk: Chunk) -> Mapping[str, Any]:
        windows = chunk.by_row()
        kept = np.concatenate([origins.parts for origins in chunk.context or ()]) >= 0
        tokens, probabilities = _tokens(chunk)
        spans, ids = tokens.take(kept), chunk.tokens.values[kept]
        indexes = np.zeros(0, np.int64)
        if self.aggregation == "none":
            indexes, places = every_token_once(
                [origins.parts < 0 for origins in chunk.context or ()],
                windows,
                self.stride or 0,
                backwards=model.backwards,
            )
            spans, ids = spans.take(places), ids[places]
        else:
            rest = None if probabilities is None else probabilities[kept]
            spans = self._entities(model, spans, ids, chunk, rest)
        names = self._names(model.labels)
        wanted = ~np.isin(spans.labels, [names.index(n) for n in self.ignore_labels if n in names])
        spans = spans.take(wanted)
        if self.aggregation != "none":
            spans = merged(spans, chunk.owners, windows)
            return {self.output: self._lists(chunk, names, spans)}
        more = [indexes[wanted], ids[wanted]]
        return {self.output: self._lists(chunk, names, spans, model, more)}

    def _entities(
        self,
        model: _Labeller,
        tokens: Tagged,
        ids: np.ndarray,
        chunk: Chunk,
        probabilities: np.ndarray | None,
    ) -> Tagged:
        """Return the entities of all windows, one window after the other."""
        if self.aggregation != "simple":
            texts = [chunk.rows[owner][0] for owner in chunk.owners.tolist()]
            continues = model.continue_words(texts, tokens, ids)
            tokens = words(tokens, continues, self.aggregation, probabilities)
        return model.scheme.entities(tokens)

    def _lists(
        self,
        chunk: Chunk,
        names: list[str],
        spans: Tagged,
        model: _Labeller | None = None,
        more: Sequence[np.ndarray] = (),
    ) -> pa.Array:
        """Return the spans as one list for each row; `more` are index and id of single tokens."""
        rows = chunk.owners[spans.sequences]
        stretches = zip(rows.tolist(), spans.starts.tolist(), spans.ends.tolist(), strict=True)
        texts = [chunk.rows[row][0][start:end] for row, start, end in stretches]
        labels = np.array(names, object)[spans.labels]
        columns = [labels, spans.scores, spans.starts, spans.ends, texts]
        if model is not None:
            indexes, ids = more
            columns += [indexes, model.pieces(ids, texts)]
        pairs = zip(columns, self._fields, strict=True)
        structs = pa.StructArray.from_arrays(
            [pa.array(column, dtype) for column, (_, dtype) in pairs],
            names=[name for name, _ in self._fields],
        )
        offsets = np.searchsorted(rows, np.arange(len(chunk.rows) + 1)).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), structs)

    @property
    def _fields(self) -> list[tuple[str, pa.DataType]]:
        return _TOKEN if self.aggregation == "none" else _ENTITY

    def _names(self, labels: list[str]) -> list[str]:
        return labels if self.aggregation == "none" else LabelScheme(labels).groups

    def _tokenizer(self, runner: Runner) -> SequenceTokenizer:
        settings = self._settings(runner.loaded.checkpoint)
        return runner.own_tokenizer(settings, settings.build)

    def _settings(self, checkpoint: Checkpoint) -> SequenceSettings:
        return SequenceSettings(
            tokens_kept(self.limit(checkpoint), self.on_long),
            stride=self.stride or 0,
            windows=self.stride is not None,
            offsets=True,
        )


class _Labeller:
    """A loaded model, and what its labels and tokens mean."""

    def __init__(self, runner: Runner) -> None:
        self.runner = runner
        self.labels = labels_of(runner.loaded.checkpoint)
        self.scheme = LabelScheme(self.labels)
        tokenizer = runner.loaded.tokenizer
        self.backwards = tokenizer.truncation_side == "left"
        vocabulary = tokenizer.get_vocab()
        self._pieces = np.full(max(vocabulary.values(), default=-1) + 1, "", object)
        for piece, number in vocabulary.items():
            self._pieces[number] = piece
        self._lengths = np.array([len(piece) for piece in self._pieces], np.int64)
        self._unknown = -1 if tokenizer.unk_token_id is None else tokenizer.unk_token_id
        kind = tokenizer.backend_tokenizer.model
        self._marks_continuing = bool(getattr(kind, "continuing_subword_prefix", None))

    def continue_words(self, texts: list[str], tokens: Tagged, ids: np.ndarray) -> np.ndarray:
        """Return whether each token goes on with a word, bool.

        A piece longer than its stretch of the text carries the prefix that says so.
        """
        if self._marks_continuing:
            continues = self._lengths[ids] != tokens.ends - tokens.starts
        else:
            continues = follows_no_space(texts, tokens)
        return continues & (ids != self._unknown)

    def pieces(self, ids: np.ndarray, stretches: list[str]) -> np.ndarray:
        """Return the tokens by name; those that the tokenizer does not know as in the text."""
        return np.where(ids == self._unknown, np.array(stretches, object), self._pieces[ids])


def _tokens(chunk: Chunk) -> tuple[Tagged, np.ndarray | None]:
    """Return all tokens of a chunk, special ones included, and their probabilities if given."""
    context: Sequence[Any] = chunk.context or ()
    offsets = np.concatenate([origins.offsets for origins in context])
    sequences = np.repeat(np.arange(len(context)), chunk.tokens.lengths)
    results = [result for result in chunk.results if result is not None]
    probabilities = None
    labels, scores = np.zeros(0, np.int64), np.zeros(0, np.float32)
    if results and isinstance(results[0], np.ndarray):
        probabilities = np.concatenate(results)
        labels, scores = probabilities.argmax(axis=1), probabilities.max(axis=1)
    elif results:
        labels, scores = (np.concatenate(part) for part in zip(*results, strict=True))
    return Tagged(sequences, labels, scores, offsets[:, 0], offsets[:, 1]), probabilities
