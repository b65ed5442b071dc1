"""How texts are generated, in plain values: no torch here, so that a client can say it."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dask_embed._validation import shown
from dask_embed.models.bounds import MOST_BEAMS, require_stop_strings

# The fields that `model.generate` takes under the same name.
_ARGUMENTS = (
    "max_new_tokens",
    "min_new_tokens",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "num_beams",
    "repetition_penalty",
    "no_repeat_ngram_size",
)


_MOST = 2**31 - 1  # of tokens, beams and ranks


@dataclass(frozen=True)
class GenerationSettings:
    """What to ask of `model.generate`.

    Parameters
    ----------
    max_new_tokens : int
        Longest continuation, 20 by default.
    min_new_tokens : int, optional
        No end of sequence before so many new tokens.
    do_sample : bool, optional
        Draw tokens instead of taking the likeliest.
    temperature, top_k, top_p, min_p : float, int, float, float, optional
        From which distribution tokens are drawn; without effect unless `do_sample`.
    num_beams : int, optional
        Beams of a beam search; 1 is greedy.
    repetition_penalty : float, optional
        Above 1 makes tokens that were there already less likely, those of the prompt included.
    no_repeat_ngram_size : int, optional
        No sequence of so many tokens twice; 0 allows all.
    stop : tuple of str
        Strings that end a text. As in `model.generate`, the tokens that complete the string are
        part of the result.
    seed : int
        Starts the draws, with what is drawn for.

    Raises
    ------
    TypeError, ValueError
        If a value is not of its kind or range.

    Notes
    -----
    A value that is None is the checkpoint's own, from its ``generation_config.json``, and where
    that has none, the default of transformers.
    """

    max_new_tokens: int = 20
    min_new_tokens: int | None = None
    do_sample: bool | None = None
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    num_beams: int | None = None
    repetition_penalty: float | None = None
    no_repeat_ngram_size: int | None = None
    stop: tuple[str, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        _integer("max_new_tokens", self.max_new_tokens, 1)
        _integer("seed", self.seed, 0, 2**63 - 1)
        for name, least, largest in (
            ("min_new_tokens", 0, _MOST),
            ("top_k", 0, _MOST),
            ("num_beams", 1, MOST_BEAMS),
            ("no_repeat_ngram_size", 0, _MOST),
        ):
            if getattr(self, name) is not None:
                _integer(name, getattr(self, name), least, largest)
        if self.do_sample is not None and not isinstance(self.do_sample, bool):
            raise TypeError(f"do_sample must be True, False or None, not {shown(self.do_sample)}")
        for name, zero, most in (
            ("temperature", False, math.inf),
            ("repetition_penalty", False, math.inf),
            ("top_p", False, 1.0),
            ("min_p", True, 1.0),
        ):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, _number(name, getattr(self, name), zero, most))
        object.__setattr__(self, "stop", _strings(self.stop))
        self._check_together()

    def _check_together(self) -> None:
        if self.min_new_tokens is not None and self.min_new_tokens > self.max_new_tokens:
            raise ValueError(
                f"min_new_tokens must be at most max_new_tokens, {self.max_new_tokens}; "
                f"got {self.min_new_tokens}"
            )
        if self.do_sample and (self.num_beams or 1) > 1:
            raise ValueError(
                f"do_sample=True with num_beams={self.num_beams} is not supported: draw tokens "
                "(num_beams=1) or search with beams (do_sample=False)"
            )

    def arguments(self) -> dict[str, Any]:
        """Return what `model.generate` takes for the values that are set, but for `stop`."""
        return {name: getattr(self, name) for name in _ARGUMENTS if getattr(self, name) is not None}


def row_seed(seed: int, ids: np.ndarray) -> int:
    """Return a seed that depends on `seed` and the tokens of a prompt, and on nothing else."""
    content = seed.to_bytes(8, "little") + ids.astype("<i4").tobytes()
    return int.from_bytes(hashlib.blake2b(content, digest_size=8).digest(), "little") >> 1


def _integer(name: str, value: Any, least: int, most: int = _MOST) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an integer, not {shown(value)}")
    if not least <= value <= most:
        bounds = f"between {least} and {most}" if value > most else f"at least {least}"
        raise ValueError(f"{name} must be {bounds}; got {shown(value)}")


def _number(name: str, value: Any, zero: bool, most: float) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{name} must be a number, not {shown(value)}")
    if not (value >= 0 if zero else value > 0) or not value <= most or math.isinf(value):
        least = "at least 0" if zero else "above 0"
        bounds = least if most == math.inf else f"{least} and at most {most:g}"
        bounds = "finite" if math.isinf(value) else bounds
        raise ValueError(f"{name} must be {bounds}; got {shown(value)}")
    return float(value)


def _strings(stop: Any) -> tuple[str, ...]:
    if isinstance(stop, str) or not isinstance(stop, Iterable):
        raise TypeError(f"stop must be a sequence of strings, not {shown(stop)}")
    strings = tuple(stop)
    wrong = [string for string in strings if not isinstance(string, str) or not string]
    if wrong:
        raise ValueError(f"stop must hold strings that are not empty; got {shown(wrong[0])}")
    require_stop_strings(strings, "stop")
    return strings
