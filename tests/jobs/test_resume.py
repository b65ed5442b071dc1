"""A job that died is gone on with: each row once, and nothing that was done runs again."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ClassVar

import dask
import dask.dataframe as dd
import fsspec
import pandas as pd
import pytest
from fsspec.implementations.local import LocalFileSystem
from support.counting import ROWS, Length, LengthVector

import dask_embed as de
from dask_embed.jobs import manifest
from dask_embed.jobs.commit import Aside
from dask_embed.jobs.job import Job

MARK = "_dask_embed_unfinished"


class Failing:
    """A function of a partition that fails after so many while it is told to; it keeps the ids."""

    def __init__(self) -> None:
        self.left: int | None = None
        self.seen: list[int] = []
        self._token = uuid.uuid4().hex

    def __call__(self, rows: pd.DataFrame) -> pd.DataFrame:
        if self.left is not None:
            if not self.left:
                raise ArithmeticError("broken")
            self.left -= 1
        self.seen += rows["id"].tolist()
        return rows

    def __dask_tokenize__(self) -> str:
        return self._token


def _same(rows: pd.DataFrame) -> pd.DataFrame:
    return rows


def _rows(start: int, stop: int) -> pd.DataFrame:
    rows = pd.DataFrame({"id": range(start, stop)})
    return rows.assign(text=[f"text {n % 7}" for n in rows.id], odd=rows.id % 2)


def _frame(start: int, stop: int, parts: int, step: Failing | None = None) -> dd.DataFrame:
    frame = dd.from_pandas(_rows(start, stop), npartitions=parts)
    return frame if step is None else frame.map_partitions(step, meta=frame._meta)


def _read(folder: str) -> pd.DataFrame:
    return de.read_parquet(folder).compute().sort_values("id").reset_index(drop=True)


def _names(folder: str) -> list[str]:
    fs, path = fsspec.core.url_to_fs(folder)
    fs.invalidate_cache()
    return sorted(name[len(path) + 1 :] for name in fs.find(path)) if fs.exists(path) else []


def _dies(
    frame: dd.DataFrame, step: Failing, folder: Any, after: int = 5, **options: Any
) -> set[int]:
    """Write until so many partitions are done, and return the ids of their rows."""
    step.left = after
    with pytest.raises(ArithmeticError):
        frame.ml.to_parquet(folder, resume=True, **options)
    step.left = None
    done = set(step.seen)
    step.seen.clear()
    return done


# ------------------------------------------------------------------------------- what is missing
@pytest.mark.parametrize(
    "options",
    [{}, {"partition_on": ["odd"]}, {"write_index": True}, {"compute": False}, {"schema": None}],
    ids=str,
)
def test_only_what_is_missing_is_computed(folder: str, options: dict[str, Any]) -> None:
    step = Failing()
    frame = _frame(0, 40, 8, step)
    compute = options.pop("compute", True)
    done = _dies(frame, step, folder, **options)
    assert len(done) == 25
    with pytest.raises(OSError, match=r"is not whole: .* start it again with resume=True"):
        de.read_parquet(folder)
    written = frame.ml.to_parquet(folder, resume=True, compute=compute, **options)
    if not compute:
        assert step.seen == []
        written.compute()
    assert sorted(step.seen) == sorted({*range(40)} - done)
    assert _read(folder)["id"].tolist() == [*range(40)]
    assert all(name.endswith(".parquet") for name in _names(folder))
    before = _names(folder)
    step.seen.clear()
    frame.ml.to_parquet(folder, resume=True, **options)
    assert step.seen == []
    assert _names(folder) == before


def test_files_are_those_of_an_unbroken_job(folder: str, tmp_path: Path) -> None:
    step = Failing()
    frame = _frame(0, 40, 8, step)
    _dies(frame, step, folder, 2)
    _dies(frame, step, folder, 3)
    frame.ml.to_parquet(folder, resume=True)
    frame.ml.to_parquet(tmp_path / "whole", resume=True)
    assert _names(folder) == _names(str(tmp_path / "whole"))
    pd.testing.assert_frame_equal(_read(folder), _rows(0, 40), check_dtype=False)


def test_samples_are_those_of_an_unbroken_job(tmp_path: Path) -> None:
    """Dask looks up the seed of a partition by its number."""
    step = Failing()
    frame = _frame(0, 400, 8).sample(frac=0.3, random_state=1)
    broken = frame.map_partitions(step, meta=frame._meta)
    expected = set(frame["id"].compute())
    done = _dies(broken, step, tmp_path / "out")
    broken.ml.to_parquet(tmp_path / "out", resume=True)
    assert set(step.seen) == expected - done
    assert set(_read(str(tmp_path / "out"))["id"]) == expected


@pytest.mark.parametrize("how", ["shuffle", "repartition", "merge"])
def test_a_plan_that_moves_rows_goes_on(tmp_path: Path, how: str) -> None:
    frame = {
        "shuffle": _frame(0, 40, 8).shuffle("odd"),
        "repartition": _frame(0, 40, 8).repartition(npartitions=3),
        "merge": _frame(0, 40, 8).merge(_frame(0, 40, 4)[["id"]], on="id"),
    }[how]
    step = Failing()
    broken = frame.map_partitions(step, meta=frame._meta)
    _dies(broken, step, tmp_path / "out", 1)
    broken.ml.to_parquet(tmp_path / "out", resume=True)
    assert _read(str(tmp_path / "out"))["id"].tolist() == [*range(40)]


def test_an_operator_does_not_run_for_what_is_there(folder: str) -> None:
    step = Failing()
    frame = Length()(_frame(0, 40, 8))
    broken = frame.map_partitions(step, meta=frame._meta)
    _dies(broken, step, folder)
    ROWS.clear()
    broken.ml.to_parquet(folder, resume=True)
    assert ROWS["length"] == 15
    assert _read(folder)["length"].tolist() == [len(text) for text in _rows(0, 40)["text"]]


def test_files_that_are_read_are_not_read_again(tmp_path: Path) -> None:
    _frame(0, 40, 8).ml.to_parquet(tmp_path / "in")
    step = Failing()
    frame = de.read_parquet(tmp_path / "in")
    frame = frame.map_partitions(step, meta=frame._meta)
    done = _dies(frame, step, tmp_path / "out")
    # by the same size and time it is the same file
    first = next((tmp_path / "in").glob(f"part.{min(done) // 5}-*"))
    told, length = first.stat(), len(first.read_bytes())
    first.write_bytes(b"x" * length)
    os.utime(first, ns=(told.st_atime_ns, told.st_mtime_ns))
    frame.ml.to_parquet(tmp_path / "out", resume=True)
    assert _read(str(tmp_path / "out"))["id"].tolist() == [*range(40)]


_TOKENS = """
import json
import sys
import dask.dataframe as dd
import fsspec
import pandas as pd
import dask_embed as de
from dask_embed.jobs.identity import rows_token
from support.counting import Length

