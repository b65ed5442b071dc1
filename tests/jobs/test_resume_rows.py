"""Only rows that a folder does not have run, known by their id and content; each is there once."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import threading
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import tiny
from support.counting import ROWS, Length

import dask_embed as de
from dask_embed.jobs.cli import main

DIGEST, MARK = "_dask_embed_digest", "_dask_embed_unfinished"


def _rows(start: int, stop: int, changed: tuple[int, ...] = ()) -> pd.DataFrame:
    rows = pd.DataFrame({"id": range(start, stop)})
    texts = [f"text {'!' * n}" if n in changed else f"text {'.' * (n % 7)}" for n in rows.id]
    return rows.assign(text=pd.Series(texts, dtype="str"), odd=rows.id % 2, likes=0)


def _frame(rows: pd.DataFrame, parts: int = 4) -> Any:
    return Length()(dd.from_pandas(rows, npartitions=parts))


def _night(rows: pd.DataFrame, folder: Any, parts: int = 4, **options: Any) -> tuple[Any, int]:
    """Write rows, and return what differed and how many of them ran."""
    ROWS.clear()
    told = _frame(rows, parts).ml.to_parquet(folder, resume="rows", id="id", **options)
    return told, ROWS["length"]


def _require(folder: Any, rows: pd.DataFrame) -> None:
    """Assert that a folder has these rows, each once, with their lengths."""
    found = de.read_parquet(folder).compute().sort_values("id").reset_index(drop=True)
    expected = rows.assign(length=rows["text"].str.len()).sort_values("id", ignore_index=True)
    found["odd"] = found["odd"].astype("int64")  # a category where it names folders
    pd.testing.assert_frame_equal(found[list(expected.columns)], expected, check_dtype=False)
    assert len(found.columns) == len(expected.columns)


def _names(folder: str) -> list[str]:
    fs, path = fsspec.core.url_to_fs(folder)
    fs.invalidate_cache()
    return sorted(name[len(path) + 1 :] for name in fs.find(path)) if fs.exists(path) else []


def _same(part: pd.DataFrame) -> pd.DataFrame:
    return part


class Modelled(Length):
    """An operator that runs a model, as far as a plan can tell."""

    model = "a model"


# ---------------------------------------------------------------------------------- what is new
@pytest.mark.parametrize("options", [{}, {"partition_on": ["odd"]}, {"write_index": True}], ids=str)
def test_only_rows_that_are_new_run(folder: str, options: dict[str, Any]) -> None:
    assert _night(_rows(0, 40), folder, **options) == (de_changes(new=40), 40)
    _require(folder, _rows(0, 40))
    before = _names(folder)
    assert _night(_rows(0, 40), folder, **options) == (de_changes(same=40), 0)
    assert _names(folder) == before
    assert _night(_rows(0, 42), folder, **options) == (de_changes(new=2, same=40), 2)
    _require(folder, _rows(0, 42))
    assert set(before) < set(_names(folder))


def de_changes(new: int = 0, same: int = 0, changed: int = 0, gone: int = 0) -> Any:
    from dask_embed.jobs.rows import RowChanges

    return RowChanges(new, same, changed, gone)


@pytest.mark.parametrize("parts", [1, 9])
def test_rows_may_come_in_other_partitions_and_another_order(tmp_path: Path, parts: int) -> None:
    _night(_rows(0, 40), tmp_path / "out", 4)
    mixed = _rows(0, 43).sample(frac=1, random_state=0)
    assert _night(mixed, tmp_path / "out", parts) == (de_changes(new=3, same=40), 3)
    _require(tmp_path / "out", _rows(0, 43))


def test_partitions_without_new_rows_are_read_once_and_not_written(tmp_path: Path) -> None:
    seen: list[int] = []
    token = uuid.uuid4().hex

    class Read:
        def __call__(self, part: pd.DataFrame) -> pd.DataFrame:
            seen.append(len(part))
            return part

        def __dask_tokenize__(self) -> str:
            return token

    def night(stop: int) -> None:
        rows = dd.from_pandas(_rows(0, stop), npartitions=stop // 10)
        Length()(rows.map_partitions(Read(), meta=rows._meta)).ml.to_parquet(
            tmp_path / "out", resume="rows", id="id"
        )

    night(40)
    seen.clear()
    night(50)
    assert len(seen) == 5 + 1
    _require(tmp_path / "out", _rows(0, 50))


@pytest.mark.parametrize("above", ["where", "selected", "assigned", "two", "mapped", "renamed"])
def test_what_follows_an_operator_is_of_each_row(tmp_path: Path, above: str) -> None:
    def frame(rows: pd.DataFrame) -> Any:
        source = dd.from_pandas(rows, npartitions=3)
        out = Length()(source)
        if above == "where":
            return out[(out["odd"] == 1) & (out["length"] > 6)]
        if above == "selected":
            return out[["id", "length"]]
        if above == "assigned":
            return out.assign(twice=out["length"] * 2, likes=source["likes"] + 1)
        if above == "two":
            return Length(column="text", output="more")(out)
        if above == "mapped":
            return source.map_partitions(Length().apply, meta=Length().meta(source._meta))
        return out.rename(columns={"id": "key"})

    name = "key" if above == "renamed" else "id"
    for stop, ran in ((20, 20), (24, 4)):
        made = frame(_rows(0, stop))
        ROWS.clear()
        made.ml.to_parquet(tmp_path / "out", resume="rows", id=name)
        # of filters, those that read no result come before the operator
        wanted = ran // 2 if above == "where" and stop == 20 else ran
        assert ROWS["length"] <= wanted + 5
        found = de.read_parquet(tmp_path / "out").compute().sort_values(name)
        expected = made.compute().sort_values(name)
        pd.testing.assert_frame_equal(
            found.reset_index(drop=True), expected.reset_index(drop=True), check_dtype=False
        )


def test_chunks_are_known_by_the_id_of_their_text(tmp_path: Path) -> None:
    model = tiny.save("bert", tmp_path / "model")

    def night(rows: pd.DataFrame, **options: Any) -> Any:
        chunker = de.Chunker(column="text", model=str(model), max_tokens=8)
        frame = chunker(dd.from_pandas(rows, npartitions=2))
        told = frame.ml.to_parquet(tmp_path / "out", resume="rows", id="id", **options)
        found = de.read_parquet(tmp_path / "out").compute()
        expected = chunker(rows)
        key = [c for c in expected.columns if c not in ("odd", "likes")]
        assert sorted(map(str, found[key].to_numpy().tolist())) == sorted(
            map(str, expected[key].to_numpy().tolist())
        )
        return told

    texts = [" ".join(["hello world"] * (n + 1)) for n in range(6)]
    rows = _rows(0, 6).assign(text=texts)
    assert night(rows[:5]) == de_changes(new=5)
    assert night(rows) == de_changes(new=1, same=5)
    fewer = rows.assign(text=["short", *texts[1:]])[:4]
    assert night(fewer, changed="replace", gone="drop") == de_changes(same=3, changed=1, gone=2)


# --------------------------------------------------------------------------- changed and gone rows
def test_rows_that_changed_are_an_error_unless_it_is_said_what_becomes_of_them(
    folder: str,
) -> None:
    _night(_rows(0, 40), folder)
    before = _names(folder)
    other = _rows(0, 41, changed=(3, 17))
    with pytest.raises(ValueError, match=r"2 rows have another content .* the first 3: changed='r"):
        _night(other, folder)
    assert _names(folder) == before
    assert _night(other, folder, changed="keep") == (de_changes(1, 38, 2), 1)
    _require(folder, _rows(0, 41))
    assert _night(other, folder, changed="replace") == (de_changes(0, 39, 2), 2)
    _require(folder, other)
    assert _night(other, folder) == (de_changes(same=41), 0)


@pytest.mark.parametrize("options", [{}, {"partition_on": ["odd"]}], ids=str)
def test_rows_that_are_gone_are_dropped_on_request(folder: str, options: dict[str, Any]) -> None:
    _night(_rows(0, 40), folder, **options)
    assert _night(_rows(12, 40), folder, **options) == (de_changes(same=28, gone=12), 0)
    _require(folder, _rows(0, 40))
    told = _night(_rows(12, 42), folder, gone="drop", **options)
    assert told == (de_changes(new=2, same=28, gone=12), 2)
    _require(folder, _rows(12, 42))
    assert all(name.endswith(".parquet") for name in _names(folder))


def test_a_folder_of_which_all_rows_are_gone_can_be_read(tmp_path: Path) -> None:
    _night(_rows(0, 8), tmp_path / "out")
    _night(_rows(0, 0), tmp_path / "out", 1, gone="drop")
    assert len(de.read_parquet(tmp_path / "out")) == 0
    _night(_rows(0, 8), tmp_path / "out")
    _require(tmp_path / "out", _rows(0, 8))


def test_what_is_written_beside_a_result_belongs_to_a_row_and_nothing_else(tmp_path: Path) -> None:
    def night(likes: int, out: str, keep: bool) -> Any:
        frame = _frame(_rows(0, 8).assign(likes=likes))
        frame = frame if keep else frame[["id", "text", "length"]]
        return frame.ml.to_parquet(tmp_path / out, resume="rows", id="id", changed="keep")

    for out, keep, changed in (("with", True, 8), ("without", False, 0)):
        night(0, out, keep)
        assert night(1, out, keep) == de_changes(same=8 - changed, changed=changed)


# ------------------------------------------------------------------------------------------- ids
def test_integers_of_a_file_in_which_one_becomes_null_are_the_same(tmp_path: Path) -> None:
    """pandas reads them as floats then."""

    def night(likes: list[int | None], **options: Any) -> Any:
        rows = pa.Table.from_pandas(_rows(0, len(likes)).assign(likes=likes))
        column = rows.schema.get_field_index("likes")
        rows = rows.set_column(column, "likes", pa.array(likes, pa.int64()))
        pq.write_table(rows.replace_schema_metadata(), tmp_path / "in.parquet")
        frame = Length()(dd.read_parquet(tmp_path / "in.parquet"))
        return frame.ml.to_parquet(tmp_path / "out", resume="rows", id="id", **options)

    assert night([1, 2, 3]) == de_changes(new=3)
    assert night([1, 2, 3, None]) == de_changes(new=1, same=3)
    assert night([1, 7, 3, None], changed="replace") == de_changes(same=3, changed=1)


def test_lists_that_are_read_as_arrays_are_told_by_all_their_values(tmp_path: Path) -> None:
    vectors = np.arange(4000.0).reshape(2, 2000)

    def night(**options: Any) -> Any:
        rows = _rows(0, 2).assign(vector=list(vectors))
        rows.to_parquet(tmp_path / "in.parquet")
        frame = Length()(dd.read_parquet(tmp_path / "in.parquet"))
        options["schema"] = {"vector": pa.list_(pa.float64())}
        return frame.ml.to_parquet(tmp_path / "out", resume="rows", id="id", **options)

    assert night() == de_changes(new=2)
    vectors[1, 1000] = -1
    assert night(changed="replace") == de_changes(same=1, changed=1)


def test_ids_are_of_one_row_each(tmp_path: Path) -> None:
    twice = pd.concat([_rows(0, 8), _rows(5, 6)])
    with pytest.raises(ValueError, match=r"1 rows have that of another, the first 5"):
        _night(twice, tmp_path / "out", 3)
    null = _rows(0, 8).assign(id=pd.array([*range(7), None], "Int64"))
    with pytest.raises(ValueError, match=r"must not be null, and 1 rows of partition 2"):
        _night(null, tmp_path / "out", 3)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "ids",
    [
        lambda n: [f"document {i}" for i in n],
        lambda n: pd.array(list(n), "Int64"),
        lambda n: pd.array([str(i) for i in n], "string[pyarrow]"),
        lambda n: pd.array(list(n), "uint8"),
    ],
)
def test_ids_are_integers_or_texts(tmp_path: Path, ids: Any) -> None:
    for stop, new in ((8, 8), (9, 1)):
        rows = _rows(0, stop)
        assert _night(rows.assign(id=ids(range(stop))), tmp_path / "out")[0].new == new


@pytest.mark.parametrize(
    ("change", "options", "error", "said"),
    [
        (lambda f: f, {"id": "idd"}, ValueError, "which the frame has not .did you mean 'id'"),
        (lambda f: f, {"id": None}, TypeError, "needs id="),
        (lambda f: f.assign(id=f.id / 2), {}, ValueError, "'id' is made by Assign after that"),
        (lambda f: f.astype({"id": str}), {}, TypeError, "the same before and after"),
        (lambda f: f, {"id": "length"}, ValueError, "'length' is made by AppendColumns"),
        (
            lambda f: Modelled(output="more")(f).drop_duplicates("text"),
            {},
            ValueError,
            "leave out rows of Mod",
        ),
        (
            lambda f: Modelled(output="m")(f).map_partitions(_same),
            {},
            ValueError,
            "leave out rows of Modelled",
        ),
        (lambda f: f[f.likes >= f.likes.mean()], {}, ValueError, "to take each row by itself"),
        (lambda f: f, {"append": True}, ValueError, "append=True does not go with"),
        (lambda f: f, {"compute": False}, ValueError, "compute=False does not go with"),
        (lambda f: f, {"changed": "drop"}, ValueError, "changed must be one of"),
        (lambda f: f, {"gone": "error"}, ValueError, "gone must be one of"),
        (lambda f: f, {"partition_on": "id"}, ValueError, "partition_on must not name 'id'"),
        (lambda f: f, {"resume": True}, ValueError, "id='id' has no effect without"),
        (lambda f: f, {"resume": "row"}, TypeError, "True, False or 'rows'"),
    ],
)
def test_what_cannot_be_is_told(
    tmp_path: Path, change: Any, options: dict[str, Any], error: type[Exception], said: str
) -> None:
    frame = change(_frame(_rows(0, 8)))
    with pytest.raises(error, match=said) as told:
        frame.ml.to_parquet(tmp_path / "out", **{"resume": "rows", "id": "id", **options})
    assert "\n" not in str(told.value)
    assert not (tmp_path / "out").exists()


# ----------------------------------------------------------------------------------- another job
def test_rows_of_another_operator_are_refused_and_replaced_on_request(folder: str) -> None:
    _night(_rows(0, 8), folder)
    before = _names(folder)
    source = dd.from_pandas(_rows(0, 8), npartitions=4)
    for other, said in (
        (Length(output="size")(source), "column 'length' is made by nothing here"),
        (Length()(source).assign(likes=1), "the step Assign is new"),
        (Length()(source)[["id", "length"]], r"the step Projection\(.*length.*\) is new"),
    ):
        with pytest.raises(FileExistsError, match=said):
            other.ml.to_parquet(folder, resume="rows", id="id")
    assert _names(folder) == before
    for ran in (8, 0):
        ROWS.clear()
        Length(output="size")(source).ml.to_parquet(folder, resume="rows", id="id", overwrite=True)
        assert ROWS["size"] == ran
    assert de.read_parquet(folder).compute()["size"].tolist() == [
        len(text) for text in _rows(0, 8)["text"]
    ]


def test_rows_without_digests_are_refused(folder: str) -> None:
    _frame(_rows(0, 8)).ml.to_parquet(folder)
    with pytest.raises(FileExistsError, match="not written with resume='rows'"):
        _night(_rows(0, 8), folder)
    _night(_rows(0, 9), folder, overwrite=True)
    _require(folder, _rows(0, 9))
    with pytest.raises(ValueError, match="append=True needs the columns"):
        _frame(_rows(10, 12)).ml.to_parquet(folder, append=True)


def test_readers_see_digests_where_they_ask_for_them(tmp_path: Path) -> None:
    _night(_rows(0, 8), tmp_path / "out")
    assert DIGEST not in de.read_parquet(tmp_path / "out").columns
    assert DIGEST in de.read_parquet(tmp_path / "out", columns=["id", DIGEST]).columns
    file = next((tmp_path / "out").glob("*.parquet"))
    assert str(pq.read_schema(file).field(DIGEST).type) == "int64"


def test_rows_that_change_while_they_run_are_an_error(tmp_path: Path) -> None:
    seen: list[int] = []

    def other_each_time(part: pd.DataFrame) -> pd.DataFrame:
        seen.append(1)
        return part.assign(text=part["text"] + "x" * len(seen))

    source = dd.from_pandas(_rows(0, 8), npartitions=1)
    frame = Length()(source.map_partitions(other_each_time, meta=source._meta))
    with pytest.raises(RuntimeError, match="the rows of partition 0 are not what they were"):
        frame.ml.to_parquet(tmp_path / "out", resume="rows", id="id")
    assert _names(str(tmp_path / "out")) == []


# ----------------------------------------------------------------------------------------- killed
class PowerCutError(BaseException):
    """No error that anything handles."""


def _power_cut() -> None:
    raise PowerCutError


class Power:
    """Is cut at one of the changes that a process makes to a disk, and stays away."""

    CHANGES = ("replace", "link", "remove", "unlink", "rmdir", "mkdir")

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self.cut: Callable[[], None] = _power_cut
        for name in self.CHANGES:
            monkeypatch.setattr(os, name, self._changing(getattr(os, name)))

    def _changing(self, change: Any) -> Any:
        def call(*args: Any, **options: Any) -> Any:
            if self.left is not None:
                if self.left <= 0:
                    self.cut()
                else:
                    self.left -= 1
            return change(*args, **options)

        return call


@pytest.mark.parametrize(
    "options",
    [{}, pytest.param({"partition_on": ["odd"]}, marks=pytest.mark.slow)],
    ids=str,
)
def test_killed_at_any_change_of_the_disk_it_ends_as_if_it_had_not_been(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    rows, other = _rows(0, 8), _rows(2, 9, changed=(3,))
    _night(rows, tmp_path / "first", 2, **options)
    power, cuts, ran = Power(monkeypatch), 0, -1
    while True:
        folder = tmp_path / f"cut-{cuts}"
        shutil.copytree(tmp_path / "first", folder)
        power.left = cuts
        try:
            _night(other, folder, 2, changed="replace", gone="drop", **options)
        except PowerCutError:
            power.left = None
        else:
            power.left = None
            break
        try:
            found = de.read_parquet(folder).compute()["id"]
        except OSError as error:
            assert "is not whole" in str(error)  # noqa: PT017 - a reader may see it, or not
        else:
            assert sorted(found) in ([*range(8)], [*range(2, 9)])
        ran = _night(other, folder, 2, changed="replace", gone="drop", **options)[1]
        assert ran <= 2
        _require(folder, other)
        left = [name for name in _names(str(folder)) if not name.endswith(".parquet")]
        assert all(f".{MARK}" in name for name in left)  # what was to become one, hidden
        cuts += 1
    assert cuts > 20
    assert ran == 0  # the last one had all its rows


def test_a_job_that_died_is_gone_on_with_by_itself_alone(folder: str) -> None:
    _night(_rows(0, 8), folder)
    fails = _rows(0, 40)

    def dies() -> int:
        class Dying(Length):
            def provenance(self) -> dict[str, Any]:
                return {"operator": "Length"}

            def run(self, columns: Any, **options: Any) -> Any:
                if len(columns[0].values) and columns[0].values[0] == fails["text"][30]:
                    raise ArithmeticError("broken")
                return super().run(columns, **options)

        frame = Dying()(dd.from_pandas(fails, npartitions=8))
        with pytest.raises(ArithmeticError):
            frame.ml.to_parquet(folder, resume="rows", id="id")
        return sum("part." in name and "json" not in name for name in _names(folder)) - 4

    fails.loc[30, "text"] = "the one"
    done = dies()
    with pytest.raises(OSError, match="is not whole"):
        de.read_parquet(folder)
    for other in (_rows(0, 41), _rows(0, 40)):
        with pytest.raises(FileExistsError, match=r"resume='rows' goes on with the same job alone"):
            _night(other, folder, 8)
    _, ran = _night(fails, folder, 8)
    assert 0 < 5 * done <= 32 - ran
    _require(folder, fails)


@pytest.mark.parametrize("resume", [pytest.param(True, marks=pytest.mark.slow), "rows"])
def test_a_second_start_at_any_change_of_the_first_leaves_each_row_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, resume: bool | str
) -> None:
    """Each order in which the second one comes between two changes of the first is tried."""
    rows, other = _rows(0, 8), _rows(2, 9, changed=(3,))
    options: dict[str, Any] = {"resume": resume}
    if resume == "rows":
        options |= {"id": "id", "changed": "replace", "gone": "drop"}
        _night(rows, tmp_path / "first", 2)
    else:
        (tmp_path / "first").mkdir()
    power, cuts, between = Power(monkeypatch), 0, True
    while between:
        folder, between = tmp_path / f"cut-{cuts}", False
        shutil.copytree(tmp_path / "first", folder)

        def second(folder: Path = folder) -> None:
            nonlocal between
            between, power.left = True, None
            _frame(other, 2).ml.to_parquet(folder, **options)

        power.cut, power.left = second, cuts
        with contextlib.suppress(RuntimeError, OSError):  # the slower one may say so
            _frame(other, 2).ml.to_parquet(folder, **options)
        power.left = None
        _require(folder, other)
        cuts += 1
    assert cuts > 15


@pytest.mark.parametrize("change", ["unlink", "rmdir"])
def test_records_are_removed_though_another_start_removes_and_makes_some(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    from dask_embed.jobs.folder import remove_folder

    records = tmp_path / "records"
    records.mkdir()
    for n in range(3):
        (records / f"{n}-of-3.json").write_text("{}")
    done: list[str] = []
    first = getattr(os, change)

    def raced(path: Any, **options: Any) -> None:
        if not done:
            done.append(change)
            if change == "unlink":
                first(path, **options)
            else:
                (records / "3-of-4.json").write_text("{}")
        first(path, **options)

    monkeypatch.setattr(os, change, raced)
    remove_folder(fsspec.filesystem("file"), str(records))
    assert done
    assert not records.exists()


def test_a_folder_whose_files_stay_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk of the network keeps a file that is open under another name."""
    from dask_embed.jobs.folder import remove_folder

    (tmp_path / "records").mkdir()
    (tmp_path / "records" / ".nfs0001").write_text("{}")
    monkeypatch.setattr(os, "unlink", lambda path, **options: None)
    with pytest.raises(OSError, match="not empty"):
        remove_folder(fsspec.filesystem("file"), str(tmp_path / "records"))


