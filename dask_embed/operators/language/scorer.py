"""Prompts and candidates to log-likelihoods."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from dask_embed._validation import one_of, positive_integer, require_effect, shown, usable_text
from dask_embed.columns import TextColumn
from dask_embed.models.checkpoint import Checkpoint
from dask_embed.operators.language.base import LanguageModelOperator
from dask_embed.operators.language.scorer_checks import (
    needed_tokens,
    require_predictions,
    token_counts,
)
from dask_embed.operators.language.scorer_columns import (
    check_candidates,
    fixed_candidates,
    read_candidates,
)
from dask_embed.operators.language.scorer_results import choices, likelihoods, next_tokens, structs
from dask_embed.tokens.encoded import Encoded, Row
from dask_embed.tokens.sequences import SequenceSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dask_embed.inference.rows import Chunk
    from dask_embed.inference.runner import Runner
    from dask_embed.inference.scoring.base import Scoring
    from dask_embed.tokens.lists import TokenLists

# Arguments that only one of the three things that a scorer does has a use for.
_FOR_CANDIDATES = ("scores", "probabilities", "candidate_end")
_NEXT = [("token", pa.int32()), ("token_str", pa.string()), ("logprob", pa.float32())]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scorer(LanguageModelOperator):
    """Append how likely a language model takes texts to be; lazy on a Dask DataFrame.

    With `candidates` or `candidates_column` each of them is scored behind the prompt, with
    `top_k_next` every token of the vocabulary is, and otherwise the text itself.

    Parameters
    ----------
    model : str, Path or Model
        A causal language model, or an encoder with a decoder (T5, BART).
    column : str
        The column of prompts, or of texts.
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
    output : str, optional
        Name of the first result column; others begin with it, see Returns. By default
        ``"candidate"``, with `top_k_next` ``"next_tokens"``, otherwise ``"log_likelihood"``.
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
    stride : int, optional
        Tokens between the windows over a text that is longer than the model reads, half of
        `max_length` by default: each token is scored once, behind at least ``max_length -
        stride`` tokens.
    top_k_next : int, optional
        Give so many of the likeliest tokens behind the prompt.
    max_length : int, optional
        Most tokens of prompt and candidate together, of each for encoders with a decoder. A
        longer prompt loses its beginning, because its end is what is continued; for encoders with
        a decoder its end, unless their tokenizer truncates on the left. Special tokens stay.
    on_long : {"truncate", "error"}
        Whether a longer row is cut (a text without candidates: runs in windows), or cannot be
        used.
    padding_side, batch_size, tokens_per_batch, on_error
        See `ModelOperator`.

    Returns
    -------
    DataFrame
        With candidates the columns ``<output>``, the best one (str, the first of equals),
        ``<output>_score`` and ``<output>_probability`` (float32). With `top_k_next` the column
        ``<output>``, a list of structs (token int32, token_str str, logprob float32), best first.
        Otherwise ``<output>`` (log-likelihood of the text, float64), ``<output>_tokens`` (how
        many tokens have one, int32) and ``<output>_perplexity`` (float64, null without tokens).

    Examples
    --------
    >>> import dask_embed as de
    >>> scorer = Scorer("gpt2", candidates=["good", "bad"], prompt="{review}\\nIt was")
    >>> scorer.result_columns
    ('candidate', 'candidate_score', 'candidate_probability')

    Notes
    -----
    A candidate has the tokens that it adds behind other text, found once for all prompts; where
    the tokenizer would merge the end of a prompt with the beginning of a candidate, scores are
    those of the two apart. The last character of a prompt should therefore be no space.

    The first token of a text has no score unless the tokenizer puts one in front of it. An empty
    prompt is the beginning or else the end of sequence, as in lm-evaluation-harness.

    Candidates of a row share the keys and values of their prompt, where random tokens show at
    load that this gives what each would get alone; otherwise each runs whole.

    Source: ``_score_batch`` of alfred; the guide of transformers on perplexity.
    """

    method: ClassVar[str] = "score"

    output: Any = None
    candidates: tuple[str, ...] | None = None
    candidates_column: str | None = None
    separator: str = " "
    normalize: str = "sum"
    scores: str | None = None
    probabilities: str | None = None
    candidate_end: bool | None = None
    stride: int | None = None
    top_k_next: int | None = None

    incidental: ClassVar[frozenset[str]] = frozenset(
        {"candidates_column", "scores", "probabilities"}
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "candidates", fixed_candidates(self.candidates))
        if self.output is None:
            object.__setattr__(self, "output", self._usual_output)
        super().__post_init__()
        positive_integer("stride", self.stride)
        positive_integer("top_k_next", self.top_k_next)
        one_of("normalize", self.normalize, ("sum", "mean"))
        usable_text("separator", self.separator)
        if not isinstance(self.candidates_column, str | None):
            raise TypeError(
                "candidates_column must be the name of a column, got "
                f"{shown(self.candidates_column)}"
            )
        given = ("candidates", "candidates_column", "top_k_next")
        modes = [name for name in given if getattr(self, name) is not None]
        if len(modes) > 1:
            raise ValueError(f"give one of {' and '.join(modes)}, not both")
        if not self._has_candidates:
            require_effect(self, ("separator", "normalize"), "candidates= or candidates_column=")
        needless = [] if self._has_candidates else [*_FOR_CANDIDATES]
        needless += ["stride"] if modes else []
        for name in needless:
            if getattr(self, name) is not None:
                what = "without candidates" if name in _FOR_CANDIDATES else f"with {modes[0]}"
                raise ValueError(f"{name}={shown(getattr(self, name))} does not apply {what}")
        names = self.input_columns
        if len(set(names)) != len(names):
            raise ValueError(f"prompt and candidates must be of different columns, got {names}")

    @property
    def input_columns(self) -> tuple[str, ...]:
        own = super().input_columns
        return own if self.candidates_column is None else (*own, self.candidates_column)

    @property
    def result_columns(self) -> tuple[str, ...]:
        if self.top_k_next is not None:
            return (self.output,)
        if not self._has_candidates:
            return (self.output, f"{self.output}_tokens", f"{self.output}_perplexity")
        optional = [name for name in (self.scores, self.probabilities) if name is not None]
        return (self.output, f"{self.output}_score", f"{self.output}_probability", *optional)

    def output_types(self, checkpoint: Checkpoint) -> dict[str, pa.DataType]:
        require_predictions(
            self.spec,
            checkpoint,
            of_texts=self.scores_texts,
            count=self.top_k_next,
            limit=self.limit(checkpoint),
            stride=self.stride,
            ends=self.candidate_end,
        )
        if self.top_k_next is not None:
            return {self.output: pa.list_(pa.struct(_NEXT))}
        types = [pa.float64(), pa.int32(), pa.float64()]
        if self._has_candidates:
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
        if self.top_k_next is not None:
            return f"the {self.top_k_next} likeliest next tokens"
        if not self._has_candidates:
            return "log-likelihood and perplexity"
        what = f"the lists of {self.candidates_column!r}"
        if self.candidates is not None:
            shown = ", ".join(self.candidates[:5]) + (", ..." if len(self.candidates) > 5 else "")
            what = f"{len(self.candidates)} candidates ({shown})"
        return f"log-likelihood of {what}, {self.normalize} of tokens"

    def load(self, runner: Runner) -> Scoring:
        from dask_embed.inference.scoring.loaded import scoring_of

        return scoring_of(runner)

    def encode(self, runner: Runner, rows: list[Row]) -> Encoded:
        from dask_embed.inference.scoring import encoding
        from dask_embed.inference.scoring.loaded import scoring_of

        tokenizer = encoding.tokenizer_for(
            runner, special=self.add_special_tokens, ends=self.candidate_end
        )
        checkpoint = runner.loaded.checkpoint
        limits = encoding.Limits(
            self.limit(checkpoint),
            cuts=self.on_long == "truncate",
            encodes=checkpoint.config.is_encoder_decoder,
        )
        prompts = self.prompts(rows)
        if self.top_k_next is not None:
            return encoding.encode_prompts(tokenizer, prompts, limits)
        if not self._has_candidates:
            return encoding.encode_windows(tokenizer, prompts, limits, self.stride)
        lists = [self._candidates(row) for row in rows]
        candidates = encoding.tokenize_candidates(tokenizer, lists, self.separator)
        return encoding.encode_candidates(
            lambda: scoring_of(runner), tokenizer, prompts, candidates, limits
        )

    def example(self, text: str, tokenizer: PreTrainedTokenizerBase) -> Row:
        row: Any = super().example(text, tokenizer)
        candidates: Any = (text,)
        return row if self.candidates_column is None else (*row[:-1], candidates)

    def tokens_key(self) -> Hashable:
        whole = SequenceSettings(None, special=False)  # a prompt, whatever is scored behind it
        key = self._tokens_key(whole if self.prompt is None else (whole, self.prompt))
        return key if self.candidates_column is None else None

    def forward(self, model: Scoring, tokens: TokenLists) -> Any:
        side = self.padding_side or model.padding_side
        if self.top_k_next is not None:
            return model.next_tokens(tokens, self.top_k_next, side)
        return model.log_likelihoods(tokens, side)

    def postprocess(self, model: Scoring, chunk: Chunk) -> Mapping[str, Any]:
        columns: list[Any]
        if self.top_k_next is not None:
            columns = [[next_tokens(result, model.word) for result in chunk.results]]
        elif self._has_candidates:
            lists = [self._candidates(row) for row in chunk.rows]
            best, of_best, of_all = choices(chunk, lists, mean=self.normalize == "mean")
            columns = [best, *of_best]
            for name, values in zip((self.scores, self.probabilities), of_all, strict=True):
                if name is not None:
                    columns.append(structs(values, self.candidates) if self.candidates else values)
        else:
            columns = likelihoods(chunk)
        return dict(zip(self.result_columns, columns, strict=True))

    @property
    def _usual_output(self) -> str:
        if self.top_k_next is not None:
            return "next_tokens"
        return "candidate" if self._has_candidates else "log_likelihood"

    @property
    def _has_candidates(self) -> bool:
        return self.candidates is not None or self.candidates_column is not None

    def _candidates(self, row: Row) -> tuple[str, ...]:
        # of a column they are a tuple where other columns have a string
        return row[-1] if self.candidates is None else self.candidates  # type: ignore[return-value]

    def special_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return self._token_counts()[0]

    def needed_tokens(self, checkpoint: Checkpoint) -> dict[str, int]:
        if self.scores_texts:
            return {}
        longest = 0 if self.candidates_column is None else 1
        if self.candidates is not None:
            _, longest = self._token_counts()
        encodes = checkpoint.config.is_encoder_decoder
        return needed_tokens(longest, self.max_length, encodes=encodes)

    def _token_counts(self) -> tuple[int, int]:
        given = (self.candidates or (), self.separator)
        special, ends = self.add_special_tokens, self.candidate_end
        return token_counts(self.spec, *given, special=special, ends=ends)

    @property
    def scores_texts(self) -> bool:
        """Whether it scores texts themselves, and nothing behind them."""
        return not self._has_candidates and self.top_k_next is None
