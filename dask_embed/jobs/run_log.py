"""The log of a run in lines of json: what ran where, how long, and what failed."""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import datetime
import json
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from dask_embed._version import __version__

# Seconds in which workers tell at the end what they ran.
_PATIENCE = 3.0
Told = tuple[tuple[str, int], tuple[dict[str, int], list[dict[str, Any]]]]
"""A process, counts of the partitions that it ran since it began, and the latest of them."""
_NOT_SET = (None, (), False)


class RunLog:
    """Collects what a run did, and adds it to a file line by line.

    Parameters
    ----------
    file : str, optional
        To append to; without one nothing is written.
    command : str
    options : mapping
        What it was told; only what is set is written.
    """

    def __init__(self, file: str | None, command: str, options: Mapping[str, Any]) -> None:
        self._file = file
        self._command = command
        self._options = {
            name: each
            for name, each in options.items()
            if not any(type(each) is type(none) and each == none for none in _NOT_SET)
        }
        self._run = f"{socket.gethostname()}-{os.getpid()}-{time.time_ns()}"
        self._started = time.monotonic()
        self._records: list[dict[str, Any]] = []
        self._counts: Counter[str] = Counter()
        self._exit_code: int | None = None

    @property
    def ended(self) -> bool:
        """Whether it is written how the run ended."""
        return self._exit_code is not None

    @property
    def done(self) -> bool:
        """Whether it is written that the run got to its end."""
        return self._exit_code == 0

    def begin(self) -> None:
        """Write that the run begins.

        Raises
        ------
        OSError
            If the file cannot be written.
        """
        self.add(
            "begin",
            command=self._command,
            options=self._options,
            version=__version__,
            host=socket.gethostname(),
            process=os.getpid(),
        )

    def add(self, event: str, **told: Any) -> None:
        """Write a line."""
        if self._file is None:
            return
        now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
        line = json.dumps({"time": now, "run": self._run, "event": event, **told}, default=str)
        with open(self._file, "a", encoding="utf8") as file:
            file.write(line + "\n")

    @contextlib.contextmanager
    def watching(self, client: Any) -> Iterator[None]:
        """Note the partitions that operators finish within the block, here and on workers."""
        before = {process: counts for process, (counts, _) in _asked(client).values()}
        try:
            yield
        finally:
            for worker, (process, (counts, records)) in _within_patience(client).items():
                new = Counter(counts)
                new.subtract(before.get(process, {}))
                latest = records[-new["partitions"] :] if new["partitions"] else []
                self._records += [{"worker": worker, **each} for each in latest]
                self._counts.update(new)
            for record in self._records:
                self.add("partition", **record)

    def counts(self) -> dict[str, int]:
        """Return the counts of all partitions together."""
        names = ("rows", "failed", "tokens", "padding", "splits", "truncated")
        return {name: self._counts[name] for name in names}

    def end(self, exit_code: int, told: Mapping[str, Any]) -> dict[str, Any]:
        """Write how the run ended, and return what was written."""
        self._exit_code = exit_code
        seconds = round(time.monotonic() - self._started, 3)
        line = {"exit_code": exit_code, "seconds": seconds, **told}
        with contextlib.suppress(OSError):
            self.add("end", **line)
        return {"command": self._command, **line}


def _within_patience(client: Any) -> dict[str, Told]:
    """Return what is `_asked`, of this process alone where workers do not answer any more."""
    found: list[dict[str, Told]] = []

    def ask() -> None:
        # the cluster closes, or is gone and took along what it knew
        with contextlib.suppress(OSError, RuntimeError, concurrent.futures.CancelledError):
            found.append(_asked(client))

    asking = threading.Thread(target=ask, name="dask-embed-log", daemon=True)
    asking.start()
    asking.join(_PATIENCE)
    return found[0] if found else {"": _told()}


def _asked(client: Any) -> dict[str, Told]:
    """Return what this process has finished, and the workers of a client, by address."""
    found = {"": _told()}
    if client is not None and client.status == "running":
        for address, answer in client.run(_told, on_error="return").items():
            if not isinstance(answer, BaseException) and answer[0] != found[""][0]:
                found[address] = answer
    return found


def _told() -> Told:
    from dask_embed.runtime.stats import recorded, records

    process = (socket.gethostname(), os.getpid())
    return process, (recorded(), [dataclasses.asdict(record) for record in records()])
