"""Prompts and candidates to log-likelihoods."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed._validation import one_of, shown, usable_text
from dask_embed.columns import TextColumn
from dask_embed.models.checkpoint import Checkpoint
from dask_embed.models.tokenizers import tokenizer_of
from dask_embed.operators.language.candidate_lists import (
    check_candidates,
    fixed_candidates,
    read_candidates,
)
from dask_embed.operators.language.scoring import ScoringOperator
from dask_embed.tokens.encoded import Encoded, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dask_embed.inference.rows import Chunk
    from dask_embed.inference.runner import Runner
    from dask_embed.inference.scoring.base import Scoring

PerRow = list[np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class CandidateScorer(ScoringOperator):
    """Append the candidate that is likeliest behind each prompt; lazy on a Dask DataFrame.

    ``.ml.score`` is this operator with `candidates` or `candidates_column`, `NextTokenScorer` with
    `top_k_next`, and otherwise `PerplexityScorer`.

    Parameters
    ----------
    model : str, Path or Model
        A causal language model, or an encoder with a decoder (T5, BART).
    column : str
        The column of prompts.
    prompt : str, optional
        A template of the prompt with names of columns in braces, instead of `column`.
    candidates : sequence of str, optional
        Candidates of all rows.
    candidates_column : str, optional
        A column of lists of str, the candidates of each row. Rows whose list is null or empty
        are null.
    separator : str
        Stands between prompt and candidate, and counts as part of the candidate; not for
        encoders with a decoder.
    normalize : {"sum", "mean"}
        The score of a candidate is the log-likelihood of its tokens, or that per token.
    output : str
        Name of the first result column; others begin with it, see Returns.
    scores : str, optional
        Name of a column with the scores of all candidates: a struct of float32 with a field for
        each of `candidates`, or a list of float32 in the order of the row's list.
    probabilities : str, optional
        Likewise the softmax of the scores.
    candidate_end : bool, optional
        Score the end of sequence behind each candidate, too. By default only for encoders with a
        decoder: their labels are candidates with all special tokens.
    add_special_tokens : bool
        Put the tokenizer's special tokens around the prompt, for causal models those in front
        only. False for prompts that hold them already, as chat templates write them.
    max_length : int, optional
        Most tokens of prompt and candidate together, of each for encoders with a decoder. A
        longer prompt loses its beginning, because its end is what is continued; for encoders with
        a decoder its end, unless their tokenizer truncates on the left. Special tokens stay.
    on_long : {"truncate", "error"}
        Whether a longer prompt is cut, or its row cannot be used.
    padding_side, batch_size, tokens_per_batch, on_error
        See `ModelOperator`.

    Returns
    -------
    DataFrame
        With ``<output>``, the best candidate (str, the first of equals), ``<output>_score`` and
        ``<output>_probability`` (float32).

    Examples
    --------
    >>> import dask_embed as de
    >>> scorer = CandidateScorer("gpt2", candidates=["good", "bad"], prompt="{review}\\nIt was")
    >>> scorer.result_columns
    ('candidate', 'candidate_score', 'candidate_probability')

    Notes
    -----
    A candidate has the tokens that it adds behind other text, found once for all prompts; where
    the tokenizer would merge the end of a prompt with the beginning of a candidate, scores are
    those of the two apart. The last character of a prompt should therefore be no space.

    An empty prompt is the beginning or else the end of sequence, as in lm-evaluation-harness.

    Candidates of a row share the keys and values of their prompt, where random tokens show at
    load that this gives what each would get alone; otherwise each runs whole.

    Source: ``_score_batch`` of alfred.
    """

    chosen_by: ClassVar[frozenset[str]] = frozenset({"candidates", "candidates_column"})

    output: str = "candidate"
    candidates: tuple[str, ...] | None = None
    candidates_column: str | None = None
    separator: str = " "
    normalize: str = "sum"
    scores: str | None = None
    probabilities: str | None = None
    candidate_end: bool | None = None

    incidental: ClassVar[frozenset[str]] = frozenset(
        {"candidates_column", "scores", "probabilities"}
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", fixed_candidates(self.candidates))
        super().__post_init__()
        one_of("normalize", self.normalize, ("sum", "mean"))
        usable_text("separator", self.separator)
        if not isinstance(self.candidates_column, str | None):
            raise TypeError(
                "candidates_column must be the name of a column, got "
                f"{shown(self.candidates_column)}"
            )
        if (self.candidates is None) == (self.candidates_column is None):
            given = "neither" if self.candidates is None else "both"
            raise ValueError(f"give one of candidates and candidates_column, got {given}")
        names = self.input_columns
        if len(set(names)) != len(names):
            raise ValueError(f"prompt and candidates must be of different columns, got {names}")

    @property
    def input_columns(self) -> tuple[str, ...]:
        own = super().input_columns
        return own if self.candidates_column is None else (*own, self.candidates_column)

    @property
    def result_columns(self) -> tuple[str, ...]:
        optional = [name for name in (self.scores, self.probabilities) if name is not None]
        return (self.output, f"{self.output}_score", f"{self.output}_probability", *optional)

    def output_types(self, checkpoint: Checkpoint) -> dict[str, pa.DataType]:
        if self.candidate_end and tokenizer_of(self.spec).eos_token_id is None:
            raise ValueError(
                f"the tokenizer of model {self.spec.name!r} has no token for the end of a "
                "candidate; leave out candidate_end=True"
            )
        each = pa.list_(pa.float32())
        if self.candidates is not None:
            each = pa.struct([(text, pa.float32()) for text in self.candidates])
        types = [pa.string(), pa.float32(), pa.float32(), each, each]
        return dict(zip(self.result_columns, types, strict=False))

    def check_column(self, series: Any) -> None:
        if series.name == self.candidates_column:
            check_candidates(series)
        else:
            super().check_column(series)

    def read(self, series: Any) -> TextColumn:
        if series.name == self.candidates_column:
            return read_candidates(series)
        return super().read(series)

    def describe(self, checkpoint: Checkpoint) -> str:
        what = f"the lists of {self.candidates_column!r}"
        if self.candidates is not None:
            shown = ", ".join(self.candidates[:5]) + (", ..." if len(self.candidates) > 5 else "")
            what = f"{len(self.candidates)} candidates ({shown})"
        return f"log-likelihood of {what}, {self.normalize} of tokens"

    def sequences(self, runner: Runner, rows: list[Row]) -> Encoded:
        from dask_embed.inference.scoring.encoding import encode_candidates
        from dask_embed.inference.scoring.loaded import scoring_of
        from dask_embed.inference.scoring.tokenizer import tokenize_candidates

        tokenizer = self._tokenizer(runner, ends=self.candidate_end)
        lists = [self._candidates(row) for row in rows]
        return encode_candidates(
            lambda: scoring_of(runner),
            tokenizer,
            self.prompts(rows),
            tokenize_candidates(tokenizer, lists, self.separator),
            self._limits(runner.loaded.checkpoint),
        )

    def example(self, text: str, tokenizer: PreTrainedTokenizerBase) -> Row:
        row: Any = super().example(text, tokenizer)
        candidates: Any = (text,)
        return row if self.candidates_column is None else (*row[:-1], candidates)

    def tokens_key(self) -> Hashable:
        return super().tokens_key() if self.candidates_column is None else None

    def postprocess(self, model: Scoring, chunk: Chunk) -> Mapping[str, Any]:
        lists = [self._candidates(row) for row in chunk.rows]
        scores = [
            self._scores(chunk, numbers, len(texts))
            for numbers, texts in zip(chunk.by_row(), lists, strict=True)
        ]
        weights = [np.exp(row - row.max()) for row in scores]
        probabilities = [row / row.sum() for row in weights]
        first = [int(row.argmax()) for row in scores]
        best = [texts[place] for texts, place in zip(lists, first, strict=True)]
        columns: list[Any] = [best, _at(scores, first), _at(probabilities, first)]
        for name, values in ((self.scores, scores), (self.probabilities, probabilities)):
            if name is not None:
                columns.append(_structs(values, self.candidates) if self.candidates else values)
        return dict(zip(self.result_columns, columns, strict=True))

    def _scores(self, chunk: Chunk, numbers: range, count: int) -> np.ndarray:
        """Return the score of each candidate of a row, whose sequences have these numbers."""
        assert chunk.context is not None, "sequences come with their candidates"
        scores = np.full(count, np.nan)
        for number in numbers:
            own = chunk.context[number]
            values = zip(chunk.results[number], own.tokens, own.places, strict=True)
            for value, ids, places in values:
                scores[places] = value / len(ids) if self.normalize == "mean" else value
        return scores

    def _candidates(self, row: Row) -> tuple[str, ...]:
        # of a column they are a tuple where other columns have a string
        return row[-1] if self.candidates is None else self.candidates  # type: ignore[return-value]

    def needed_tokens(self, checkpoint: Checkpoint) -> dict[str, int]:
        longest = 1
        if self.candidates is not None:
            given = (self.candidates, self.separator)
            _, longest = self._token_counts(*given, ends=self.candidate_end)
        encodes = checkpoint.config.is_encoder_decoder
        # with an encoder, candidates have a decoder that reads nothing else
        if encodes and self.max_length is not None and longest > self.max_length:
            raise ValueError(
                f"max_length must be at least {longest} tokens, those of the longest candidate; "
                f"got {self.max_length}"
            )
        return {
            "of the longest candidate": 0 if encodes else longest,
            **super().needed_tokens(checkpoint),
        }


def _structs(values: PerRow, names: Sequence[str]) -> pa.Array:
    """Return the values of all rows as structs of float32, a field for each name."""
    arrays = [pa.array(column, pa.float32()) for column in np.stack(values, axis=1)]
    return pa.StructArray.from_arrays(arrays, names=list(names))


def _at(rows: PerRow, places: list[int]) -> list[float]:
    return [float(row[place]) for row, place in zip(rows, places, strict=True)]
