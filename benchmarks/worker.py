"""One run of one contender, in a fresh process: Parquet in, vectors out, Parquet.

Needs only the packages of the contender, so that it runs in the environment of any peer:

    PYTHON benchmarks/worker.py run NAME --model FOLDER --source FOLDER --warm-up FOLDER
        --target FOLDER [--device cpu] [--dtype float32]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

from contenders import CONTENDERS
from setting import RESULT, VECTORS, Setting, load_exported


def _run(options: argparse.Namespace) -> dict[str, float]:
    target = Path(options.target)
    ready = target / "ready"
    setting = Setting(options.model, options.device, options.dtype, str(ready))
    embed = CONTENDERS[options.name].prepare(setting)
    embed(options.warm_up, str(target / "warm-up"))
    ready.unlink(missing_ok=True)
    start = time.monotonic()
    embed(options.source, str(target / VECTORS))
    end = time.monotonic()
    started = float(ready.read_text()) if ready.exists() else start
    return {
        "seconds": end - started,
        "start_up_seconds": started - start,
        "peak_mib": _peak_mib(),
    }


def _peak_mib() -> float:
    """Return the largest resident set of this process; ru_maxrss would count the parent's too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("action", choices=("run", "export"))
    parser.add_argument("name", choices=CONTENDERS)
    parser.add_argument("--model", required=True)
    parser.add_argument("--target", required=True, help="folder that exists")
    parser.add_argument("--source")
    parser.add_argument("--warm-up")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    options = parser.parse_args()
    if options.action == "export":
        load_exported(options.name, options.model, export=True).save_pretrained(options.target)
    else:
        result = json.dumps(_run(options))
        (Path(options.target) / RESULT).write_text(result, "utf8")


if __name__ == "__main__":
    main()
