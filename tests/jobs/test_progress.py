"""The bar counts the rows that models have finished."""

from __future__ import annotations

import asyncio
import dataclasses
import io
import re
import threading
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
import pyarrow as pa
import pytest
from distributed import Client, LocalCluster
from support import tiny
from support.clusters import cluster

import dask_embed as de
from dask_embed.jobs import write_expr
from dask_embed.jobs.expected import expected_rows
from dask_embed.jobs.progress import _Counts


def test_shows_all_rows_and_a_rate(minilm: str) -> None:
    # a repeated text counts each time, and a row without one is done, too
    frame = pd.DataFrame({"text": ["one", "two", "one", None, "three two one"]})
    shown = io.StringIO()
    with de.progress(total=5, description="embed", file=shown):
        dd.from_pandas(frame, npartitions=2).ml.embed("text", model=minilm).compute()
    last = shown.getvalue().replace("\n", "\r").split("\r")
    # tqdm writes seconds a row where that is more than one
    rate = re.compile(r"embed: 100%.* 5/5 .*(rows/s|s/ rows)")
    assert any(rate.search(line) for line in last)


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
        meter.count(rows=sum(text is not None for text in texts))
        return {self.output: pa.array([None if text is None else len(text) for text in texts])}, {}


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
        both = Lengths(output="other")(out)
        with de.progress(file=shown):
            both.compute()
    assert last_rows(shown) == "24/24"


TEXTS = pd.DataFrame({"id": range(12), "text": [f"text {row}" for row in range(11)] + [None]})


def _files(folder: Path, **options: Any) -> Any:
    """5 and 7 rows, in row groups of at most 4."""
    for number, rows in enumerate((TEXTS[:5], TEXTS[5:])):
        rows.to_parquet(folder / f"{number}.parquet", row_group_size=4)
    return de.read_parquet(folder, **options)


KNOWN: dict[str, tuple[Any, int]] = {
    "pandas": (lambda rows, folder: Lengths()(rows), 12),
    "one partition of it": (lambda rows, folder: Lengths()(rows).partitions[1:], 8),
    "after its length was asked for": (
        lambda rows, folder: Lengths()(rows.partitions[2:]) if len(rows) == 12 else None,
        4,
    ),
    "twice": (lambda rows, folder: Lengths(output="n")(Lengths()(rows)), 24),
    "one result of two": (lambda rows, folder: Lengths(output="n")(Lengths()(rows))[["n"]], 12),
    "put together": (lambda rows, folder: Lengths()(dd.concat([rows, rows])), 24),
    "assigned": (lambda rows, folder: Lengths()(rows.assign(b=rows.id + 1)[["text", "b"]]), 12),
    "filtered later": (lambda rows, folder: _long(Lengths()(rows)), 12),
    "in map_partitions": (lambda rows, folder: rows.map_partitions(Lengths()), 12),
    "files": (lambda rows, folder: Lengths()(_files(folder)), 12),
    "files in row groups": (
        lambda rows, folder: Lengths()(_files(folder, split_row_groups=True)),
        12,
    ),
    "the second file": (lambda rows, folder: Lengths()(_files(folder)).partitions[1:], 7),
}


def _long(frame: Any) -> Any:
    return frame[frame.length > 6]


@pytest.mark.parametrize("frame", KNOWN)
def test_a_frame_tells_how_many_rows_there_will_be(frame: str, tmp_path: Path) -> None:
    """What it tells is what is counted once all is done."""
    make, expected = KNOWN[frame]
    out = make(dd.from_pandas(TEXTS, npartitions=3), tmp_path)
    shown = io.StringIO()
    with de.progress(out, file=shown):
        out.compute(scheduler="sync")
    assert last_rows(shown) == f"{expected}/{expected}"


@pytest.mark.parametrize("frame", KNOWN)
def test_nobody_has_to_tell_how_many_rows_there_will_be(frame: str, tmp_path: Path) -> None:
    """The plans that are made within the block do; of a written one also what others map."""
    make, expected = KNOWN[frame]
    out = make(dd.from_pandas(TEXTS, npartitions=3), tmp_path)
    for compute in (out.compute, lambda: out.ml.to_parquet(tmp_path / "out", overwrite=True)):
        shown = io.StringIO()
        with dask.config.set(scheduler="sync"), de.progress(file=shown):
            compute()
        told = f"{expected}/{expected}"
        unmapped = frame == "in map_partitions" and compute == out.compute
        assert last_rows(shown) == (str(expected) if unmapped else told)


