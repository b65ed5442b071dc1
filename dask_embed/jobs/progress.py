"""Rows and tokens a second while models run in this process."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import TextIO

from dask_embed._validation import integer_from_zero, text_file, usable_text
from dask_embed.inference.stats import totals

_REFRESH_SECONDS = 0.2
_REFRESH_SECONDS_IN_A_LOG = 10.0


@contextlib.contextmanager
def progress(
    total: int | None = None, description: str = "rows", file: TextIO | None = None
) -> Iterator[None]:
    """Show a bar with rows and tokens a second while models run within the ``with`` block.

    Parameters
    ----------
    total : int, optional
        Rows expected; without it there is a count and a rate but no end.
    description : str
        Text before the bar.
    file : text file, optional
        Where to draw, by default standard error.

    Notes
    -----
    It counts the rows of this process, so of the synchronous and threaded schedulers. Workers
    of a cluster are other processes: watch them on Dask's dashboard.
    """
    from tqdm import tqdm

    integer_from_zero("total", total, allow_none=True)
    usable_text("description", description)
    text_file("file", file)
    on_screen = getattr(file or sys.stderr, "isatty", bool)()
    pause = _REFRESH_SECONDS if on_screen else _REFRESH_SECONDS_IN_A_LOG
    before, started = totals(), time.monotonic()
    finished = threading.Event()

    def refresh() -> None:
        now = totals()
        bar.n = now["rows"] - before["rows"]
        rate = (now["tokens"] - before["tokens"]) / max(time.monotonic() - started, 1e-9)
        bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
        bar.refresh()

    def watch() -> None:
        while not finished.wait(pause):
            refresh()

    with tqdm(total=total, desc=description, unit=" rows", file=file) as bar:
        watcher = threading.Thread(target=watch, name="dask-embed-progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            finished.set()
            watcher.join()
            refresh()
