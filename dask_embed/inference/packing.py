"""How long a packed row may be, found out when the first long one is wanted."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Row:
    """Most tokens of a packed row.

    Parameters
    ----------
    longest : int or None
        As many tokens are right. None without a limit.
    longer : callable, optional
        Try a longer row, and return whether it is right. Called at most once.

    Notes
    -----
    May be used from several threads.
    """

    def __init__(self, longest: int | None = None, longer: Callable[[], bool] | None = None):
        self.longest = longest
        self._longer = longer
        self._lock = threading.Lock()

    def allows(self, tokens: int) -> bool:
        """Return whether a row may have so many tokens."""
        if self.longest is None or tokens <= self.longest:
            return True
        with self._lock:
            if self._longer is not None:
                self.longest = None if self._longer() else self.longest
                self._longer = None
        return self.longest is None
