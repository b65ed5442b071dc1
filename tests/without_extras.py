"""A pytest plugin: packages that only the extras of setup.cfg bring cannot be imported.

Run with ``PYTHONPATH=tests pytest -p without_extras`` in an environment with all extras. What the
package itself needs, with all that those need, and pytest with its own, can be imported.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from importlib.machinery import ModuleSpec, PathFinder
from typing import Any

PACKAGE = "dask-embed"
TOOLS = ("pytest", "pytest-timeout", "pytest-xdist", "hypothesis", "cloudpickle")


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def needed(roots: tuple[str, ...], extras: tuple[str, ...] = ()) -> set[str]:
    """Return the distributions that some need, and what those need in turn; no extras of theirs."""
    found: set[str] = set()
    waiting = [normal(name) for name in roots]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        found.add(name)
        try:
            requirements = importlib.metadata.requires(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform
        for requirement in requirements:
            wanted, _, marker = requirement.partition(";")
            if "extra" in marker and not any(repr(extra)[1:-1] in marker for extra in extras):
                continue
            match = re.match(r"[\w.-]+", wanted.strip())
            assert match is not None, requirement
            waiting.append(normal(match.group()))
            if "[dataframe]" in wanted:
                waiting += ["pandas", "pyarrow"]
    return found


ALLOWED = needed((PACKAGE, *TOOLS))
BLOCKED = {
    module
    for module, owners in importlib.metadata.packages_distributions().items()
    if ALLOWED.isdisjoint(map(normal, owners)) and module not in sys.stdlib_module_names
}


class WithoutExtras(PathFinder):
    """Finds modules and distributions as if those of the extras were not installed."""

    @classmethod
    def find_spec(cls, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        if fullname.partition(".")[0] in BLOCKED:
            return None
        return super().find_spec(fullname, path, target)

    @classmethod
    def find_distributions(cls, *args: Any, **options: Any) -> Any:
        found = super().find_distributions(*args, **options)
        return [each for each in found if normal(each.metadata["Name"]) in ALLOWED]


sys.meta_path[sys.meta_path.index(PathFinder)] = WithoutExtras
# the premises: else nothing would be tried, or the wrong thing
assert not BLOCKED & set(sys.modules), sorted(BLOCKED & set(sys.modules))
assert "torch" not in BLOCKED
assert {"peft", "sklearn", "torchao"} <= BLOCKED
