"""Ask OSV for known holes in the versions of constraints.txt; say so where it does not answer.

    python tests/audit.py [--strict]

What is found is printed. With --strict it ends with an error, too.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

SERVICE = os.environ.get("OSV_URL", "https://api.osv.dev")
_PINNED = re.compile(r"^([A-Za-z0-9._-]+)==([A-Za-z0-9.!+]+)")
_PATIENCE = 15.0


def pinned(text: str) -> list[tuple[str, str]]:
    """Return the packages and versions of a file of constraints, without local parts."""
    found = (_PINNED.match(line) for line in text.splitlines())
    return [(each[1], each[2].partition("+")[0]) for each in found if each]


def known_holes(packages: list[tuple[str, str]]) -> list[str]:
    """Return a line for each package of which holes are known.

    Raises
    ------
    OSError
        If the service does not answer.
    """
    queries = [
        {"package": {"name": name, "ecosystem": "PyPI"}, "version": version}
        for name, version in packages
    ]
    asked = urllib.request.Request(
        f"{SERVICE}/v1/querybatch",
        json.dumps({"queries": queries}).encode(),
        {"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(asked, timeout=_PATIENCE) as answer:
        results: list[dict[str, Any]] = json.load(answer)["results"]
    return [
        f"{name} {version}: {', '.join(hole['id'] for hole in found['vulns'])}"
        for (name, version), found in zip(packages, results, strict=True)
        if found.get("vulns")
    ]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--strict", action="store_true")
    options = parser.parse_args()
    packages = pinned((Path(__file__).parent.parent / "constraints.txt").read_text())
    try:
        holes = known_holes(packages)
    except (OSError, ValueError, KeyError) as error:
        print(f"audit: skipped, {SERVICE} gives no answer ({type(error).__name__})")
        return 0
    print(f"audit: {len(holes)} of {len(packages)} packages have known holes")
    for line in holes:
        print(f"  {line}")
    return int(bool(holes) and options.strict)


if __name__ == "__main__":
    sys.exit(main())
