"""Kill a job on a cluster of two processes again and again, and go on with it.

    python benchmarks/soak.py --kills 50 --minutes 15 --json benchmarks/results/soak.json

Raises where a row is lost, twice there or another than in the unbroken run; writes what it saw.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import machine
from support import killed_job, killing, tiny


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="where to write what was seen")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = tiny.save("bert", root / "model")
        began = time.monotonic()
        seen = killing.kill_often(
            model, root, given.kills, seed=given.seed, most_seconds=60 * given.minutes
        )
        seconds = time.monotonic() - began
    if seen["kills"] < given.kills:
        sys.exit(f"{seen['kills']} of {given.kills} kills in {given.minutes} minutes: {dict(seen)}")
    told = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "seed": given.seed,
        "rows": killed_job.ROWS,
        "partitions": killed_job.PARTITIONS,
        "processes": 2,
        "seconds": round(seconds),
        **seen,
        "machine": machine.describe("cpu"),
    }
    print(json.dumps(told, indent=1))
    if given.json is not None:
        given.json.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()
