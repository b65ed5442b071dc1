"""What operators share that score tokens with a language model."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.models.spec import Model
from dask_embed.operators.language.base import LanguageModelOperator
from dask_embed.operators.limits import copied_tokenizer
from dask_embed.tokens.encoded import Encoded, Row
from dask_embed.tokens.sequences import SequenceSettings

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dask_embed.inference.runner import Runner
    from dask_embed.inference.scoring.base import Scoring
    from dask_embed.inference.scoring.encoding import Limits
    from dask_embed.inference.scoring.tokenizer import ScoringTokenizer
    from dask_embed.tokens.lists import TokenLists


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScoringOperator(LanguageModelOperator):
    """A language model that scores tokens.

    Parameters
    ----------
    add_special_tokens : bool
        Put the tokenizer's special tokens around the prompt, for causal models those in front
        only. False for prompts that hold them already, as chat templates write them.
    """

    method: ClassVar[str] = "score"

    chosen_by: ClassVar[frozenset[str]] = frozenset()
    """Options of ``.ml.score`` by which it is this operator."""

    def load(self, runner: Runner) -> Scoring:
        from dask_embed.inference.scoring.loaded import scoring_of

        return scoring_of(runner)

    @abc.abstractmethod
    def sequences(self, runner: Runner, rows: list[Row]) -> Encoded:
        """Return what is scored: prompts, each alone or with what may follow it."""

    def encode(self, runner: Runner, rows: list[Row]) -> Encoded:
        return self.sequences(runner, rows)

    def tokens_key(self) -> Hashable:
        whole = SequenceSettings(None, special=False)  # a prompt, whatever is scored behind it
        return self._tokens_key(whole if self.prompt is None else (whole, self.prompt))

    def forward(self, model: Scoring, tokens: TokenLists) -> Any:
        return model.log_likelihoods(tokens)

    def special_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return self._token_counts()[0]

    def needed_tokens(self, checkpoint: Checkpoint) -> dict[str, int]:
        return {"of the prompt": 1}

    def _tokenizer(self, runner: Runner, *, ends: bool | None = None) -> ScoringTokenizer:
        from dask_embed.inference.scoring.tokenizer import tokenizer_for

        return tokenizer_for(runner, special=self.add_special_tokens, ends=ends)

    def _limits(self, checkpoint: Checkpoint) -> Limits:
        from dask_embed.inference.scoring.encoding import Limits

        return Limits(
            self.limit(checkpoint),
            cuts=self.on_long == "truncate",
            encodes=checkpoint.config.is_encoder_decoder,
        )

    def _token_counts(
        self, candidates: tuple[str, ...] = (), separator: str = " ", *, ends: bool | None = None
    ) -> tuple[int, int]:
        """Return the special tokens of a prompt, and the tokens of the longest of candidates."""
        checkpoint = read_checkpoint(self.spec)
        ends = checkpoint.config.is_encoder_decoder if ends is None else ends
        settings = {"special": self.add_special_tokens, "ends": ends}
        return _token_counts(
            self.spec, checkpoint.revision, candidates, separator, tuple(settings.items())
        )


@functools.lru_cache(maxsize=64)
def _token_counts(
    model: Model,
    revision: str,
    candidates: tuple[str, ...],
    separator: str,
    settings: tuple[tuple[str, bool], ...],
) -> tuple[int, int]:
    from dask_embed.inference.scoring.tokenizer import ScoringTokenizer

    own = copied_tokenizer(model)
    encodes = read_checkpoint(model).config.is_encoder_decoder
    given: Mapping[str, bool] = dict(settings)
    tokenizer = ScoringTokenizer(own, encodes=encodes, **given)
    found = tokenizer.candidates(candidates, separator) if candidates else []
    return len(tokenizer.before) + len(tokenizer.after), max(map(len, found), default=0)
