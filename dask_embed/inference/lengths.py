"""Lengths at which a model may change its ways, as its configuration names them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import numpy as np

from dask_embed.models.written import entries

# Numbers that no length is compared with: sizes of vectors, counts of parts, ids of tokens.
_SIZES = re.compile(
    r"vocab|hidden|intermediate|inner|ffn|dim|d_(model|ff|kv|inner|state|conv)|embd|embed|head|layer"
    r"|expert|rank|channel|kernel|conv|group|width|units|labels|types?_|version|seed|bits|image"
    r"|patch|vision|audio|_ids?$|_token|index$|beams"
)
# Names of lengths, also where they hold one of the above.
_LENGTHS = re.compile(
    r"position|window|chunk|block|local_att|length|seq|context|ctx|top_?k|radius|stride|bucket|span"
    r"|segment|landmark"
)
# How many tokens sparse attention selects. Beyond, it chooses between scores that may be equal,
# where rounding decides: no texts that were tried vouch for others.
_SELECTED = re.compile(r"^index_?top_?k$")
# Lengths up to this are tried beyond; texts longer than the first of the others run alone.
_LONGEST_PROBED = 512
_BEYOND, _TIMES_BEYOND, _LONG = 9, 8, 128
_LENGTHS_TRIED = 3
SHORT = (11, 3, 7, 7, 1)
_PARTS_OF_OTHER_KINDS = ("vision_config", "audio_config", "image_config", "id2label", "label2id")


def lengths_to_try(config: Any, limit: int | None) -> tuple[list[int], int | None]:
    """Return lengths of texts, past those that a configuration names, and what they vouch for.

    Parameters
    ----------
    config : PretrainedConfig
        Of the text.
    limit : int or None
        Longest text that the model takes.

    Returns
    -------
    lengths : list of int
        `SHORT` first.
    up_to : int or None
        The first length that is named and too long to be tried; None without one.
    """
    most = _LONGEST_PROBED * 2 if limit is None else limit
    named = [length for length in named_lengths(config) if limit is None or length < limit]
    near = [length for length in named if length <= _LONGEST_PROBED]
    far = [length for length in named if length > _LONGEST_PROBED] + selected_tokens(config)
    passed = [length + _BEYOND for length in near[-_LENGTHS_TRIED:]]
    if passed:  # a choice between tokens shows where a text has many times as many
        longest = max(*passed, min(_TIMES_BEYOND * near[-1], _LONG))
        passed += [longest, longest // 2]
    return [min(length, most) for length in (*SHORT, *passed)], min(far, default=None)


def repeating_tokens(allowed: np.ndarray, lengths: list[int]) -> list[np.ndarray]:
    """Return random texts of some tokens, the same ones each time.

    As in language tokens come again in a text, and some models choose between them (Doge).
    """
    draw = np.random.default_rng(0)
    return [draw.choice(draw.choice(allowed, max(length // 2, 1)), length) for length in lengths]


def named_lengths(config: Any) -> list[int]:
    """Return the numbers in a configuration that may be lengths, ascending, each once.

    Parameters
    ----------
    config : PretrainedConfig
        Whatever the fields are called: all whole numbers count but those whose name says that they
        are another thing.
    """
    numbers = _numbers_in(config)
    return sorted({value for name, value in numbers if _is_length(name) and value > 1})


def selected_tokens(config: Any) -> list[int]:
    """Return the numbers in a configuration that say how many tokens attention selects."""
    return [value for name, value in _numbers_in(config) if _SELECTED.search(name)]


def _is_length(name: str) -> bool:
    return bool(_LENGTHS.search(name) or not _SIZES.search(name))


def _numbers_in(config: Any) -> Iterator[tuple[str, int]]:
    """Yield every integer with the name that it stands under."""
    for name, value in entries(config.to_dict(), without=_PARTS_OF_OTHER_KINDS):
        if isinstance(value, int) and not isinstance(value, bool):
            yield name, value
