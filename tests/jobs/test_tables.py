"""Lance and Delta tables: all rows of a run in one commit, or none, and never twice."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import itertools
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import lance
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from deltalake import DeltaTable
from distributed import WorkerPlugin
from support.clusters import cluster
from support.counting import ROWS, Length, LengthVector, rows_of, table

import dask_embed as de
from dask_embed.jobs.table import Table

KINDS = ("lance", "delta")
MARKER = "m4rk3r"


@dataclasses.dataclass(frozen=True, kw_only=True)
class OtherVector(LengthVector):
    """The same values, made by what is another operator."""

    def provenance(self) -> dict[str, Any]:
        return {"operator": "OtherVector"}


def _rows(start: int = 0, rows: int = 40) -> pd.DataFrame:
    made = table(start + rows).iloc[start:]
    made.loc[made.index[3], "text"] = None
    return made.assign(day=pd.Timestamp("2026-01-01"), flag=made.num > 20)


def _frame(parts: int = 5, start: int = 0, operator: Any = LengthVector) -> dd.DataFrame:
    return operator()(dd.from_pandas(_rows(start), npartitions=parts))


def _write(kind: str, frame: Any, uri: Any, **options: Any) -> Any:
    return getattr(frame.ml, f"to_{kind}")(uri, **options)


def _read(kind: str, uri: Any) -> pd.DataFrame:
    if kind == "lance":
        return lance.dataset(str(uri)).to_table().to_pandas()
    return DeltaTable(str(uri)).to_pandas()


def _ids(kind: str, uri: Any) -> list[int]:
    return sorted(_read(kind, uri)["id"])


@pytest.mark.parametrize("kind", KINDS)
def test_readers_get_the_rows(kind: str, tmp_path: Path) -> None:
    """With the index, nulls, and partitions that have no rows."""
    frame = _frame()
    frame = frame[(frame.id < 8) | (frame.id > 23)]
    assert _write(kind, frame, tmp_path / "out") is None
    found = _read(kind, tmp_path / "out").sort_values("id", ignore_index=True)
    rows = _rows()
    rows = rows[(rows.id < 8) | (rows.id > 23)].reset_index()
    assert list(found.columns) == [*rows.columns, "vector"]
    for name in rows.columns:
        assert found[name].isna().tolist() == rows[name].isna().tolist()
        assert found[name].dropna().tolist() == rows[name].dropna().tolist()
    for vector, text in zip(found["vector"], rows["text"], strict=True):
        if isinstance(text, str):
            assert list(vector) == [len(text), 2 * len(text)]
        else:
            assert vector is None


def test_vectors_have_the_type_that_the_format_has(tmp_path: Path) -> None:
    for kind in KINDS:
        _write(kind, _frame(), tmp_path / kind)
    assert lance.dataset(str(tmp_path / "lance")).schema.field("vector").type == pa.list_(
        pa.float32(), 2
    )
    field = pa.schema(DeltaTable(str(tmp_path / "delta")).schema().to_arrow()).field("vector")
    assert field.type.equals(pa.list_(pa.field("element", pa.float32())))
    assert json.loads(field.metadata[b"dask_embed"])["column"] == {"operator": "Length"}


@pytest.mark.parametrize("write_index", [False, True, None])
@pytest.mark.parametrize("kind", KINDS)
def test_the_index_is_a_column_if_it_is_wanted(
    kind: str, write_index: bool | None, tmp_path: Path
) -> None:
    _write(kind, _frame(), tmp_path / "out", write_index=write_index)
    assert ("key" in _read(kind, tmp_path / "out")) == (write_index is not False)


@pytest.mark.parametrize("kind", KINDS)
def test_a_frame_without_rows_makes_a_table_without_rows(kind: str, tmp_path: Path) -> None:
    frame = _frame()
    _write(kind, frame[frame.id < 0], tmp_path / "out")
    assert len(_read(kind, tmp_path / "out")) == 0
    _write(kind, frame, tmp_path / "out", mode="append")
    assert _ids(kind, tmp_path / "out") == [*range(40)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_is_repeated_adds_nothing_and_runs_nothing(kind: str, tmp_path: Path) -> None:
    uri = tmp_path / "out"
    assert rows_of(lambda: _write(kind, _frame(), uri)) == 40
    for mode in ("create", "append", "overwrite"):
        assert rows_of(lambda mode=mode: _write(kind, _frame(), uri, mode=mode)) == 0
    late = _write(kind, _frame(), uri, compute=False)
    assert rows_of(late.compute) == 0
    _write(kind, _frame(start=40), uri, mode="append")
    assert rows_of(lambda: _write(kind, _frame(), uri, mode="append")) == 0
    assert _ids(kind, uri) == [*range(40), *range(40, 80)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_is_known_by_the_id_that_is_given(kind: str, tmp_path: Path) -> None:
    uri = tmp_path / "out"
    _write(kind, _frame(), uri, run_id="night 1")
    _write(kind, _frame(start=40), uri, run_id="night 1", mode="append")
    assert _ids(kind, uri) == [*range(40)]
    _write(kind, _frame(), uri, run_id="night 2", mode="append")
    assert _ids(kind, uri) == sorted([*range(40)] * 2)


@pytest.mark.parametrize("kind", KINDS)
def test_what_was_replaced_or_rolled_back_may_come_again(kind: str, tmp_path: Path) -> None:
    uri = tmp_path / "out"
    _write(kind, _frame(), uri)
    _write(kind, _frame(start=40), uri, mode="overwrite")
    assert _ids(kind, uri) == [*range(40, 80)]
    assert rows_of(lambda: _write(kind, _frame(), uri, mode="overwrite")) == 40
    assert _ids(kind, uri) == [*range(40)]
    before = lance.dataset(str(uri)).version if kind == "lance" else DeltaTable(str(uri)).version()
    _write(kind, _frame(start=40), uri, mode="append")
    if kind == "lance":
        lance.dataset(str(uri), version=before).restore()
    else:
        DeltaTable(str(uri)).restore(before)
    assert _ids(kind, uri) == [*range(40)]
    assert rows_of(lambda: _write(kind, _frame(), uri, mode="append")) == 0
    assert rows_of(lambda: _write(kind, _frame(start=40), uri, mode="append")) == 40
    assert _ids(kind, uri) == [*range(80)]
    assert rows_of(lambda: _write(kind, _frame(start=40), uri, mode="overwrite")) == 40
    assert _ids(kind, uri) == [*range(40, 80)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_table_that_is_there_is_not_touched_by_mistake(kind: str, tmp_path: Path) -> None:
    uri = tmp_path / "out"
    _write(kind, _frame(), uri)
    others = {
        "does not hold the rows of this job": (FileExistsError, _frame(start=40), "create"),
        "column 'num' is int64 there, and missing here": (
            ValueError,
            _frame(start=40).drop(columns=["num"]),
            "append",
        ),
        "column 'num' is int64 there, and double here": (
            ValueError,
            _frame(start=40).assign(num=1.5),
            "append",
        ),
        "would mix values of different origin in column 'vector'": (
            ValueError,
            _frame(start=40, operator=OtherVector),
            "append",
        ),
    }
    for told, (error, frame, mode) in others.items():
        ROWS.clear()
        with pytest.raises(error, match=told):
            _write(kind, frame, uri, mode=mode)
        assert not ROWS
    assert _ids(kind, uri) == [*range(40)]
    frame = _frame(start=40)
    _write(kind, frame[[*reversed(frame.columns)]], uri, mode="append")
    assert _ids(kind, uri) == [*range(80)]


@pytest.mark.parametrize("kind", KINDS)
def test_tables_of_others_are_added_to_where_they_say_nothing_else(
    kind: str, tmp_path: Path
) -> None:
    there = pa.table({"id": [90], "text": pa.array(["x"], pa.string())})
    if kind == "lance":
        lance.write_dataset(there, str(tmp_path / "out"))
    else:
        from deltalake import write_deltalake

        write_deltalake(str(tmp_path / "out"), there)
    frame = dd.from_pandas(_rows().reset_index(drop=True), npartitions=2)
    _write(kind, frame[["text", "id"]], tmp_path / "out", mode="append")
    assert _ids(kind, tmp_path / "out") == [*range(40), 90]


class _Meeting:
    """Lets all jobs look at a table before the first of them commits."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, kind: str, jobs: int) -> None:
        from dask_embed.jobs import delta
        from dask_embed.jobs import lance as ours

        self._barrier = threading.Barrier(jobs)
        self._met = threading.local()
        owner: Any = ours.LanceTable if kind == "lance" else delta.DeltaTable
        add = owner.add

        def meets(table: Table, found: Any, parts: Any) -> None:
            if not getattr(self._met, "done", False):
                self._met.done = True
                self._barrier.wait(200)
            add(table, found, parts)

        monkeypatch.setattr(owner, "add", meets)


