"""Counts of this process for Prometheus, on the ``/metrics`` that a Dask worker has already.

Written where `prometheus_client` is installed, into its default registry, which a worker shows.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

_PREFIX = "dask_embed"


@functools.cache
def _counters() -> tuple[Any, Any] | None:
    """Return the counters of amounts and of seconds, made once; None without the library."""
    try:
        from prometheus_client import Counter
    except ImportError:
        return None
    amounts = Counter(
        f"{_PREFIX}_amount",
        "Rows, tokens and batches of operators, by kind: see dask_embed.stats.",
        ["operator", "kind"],
    )
    seconds = Counter(
        f"{_PREFIX}_seconds",
        "Wall time of operators and of writing, by phase: see dask_embed.stats.",
        ["operator", "phase"],
    )
    return amounts, seconds


def count(operator: str, amounts: Mapping[str, int], seconds: Mapping[str, float]) -> None:
    """Add what an operator did on a partition; without the library nothing happens."""
    counters = _counters()
    if counters is None:
        return
    for kind, amount in amounts.items():
        counters[0].labels(operator, kind).inc(amount)
    for phase, spent in seconds.items():
        counters[1].labels(operator, phase).inc(max(spent, 0.0))
