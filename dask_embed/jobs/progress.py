"""Rows and tokens a second while models run, here and on the workers of a cluster."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import io
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

import dask

from dask_embed._options import named_options
from dask_embed._validation import integer_from_zero, shown, text_file, usable_text
from dask_embed.columns.frames import is_dask_frame
from dask_embed.jobs.inspection import Process, answers, current_client, process_totals
from dask_embed.runtime.planned import listening

_REFRESH_SECONDS = 0.2
_REFRESH_SECONDS_IN_A_LOG = 10.0
# Of the command, whose log is read the morning after: each is a line of its own.
_SECONDS_BETWEEN_LINES = 30.0
# Workers are asked so often, because one that goes takes along what it has not told.
_ASKING_SECONDS = 1.0
# Asking the workers takes at most one part in so many of the time.
_PAUSES_PER_ASKING = 10
# A worker that does not answer holds the end of the block for so long at most.
_PATIENCE_SECONDS = 10.0


@contextlib.contextmanager
@named_options
def progress(
    total: Any = None,
    description: str = "rows",
    file: TextIO | None = None,
    client: Any = None,
) -> Iterator[None]:
    """Show a bar with rows and tokens a second while models run within the ``with`` block.

    Parameters
    ----------
    total : int or dask.dataframe.DataFrame, optional
        Rows expected, for each operator that runs on them. By default the plans tell them that are
        made within the block, where they are certain: rows from pandas, or from Parquet files on a
        disk, whose footers are read meanwhile, not behind filters, joins or functions of your own.
        Else there is a count and a rate but no end. Or the Dask DataFrame that is computed, which
        reads the footers of files in stores, too.
    description : str
        Text before the bar.
    file : text file, optional
        Where to draw, by default standard error.
    client : distributed.Client, optional
        Count the rows of its workers too; by default the current client, if there is one.

    Raises
    ------
    TypeError, ValueError
        If `total` is neither, if the client is asynchronous, or if Dask is set to compute in
        processes that nobody can ask (``scheduler="processes"``).

    Notes
    -----
    A row counts once for each operator, one without a text too, and once for operators that share
    a forward pass. It counts the rows of this process, so of the synchronous and threaded
    schedulers, and those of the client's workers. Workers may come and go: what one ran counts,
    and what another runs again in its place counts again.
    """
    usable_text("description", description)
    text_file("file", file)
    with _shown(_expected(total), description, file, client, lines=False):
        yield


@contextlib.contextmanager
def showing(frame: Any, *, client: Any = None) -> Iterator[None]:
    """Show a bar on a terminal, and elsewhere a line now and then; see `progress`.

    The frame may be what `to_parquet` gives with ``compute=False``: of a job that is gone on with,
    what is missing is expected. None leaves the total to the plans that are made.
    """
    from dask_embed.jobs.expected import expected_rows  # noqa: PLC0415 - Dask's dataframes

    on_screen = sys.stderr.isatty()
    total = None if frame is None else expected_rows(frame)
    with _shown(total, "rows", None, client, lines=not on_screen):
        yield


@contextlib.contextmanager
def _shown(
    total: int | None, description: str, file: TextIO | None, client: Any, *, lines: bool
) -> Iterator[None]:
    from tqdm import tqdm

    _require_a_scheduler_that_tells()
    target: Any = _Unread(file or sys.stderr)
    counts = _Counts(_client(client))
    planned = _planned()
    hidden = io.StringIO() if lines else target
    with (
        listening(planned.note),
        tqdm(total=total, desc=description, unit=" rows", file=hidden) as bar,
    ):
        expected = planned.total if total is None else lambda: total
        drawing = _Drawing(bar, counts, expected, target, lines=lines)
        watcher = threading.Thread(target=drawing.watch, name="dask-embed-progress", daemon=True)
        watcher.start()
        try:
            yield
        finally:
            drawing.finished.set()
            watcher.join(_PATIENCE_SECONDS)
            drawing.given_up.set()


class _Drawing:
    """A bar that is drawn now and then until what it counts is finished, at last once more."""

    def __init__(
        self,
        bar: Any,
        counts: _Counts,
        expected: Callable[[], int | None],
        file: Any,
        *,
        lines: bool,
    ) -> None:
        self._bar, self._counts, self._expected = bar, counts, expected
        self._lines_to = file if lines else None
        on_screen = getattr(file, "isatty", bool)()
        pause = _REFRESH_SECONDS if on_screen else _REFRESH_SECONDS_IN_A_LOG
        self._pause = _SECONDS_BETWEEN_LINES if lines else pause
        self._started = time.monotonic()
        self.finished, self.given_up = threading.Event(), threading.Event()

    def watch(self) -> None:
        """Draw it until `finished`; nothing any more once `given_up`."""
        asking, drawn, last = 0.0, self._started, False
        while not last:
            wait = max(min(self._pause, _ASKING_SECONDS), _PAUSES_PER_ASKING * asking)
            last = self.finished.wait(wait)
            begun = time.monotonic()
            found = self._counts.now()
            now = time.monotonic()
            asking = now - begun
            if (last or now - drawn >= self._pause) and not self.given_up.is_set():
                self._draw(*found)
                drawn = now

    def _draw(self, rows: int, tokens: int) -> None:
        self._bar.n = rows
        self._bar.total = self._expected()
        rate = tokens / max(time.monotonic() - self._started, 1e-9)
        self._bar.set_postfix_str(f"{rate:,.0f} tokens/s", refresh=False)
        if self._lines_to is None:
            self._bar.refresh()
        else:
            print(self._bar, file=self._lines_to, flush=True)


class _Unread:
    """A file whose reader may go, as that of a pipe does: then nothing is written any more."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._file.write(text)

    def flush(self) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._file.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def _client(given: Any) -> Any:
    """Return the client whose workers are asked, None without one."""
    if given is None:
        return current_client()
    client = getattr(sys.modules.get("distributed"), "Client", None)
    if client is None or not isinstance(given, client):
        raise TypeError(f"client must be a distributed.Client, got {shown(given)}")
    return given


