"""Rows that were seen before do not run: in another job, another partitioning, another process."""

from __future__ import annotations

import dataclasses
import os
import threading
from pathlib import Path
from typing import Any, ClassVar

import dask
import dask.dataframe as dd
import fsspec
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from support import tiny
from support.counting import ROWS, Length, LengthVector

import dask_embed as de
from dask_embed.runtime import segments
from dask_embed.runtime.segments import Place, Segments
from dask_embed.runtime.stats import totals


def _texts(start: int, stop: int) -> pd.DataFrame:
    texts = [f"text {n} {'of words ' * (n % 5)}" for n in range(start, stop)]
    return pd.DataFrame({"id": range(start, stop), "text": texts})


def _ran(operator: Any, frame: Any) -> int:
    ROWS.clear()
    out = operator(frame)
    if isinstance(out, dd.DataFrame):
        out = out.compute()
    expected = dataclasses.replace(operator, cache=None)
    ran = ROWS.total()
    computed = frame.compute() if isinstance(frame, dd.DataFrame) else frame
    pd.testing.assert_frame_equal(out, expected(computed))
    return ran


@pytest.fixture
def cache(tmp_path: Path) -> str:
    return str(tmp_path / "cache")


@pytest.mark.parametrize("kind", [Length, LengthVector])
def test_only_new_rows_run(cache: str, kind: Any) -> None:
    operator = kind(cache=cache)
    assert _ran(operator, _texts(0, 20)) == 20
    assert _ran(operator, _texts(0, 20)) == 0
    mixed = _texts(10, 30).sample(frac=1, random_state=0)
    assert _ran(operator, mixed) == 10
    assert _ran(operator, mixed.iloc[::-1]) == 0


def test_partitions_and_names_do_not_matter(cache: str) -> None:
    operator = Length(cache=cache)
    assert _ran(operator, dd.from_pandas(_texts(0, 40), npartitions=8)) == 40
    assert _ran(operator, dd.from_pandas(_texts(0, 40), npartitions=3)) == 0
    renamed = _texts(0, 40).rename(columns={"text": "body"})
    assert _ran(Length(cache=cache, column="body", output="size"), renamed) == 0


def test_another_process_finds_them(cache: str) -> None:
    operator = Length(cache=cache)
    _ran(operator, _texts(0, 20))
    from dask_embed.operators import cached

    cached._segments.cache_clear()
    cached._store.cache_clear() if hasattr(cached._store, "cache_clear") else None
    assert _ran(operator, _texts(0, 20)) == 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Times(Length):
    """The length times a number, which is part of what makes it."""

    factor: int = 1
    batch: int = 8
    incidental: ClassVar[frozenset[str]] = frozenset({"batch"})

    def provenance(self) -> dict[str, Any]:
        return de.ColumnOperator.provenance(self)

    def run(self, columns: list[Any], *, on_device: bool, meter: Any) -> Any:
        results, failures = super().run(columns, on_device=on_device, meter=meter)
        lengths = results[self.output].to_pylist()
        return {self.output: pa.array([n * self.factor for n in lengths], pa.int64())}, failures


