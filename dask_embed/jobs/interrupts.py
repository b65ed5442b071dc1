"""Ctrl-C in a terminal, kept from the workers of a cluster on this machine."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from multiprocessing import resource_tracker
from typing import Any


@contextlib.contextmanager
def loop_without_interrupts() -> Iterator[Any]:
    """Give an event loop in a thread whose child processes get no Ctrl-C.

    A terminal sends it to all processes of a job. Workers would each show a traceback of what they
    ran or imported, while the client, which gets it too, is to decide what becomes of them. They
    inherit the mask of the thread that starts them.
    """
    from distributed.utils import LoopRunner

    runner = LoopRunner()
    if hasattr(signal, "pthread_sigmask"):
        _start_resource_tracker()
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
        try:
            runner.start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    else:
        runner.start()
    try:
        yield runner.loop
    finally:
        runner.stop()


def _start_resource_tracker() -> None:
    """Start what clears up after processes, before any thread does, whose mask it would undo.

    It warns of queues of workers that were there when this process was told to end.
    """
    sys.warnoptions.append("ignore:resource_tracker:UserWarning")
    try:
        resource_tracker.ensure_running()
    finally:
        sys.warnoptions.pop()
