"""The command, interrupted at a moment: in children of a process that imported all of it.

Reads lines of JSON, `run`'s arguments, and writes a line for each: how the command ended.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import select
import signal
import sys
import tempfile
import time
from typing import Any

_REACHES = 200.0  # seconds until a moment has come
_HOLDS = 60.0  # seconds that it lasts
_MODULES = ("jobs.cli", "jobs.command.run", "jobs.parquet", "jobs.delta", "jobs.run_log")


def run(arguments: list[str], moment: str | None, number: int = signal.SIGINT) -> dict[str, Any]:
    """Run the command, and send a signal to its process group when it has come to a moment.

    Parameters
    ----------
    arguments : list of str
    moment : str, optional
        A function, as in ``"os:replace@3"``: what calls it the third time waits there.
    number : int
        Of the signal.
    """
    reached, tells = os.pipe()
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if not child:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            _run_here(arguments, moment, tells)
        os.close(tells)
        ready, _, _ = select.select([reached], [], [], _REACHES)
        came = bool(ready and os.read(reached, 1))
        os.close(reached)
        began = time.monotonic()
        if came:
            os.killpg(child, number)
        code = _code_of(child, 30 if came else _REACHES)
        seconds = time.monotonic() - began
        said = []
        for file in (out, err):
            file.seek(0)
            said.append(file.read().decode())
    return {"came": came, "code": code, "seconds": seconds, "out": said[0], "err": said[1]}


def _code_of(child: int, patience: float) -> int:
    deadline = time.monotonic() + patience
    while time.monotonic() < deadline:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.killpg(child, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _run_here(arguments: list[str], moment: str | None, tells: int) -> None:
    os.setsid()
    code = 1
    try:
        if moment is not None:
            _hold(moment, tells)
        from dask_embed.jobs.cli import main

        code = main(arguments)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _hold(moment: str, tells: int) -> None:
    """Let a function tell that it was called, and wait, wherever of ours it is imported."""
    module, _, rest = moment.partition(":")
    path, _, time_of = rest.partition("@")
    owner: Any = importlib.import_module(module)
    *owners, name = path.split(".")
    for each in owners:
        owner = getattr(owner, each)
    call, left = getattr(owner, name), [int(time_of or 1)]

    @functools.wraps(call)
    def held(*args: Any, **options: Any) -> Any:
        left[0] -= 1
        if not left[0]:
            os.write(tells, b"x")
            time.sleep(_HOLDS)
        return call(*args, **options)

    setattr(owner, name, held)
    for other in list(sys.modules.values()):
        if other.__name__.startswith("dask_embed") and vars(other).get(name) is call:
            setattr(other, name, held)


def main() -> None:
    from dask_embed.runtime.libraries import import_libraries

    import_libraries()
    for name in _MODULES:
        importlib.import_module(f"dask_embed.{name}")
    for line in sys.stdin:
        print(json.dumps(run(**json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