def test_two_starts_of_one_job_write_each_row_once(tmp_path: Path) -> None:
    _night(_rows(0, 8), tmp_path / "out")
    failed: list[BaseException] = []

    def start() -> None:
        try:
            with dask.config.set(scheduler="sync"):
                _frame(_rows(4, 40), 12).ml.to_parquet(
                    tmp_path / "out", resume="rows", id="id", gone="drop"
                )
        except (OSError, RuntimeError) as error:  # the slower one may say so
            failed.append(error)

    starts = [threading.Thread(target=start) for _ in range(2)]
    for each in starts:
        each.start()
    for each in starts:
        each.join()
    assert len(failed) < 2
    _require(tmp_path / "out", _rows(4, 40))


# ------------------------------------------------------------------------------------ the command
def _command(capsys: pytest.CaptureFixture[str], *arguments: Any) -> tuple[int, str]:
    code = main([str(each) for each in arguments])
    told = capsys.readouterr()
    return code, told.out + told.err


def test_the_command_takes_rows_by_their_ids(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, options = tmp_path / "in.parquet", tmp_path / "options.yaml"
    options.write_text(f"command: text-statistics\nresume: rows\nid: id\nto: {tmp_path / 'out'}\n")
    for stop, ran in ((20, 20), (23, 3)):
        _rows(0, stop).to_parquet(file)
        code, said = _command(
            capsys, "text-statistics", file, "--to", tmp_path / "out", "--resume", "rows",
            "--id", "id", "--quiet", "--json",
        )  # fmt: skip
        assert code == 0, said
        assert json.loads(said)["rows"] == ran
    _rows(0, 23, changed=(1,)).to_parquet(file)
    code, said = _command(capsys, "run", options, file, "--quiet")
    assert code == 2
    assert "1 rows have another content than under their 'id' in the folder, the first 1" in said
    code, said = _command(capsys, "run", options, file, "--quiet", "--changed", "replace", "--json")
    assert code == 0, said
    assert json.loads(said)["rows"] == 1
    found = de.read_parquet(tmp_path / "out").compute().sort_values("id")
    assert found["text"].tolist() == _rows(0, 23, changed=(1,))["text"].tolist()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--resume", "rows"], "id is missing"),
        (["--id", "id"], "add --resume rows"),
        (["--resume", "row"], "row"),
        (["--resume", "rows", "--id", "id", "--append"], "append does not go with"),
        (["--resume", "rows", "--id", "id", "--array", "0/2"], "array does not go with"),
        (["--resume", "rows", "--id", "text"], "must be of one row each"),
    ],
)
def test_the_command_says_what_is_wrong_with_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], said: str
) -> None:
    _rows(0, 20).to_parquet(tmp_path / "in.parquet")
    code, told = _command(
        capsys, "text-statistics", tmp_path / "in.parquet", "--to", tmp_path / "out", *options
    )
    assert code == 2, told
    assert said in told