def _expected(total: Any) -> int | None:
    """Return how many rows there will be, None where it is not told or not certain."""
    if is_dask_frame(total):
        from dask_embed.jobs.expected import expected_rows  # noqa: PLC0415 - Dask's dataframes

        return expected_rows(total)
    if total is not None and (isinstance(total, bool) or not isinstance(total, int)):
        raise TypeError(
            "total must be a number of rows, or the Dask DataFrame that is computed; got "
            f"{shown(total)}"
        )
    integer_from_zero("total", total, allow_none=True)
    return total


def _planned() -> Any:
    """Return what counts the rows of plans; it imports Dask's dataframes."""
    from dask_embed.jobs.expected import Planned  # noqa: PLC0415 - Dask's dataframes

    return Planned()


def _require_a_scheduler_that_tells() -> None:
    scheduler = dask.config.get("scheduler", None)
    if scheduler in ("processes", "multiprocessing"):
        raise ValueError(
            f"progress cannot count rows of Dask's scheduler {scheduler!r}, whose processes nobody "
            "can ask; use distributed.Client(), which starts processes too, or scheduler='threads'"
        )


class _Counts:
    """Rows and tokens since the beginning, of this process and the workers of a client."""

    def __init__(self, client: Any) -> None:
        self._client = client
        self._late: set[str] = set()
        self._latest: dict[Process, tuple[int, int]] = {}
        found = self._asked()
        self._before = dict(found.values())
        # What these answer first may be of long ago; workers that join later begin at nothing.
        self._silent = self._late

    def now(self) -> tuple[int, int]:
        """Return the rows and tokens so far, of processes that are gone the last known."""
        for address, (process, counts) in self._asked().items():
            if address in self._silent and process not in self._latest:
                self._before.setdefault(process, counts)
            self._latest[process] = counts
        rows = tokens = 0
        for process, counts in self._latest.items():
            before = self._before.get(process, (0, 0))
            rows += counts[0] - before[0]
            tokens += counts[1] - before[1]
        return rows, tokens

    def _asked(self) -> dict[str, tuple[Process, tuple[int, int]]]:
        """Return what the processes that answer say, by their address, here the empty one."""
        found: dict[str, tuple[Process, tuple[int, int]]] = {"": process_totals()}
        if self._client is None or self._client.status != "running":
            return found
        try:
            told = answers(self._client, process_totals, "progress")
        except (OSError, asyncio.CancelledError, concurrent.futures.CancelledError):
            return found  # the cluster closes
        self._late = set()
        for address, answer in told.items():
            if isinstance(answer, BaseException):
                self._late.add(address)
            else:
                found[address] = answer
        return found