folder, csv = sys.argv[1:]
read, local = de.read_parquet(folder), fsspec.filesystem("file")
frames = {
    "ours": read,
    "of Dask": dd.read_parquet(folder),
    "some columns": de.read_parquet(folder, columns=["text"]),
    "filters": de.read_parquet(folder, filters=[("id", ">", 3)]),
    "a filesystem": de.read_parquet(folder, filesystem=local),
    "of Arrow": dd.read_parquet(folder, filesystem="arrow"),
    "ours, of Arrow": de.read_parquet(folder, filesystem="arrow"),
    "csv": dd.read_csv(csv),
    "from a function": dd.from_map(lambda n: pd.DataFrame({"id": [n]}), [1, 2], meta={"id": int}),
    "an operator": Length()(read),
    "a function": read[read.id > 4].map_partitions(lambda rows: rows, meta=read._meta),
    "other partitions": read.repartition(npartitions=3).shuffle("id"),
    "a merge": read.merge(read, on="id"),
    "nearest": read.ml.nearest(column="vector", k=3, id="id", check=False),
    "clusters": read.ml.cluster("vector", n_clusters=2, check=False),
    "no equal texts": read.ml.drop_exact_duplicates("text", id="id", against=read),
    "no like texts": read.ml.drop_fuzzy_duplicates("text", id="id", against=read),
    "no like vectors": read.ml.drop_semantic_duplicates("vector", id="id", against=read),
}
print(json.dumps({name: rows_token(frame.expr) for name, frame in frames.items()}))
"""


def test_a_job_is_the_same_in_another_process(tmp_path: Path) -> None:
    """Which has another number and another seed of hashes, and its own filesystems."""
    tests = Path(__file__).parents[1]
    frame = LengthVector()(_frame(0, 40, 4))
    frame.ml.to_parquet(tmp_path / "in")
    _rows(0, 9).to_csv(tmp_path / "in.csv")
    paths = os.pathsep.join([str(tests.parent), str(tests)])
    started = [
        subprocess.Popen(
            [sys.executable, "-c", _TOKENS, tmp_path / "in", tmp_path / "in.csv"],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": paths, "PYTHONHASHSEED": seed},
        )
        for seed in ("1", "2")
    ]
    first, second = (json.loads(process.communicate(timeout=300)[0]) for process in started)
    assert [name for name in first if first[name] != second[name]] == []
    assert first.pop("a filesystem") == first["ours"]  # how files are opened decides no row
    assert len(set(first.values())) == len(first) > 15


# -------------------------------------------------------------------------- append and overwrite
def test_an_append_that_died_is_gone_on_with(folder: str) -> None:
    _frame(0, 10, 2).ml.to_parquet(folder, resume=True)
    step = Failing()
    night = _frame(10, 50, 8, step)
    done = _dies(night, step, folder, append=True)
    night.ml.to_parquet(folder, append=True, resume=True)
    assert set(step.seen) == {*range(10, 50)} - done
    assert _read(folder)["id"].tolist() == [*range(50)]
    step.seen.clear()
    night.ml.to_parquet(folder, append=True, resume=True)  # cron started it twice
    assert step.seen == []
    assert _read(folder)["id"].tolist() == [*range(50)]
    _frame(50, 60, 2).ml.to_parquet(folder, append=True, resume=True)
    assert _read(folder)["id"].tolist() == [*range(60)]


def test_a_dead_append_is_taken_back(folder: str) -> None:
    _frame(0, 10, 2).ml.to_parquet(folder)
    before = _names(folder)
    step = Failing()
    _dies(_frame(10, 50, 8, step), step, folder, append=True)
    assert len(de.discard_unfinished(folder)) == 5
    assert _names(folder) == before
    assert _read(folder)["id"].tolist() == [*range(10)]


def test_an_overwrite_that_died_is_gone_on_with(folder: str) -> None:
    _frame(0, 10, 2).ml.to_parquet(folder)
    step = Failing()
    frame = _frame(10, 50, 8, step)
    done = _dies(frame, step, folder, overwrite=True)
    assert sum(name.endswith(".parquet") for name in _names(folder)) == 2 + 5
    frame.ml.to_parquet(folder, overwrite=True, resume=True)
    assert set(step.seen) == {*range(10, 50)} - done
    assert _read(folder)["id"].tolist() == [*range(10, 50)]
    step.seen.clear()
    frame.ml.to_parquet(folder, overwrite=True, resume=True)
    assert step.seen == []


def test_overwrite_takes_over_another_dead_job(folder: str) -> None:
    step = Failing()
    _dies(_frame(0, 40, 8, step), step, folder)
    _frame(50, 60, 2).ml.to_parquet(folder, overwrite=True, resume=True)
    assert _read(folder)["id"].tolist() == [*range(50, 60)]
    assert all(name.endswith(".parquet") for name in _names(folder) if MARK not in name)


def test_rows_of_other_nights_are_replaced_though_those_of_this_one_are_there(folder: str) -> None:
    _frame(0, 10, 2).ml.to_parquet(folder)
    step = Failing()
    night = _frame(10, 20, 2, step)
    night.ml.to_parquet(folder, append=True, resume=True)
    step.seen.clear()
    night.ml.to_parquet(folder, overwrite=True, resume=True)
    assert step.seen == []
    assert _read(folder)["id"].tolist() == [*range(10, 20)]


def test_what_is_interrupted_before_it_wrote_keeps_its_mark(tmp_path: Path) -> None:
    """Since threads that go on may still write: a folder with their files alone is not whole."""

    def interrupted(rows: pd.DataFrame) -> pd.DataFrame:
        if not (tmp_path / "again").exists():
            raise KeyboardInterrupt
        return rows

    frame = _frame(0, 40, 8)
    job = frame.map_partitions(interrupted, meta=frame._meta)
    with pytest.raises(KeyboardInterrupt):
        job.ml.to_parquet(tmp_path / "out", resume=True, compute_kwargs={"scheduler": "sync"})
    assert (tmp_path / "out" / MARK).exists()
    (tmp_path / "again").touch()
    job.ml.to_parquet(tmp_path / "out", resume=True)
    assert _read(str(tmp_path / "out"))["id"].tolist() == [*range(40)]


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("moment", ["before it looks again", "after"])
def test_a_file_that_is_named_while_a_job_gives_up(
    folder: str, monkeypatch: pytest.MonkeyPatch, resume: bool, moment: str
) -> None:
    """A folder without a mark has all rows or none, whatever threads do that were not over."""
    unmarked, whole, may_write, written = (threading.Event() for _ in range(4))
    commit, unmark = Aside.commit, Job._unmark

    def late(aside: Aside) -> Any:
        whole.set()
        may_write.wait(20)
        sizes = commit(aside)
        written.set()
        return sizes

    def unmarking(job: Job) -> None:
        unmark(job)
        if moment != "after":
            may_write.set()
            assert written.wait(20)
        unmarked.set()

    class Step(Failing):
        def __call__(self, rows: pd.DataFrame) -> pd.DataFrame:
            if rows["id"].iloc[0] and not unmarked.is_set():
                assert whole.wait(20)
                raise ArithmeticError("broken")
            return rows

    job = _frame(0, 20, 2, Step())
    monkeypatch.setattr(Aside, "commit", late)
    monkeypatch.setattr(Job, "_unmark", unmarking)
    with ThreadPoolExecutor(2) as pool:
        on_threads = dask.config.set(scheduler="threads", pool=pool)
        with on_threads, pytest.raises(ArithmeticError, match="broken"):
            job.ml.to_parquet(folder, resume=resume)
        may_write.set()
    names = _names(folder)
    if "memory:" in folder and moment == "after":
        return  # nobody can tell there whose object it is: known, docs/resume.md
    assert MARK in names or not any(name.endswith(".parquet") for name in names)
    job.ml.to_parquet(folder, **({"resume": True} if resume else {"overwrite": True}))
    assert _read(folder)["id"].tolist() == [*range(20)]


def test_partitions_without_rows_are_done(folder: str) -> None:
    first, step = Failing(), Failing()
    few = _frame(0, 40, 8, first)
    few = few[few["id"] % 10 < 5]
    few = few.map_partitions(step, meta=few._meta)
    _dies(few, step, folder)
    seen = len(first.seen)
    assert seen == 30
    first.seen.clear()
    few.ml.to_parquet(folder, resume=True)
    assert len(first.seen) == 15
    assert _read(folder)["id"].tolist() == [n for n in range(40) if n % 10 < 5]


# ---------------------------------------------------------------------------------- another job
@dataclasses.dataclass(frozen=True, kw_only=True)
class Sized(Length):
    """Takes a size of batches, which cannot change a length."""

    batch: int = 8
    incidental: ClassVar[frozenset[str]] = frozenset({"batch"})

    def provenance(self) -> dict[str, Any]:
        return de.ColumnOperator.provenance(self)


@pytest.mark.parametrize(
    ("second", "options", "differs"),
    [
        (Length(output="size"), {}, r"column 'length' is made by nothing here, and was by .*Leng"),
        (lambda f: f.assign(length=1), {}, "column 'length' is made by nothing here"),
        (Length(), {"partition_on": "odd"}, r"partition_on is \['odd'\] here, and was \[\] there"),
        (Length(), {"write_index": True}, "write_index is True here, and was False there"),
        (lambda f: Length()(f)[["id", "length"]], {}, r"the step Projection\(.*length.*\) is new"),
        (lambda f: Length()(f[f.id > 3]), {}, "the step Filter, .*GT.* is new"),
        (lambda f: Length()(f).map_partitions(_same), {}, r"step MapPartitions\(_same\) is new"),
        (lambda f: Length()(_frame(1, 21, 4)), {}, "the step FromPandas is another"),
    ],
)
@pytest.mark.parametrize("dead", [True, False])
def test_another_job_is_an_error_that_says_what_differs(
    folder: str, second: Any, options: dict[str, Any], differs: str, dead: bool
) -> None:
    step = Failing()
    first = Length()(_frame(0, 20, 4))
    first = first.map_partitions(step, meta=first._meta)
    if dead:
        _dies(first, step, folder, 2)
    else:
        first.ml.to_parquet(folder, resume=True)
    before = _names(folder)
    other = second(_frame(0, 20, 4))
    other = other.map_partitions(step, meta=other._meta)
    with pytest.raises(FileExistsError, match=differs) as told:
        other.ml.to_parquet(folder, resume=True, **options)
    assert "\n" not in str(told.value)
    assert _names(folder) == before


def test_another_version_is_told(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    step = Failing()
    frame = _frame(0, 20, 4, step)
    _dies(frame, step, folder, 2)
    monkeypatch.setattr("dask_embed.jobs.identity.__version__", "9.0")
    with pytest.raises(FileExistsError, match=rf"is 9\.0 here, and was {de.__version__} there"):
        frame.ml.to_parquet(folder, resume=True)


@pytest.mark.parametrize("change", ["changed", "new", "gone"])
def test_an_input_file_that_changed_is_named(tmp_path: Path, change: str) -> None:
    source, step = tmp_path / "in", Failing()

    def frame() -> dd.DataFrame:
        read = de.read_parquet(source)
        return read.map_partitions(step, meta=read._meta)

    _frame(0, 40, 4).to_parquet(source)
    _dies(frame(), step, tmp_path / "out", 2)
    file = source / "part.1.parquet"
    if change == "changed":
        os.utime(file, (1, 1))
    elif change == "new":
        (source / "part.9.parquet").write_bytes(file.read_bytes())
    else:
        file.unlink()
    said = {"changed": r"part\.1.*has another size or time", "new": r"part\.9.*is new"}
    with pytest.raises(FileExistsError, match=said.get(change, r"part\.1\.parquet' is gone")):
        frame().ml.to_parquet(tmp_path / "out", resume=True)


def test_another_number_of_partitions_is_told(tmp_path: Path) -> None:
    """A setting of Dask's joins files, under the same plan."""
    _frame(0, 40, 8).ml.to_parquet(tmp_path / "in")
    frame = dd.read_parquet(tmp_path / "in", filesystem="arrow")[["id", "text", "odd"]]
    step = Failing()
    broken = frame.map_partitions(step, meta=frame._meta)
    with dask.config.set({"dataframe.parquet.minimum-partition-size": 1}):
        _dies(broken, step, tmp_path / "out", 2)
        number = broken.optimize().npartitions
    fewer = broken.optimize().npartitions
    assert fewer < number
    with pytest.raises(ValueError, match=f"the frame has {fewer} here, and had {number} there"):
        broken.ml.to_parquet(tmp_path / "out", resume=True)


