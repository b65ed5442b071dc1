"""Kill a job on a cluster of two processes again and again, and go on with it.

    python benchmarks/soak.py --kills 50 --minutes 15

Raises where a row is lost, twice there or another than in the unbroken run; writes what it saw.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import killing
import tiny


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--minutes", type=float, default=15)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        model = tiny.save("bert", root / "model")
        began = time.monotonic()
        seen = killing.kill_often(
            model, root, given.kills, seed=given.seed, most_seconds=60 * given.minutes
        )
        print(f"{time.monotonic() - began:.0f} s, seed {given.seed}: {dict(seen)}")


if __name__ == "__main__":
    main()
