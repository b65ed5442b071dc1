"""How much work this process has done; read by the progress bar and by tests."""

from __future__ import annotations

import threading
from collections import Counter

_lock = threading.Lock()
_counts: Counter[str] = Counter()


def add(**amounts: int) -> None:
    """Add to the counts of this process, from any thread."""
    with _lock:
        _counts.update(amounts)


def read() -> dict[str, int]:
    """Return rows, distinct rows, tokens and batches run so far in this process."""
    with _lock:
        return {name: _counts[name] for name in ("rows", "distinct_rows", "tokens", "batches")}
