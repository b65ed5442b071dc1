"""Shared fixtures: real texts, the bundled model, and a count of rows that a model saw."""

from __future__ import annotations

import base64
import gc
import importlib.util
import os
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any

# Every test computes anew what an earlier one computed, here and in the workers that it starts.
os.environ["DASK_EMBED__CACHED_VECTORS_BYTES"] = "0"

import dask
import pandas as pd
import pytest

import dask_embed as de
from dask_embed.accessor import FrameAccessor
from dask_embed.runtime import stats as runtime_stats
from dask_embed.runtime.stats import totals


@pytest.fixture(scope="session")
def minilm() -> str:
    return de.datasets.minilm()


@pytest.fixture(scope="session")
def docstrings() -> pd.DataFrame:
    """1,000 docstrings of installed packages, from all over them."""
    frame = de.datasets.docstrings(["dask", "pandas", "torch"], rows=1000).compute(scheduler="sync")
    return frame.reset_index(drop=True)


@pytest.fixture(autouse=True)
def _synchronous() -> Iterator[None]:
    """Run Dask in this thread unless a test chooses otherwise."""
    with dask.config.set(scheduler="synchronous"):
        yield


# Tests make more objects than garbage: one collection in a hundred of those that Python makes.
gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="module", autouse=True)
def _quick_collections() -> None:
    """Let the collections of garbage that the package asks for pass over all that was imported."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _no_methods_of_others() -> Iterator[None]:
    """Take operators that a test registers off ``.ml``, whose methods other tests list."""
    before = {*vars(FrameAccessor)}
    yield
    for name in {*vars(FrameAccessor)} - before:
        delattr(FrameAccessor, name)


@pytest.fixture(autouse=True)
def _room_for_records() -> None:
    """Let a test count what it adds to the records, of which the latest 10,000 are kept."""
    if len(runtime_stats._records) > 5_000:
        runtime_stats._records.clear()


@pytest.fixture(scope="module")
def one_torch_thread() -> Iterator[None]:
    """Let torch use one thread: so small a product takes longer to share out than to compute."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
    de.unload()


@pytest.fixture
def rows_through_model() -> Callable[[Callable[[], Any]], int]:
    """Return a function that calls its argument and says how many rows a model got."""

    def count(work: Callable[[], Any]) -> int:
        before = totals()["rows"]
        work()
        return totals()["rows"] - before

    return count


# What the contract is parametrized by, of operators that are of one class and differ in settings.
_IN_TURN = {"operator", "kind"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what this machine has no hardware for, and of products what pairs stand for."""
    _leave_out_what_needs_more(config, items)
    _let_operators_take_turns(items)


def _let_operators_take_turns(items: list[pytest.Item]) -> None:
    """Try each kind of texts or labels on one of a class's operators; on all in the slow lane."""
    places = [(item, item.callspec.indices) for item in items if hasattr(item, "callspec")]
    both = [(item, at["operator"], at["kind"]) for item, at in places if at.keys() >= _IN_TURN]
    operators: dict[Any, int] = {}
    for item, operator, _ in both:
        operators[item.parent] = max(operators.get(item.parent, 0), operator + 1)
    for item, operator, kind in both:
        if (operator + kind) % operators[item.parent]:
            item.add_marker(pytest.mark.slow)


def _leave_out_what_needs_more(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Of what needs hardware there are thousands that would each be set up."""
    import torch

    gpu = torch.cuda.is_available()
    present = {"cuda": gpu, "cudf": gpu and importlib.util.find_spec("cudf") is not None}
    absent = [need for need, there in present.items() if not there]
    left_out = [item for item in items if any(map(item.get_closest_marker, absent))]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if not any(map(item.get_closest_marker, absent))]


_TOKENS = """
import base64, pickle, sys
from dask.base import tokenize
for line in sys.stdin:
    print(*map(tokenize, pickle.loads(base64.b64decode(line))), flush=True)
"""


@pytest.fixture(scope="session")
def tokens_elsewhere() -> Iterator[Callable[[Any], list[str]]]:
    """Return a function that gives the Dask tokens of objects in another process, one for all."""
    places = os.pathsep.join(filter(None, sys.path))  # an operator's class may come from a test
    environment = {**os.environ, "PYTHONHASHSEED": "77", "PYTHONPATH": places}
    with subprocess.Popen(
        [sys.executable, "-c", _TOKENS],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:

        def tokens(objects: Any) -> list[str]:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(base64.b64encode(pickle.dumps(objects)).decode() + "\n")
            process.stdin.flush()
            return process.stdout.readline().split()

        yield tokens
        process.kill()
