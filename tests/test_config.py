"""Settings are there whatever is imported when, and values that cannot be used are told of."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from support import tiny

import dask_embed as de
from dask_embed import config

FIRST_USE_IN_A_BLOCK = """
import {first}, {second}
with dask.config.set({{"embed.cached-vectors-bytes": 0}}):
    from dask_embed import config
    print(config.get("cached-vectors-bytes"), config.get("keep-freed-bytes"))
print(config.get("cached-vectors-bytes"), config.get("tokens-per-batch")["cpu"])
print(dask.config.get("embed.cached-vectors-bytes", "none"))
"""
IMPORT_IN_A_BLOCK = """
import dask
with dask.config.set({"embed.cached-vectors-bytes": 0}):
    from dask_embed import config
    print(config.get("cached-vectors-bytes"), config.get("keep-freed-bytes"))
print(config.get("cached-vectors-bytes"), config.get("tokens-per-batch")["cpu"])
"""


def printed(code: str) -> list[str]:
    """Return the lines that a fresh interpreter prints, without settings of the environment."""
    run = "import os; os.environ.pop('DASK_EMBED__CACHED_VECTORS_BYTES', None)\n" + code
    command = [sys.executable, "-c", run]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()


@pytest.mark.parametrize(
    ("first", "second"), [("dask_embed", "dask.config"), ("dask.config", "dask_embed")]
)
def test_defaults_outlive_a_block_that_is_the_first_use(first: str, second: str) -> None:
    lines = printed(FIRST_USE_IN_A_BLOCK.format(first=first, second=second))
    assert lines == ["0 50331648", "67108864 1024", "67108864"]


def test_defaults_outlive_a_block_in_which_they_are_merged() -> None:
    assert printed(IMPORT_IN_A_BLOCK) == ["0 50331648", "67108864 1024"]


@pytest.mark.parametrize("first", ["dask_embed.config", "dask_embed.accessor", "dask.dataframe"])
def test_any_module_may_be_the_first(first: str) -> None:
    code = f"import {first}, dask_embed, dask.config; print(dask.config.get('embed'))"
    assert eval(printed(code)[0]) == config.DEFAULTS["embed"]


@pytest.mark.parametrize("name", ["keep-freed-bytes", "cached-vectors-bytes"])
@pytest.mark.parametrize(
    ("given", "parsed"),
    [("48MiB", 48 * 2**20), ("1.5 kB", 1500), ("7", 7), (0, 0), (1e3, 1000), (12, 12)],
)
def test_sizes(name: str, given: object, parsed: int) -> None:
    with dask.config.set({f"embed.{name}": given}):
        found = config.get(name)
    assert found == parsed
    assert isinstance(found, int)


SIZES = ("a number of bytes, at least 0, such as 50331648 or '48MiB'",)
BAD = [
    *[("keep-freed-bytes", value, SIZES) for value in (-1, "-3MB", "much", None, True, [5])],
    *[("cached-vectors-bytes", value, SIZES) for value in ("", "MiB", float("nan"), float("inf"))],
    ("tokens-per-batch", 512, ("map kinds of device (cpu, cuda) to positive integers",)),
    ("tokens-per-batch", {"cudaa": 5}, ("kinds of device cpu, cuda", "did you mean 'cuda'?")),
    *[
        ("tokens-per-batch.cpu", value, ("a positive integer",))
        for value in (0, -5, 2.5, True, None, "512")
    ],
]


@pytest.mark.parametrize(("name", "value", "says"), BAD, ids=str)
def test_values_that_cannot_be_used(name: str, value: object, says: tuple[str, ...]) -> None:
    """What was given and what is allowed, when an operator is applied and before any work."""
    frame = dd.from_pandas(pd.DataFrame({"text": ["a"]}), npartitions=1)
    with dask.config.set({f"embed.{name}": value}):
        for act in (config.check, lambda: frame.ml.embed(model="no such model")):
            with pytest.raises(ValueError, match=rf"^embed\.{name}") as raised:
                act()
            named = next(iter(value)) if isinstance(value, dict) else value
            for part in (*says, repr(named)):
                assert part in str(raised.value)


def test_one_kind_of_device_alone() -> None:
    """The others stay as they are."""
    with dask.config.set({"embed.tokens-per-batch": {"cpu": 7}}):
        assert config.get("tokens-per-batch") == {"cpu": 7, "cuda": 131072}


def test_sizes_in_words_give_the_same_vectors(tmp_path: Path) -> None:
    """Batches come to an end."""
    folder = str(tiny.save("bert", tmp_path / "bert"))
    frame = pd.DataFrame({"text": ["a", "some words", "a"] * 4})
    with dask.config.set({"embed.keep-freed-bytes": "48MiB", "embed.cached-vectors-bytes": "1MB"}):
        given = frame.ml.embed(model=folder, batch_size=1)
    de.unload()
    expected = frame.ml.embed(model=folder)
    np.testing.assert_allclose(
        de.to_array(given.embedding), de.to_array(expected.embedding), rtol=0, atol=1e-6
    )
    de.unload()