def _at_once(jobs: list[Any]) -> list[BaseException | None]:
    """Compute lazy writes in threads of their own, and return what became of each."""
    ended: list[BaseException | None] = [None] * len(jobs)

    def run(number: int) -> None:
        try:
            jobs[number].compute(scheduler="sync")
        except BaseException as error:
            ended[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(250)
    return ended


@pytest.mark.parametrize(
    ("mode", "there"),
    [
        ("create", "nothing"),
        *itertools.product(["append", "overwrite"], ["no rows", "rows"]),
    ],
)
@pytest.mark.parametrize("kind", KINDS)
def test_of_starts_of_one_job_at_once_one_adds_the_rows(
    kind: str, mode: str, there: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = _frame(start=40)
    if there != "nothing":
        _write(kind, before if there == "rows" else before[before.id < 0], tmp_path / "out")
    jobs = [_write(kind, _frame(2), tmp_path / "out", mode=mode, compute=False) for _ in range(3)]
    _Meeting(monkeypatch, kind, len(jobs))
    assert _at_once(jobs) == [None] * 3
    kept = range(40, 80) if there == "rows" and mode == "append" else ()
    assert _ids(kind, tmp_path / "out") == [*range(40), *kept]


@pytest.mark.parametrize("mode", ["create", "append"])
@pytest.mark.parametrize("kind", KINDS)
def test_two_jobs_at_once(
    kind: str, mode: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both add their rows, or one of them finds the table there."""
    if mode == "append":
        _write(kind, _frame(start=80), tmp_path / "out")
    jobs = [
        _write(kind, _frame(2, start), tmp_path / "out", mode=mode, compute=False)
        for start in (0, 40)
    ]
    _Meeting(monkeypatch, kind, len(jobs))
    ended = _at_once(jobs)
    found = _ids(kind, tmp_path / "out")
    if mode == "append":
        assert ended == [None, None]
        assert found == [*range(120)]
    else:
        lost = [error for error in ended if error is not None]
        assert [type(error) for error in lost] == [FileExistsError]
        assert found in ([*range(40)], [*range(40, 80)])


@pytest.mark.parametrize("kind", KINDS)
def test_what_another_job_did_meanwhile_is_looked_at_again(kind: str, tmp_path: Path) -> None:
    """It replaced the table by one with other columns: nothing may be added to that."""
    uri = tmp_path / "out"
    _write(kind, _frame(), uri)
    job = _write(kind, _frame(start=40), uri, mode="append", compute=False)
    _write(kind, _frame(start=80, operator=OtherVector), uri, mode="overwrite")
    with pytest.raises(ValueError, match="would mix values of different origin"):
        job.compute()
    assert _ids(kind, uri) == [*range(80, 120)]


@pytest.mark.parametrize("kind", KINDS)
def test_a_job_that_died_leaves_no_rows_and_its_files_can_be_cleaned_up(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = tmp_path / "out"
    _write(kind, _frame(), uri)
    whole = sum(len(files) for _, _, files in os.walk(uri))

    def dies(table: Table, parts: Any) -> None:
        raise RuntimeError("as if it were killed")

    with monkeypatch.context() as dying:
        dying.setattr(Table, "commit", dies)
        with pytest.raises(RuntimeError, match="killed"):
            _write(kind, _frame(start=40), uri, mode="append")
    assert _ids(kind, uri) == [*range(40)]
    left = sum(len(files) for _, _, files in os.walk(uri))
    assert left > whole
    if kind == "lance":
        lance.dataset(str(uri)).cleanup_old_versions(delete_unverified=True)
    else:
        DeltaTable(str(uri)).vacuum(
            retention_hours=0, enforce_retention_duration=False, dry_run=False, full=True
        )
    names = [name for _, _, files in os.walk(uri) for name in files]
    assert sum(name.endswith((".lance", ".parquet")) for name in names) == 5
    assert _ids(kind, uri) == [*range(40)]


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_failed_are_warned_of(kind: str, tmp_path: Path) -> None:
    rows = pd.DataFrame({"text": ["a", 5, "ccc", None]}, dtype=object)
    with dask.config.set({"dataframe.convert-string": False}):
        frame = Length(on_error="null")(dd.from_pandas(rows, npartitions=2)).drop(columns=["text"])
        with pytest.warns(UserWarning, match="1 of 4 rows that were written to"):
            _write(kind, frame, tmp_path / "out")
    assert _read(kind, tmp_path / "out")["length"].sum() == 4


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_a_table_is_told_before_anything_runs(kind: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("")
    frame, ok = _frame(), tmp_path / "new"
    spans = frame.assign(gap=frame.day - frame.day)
    wrong: list[tuple[Any, Any, dict[str, Any], type[Exception], str]] = [
        (frame, 5, {}, TypeError, "uri must be the path or URL of a table, got 5"),
        (frame, "", {}, ValueError, "uri must name one table"),
        (frame, "a*b", {}, ValueError, "uri must name one table"),
        (frame, "nosuch://bucket/x", {}, ValueError, "begins with one of s3://"),
        (frame, "memory://x", {}, ValueError, "begins with one of s3://"),
        (frame, "s3:///x", {}, ValueError, "a URL with a bucket"),
        (frame, f"s3://user:{MARKER}@b/x", {}, ValueError, "must not hold a user and password"),
        (frame, tmp_path / "file", {}, NotADirectoryError, "is a file"),
        (frame, tmp_path / "file" / "below", {}, NotADirectoryError, "is a file"),
        (frame, tmp_path / "full", {}, FileExistsError, "holds other files .'notes.txt'."),
        (frame, ok, {"mode": "add"}, ValueError, "mode must be one of"),
        (frame, ok, {"run_id": 5}, TypeError, "run_id must be a text"),
        (frame, ok, {"run_id": " "}, ValueError, "run_id must have 1 to 200 characters"),
        (frame, ok, {"run_id": "hf_" + "a" * 34}, ValueError, "run_id must not hold"),
        (frame, ok, {"write_index": "yes"}, TypeError, "write_index must be"),
        (frame.reset_index(), ok, {"write_index": True}, ValueError, "needs a name for the column"),
        (frame.rename_axis("id"), ok, {}, ValueError, "column 'id' is there twice"),
        (frame.rename(columns={"id": 5}), ok, {}, TypeError, "must have a text as its name, got 5"),
        (frame, ok, {"compute": 1}, TypeError, "compute must be"),
        (frame, ok, {"storage_options": MARKER}, TypeError, "must be a dictionary, got one str"),
        (frame, ok, {"storage_options": {"a": {}}}, TypeError, "got one dict under 'a'"),
    ]
    if kind == "delta":
        wrong += [
            (
                spans,
                ok,
                {},
                TypeError,
                r"column 'gap' is duration\[us\], which Delta tables do not",
            ),
            (frame.astype({"num": "uint8"}), ok, {}, TypeError, "Delta's integers have signs"),
            (frame, ok, {"partition_on": "nosuch"}, ValueError, "partition_on names the column"),
            (frame, ok, {"partition_on": "vector"}, TypeError, "'vector' is list"),
        ]
    ROWS.clear()
    for bad, uri, options, error, told in wrong:
        with pytest.raises(error, match=told) as raised:
            _write(kind, bad, uri, **options)
        assert MARKER not in "".join(traceback.format_exception(raised.value))
        assert "\n" not in str(raised.value)
    assert not ROWS
    assert not ok.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_pandas_frame_has_no_such_method(kind: str) -> None:
    with pytest.raises(AttributeError, match="give it a Dask DataFrame"):
        getattr(_rows().ml, f"to_{kind}")


@pytest.mark.parametrize("kind", KINDS)
def test_the_extra_is_named_where_it_is_missing(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = {"lance": "lance", "delta": "deltalake"}[kind]
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=rf"pip install 'dask-embed\[{kind}\]'"):
        _write(kind, _frame(), tmp_path / "out")


@pytest.mark.parametrize("kind", KINDS)
def test_what_opens_a_store_is_shown_nowhere(kind: str, tmp_path: Path) -> None:
    options = {"aws_secret_access_key": MARKER}
    late = _write(kind, _frame(), tmp_path / "out", storage_options=options, compute=False)
    plan = late.expr.lower_completely()
    with contextlib.redirect_stdout(io.StringIO()) as out:
        late.expr.pprint()
        plan.pprint()
    shows = [repr(late), str(late), repr(plan), str(list(plan.__dask_graph__())), out.getvalue()]
    late.compute()
    assert MARKER not in "".join(shows)
    for folder, _, files in os.walk(tmp_path):
        for name in files:
            assert MARKER.encode() not in (Path(folder) / name).read_bytes()


def test_rows_of_a_delta_table_are_partitioned(tmp_path: Path) -> None:
    uri = tmp_path / "out"
    rows = _rows().assign(lang=lambda each: each.lang.mask(each.lang == "it"))
    rows["lang"] = rows["lang"].mask(rows["lang"] == "fr", "a/b = ä%")
    frame = LengthVector()(dd.from_pandas(rows, npartitions=3))
    frame.ml.to_delta(uri, partition_on=["lang", "flag"])
    found = DeltaTable(str(uri))
    assert found.metadata().partition_columns == ["lang", "flag"]
    for (lang, flag), part in rows.groupby(["lang", "flag"], dropna=False):
        wanted = [("flag", "=", bool(flag))]
        read = found.to_pandas(filters=[wanted])
        same = read["lang"].isna() if pd.isna(lang) else read["lang"] == lang
        assert sorted(read[same]["id"]) == sorted(part["id"])
    more = LengthVector()(dd.from_pandas(rows.assign(id=rows.id + 40), npartitions=2))
    with pytest.raises(ValueError, match=r"partition_on must be that of .* got \['lang'\]"):
        more.ml.to_delta(uri, partition_on="lang", mode="append")
    more.ml.to_delta(uri, mode="append")
    assert _ids("delta", uri) == [*range(80)]
    empty = LengthVector()(dd.from_pandas(rows.assign(lang=""), npartitions=2))
    with pytest.raises(ValueError, match="an empty text, which Delta reads as null"):
        empty.ml.to_delta(uri, mode="append")
    assert _ids("delta", uri) == [*range(80)]


def test_lance_finds_the_nearest_vectors(tmp_path: Path) -> None:
    """With the index of before, which rows that are added do not take away."""
    rows = pd.DataFrame({"id": range(600), "text": [f"{'x' * (n % 300)}" for n in range(600)]})
    frame = LengthVector()(dd.from_pandas(rows, npartitions=3))
    frame[frame.id < 500].ml.to_lance(tmp_path / "out")
    lance.dataset(str(tmp_path / "out")).create_index("vector", "IVF_FLAT", num_partitions=2)
    frame[frame.id >= 500].ml.to_lance(tmp_path / "out", mode="append")
    found = lance.dataset(str(tmp_path / "out"))
    (index,) = found.describe_indices()
    assert index.num_rows_indexed == 500
    query = {"column": "vector", "q": np.float32([250.1, 500.2]), "k": 1, "nprobes": 2}
    (nearest,) = found.to_table(nearest=query)["id"].to_pylist()
    assert nearest % 300 == 250


@pytest.mark.parametrize("kind", KINDS)
def test_numbers_of_a_job_are_known_before_it_ends(kind: str, tmp_path: Path) -> None:
    from dask_embed.jobs.expected import expected_rows

    job = _write(kind, _frame(), tmp_path / "out", compute=False)
    assert expected_rows(job) == 40
    with contextlib.redirect_stdout(io.StringIO()), de.progress(total=40):
        job.compute()


def _dies_once(part: pd.DataFrame, flag: str) -> pd.DataFrame:
    """Kill the process that comes first to one of the partitions."""
    if (part.id == 20).any():
        with contextlib.suppress(FileExistsError):
            Path(flag).touch(exist_ok=False)
            os.kill(os.getpid(), signal.SIGKILL)
    return part


@pytest.mark.slow
def test_workers_that_are_killed_lose_and_double_nothing(tmp_path: Path) -> None:
    """In the middle, and after the commit, before anybody knows of it."""
    with cluster(2, 1, processes=True) as client:
        for kind in KINDS:
            frame = _frame(8)
            dying = frame.map_partitions(
                _dies_once, str(tmp_path / f"{kind}-dead"), meta=frame._meta
            )
            _write(kind, dying, tmp_path / kind)
            assert (tmp_path / f"{kind}-dead").exists()
            assert _ids(kind, tmp_path / kind) == [*range(40)]
            client.register_plugin(DyingCommit(kind, str(tmp_path / f"{kind}-committed")))
            _write(kind, _frame(8, 40), tmp_path / kind, mode="append")
            assert (tmp_path / f"{kind}-committed").exists()
            assert _ids(kind, tmp_path / kind) == [*range(80)]


class DyingCommit(WorkerPlugin):
    """Kills the first worker that has made a commit."""

    def __init__(self, kind: str, flag: str) -> None:
        self.name, self.kind, self.flag = f"dying-{kind}", kind, flag

    def setup(self, worker: Any) -> None:
        from dask_embed.jobs import delta
        from dask_embed.jobs import lance as ours

        owner: Any = ours.LanceTable if self.kind == "lance" else delta.DeltaTable
        add, flag = owner.add, self.flag

        def dies(table: Table, found: Any, parts: Any) -> None:
            add(table, found, parts)
            with contextlib.suppress(FileExistsError):
                Path(flag).touch(exist_ok=False)
                os.kill(os.getpid(), signal.SIGKILL)

        owner.add = dies


def _unaligned(start: int) -> pd.DataFrame:
    """Rows whose numbers begin one byte behind where they should, as they may in a message."""
    vectors = np.arange(start, start + 8, dtype="float32")
    values = pa.Array.from_buffers(
        pa.float32(), 8, [None, pa.py_buffer(b"x" + vectors.tobytes()).slice(1)]
    )
    assert values.buffers()[1].address % 4
    array = pa.FixedSizeListArray.from_arrays(values, 2)
    return pd.DataFrame({"vector": pd.arrays.ArrowExtensionArray(array)})


@pytest.mark.parametrize("kind", KINDS)
def test_rows_that_begin_anywhere_in_memory(kind: str, tmp_path: Path) -> None:
    frame = dd.from_map(_unaligned, [0, 8], meta=_unaligned(0).iloc[:0])
    _write(kind, frame, tmp_path / "out")
    found = sorted(value for row in _read(kind, tmp_path / "out")["vector"] for value in row)
    assert found == [float(value) for value in range(16)]


class PanicException(BaseException):
    """As pyo3 gives it."""


@pytest.mark.parametrize("kind", KINDS)
def test_a_panic_of_a_library_ends_the_job(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Were it no `Exception`, a client of distributed would wait for ever."""

    def panics(self: Table, rows: pa.Table, place: int) -> list[Any]:
        raise PanicException("called `unwrap()` on an `Err`")

    for each in ("lance.LanceTable", "delta.DeltaTable"):
        monkeypatch.setattr(f"dask_embed.jobs.{each}.write", panics)
    with pytest.raises(RuntimeError, match=r"partition 0 cannot be written to .*out': PanicExc"):
        _write(kind, _frame(1), tmp_path / "out")