def test_rows_of_several_computations_are_added() -> None:
    rows, shown = dd.from_pandas(TEXTS, npartitions=3), io.StringIO()
    with dask.config.set(scheduler="sync"), de.progress(file=shown):
        dask.compute(Lengths()(rows), Lengths(output="n")(rows.partitions[1:]))
        Lengths()(rows.partitions[:1]).persist()
        de.explain(Lengths(output="only planned")(rows), file=io.StringIO())
    assert last_rows(shown) == "24/24"


def test_few_columns_of_many_are_read_in_fewer_partitions(tmp_path: Path) -> None:
    """Dask puts files together then, after it was told what is planned."""
    wide = TEXTS.assign(**{f"more{n}": "a long text " * 99 for n in range(9)})
    for number, part in enumerate((wide[:5], wide[5:])):
        part.to_parquet(tmp_path / f"{number}.parquet")
    shown = io.StringIO()
    with dask.config.set(scheduler="sync"), de.progress(file=shown):
        Lengths()(de.read_parquet(tmp_path))[["length"]].compute()
    assert last_rows(shown) == "12/12"


def test_of_a_job_that_is_gone_on_with_the_rest_is_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of partitions of 5, 4 and 3 rows two are done when it dies."""
    lengths, noted, note = [5, 4, 3], list[int](), write_expr.record
    parts = [TEXTS[:5], TEXTS[5:9], TEXTS[9:]]
    out = Lengths()(dd.concat([dd.from_pandas(part, npartitions=1) for part in parts]))

    def dies(run: Any, place: int, *rest: Any) -> None:
        noted.append(place)
        if len(noted) == 3:
            raise ArithmeticError("broken")
        note(run, place, *rest)

    with monkeypatch.context() as patched, dask.config.set(scheduler="sync"):
        patched.setattr(write_expr, "record", dies)
        with pytest.raises(ArithmeticError):
            out.ml.to_parquet(tmp_path / "out", resume=True)
    rest, shown = lengths[noted[-1]], io.StringIO()
    assert expected_rows(out.ml.to_parquet(tmp_path / "out", resume=True, compute=False)) == rest
    with dask.config.set(scheduler="sync"), de.progress(file=shown):
        out.ml.to_parquet(tmp_path / "out", resume=True)
    assert last_rows(shown) == f"{rest}/{rest}"


UNKNOWN: dict[str, Any] = {
    "filtered before": lambda rows, folder: Lengths()(rows[rows.id > 3]),
    "a filter that goes below": lambda rows, folder: (lambda out: out[out.id > 3])(Lengths()(rows)),
    "a filter of files": lambda rows, folder: Lengths()(_files(folder, filters=[("id", ">", 3)])),
    "a function": lambda rows, folder: Lengths()(rows.map_partitions(lambda part: part)),
    "a function that may run one": lambda rows, folder: Lengths()(rows).map_partitions(
        lambda part: Lengths(output="n")(part)
    ),
    "merged": lambda rows, folder: Lengths()(rows.merge(rows[["id"]], on="id")),
    "persisted": lambda rows, folder: Lengths()(rows.persist(scheduler="sync")),
    "no operator": lambda rows, folder: rows,
}


@pytest.mark.parametrize("frame", UNKNOWN)
def test_a_total_that_is_not_certain_is_none(frame: str, tmp_path: Path) -> None:
    out = UNKNOWN[frame](dd.from_pandas(TEXTS, npartitions=3), tmp_path)
    shown = io.StringIO()
    with de.progress(out, file=shown):
        pass
    assert last_rows(shown) == "0"


def test_operators_that_share_a_forward_pass_count_a_row_once(tmp_path: Path) -> None:
    bert = tiny.save("bert", tmp_path / "bert")
    out = dd.from_pandas(TEXTS, npartitions=2).ml.embed("text", model=bert)
    out = out.ml.embed("text", model=bert, pooling="cls", output="v")
    out = out.ml.tokenize("text", model=bert)
    for told in (out, None):
        shown = io.StringIO()
        with de.progress(told, file=shown):
            out.compute(scheduler="threads")
        assert last_rows(shown) == "24/24"


@pytest.mark.parametrize("total", [1.5, True, "all", pd.DataFrame({"text": ["a"]})], ids=str)
def test_other_totals_say_what_to_give(total: Any) -> None:
    with (
        pytest.raises(TypeError, match=r"total must be a number of rows, or the Dask DataFrame"),
        de.progress(total),
    ):
        pass


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