def test_another_identity_is_another_result(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = _texts(0, 10)
    assert _ran(Times(cache=cache), frame) == 10
    assert _ran(Times(cache=cache, factor=2), frame) == 10
    assert _ran(Times(cache=cache, batch=2), frame) == 0
    monkeypatch.setattr("dask_embed.operators.cached.__version__", "9.0")
    assert _ran(Times(cache=cache, output="other"), frame) == 10


@dataclasses.dataclass(frozen=True, kw_only=True)
class Picky(Length):
    """Fails for texts that are too short."""

    def run(self, columns: list[Any], *, on_device: bool, meter: Any) -> Any:
        texts = columns[0].values
        ROWS[self.output] += len(texts)
        short = {row: "too short" for row, text in enumerate(texts) if text and len(text) < 3}
        lengths = [None if row in short or not t else len(t) for row, t in enumerate(texts)]
        return {self.output: pa.array(lengths, pa.int64())}, short


def test_rows_that_failed_run_again_and_are_told_by_their_place(cache: str) -> None:
    frame = pd.DataFrame({"text": ["a text", "no", None, "another", 42, "b"]}, index=list("uvwxyz"))
    operator = Picky(cache=cache, on_error="null")
    assert _ran(operator, frame) == 6
    assert _ran(operator, frame) == 3
    strict = Picky(cache=cache)
    with pytest.raises(ValueError, match=r"row 1 of the partition \(index 'v'\): too short"):
        strict(frame[:2])
    with pytest.raises(ValueError, match=r"row 3 of the partition \(index 'z'\): too short"):
        strict(frame.loc[["u", "x", "w", "z"]])


def test_values_of_other_types_are_others(cache: str) -> None:
    """ "1" is no 1, a null no empty text, and two columns are not one."""
    from dask_embed.operators.cached import row_keys

    operator = Length(cache=cache)

    def keys(values: Any, **options: Any) -> list[bytes]:
        return row_keys(operator, pd.DataFrame({"text": pd.Series(values, **options)})).tolist()

    objects = keys(["1", 1, 1.0, True, None, "", b"1", "None"], dtype=object)
    assert len(set(objects)) == 8
    assert keys(["1"])[0] == keys(["1"], dtype="category")[0] == objects[0]
    vectors = [np.ones(2, "float32"), np.zeros(2, "float32")]
    fixed = keys(vectors, dtype=pd.ArrowDtype(pa.list_(pa.float32(), 2)))
    assert len(set(fixed)) == 2
    half = keys(vectors, dtype=pd.ArrowDtype(pa.list_(pa.float16(), 2)))
    assert not set(fixed) & set(half)


def test_hits_are_counted(cache: str) -> None:
    operator = Picky(cache=cache)
    frame = _texts(0, 10)
    frame.loc[3, "text"] = None
    operator(frame)
    before = totals()["cached"]
    operator(frame)
    assert totals()["cached"] - before == 9
    assert de.stats()["cached"].iloc[-1] == 9


# -------------------------------------------------------------------------------- real operators
def test_a_model_that_moved_is_the_same(tmp_path: Path, cache: str) -> None:
    first = tiny.save("bert", tmp_path / "first")
    frame = _texts(0, 6)
    de.Embedder(str(first), cache=cache)(frame)
    first.rename(tmp_path / "second")
    before = totals()["unique_rows"]
    de.Embedder(str(tmp_path / "second"), cache=cache)(frame)
    assert totals()["unique_rows"] == before


def test_operators_that_share_a_pass_are_kept_each(tmp_path: Path, cache: str) -> None:
    model = str(tiny.save("bert", tmp_path / "model"))
    frame = dd.from_pandas(_texts(0, 12), npartitions=2)

    def both(rows: dd.DataFrame, **options: Any) -> pd.DataFrame:
        out = rows.ml.embed("text", model=model, **options)
        out = out.ml.embed("text", model=model, pooling="max", output="most", **options)
        return out.compute()

    expected = both(frame)
    pd.testing.assert_frame_equal(both(frame, cache=cache), expected)
    before = totals()["unique_rows"]
    pd.testing.assert_frame_equal(both(frame, cache=cache), expected)
    assert totals()["unique_rows"] == before
    one = frame.ml.embed("text", model=model, pooling="max", output="most", cache=cache).compute()
    assert totals()["unique_rows"] == before
    pd.testing.assert_frame_equal(one, expected[one.columns.tolist()])


def test_the_configuration_names_a_cache(tmp_path: Path, cache: str) -> None:
    model = str(tiny.save("bert", tmp_path / "model"))
    frame = dd.from_pandas(_texts(0, 6), npartitions=2)
    with dask.config.set({"embed.cache": cache}):
        out = frame.ml.embed("text", model=model)
        ROWS.clear()
        Length()(frame).compute()
    with pytest.raises(ValueError, match="must not be one, nor one in the other"):
        out.ml.to_parquet(cache)
    out.compute()  # workers need not know of it
    kinds = [path.name for path in Path(cache).iterdir()]
    assert len(kinds) == 1
    before = totals()["unique_rows"]
    de.Embedder(model, cache=cache)(_texts(0, 6))
    assert totals()["unique_rows"] == before


# ---------------------------------------------------------------------------------------- files
SCHEMA = pa.schema([("value", pa.int64())])


def _segments(root: str, most: int = 2**40) -> Segments:
    fs, path = fsspec.core.url_to_fs(root)
    return Segments(Place(fs, path, "kind", b"{}"), SCHEMA, most)


def _keys(start: int, stop: int) -> np.ndarray:
    return np.array([n.to_bytes(16, "big") for n in range(start, stop)], "S16")


def _table(start: int, stop: int) -> pa.Table:
    return pa.table({"value": range(start, stop)}, schema=SCHEMA)


def _found(store: Segments, start: int, stop: int) -> list[int]:
    hit, rows = store.find(_keys(start, stop))
    values = rows["value"].to_pylist()
    assert (np.flatnonzero(hit) + start).tolist() == values
    return values


@pytest.mark.parametrize("root", ["local", "memory"])
def test_rows_come_back_in_the_order_of_the_keys(root: str, tmp_path: Path) -> None:
    place = str(tmp_path / "c") if root == "local" else f"memory://{tmp_path.name}/c"
    store = _segments(place)
    assert _found(store, 0, 5) == []
    for start in (0, 200, 100, 5000):
        store.add(_keys(start, start + 150), _table(start, start + 150))
    expected = [*range(350), *range(5000, 5150)]
    assert _found(store, 0, 6000) == expected
    assert _found(_segments(place), 0, 6000) == expected


def test_large_files_are_read_in_groups(tmp_path: Path) -> None:
    store = _segments(str(tmp_path))
    order = np.random.default_rng(0).permutation(10_000)
    store.add(_keys(0, 10_000)[order], _table(0, 10_000).take(order))
    assert _found(_segments(str(tmp_path)), 4090, 8200) == [*range(4090, 8200)]


@pytest.mark.parametrize(
    "damage", ["cut", "flipped", "empty", "gone", "other columns", "text", "zeros", "hole"]
)
def test_damage_is_a_miss(tmp_path: Path, damage: str) -> None:
    store = _segments(str(tmp_path))
    store.add(_keys(0, 100), _table(0, 100))
    store.add(_keys(100, 200), _table(100, 200))
    fresh = _segments(str(tmp_path))
    assert _found(fresh, 0, 5) == [*range(5)]
    file = tmp_path / "kind" / fresh._keys.files[0]
    content = bytearray(file.read_bytes())
    if damage == "cut":
        file.write_bytes(content[: len(content) // 2])
    elif damage == "flipped":
        content[pq.read_metadata(file).row_group(0).column(1).data_page_offset + 300] ^= 255
        file.write_bytes(content)
    elif damage == "gone":
        file.unlink()
    elif damage == "zeros":  # a name that was on the disk before its content
        file.write_bytes(bytes(len(content)))
    elif damage == "hole":
        start = pq.read_metadata(file).row_group(0).column(1).data_page_offset
        content[start + 60 : start + 200] = bytes(140)
        file.write_bytes(content)
    elif damage == "other columns":
        pd.DataFrame({"other": [1]}).to_parquet(file)
    else:
        file.write_bytes(b"" if damage == "empty" else b"PAR1 is no file PAR1")
    for reader in (fresh, _segments(str(tmp_path))):
        assert len(_found(reader, 0, 200)) == 100
    store = _segments(str(tmp_path))
    missing = [n for n in range(200) if n not in _found(store, 0, 200)]
    store.add(_keys(missing[0], missing[-1] + 1), _table(missing[0], missing[-1] + 1))
    for reader in (store, _segments(str(tmp_path))):  # also where the file had that name before
        assert _found(reader, 0, 200) == [*range(200)]


def test_many_small_files_become_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_TIDY", -1.0)
    monkeypatch.setattr(segments, "_MANY", 10)
    store, other = _segments(str(tmp_path)), _segments(str(tmp_path))
    for n in range(9):
        store.add(_keys(n, n + 1), _table(n, n + 1))
    assert _found(other, 0, 20) == [*range(9)]
    store.add(_keys(9, 10), _table(9, 10))
    assert len(list((tmp_path / "kind").glob("*.parquet"))) == 1
    assert _found(store, 0, 20) == [*range(10)]
    assert _found(other, 0, 20) == [*range(10)]  # which knew of the small ones


def test_rows_that_were_put_together_stay_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segments, "_TIDY", -1.0)
    monkeypatch.setattr(segments, "_MANY", 10)
    store = _segments(str(tmp_path))
    for n in range(100):
        store.add(_keys(n, n + 1), _table(n, n + 1))
        assert _found(store, 0, 100) == [*range(n + 1)]


def test_what_was_not_used_for_longest_goes(tmp_path: Path) -> None:
    store = _segments(str(tmp_path))
    for start in (0, 100, 200):
        store.add(_keys(start, start + 100), _table(start, start + 100))
        for file in (tmp_path / "kind").iterdir():
            os.utime(file, (start + 1, start + 1))
            # all alike, but in the order that they were added
        for n, name in enumerate(store._keys.files):
            os.utime(tmp_path / "kind" / name, (n + 1, n + 1))
    assert _found(store, 0, 100) == [*range(100)]  # in use now
    size = sum(file.stat().st_size for file in (tmp_path / "kind").glob("*.parquet"))
    segments.trim(fsspec.filesystem("file"), str(tmp_path), size - 1)
    assert _found(_segments(str(tmp_path)), 0, 300) == [*range(100), *range(200, 300)]


def test_files_of_a_store_without_times_go_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = _segments(str(tmp_path))
    for start in (0, 100, 200):
        store.add(_keys(start, start + 100), _table(start, start + 100))
    fs = fsspec.filesystem("file")
    monkeypatch.setattr(fs, "modified", fsspec.AbstractFileSystem("other").modified)
    segments.trim(fs, str(tmp_path), 0)
    assert [*tmp_path.rglob("*.parquet")] == []


def test_chunks_may_have_any_name(cache: str, tmp_path: Path) -> None:
    folder = str(tiny.save("bert", tmp_path / "model"))
    frame = pd.DataFrame({"text": ["one text", "another", None]})
    for output in ("error", "index", "text_error"):
        options: dict[str, Any] = {"output": output, "on_error": "null"}
        want = de.Chunker(folder, **options)(frame)
        for _ in range(2):
            got = de.Chunker(folder, cache=cache, **options)(frame)
            pd.testing.assert_frame_equal(got, want)


def test_several_writers_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segments, "_TIDY", -1.0)
    monkeypatch.setattr(segments, "_MANY", 8)
    monkeypatch.setattr("dask_embed.runtime.files.sync_file", lambda path: None)
    stores = [_segments(f"memory://{tmp_path.name}") for _ in range(3)]

    def write(number: int) -> None:
        for n in range(number, 60, 3):  # each row by two of them
            stores[number].add(_keys(n, n + 2), _table(n, n + 2))

    threads = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    place = f"memory://{tmp_path.name}"
    assert _found(_segments(place), 0, 100) == [*range(61)]
    fs = fsspec.filesystem("memory")
    assert len(fs.glob(f"/{tmp_path.name}/kind/*.parquet")) < 30
    fs.rm(f"/{tmp_path.name}", recursive=True)


def test_a_cache_that_cannot_be_written_costs_nothing_but_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(segments, "put_file", full)
    operator = Length(cache=tmp_path / "cache")
    with pytest.warns(UserWarning, match="results cannot be kept in .*No space left"):
        assert len(operator(_texts(0, 5))) == 5
    assert len(operator(_texts(0, 5))) == 5  # told once


@pytest.mark.parametrize(
    ("given", "error"),
    [
        (3, TypeError),
        ("", ValueError),
        ("nothere://x", ValueError),
        ("s3://user:password@bucket/x", ValueError),
        (f"s3://bucket/hf_{'x' * 34}", ValueError),
    ],
)
def test_what_is_no_folder(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="cache") as told:
        Length(cache=given)
    assert ":password@" not in str(told.value)
    assert "x" * 34 not in str(told.value)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError, match="cache must be a folder"):
        Length(cache=tmp_path / "file")


@pytest.mark.parametrize(
    ("cache", "to"),
    [
        ("out", "out"),
        ("out/", "out"),
        ("link", "out"),
        ("out/cache", "link/"),
        ("out", "out/rows"),
        ("file://{}/out", "out"),
        ("memory://one", "memory://one/out"),
    ],
)
def test_a_cache_is_in_no_folder_that_is_written(
    cache: str, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out").mkdir()
    (tmp_path / "link").symlink_to("out")
    frame = dd.from_pandas(_texts(0, 4), npartitions=1)
    out = Length(cache=cache.format(tmp_path))(frame)
    named = out.rename(columns={"text": "words"})[["id", "length"]]
    writers = [out.ml.to_parquet, named.ml.to_parquet]
    if not to.startswith("memory"):
        writers += [out.ml.to_delta, out.ml.to_lance]
    for write in writers:
        with pytest.raises(ValueError, match="must not be one, nor one in the other"):
            write(to)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_cache_beside_the_folder_that_is_written(tmp_path: Path) -> None:
    frame = dd.from_pandas(_texts(0, 4), npartitions=1)
    Length(cache=tmp_path / "out-cache")(frame).ml.to_parquet(tmp_path / "out")
    assert len(de.read_parquet(tmp_path / "out")) == 4
