"""Questions to the stretches of a text that answer them."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed._validation import positive_integer, shown, text_or_none
from dask_embed.inference.encoding import encode_spans
from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.models.tokenizers import require_rust
from dask_embed.operators.limits import most_tokens, require_window
from dask_embed.operators.model import ModelOperator
from dask_embed.text.spans import Text, best_spans, null_token, softmax
from dask_embed.tokens.cutting import TextCutter
from dask_embed.tokens.encoded import Encoded, Row
from dask_embed.tokens.sequences import (
    SequenceSettings,
    SequenceTokenizer,
    check_stride,
    tokens_kept,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dask_embed.inference.rows import Chunk
    from dask_embed.inference.runner import Runner
    from dask_embed.tokens.lists import TokenLists
    from dask_embed.tokens.sequences import Origins

_MAX_LENGTH = 384
_MAX_STRIDE = 128
_NO_ANSWER = (0, 0)
_FIELDS = {"score": pa.float32(), "start": pa.int64(), "end": pa.int64()}


@dataclasses.dataclass(frozen=True, kw_only=True)
class QuestionAnswerer(ModelOperator):
    """Append the answer that each text gives to a question; lazy on a Dask DataFrame.

    Parameters
    ----------
    model : str, Path or Model
        A checkpoint with a head for extractive question answering, and a tokenizer in Rust.
    column : str
        The text column in which answers are looked for, the context.
    question : str, optional
        One question for all rows.
    question_column : str, optional
        The column of questions, if there is not one for all; exactly one of both is given.
    output : str
        Name of the answer column, str; before ``_score`` (float32), ``_start`` and ``_end``
        (int64, characters of the text) it names the others.
    top_k : int, optional
        Answers to give, best first: all columns become lists, as long as there are answers.
    null_answer : bool
        That there is no answer is an answer too.
    max_answer_length : int
        Most tokens of an answer, before it is extended to whole words.
    align_to_words : bool
        Extend answers to the words, as the tokenizer splits text, in which they begin and end.
    question_first : bool
        Whether the model reads the question before the text. Checkpoints trained by transformers'
        scripts with a tokenizer that pads on the left (XLNet) read the text first.
    max_length : int, optional
        Tokens of a window, by default the checkpoint's limit and at most 384.
    stride : int, optional
        Tokens of the text that neighbouring windows share, by default 128 and at most half of
        `max_length`.
    on_long : {"truncate", "error"}
        Whether a text of several windows is read (and a question that leaves too little room for
        the text cut at its end), or cannot be used.
    padding_side, batch_size, tokens_per_batch, on_error
        See `ModelOperator`.

    Notes
    -----
    In each window the softmax of the start logits, and that of the end logits, runs over the
    context tokens and the null token; question and other special tokens have no part in it. A
    span is two context tokens, the second not before the first and less than `max_answer_length`
    behind it; it scores the product of both probabilities. Its answer is what the text has from
    the first to the last character of the span, extended to words if so wanted (no word reaches
    over white space), without white space around it; spans without any other characters are none.
    The same characters in several windows, or of several spans, count with their best score.

    The null token is the CLS token, in a sequence without it the BOS token, else the first token
    if that is not of the text. "No answer" scores the product of the null token's probabilities,
    of several windows the least (0 without a null token, 1 with nothing else to choose). It is the
    empty string from 0 to 0, not null, which is for rows that could not be run. A text without
    spans (empty, or white space) gives it too, with score 0 if `null_answer` is False.

    Results do not depend on the padding side. Source: transformers 4's
    ``QuestionAnsweringPipeline``, which adds up the scores of answers that differ only in case;
    Rajpurkar et al., "Know What You Don't Know" (2018), https://arxiv.org/abs/1806.03822.
    """

    method: ClassVar[str] = "answer"

    column: str = "text"
    question: str | None = None
    question_column: str | None = None
    output: str = "answer"
    top_k: int | None = None
    null_answer: bool = False
    max_answer_length: int = 15
    align_to_words: bool = True
    question_first: bool = True
    stride: int | None = None

    incidental: ClassVar[frozenset[str]] = frozenset({"column", "question_column"})

    task: ClassVar[str] = "answer"

    def __post_init__(self) -> None:
        super().__post_init__()
        text_or_none("question", self.question)
        if (self.question is None) == (self.question_column is None):
            raise ValueError(
                "give either question= (one for all rows) or question_column=; got "
                f"{shown(self.question)} and {shown(self.question_column)}"
            )
        positive_integer("top_k", self.top_k)
        positive_integer("max_answer_length", self.max_answer_length, allow_none=False)
        check_stride(self.stride, self.on_long)

    @property
    def input_columns(self) -> tuple[str, ...]:
        if self.question_column is None:
            return (self.column,)
        return (self.column, self.question_column)

    @property
    def result_columns(self) -> tuple[str, ...]:
        return (self.output, *(f"{self.output}_{name}" for name in _FIELDS))

    def output_types(self, checkpoint: Checkpoint) -> dict[str, pa.DataType]:
        require_rust(self.spec, type(self).__name__)
        if checkpoint.config.num_labels != 2:
            raise ValueError(
                f"model {self.spec.name!r} gives {checkpoint.config.num_labels} numbers for each "
                "token (its labels); a head for question answering gives two, for begin and end"
            )
        require_window(self.stride, self.limit(checkpoint), self._special_tokens)
        types = [pa.string(), *_FIELDS.values()]
        if self.top_k is not None:
            types = [pa.list_(dtype) for dtype in types]
        return dict(zip(self.result_columns, types, strict=True))

    def limit(self, checkpoint: Checkpoint) -> int:
        """Return the most tokens of a window."""
        limit = super().limit(checkpoint)
        if self.max_length is not None:
            return self.max_length
        return _MAX_LENGTH if limit is None else min(limit, _MAX_LENGTH)

    def special_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return tokenizer.num_special_tokens_to_add(pair=True)

    def needed_tokens(self, checkpoint: Checkpoint) -> dict[str, int]:
        if self.on_long == "error" and self.question:
            return {"of the question": most_tokens(self.spec, [self.question]), "of the text": 1}
        if self.stride is not None:
            return {}  # a stride without room says so itself
        return {"that windows share": self._stride(self.limit(checkpoint)), "of the text": 1}

    def describe(self, checkpoint: Checkpoint) -> str:
        limit = self.limit(checkpoint)
        stride = self._stride(limit)
        answers = "the best answer" if self.top_k is None else f"the {self.top_k} best answers"
        return f"{answers} in windows of {limit} tokens that share {stride}"

    def resolved(self) -> dict[str, Any]:
        return {
            **super().resolved(),
            "stride": self._stride(self.limit(read_checkpoint(self.spec))),
        }

    def load(self, runner: Runner) -> Runner:
        self._tokenizers(runner)  # a tokenizer that does not fit is an error of all rows
        return runner

    def longest_row(self, checkpoint: Checkpoint) -> int | None:
        return None

    def encode(self, runner: Runner, rows: list[Row]) -> Encoded:
        questions, sequences = self._tokenizers(runner)
        limit = self.limit(runner.loaded.checkpoint)
        texts = [row[0] for row in rows]
        asked = [row[1] if len(row) == 2 else self.question or "" for row in rows]
        most = limit if self.on_long == "error" else None
        if most is None:
            asked = questions(asked)
        pair = (asked, texts) if self.question_first else (texts, asked)
        return encode_spans(sequences, *pair, most=most)

    def tokens_key(self) -> Hashable:
        # the stride says how much is kept of a question
        settings = self._settings(read_checkpoint(self.spec))
        return self._tokens_key((settings, self.question, self.question_first))

    def forward(self, model: Runner, tokens: TokenLists) -> list[np.ndarray]:
        """Return for each sequence its start and end logits, shape (tokens, 2)."""
        return np.split(model.logits(tokens).cpu().numpy(), tokens.offsets[1:-1])

    def postprocess(self, model: Runner, chunk: Chunk) -> Mapping[str, Any]:
        answers = [
            self._answers(model.loaded.tokenizer, row[0], chunk, sequences)
            for row, sequences in zip(chunk.rows, chunk.by_row(), strict=True)
        ]
        columns: list[list[Any]] = [[], [], [], []]
        for row, found in zip(chunk.rows, answers, strict=True):
            given: list[list[Any]] = [
                [row[0][start:end] for start, end, _ in found],
                [score for _, _, score in found],
                [start for start, _, _ in found],
                [end for _, end, _ in found],
            ]
            for column, values in zip(columns, given, strict=True):
                column.append(values if self.top_k is not None else values[0])
        return dict(zip(self.result_columns, columns, strict=True))

    def _answers(
        self, tokenizer: PreTrainedTokenizerBase, text: str, chunk: Chunk, sequences: range
    ) -> list[tuple[int, int, float]]:
        """Return first character, the one after the last, and score of the answers of a row."""
        assert chunk.context is not None, "encode gives origins"
        stand_ins = (tokenizer.cls_token_id, tokenizer.bos_token_id)
        characters = Text(text)
        best: dict[tuple[int, int], float] = {}
        nothing = 1.0
        for sequence in sequences:
            origins, logits = chunk.context[sequence], chunk.results[sequence]
            null = null_token(chunk.tokens[sequence], origins, stand_ins, self._part)
            spans, score = self._of_window(characters, origins, logits, null)
            nothing = min(nothing, score)
            for start, end, score in spans:
                best[start, end] = max(score, best.get((start, end), 0.0))
        found = [(start, end, score) for (start, end), score in best.items()]
        found.sort(key=lambda answer: (-answer[2], answer[0], answer[1]))
        if self.null_answer:
            found.append((*_NO_ANSWER, nothing))
            found.sort(key=lambda answer: -answer[2])
        if self.top_k is None and not found:
            return [(*_NO_ANSWER, 0.0)]
        return found[: self.top_k or 1]

    def _of_window(
        self, text: Text, origins: Origins, logits: np.ndarray | None, null: int | None
    ) -> tuple[list[tuple[int, int, float]], float]:
        """Return the best answers of a window, and the score of there being none."""
        context = np.flatnonzero(origins.parts == self._part)
        chosen = context if null is None else np.append(context, null)
        if logits is None or not len(chosen):
            return [], 1.0
        start, end = softmax(logits[chosen, 0]), softmax(logits[chosen, 1])
        words = None
        if self.align_to_words:
            assert origins.words is not None, "the tokenizer was asked for words"
            words = origins.words[context]
        count = len(context)
        spans = best_spans(
            start[:count],
            end[:count],
            text.answers(origins.offsets[context], words),
            max_tokens=self.max_answer_length,
            count=self.top_k or 1,
        )
        return spans, 0.0 if null is None else float(start[-1] * end[-1])

    @property
    def _part(self) -> int:
        return 1 if self.question_first else 0

    def _stride(self, limit: int) -> int:
        return min(limit // 2, _MAX_STRIDE) if self.stride is None else self.stride

    def _tokenizers(self, runner: Runner) -> tuple[TextCutter, SequenceTokenizer]:
        limit = self.limit(runner.loaded.checkpoint)
        stride = self._stride(limit)
        around = runner.loaded.tokenizer.num_special_tokens_to_add(pair=True)
        room = limit - around - stride - 1
        if limit <= around:
            raise ValueError(
                f"max_length must be at least {around + 1} tokens ({around} special, 1 of the "
                f"text); got {limit}"
            )
        if room < 0 and self.on_long == "truncate":
            raise ValueError(
                f"stride must be less than {limit - around}, the tokens of a window (max_length "
                f"{limit}, {around} of them special); got {stride}"
            )
        settings = self._settings(runner.loaded.checkpoint)
        return (
            runner.own_tokenizer(("questions", room), lambda own: TextCutter(own, room)),
            runner.own_tokenizer(settings, settings.build),
        )

    def _settings(self, checkpoint: Checkpoint) -> SequenceSettings:
        limit = self.limit(checkpoint)
        whole = SequenceSettings(
            tokens_kept(limit, self.on_long), offsets=True, words=self.align_to_words
        )
        if self.on_long == "error":
            return whole
        cut = "only_second" if self.question_first else "only_first"
        return dataclasses.replace(whole, truncation=cut, stride=self._stride(limit), windows=True)
