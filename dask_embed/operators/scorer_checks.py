"""What a client can tell of a scorer without weights: heads, lengths, the end of candidates."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.models.spec import Model
from dask_embed.models.tokenizers import tokenizer_of
from dask_embed.operators.model_limits import copied_tokenizer

if TYPE_CHECKING:
    from dask_embed.operators.scorer import Scorer


def require_predictions(scorer: Scorer, checkpoint: Checkpoint) -> None:
    """Raise ValueError unless the model predicts what is asked for."""
    limit, count, name = scorer.limit(checkpoint), scorer.top_k_next, scorer.spec.name
    if scorer.scores_texts and checkpoint.config.is_encoder_decoder:
        raise ValueError(
            f"model {name!r} has an encoder, so it scores answers to a text and not the text "
            "itself; give candidates, or choose a causal language model"
        )
    if scorer.scores_texts and limit == 1:
        raise ValueError("max_length must be at least 2, a token and the one before it; got 1")
    words = getattr(checkpoint.text_config, "vocab_size", None)
    if count is not None and words is not None and count > words:
        raise ValueError(f"top_k_next must be at most {words}, the vocabulary; got {count}")
    if scorer.candidate_end and tokenizer_of(scorer.spec).eos_token_id is None:
        raise ValueError(
            f"the tokenizer of model {name!r} has no token for the end of a candidate; leave out "
            "candidate_end=True"
        )
    if scorer.stride is not None and limit is not None and scorer.stride >= limit:
        raise ValueError(
            f"stride must be less than the {limit} tokens of a window; got {scorer.stride}"
        )


def needed_tokens(scorer: Scorer, checkpoint: Checkpoint) -> dict[str, int]:
    """Return what `max_length` must hold besides special tokens; see `ModelOperator`.

    Raises
    ------
    ValueError
        If it does not hold the longest candidate, which a decoder reads alone.
    """
    encodes = checkpoint.config.is_encoder_decoder
    longest = 0 if scorer.candidates_column is None else 1
    if scorer.candidates is not None:
        _, longest = token_counts(scorer)
    if encodes and scorer.max_length is not None and longest > scorer.max_length:
        raise ValueError(
            f"max_length must be at least {longest} tokens, those of the longest candidate; got "
            f"{scorer.max_length}"
        )
    return {"of the longest candidate": 0 if encodes else longest, "of the prompt": 1}


def token_counts(scorer: Scorer) -> tuple[int, int]:
    """Return the special tokens of a prompt, and the tokens of the longest of fixed candidates."""
    checkpoint = read_checkpoint(scorer.spec)
    encodes = checkpoint.config.is_encoder_decoder
    ends = encodes if scorer.candidate_end is None else scorer.candidate_end
    texts = (scorer.candidates or (), scorer.separator)
    kind = (scorer.add_special_tokens, encodes, ends)
    return _token_counts(scorer.spec, checkpoint.revision, *texts, *kind)


@functools.lru_cache(maxsize=64)
def _token_counts(
    model: Model,
    revision: str,
    candidates: tuple[str, ...],
    separator: str,
    special: bool,
    encodes: bool,
    ends: bool,
) -> tuple[int, int]:
    from dask_embed.inference.scoring.encoding import ScoringTokenizer

    own = copied_tokenizer(model)
    tokenizer = ScoringTokenizer(own, special=special, encodes=encodes, ends=ends)
    found = tokenizer.candidates(candidates, separator) if candidates else []
    return len(tokenizer.before) + len(tokenizer.after), max(map(len, found), default=0)