def test_what_cannot_change_a_value_may_change(folder: str) -> None:
    step = Failing()
    frame = _frame(0, 20, 4)

    def made(**options: Any) -> dd.DataFrame:
        out = Sized(**options)(frame)
        return out.map_partitions(step, meta=out._meta)

    done = _dies(made(batch=8), step, folder, 2)
    made(batch=2).ml.to_parquet(folder, resume=True)
    assert set(step.seen) == {*range(20)} - done


def test_a_job_that_was_begun_without_resume_is_not_gone_on_with(folder: str) -> None:
    step = Failing()
    step.left = 2
    frame = _frame(0, 20, 4, step)
    with pytest.raises(ArithmeticError):
        frame.ml.to_parquet(folder)
    with pytest.raises(FileExistsError, match="this one was begun without it"):
        frame.ml.to_parquet(folder, resume=True)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"append": True, "repeat": True}, "repeat does not go with resume=True"),
        ({"name_function": str}, "name_function does not go with resume=True"),
        ({"write_metadata_file": True}, "write_metadata_file does not go with resume=True"),
    ],
)
def test_what_does_not_go_together(tmp_path: Path, options: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        _frame(0, 4, 1).ml.to_parquet(tmp_path / "out", resume=True, **options)
    with pytest.raises(TypeError, match="resume"):
        _frame(0, 4, 1).ml.to_parquet(tmp_path / "out", resume="all")


def test_what_another_start_removes_at_its_end_is_no_error(tmp_path: Path) -> None:
    """Files that it completed, and records that it removes while this one reads or makes them."""
    fs, path = LocalFileSystem(), f"{tmp_path}/part.0.parquet"
    aside = Aside(fs)
    with aside.open(path, "wb") as file:
        file.write(b"rows")
    (hidden,) = tmp_path.iterdir()
    hidden.unlink()
    with pytest.raises(FileNotFoundError):
        aside.commit()
    Path(path).write_bytes(b"rows")
    assert aside.commit() == {path: 4}

    run = manifest.Run(fs, str(tmp_path), "rows", "run", resumes=True)
    manifest.record(run, 0, 2, {path: 4}, {})  # no mark is there: it has ended
    assert not Path(manifest.records_path(run)).exists()
    assert manifest._contents(fs, [f"{tmp_path}/0-of-2.json"]) == {f"{tmp_path}/0-of-2.json": b""}
