"""Texts to their log-likelihood and perplexity, and prompts to their likeliest next tokens."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed._validation import positive_integer
from dask_embed.models.checkpoint import Checkpoint
from dask_embed.operators.language.scoring import ScoringOperator
from dask_embed.tokens.encoded import Encoded, Row

if TYPE_CHECKING:
    from dask_embed.inference.rows import Chunk
    from dask_embed.inference.runner import Runner
    from dask_embed.inference.scoring.base import Scoring
    from dask_embed.tokens.lists import TokenLists

_NEXT = [("token", pa.int32()), ("token_str", pa.string()), ("logprob", pa.float32())]


@dataclasses.dataclass(frozen=True, kw_only=True)
class PerplexityScorer(ScoringOperator):
    """Append how likely a language model takes each text to be; lazy on a Dask DataFrame.

    Parameters
    ----------
    model : str, Path or Model
        A causal language model.
    column : str
        The column of texts.
    prompt : str, optional
        A template of the text with names of columns in braces, instead of `column`.
    output : str
        Name of the first result column; the others begin with it.
    add_special_tokens : bool
        Put the tokenizer's special tokens in front of the text.
    stride : int, optional
        Tokens between the windows over a text that is longer than the model reads, half of
        `max_length` by default: each token is scored once, behind at least ``max_length -
        stride`` tokens.
    max_length : int, optional
        Most tokens of a window.
    on_long : {"truncate", "error"}
        Whether a longer text runs in windows, or cannot be used.
    padding_side, batch_size, tokens_per_batch, on_error
        See `ModelOperator`.

    Returns
    -------
    DataFrame
        With ``<output>`` (log-likelihood of the text, float64), ``<output>_tokens`` (how many
        tokens have one, int32) and ``<output>_perplexity`` (float64, null without tokens).

    Examples
    --------
    >>> import dask_embed as de
    >>> PerplexityScorer("gpt2").result_columns
    ('log_likelihood', 'log_likelihood_tokens', 'log_likelihood_perplexity')

    Notes
    -----
    The first token of a text has no score unless the tokenizer puts one in front of it.

    Source: the guide of transformers on perplexity.
    """

    output: str = "log_likelihood"
    stride: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_integer("stride", self.stride)

    @property
    def result_columns(self) -> tuple[str, ...]:
        return (self.output, f"{self.output}_tokens", f"{self.output}_perplexity")

    def output_types(self, checkpoint: Checkpoint) -> dict[str, pa.DataType]:
        limit = self.limit(checkpoint)
        if checkpoint.config.is_encoder_decoder:
            raise ValueError(
                f"model {self.spec.name!r} has an encoder, so it scores answers to a text and not "
                "the text itself; give candidates, or choose a causal language model"
            )
        if limit == 1:
            raise ValueError("max_length must be at least 2, a token and the one before it; got 1")
        if self.stride is not None and limit is not None and self.stride >= limit:
            raise ValueError(
                f"stride must be less than the {limit} tokens of a window; got {self.stride}"
            )
        return dict(zip(self.result_columns, (pa.float64(), pa.int32(), pa.float64()), strict=True))

    def describe(self, checkpoint: Checkpoint) -> str:
        return "log-likelihood and perplexity"

    def needed_tokens(self, checkpoint: Checkpoint) -> dict[str, int]:
        return {}

    def longest_row(self, checkpoint: Checkpoint) -> int | None:
        # windows read all of a text
        return None if self.on_long == "truncate" else self.limit(checkpoint)

    def sequences(self, runner: Runner, rows: list[Row]) -> Encoded:
        from dask_embed.inference.scoring.encoding import encode_windows

        limits = self._limits(runner.loaded.checkpoint)
        return encode_windows(self._tokenizer(runner), self.prompts(rows), limits, self.stride)

    def postprocess(self, model: Scoring, chunk: Chunk) -> Mapping[str, Any]:
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
        columns = (sums, counts, pa.array(perplexity, mask=counts == 0))
        return dict(zip(self.result_columns, columns, strict=True))


@dataclasses.dataclass(frozen=True, kw_only=True)
class NextTokenScorer(ScoringOperator):
    """Append the likeliest tokens behind each prompt; lazy on a Dask DataFrame.

    Parameters
    ----------
    model : str, Path or Model
        A causal language model, or an encoder with a decoder (T5, BART), of which it is the first
        token of the answer.
    column : str
        The column of prompts.
    prompt : str, optional
        A template of the prompt with names of columns in braces, instead of `column`.
    top_k_next : int
        How many tokens.
    output : str
        Name of the result column.
    add_special_tokens : bool
        See `CandidateScorer`.
    max_length : int, optional
        Most tokens of a prompt; a longer one loses its beginning, with an encoder its end.
    on_long : {"truncate", "error"}
        Whether a longer prompt is cut, or cannot be used.
    padding_side, batch_size, tokens_per_batch, on_error
        See `ModelOperator`.

    Returns
    -------
    DataFrame
        With ``<output>``, a list of structs (token int32, token_str str, logprob float32), best
        first.

    Examples
    --------
    >>> import dask_embed as de
    >>> NextTokenScorer("gpt2", top_k_next=3).result_columns
    ('next_tokens',)

    Notes
    -----
    Source: the log-softmax of the logits of transformers' class behind the last token.
    """

    chosen_by: ClassVar[frozenset[str]] = frozenset({"top_k_next"})

    output: str = "next_tokens"
    top_k_next: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_integer("top_k_next", self.top_k_next, allow_none=False)

    def output_types(self, checkpoint: Checkpoint) -> dict[str, pa.DataType]:
        words = getattr(checkpoint.text_config, "vocab_size", None)
        if words is not None and self.top_k_next > words:
            raise ValueError(
                f"top_k_next must be at most {words}, the vocabulary; got {self.top_k_next}"
            )
        return {self.output: pa.list_(pa.struct(_NEXT))}

    def describe(self, checkpoint: Checkpoint) -> str:
        return f"the {self.top_k_next} likeliest next tokens"

    def sequences(self, runner: Runner, rows: list[Row]) -> Encoded:
        from dask_embed.inference.scoring.encoding import encode_prompts

        limits = self._limits(runner.loaded.checkpoint)
        return encode_prompts(self._tokenizer(runner), self.prompts(rows), limits)

    def forward(self, model: Scoring, tokens: TokenLists) -> Any:
        return model.next_tokens(tokens, self.top_k_next)

    def postprocess(self, model: Scoring, chunk: Chunk) -> Mapping[str, Any]:
        return {
            self.output: [
                [
                    {"token": token, "token_str": model.word(token), "logprob": value}
                    for token, value in zip(ids.tolist(), values.tolist(), strict=True)
                ]
                for ids, values in chunk.results
            ]
        }
