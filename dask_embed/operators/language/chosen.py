"""Which of the operators that score ``.ml.score`` is, by the options that it gets."""

from __future__ import annotations

import inspect
from typing import Any

from dask_embed._validation import shown
from dask_embed.operators.language.candidate_scorer import CandidateScorer
from dask_embed.operators.language.scoring import ScoringOperator
from dask_embed.operators.language.text_scorers import NextTokenScorer, PerplexityScorer

SCORERS: tuple[type[ScoringOperator], ...] = (CandidateScorer, NextTokenScorer, PerplexityScorer)


def chosen_scorer(options: dict[str, Any]) -> tuple[type[ScoringOperator], dict[str, Any]]:
    """Return the operator that options ask for, and those that it takes.

    Raises
    ------
    ValueError
        If they ask for two, or if one has no effect without another.
    """
    given = {name for name, value in options.items() if value is not None}
    found = {kind: sorted(kind.chosen_by & given) for kind in SCORERS}
    asked = [kind for kind, names in found.items() if names]
    if len(asked) > 1:
        names = [found[kind][0] for kind in asked]
        raise ValueError(f"give one of {' and '.join(names)}, not both")
    operator = asked[0] if asked else PerplexityScorer
    own = {kind: inspect.signature(kind).parameters for kind in SCORERS}
    for name in sorted(given - set(own[operator])):
        for kind in SCORERS:
            if name in own[kind]:
                what = " or ".join(f"{each}=" for each in sorted(kind.chosen_by))
                needed = f"without {what}" if what else f"with {found[operator][0]}="
                raise ValueError(f"{name}={shown(options[name])} does not apply {needed}")
    known = set().union(*own.values())
    return operator, {
        name: value
        for name, value in options.items()
        if value is not None or name in own[operator] or name not in known
    }