@pytest.mark.parametrize("options", [[], ["--resume", "rows", "--id", "id"]], ids=str)
def test_the_slower_of_two_starts_of_a_command_may_be_started_again(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    options: list[str],
) -> None:
    from dask_embed.jobs import write_expr

    _rows(0, 20).to_parquet(tmp_path / "in.parquet")
    start = ["text-statistics", str(tmp_path / "in.parquet"), "--to", str(tmp_path / "out")]
    start += ["--quiet", *options]
    write, others = write_expr.write_part, []

    def after_another(*arguments: Any) -> Any:
        if not others:
            others.append(-1)
            others[0] = main(start)
        return write(*arguments)

    monkeypatch.setattr(write_expr, "write_part", after_another)
    code, said = _command(capsys, *start)
    assert (code, others) == (5, [0]), said
    assert re.search(r"dask-embed: the mark .* of this job is not in .*: the job has ended", said)
    assert _command(capsys, *start)[0] == 0
    found = de.read_parquet(tmp_path / "out").compute()
    assert sorted(found["id"]) == [*range(20)]


def test_a_command_may_still_not_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _rows(0, 20).to_parquet(tmp_path / "in.parquet")
    for options, code in ((["--resume", "no"], 0), (["--no-resume"], 2), (["--resume"], 2)):
        found, said = _command(
            capsys, "text-statistics", tmp_path / "in.parquet", "--to", tmp_path / "out", *options
        )
        assert found == code, said


def test_the_bar_expects_the_rows_that_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from dask_embed.jobs import parquet
    from dask_embed.jobs.expected import expected_rows

    expected: list[int | None] = []
    compute = parquet._computed

    def counting(written: Any, *rest: Any) -> Any:
        expected.append(expected_rows(written))
        return compute(written, *rest)

    monkeypatch.setattr(parquet, "_computed", counting)
    for rows in (_rows(0, 40), _rows(1, 43, changed=(3,))):
        _night(rows, tmp_path / "out", changed="replace", gone="drop")
    assert expected == [40, 4]
