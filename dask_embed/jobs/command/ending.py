"""How the command ends: its exit codes, mistakes in one line, signals."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

import click

from dask_embed._secrets import without_secrets
from dask_embed._validation import shown_error

DONE, FAILED, USAGE, INPUT, MODEL, INTERRUPTED = range(6)
# Seconds after a signal in which the job may end by itself.
_GRACE = 5.0
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# What was run when an error came, by the module of the innermost of our frames, first match first.
_KINDS = (
    ("dask_embed.jobs.command.reading", INPUT),
    ("dask_embed.jobs.command.inputs", INPUT),
    ("dask_embed.jobs.engine", INPUT),
    ("dask_embed.operators", INPUT),  # a row that cannot be used
    ("dask_embed.lazy", INPUT),  # a partition that is not as its files say
    ("dask_embed.models", MODEL),
    ("dask_embed.loading", MODEL),
    ("dask_embed.inference", MODEL),
    ("dask_embed.runtime.files", INTERRUPTED),  # a disk that is full may have room later
    ("dask_embed.runtime", MODEL),
)
# Modules that look at ids and types, and at what a folder has of them, before anything runs.
_OF_ROWS = (
    "dask_embed.jobs.by_rows",
    "dask_embed.jobs.origin",
    "dask_embed.jobs.rows",
    "dask_embed.jobs.row_source",
)
_NO_FAULT_OF_OURS = ("dask_embed._", "dask_embed.jobs.command.ending")


class Ended(click.ClickException):
    """The job ended before it was done; click shows the message and takes the exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(without_secrets(message))
        self._shown = False
        self.exit_code = exit_code  # type: ignore[misc]  # of a class in click, here of each

    def show(self, file: Any = None) -> None:
        if self._shown:
            return
        self._shown = True
        with contextlib.suppress(OSError):
            click.echo(f"dask-embed: {self.format_message()}", file=file, err=file is None)


@contextlib.contextmanager
def ends_with(code: int) -> Iterator[None]:
    """Give errors of the block, which are of what somebody wrote or lacks, an exit code."""
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError, NotImplementedError) as error:
        raise Ended(_line(error), code) from error


def ended(error: BaseException) -> Ended:
    """Return how a job ends because of an error that came while it ran."""
    if isinstance(error, Ended):
        return error
    if isinstance(error, KeyboardInterrupt):
        return Ended("interrupted", INTERRUPTED)
    code = _code(error)
    if code == FAILED:
        return Ended(shown_error(error), code)
    return Ended(_line(error), code)


def _code(error: BaseException) -> int:
    if _is_lost(error):
        return INTERRUPTED
    module = _home(error.__traceback__)
    if module in _OF_ROWS and isinstance(error, ValueError | TypeError | FileExistsError):
        return USAGE
    for start, code in _KINDS:
        if module.startswith(start):
            return code
    # what cannot be written now may be written later: a full disk, a store that does not answer
    return INTERRUPTED if isinstance(error, OSError) else FAILED


def _is_lost(error: BaseException) -> bool:
    """Return whether the job can go on: its scheduler is gone, workers die, another start ended it.

    Whether that one did all is told by the next.
    """
    import concurrent.futures

    from distributed import KilledWorker
    from distributed.client import FutureCancelledError
    from distributed.comm import CommClosedError

    from dask_embed.jobs.folder import NotHeldError

    lost = (
        NotHeldError,
        KilledWorker,
        FutureCancelledError,
        CommClosedError,
        concurrent.futures.CancelledError,
    )
    return isinstance(error, lost)


def _home(traceback: TracebackType | None) -> str:
    """Return the module of the innermost frame that says what was done."""
    found = ""
    while traceback is not None:
        module = traceback.tb_frame.f_globals.get("__name__", "")
        if module.startswith("dask_embed.") and not module.startswith(_NO_FAULT_OF_OURS):
            found = module
        traceback = traceback.tb_next
    return found


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text or type(error).__name__


class LastWords(list[Callable[[], Any]]):
    """What is called when a signal ends the process, in this order."""

    def __init__(self) -> None:
        super().__init__()
        self._timer: threading.Timer | None = None

    def leave(self, code: int = INTERRUPTED) -> None:
        """Say the last words and end the process, if a signal came."""
        if self._timer is None:
            return
        for say in self:
            with contextlib.suppress(OSError):
                say()
        os._exit(code)

    def forget(self) -> None:
        """Let the process live: what a signal came too late for is done."""
        if self._timer is not None:
            self._timer.cancel()
            logging.disable(logging.NOTSET)

    def interrupt(self, number: int, frame: FrameType | None) -> None:
        """Raise KeyboardInterrupt, and leave within some seconds whatever becomes of it."""
        for each in _SIGNALS:
            signal.signal(each, lambda number, frame: os._exit(INTERRUPTED))
        # libraries tell, each in its words, that somebody has taken away what they were at
        logging.disable()
        self._timer = threading.Timer(_GRACE, self.leave)
        self._timer.daemon = True
        self._timer.start()
        raise KeyboardInterrupt


@contextlib.contextmanager
def ends_soon() -> Iterator[LastWords]:
    """Let Ctrl-C, SIGTERM and SIGHUP interrupt the block, and end the process after it.

    The process ends without the libraries' own farewell, which takes seconds; where the block does
    not end soon, or a second signal comes, the process does. What a job has written is whole at any
    time, so nothing is lost by that.
    """
    last_words = LastWords()
    if threading.current_thread() is not threading.main_thread():
        yield last_words
        return
    before = {each: signal.signal(each, last_words.interrupt) for each in _SIGNALS}
    try:
        yield last_words
    except BaseException:
        last_words.leave()
        raise
    finally:
        last_words.forget()
        for each, handler in before.items():
            signal.signal(each, handler)
