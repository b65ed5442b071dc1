"""The bar counts the rows that models have finished."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import re
import threading
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
import pytest
from clusters import cluster
from distributed import Client, LocalCluster

import dask_embed as de
from dask_embed.jobs.progress import _Counts


def test_shows_all_rows_and_a_rate(minilm: str) -> None:
    # repeats and nulls: a repeated text counts each time, a null has no row to run
    frame = pd.DataFrame({"text": ["one", "two", "one", None, "three two one"]})
    shown = io.StringIO()
    with de.progress(total=4, description="embed", file=shown):
        dd.from_pandas(frame, npartitions=2).ml.embed("text", model=minilm).compute()
    last = shown.getvalue().replace("\n", "\r").split("\r")
    assert any("embed: 100%" in line and "4/4" in line and "rows/s" in line for line in last)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lengths(de.ColumnOperator):
    """Count characters, and rows as operators with a model do, in a worker without torch."""

    output: str = "length"

    input_columns = property(lambda self: ("text",))
    result_columns = property(lambda self: (self.output,))

    def types(self) -> dict[str, pa.DataType]:
        return {self.output: pa.int64()}

    def plan(self) -> list[str]:
        return ["lengths"]

    def provenance(self) -> dict[str, Any]:
        return {"operator": "Lengths"}

    def run(self, columns: list[Any], *, on_device: bool, meter: Any) -> Any:
        texts = columns[0].values
        meter.count(rows=len(texts))
        return {self.output: pa.array([len(text) for text in texts])}, {}


def last_rows(shown: io.StringIO) -> str:
    """The count of the bar's last line, such as ``4/4``."""
    last = re.split(r"[\r\n]+", shown.getvalue().strip())[-1]
    return re.findall(r"\d+/\d+|\d+(?= rows)", last)[0]


@pytest.mark.slow
def test_follows_workers() -> None:
    """Each operator's rows, in two processes; 6 rows that ran before the block do not count."""
    frame = pd.DataFrame({"text": [f"text {i}" for i in range(12)]})
    out = Lengths()(dd.from_pandas(frame, npartitions=6))
    shown = io.StringIO()
    with cluster(2, 1, processes=True) as client, dask.config.set(scheduler=client.get):
        out.partitions[:3].compute()
        with de.progress(total=24, file=shown):
            Lengths(output="other")(out).compute()
    assert last_rows(shown) == "24/24"


class Told:
    """A client whose workers say what they are told to, one answer after the other."""

    asynchronous, status = False, "running"

    def __init__(self, *answers: dict[str, Any]) -> None:
        self._answers = iter(answers)

    def run(self, function: Any, on_error: str) -> dict[str, Any]:
        assert on_error == "return"
        return next(self._answers)


def test_workers_that_come_and_go() -> None:
    """One is gone, one is new at the address of another, one did not answer at first."""
    a, b, c, d = (("host", number) for number in range(4))
    client = Told(
        {"tcp://a": (a, (100, 1000)), "tcp://b": (b, (0, 0)), "tcp://c": OSError("busy")},
        {"tcp://a": (a, (107, 1070)), "tcp://b": (b, (3, 30)), "tcp://c": (c, (50, 500))},
        {"tcp://a": (d, (2, 20)), "tcp://b": (b, (4, 40)), "tcp://c": (c, (51, 510))},
        {"tcp://a": (d, (2, 20)), "tcp://b": OSError("busy"), "tcp://c": (c, (51, 510))},
    )
    counts = _Counts(client)
    assert counts.now() == (7 + 3, 70 + 30)
    assert counts.now() == (7 + 4 + 1 + 2, 70 + 40 + 10 + 20)
    assert counts.now() == (7 + 4 + 1 + 2, 70 + 40 + 10 + 20)


def test_says_what_to_use_where_nobody_can_be_asked() -> None:
    with (
        dask.config.set(scheduler="processes"),
        pytest.raises(ValueError, match=r"'processes'.*use distributed.Client\(\)"),
        de.progress(total=1),
    ):
        pass


def test_an_asynchronous_client_is_refused_at_once() -> None:
    async def enter() -> None:
        async with (
            LocalCluster(
                n_workers=0, processes=False, dashboard_address="127.0.0.1:0", asynchronous=True
            ) as local,
            Client(local, asynchronous=True) as client,
        ):
            with de.progress(total=1, client=client):
                pass

    with pytest.raises(ValueError, match="progress waits for the workers, so it needs a synchr"):
        asyncio.run(enter())


def test_stops_watching_after_an_error() -> None:
    with pytest.raises(RuntimeError, match="lost"), de.progress(total=1, file=io.StringIO()):
        raise RuntimeError("lost")
    assert not [t for t in threading.enumerate() if t.name == "dask-embed-progress"]
