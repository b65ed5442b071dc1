"""What a client can tell of a scorer without weights: heads, lengths, the end of candidates."""

from __future__ import annotations

import functools

from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.models.spec import Model
from dask_embed.models.tokenizers import tokenizer_of
from dask_embed.operators.limits import copied_tokenizer


def require_predictions(
    model: Model,
    checkpoint: Checkpoint,
    *,
    of_texts: bool,
    count: int | None,
    limit: int | None,
    stride: int | None,
    ends: bool | None,
) -> None:
    """Raise ValueError unless the model predicts what is asked for.

    Parameters
    ----------
    model : Model
    checkpoint : Checkpoint
    of_texts : bool
        Texts themselves are scored, and nothing behind them.
    count : int or None
        Next tokens that are asked for.
    limit, stride : int or None
        Tokens of a window, and those that it shares with the next.
    ends : bool or None
        Whether the end of a candidate is scored.
    """
    name = model.name
    if of_texts and checkpoint.config.is_encoder_decoder:
        raise ValueError(
            f"model {name!r} has an encoder, so it scores answers to a text and not the text "
            "itself; give candidates, or choose a causal language model"
        )
    if of_texts and limit == 1:
        raise ValueError("max_length must be at least 2, a token and the one before it; got 1")
    words = getattr(checkpoint.text_config, "vocab_size", None)
    if count is not None and words is not None and count > words:
        raise ValueError(f"top_k_next must be at most {words}, the vocabulary; got {count}")
    if ends and tokenizer_of(model).eos_token_id is None:
        raise ValueError(
            f"the tokenizer of model {name!r} has no token for the end of a candidate; leave out "
            "candidate_end=True"
        )
    if stride is not None and limit is not None and stride >= limit:
        raise ValueError(f"stride must be less than the {limit} tokens of a window; got {stride}")


def needed_tokens(longest: int, most: int | None, *, encodes: bool) -> dict[str, int]:
    """Return what `max_length` must hold besides special tokens; see `ModelOperator`.

    Parameters
    ----------
    longest : int
        Tokens of the longest candidate.
    most : int or None
        The limit that was asked for.
    encodes : bool
        Prompts have an encoder, and candidates a decoder that reads nothing else.

    Raises
    ------
    ValueError
        If the limit does not hold the longest candidate.
    """
    if encodes and most is not None and longest > most:
        raise ValueError(
            f"max_length must be at least {longest} tokens, those of the longest candidate; got "
            f"{most}"
        )
    return {"of the longest candidate": 0 if encodes else longest, "of the prompt": 1}


def token_counts(
    model: Model,
    candidates: tuple[str, ...],
    separator: str,
    *,
    special: bool,
    ends: bool | None,
) -> tuple[int, int]:
    """Return the special tokens of a prompt, and the tokens of the longest of fixed candidates."""
    checkpoint = read_checkpoint(model)
    encodes = checkpoint.config.is_encoder_decoder
    ends = encodes if ends is None else ends
    return _token_counts(model, checkpoint.revision, candidates, separator, special, encodes, ends)


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
