"""Counts of this process for Prometheus, on the ``/metrics`` that a Dask worker has already.

Written where `prometheus_client` is installed, into its default registry, which a worker shows.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Mapping
from typing import Any

_PREFIX = "dask_embed"
# Two threads would register the counters twice, which the library refuses.
_making = threading.Lock()


def _counters() -> tuple[Any, Any] | None:
    """Return the counters of amounts and of seconds; None without the library."""
    with _making:
        return _made()


@functools.cache
def _made() -> tuple[Any, Any] | None:
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
