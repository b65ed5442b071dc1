"""Vectors on disk: any reader opens them, and they say what made them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dask.callbacks import Callback
from support import tiny
from support.counting import Length

import dask_embed as de

ROWS, DIMENSION = 30, 384
ENDS = ("", "_index", "_start", "_end", "_tokens")


@pytest.fixture(scope="module")
def expected(minilm: str) -> np.ndarray:
    """The vectors by sentence-transformers; row 7 is null."""
    from sentence_transformers import SentenceTransformer

    texts = _frame()["text"].dropna()
    vectors = np.full((ROWS, DIMENSION), np.nan, np.float32)
    vectors[texts.index] = SentenceTransformer(minilm, device="cpu").encode(texts.tolist())
    return vectors


@pytest.fixture(scope="module")
def folder(minilm: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("parquet") / "vectors"
    frame = dd.from_pandas(_frame(), npartitions=3)
    frame.ml.embed("text", model=minilm).ml.to_parquet(path)
    return path


def _frame() -> pd.DataFrame:
    texts = [f"the number {row} in a short text" for row in range(ROWS)]
    return pd.DataFrame({"id": range(ROWS), "text": texts}).assign(
        text=lambda frame: frame["text"].where(frame["id"] != 7)
    )


def _schema(folder: Path) -> pa.Schema:
    """Return the schema of the first file."""
    return pq.read_schema(min(folder.glob("part.0-*.parquet")))


def _stack(column: pd.Series) -> np.ndarray:
    """Vectors of an object column of arrays, as plain pandas reads them."""
    missing = np.full(DIMENSION, np.nan, np.float32)
    return np.stack([missing if value is None else value for value in column])


def test_plain_pandas_reads_float32_arrays(folder: Path, expected: np.ndarray) -> None:
    read = pd.read_parquet(folder).sort_values("id")
    assert {value.dtype for value in read["embedding"].dropna()} == {np.dtype("float32")}
    np.testing.assert_allclose(_stack(read["embedding"]), expected, atol=1e-5)


def test_plain_dask_reads_float32_arrays(folder: Path, expected: np.ndarray) -> None:
    read = dd.read_parquet(folder).compute().sort_values("id")
    assert {value.dtype for value in read["embedding"].dropna()} == {np.dtype("float32")}
    np.testing.assert_allclose(_stack(read["embedding"]), expected, atol=1e-5)


def test_pyarrow_reads_fixed_size_lists(folder: Path, expected: np.ndarray) -> None:
    column = pq.read_table(folder, columns=["id", "embedding"]).sort_by("id")["embedding"]
    assert column.type.list_size == DIMENSION
    assert str(column.type.value_type) == "float"
    assert column.null_count == 1
    present = column.drop_null().combine_chunks().flatten().to_numpy().reshape(-1, DIMENSION)
    np.testing.assert_allclose(present, np.delete(expected, 7, axis=0), atol=1e-5)


def test_duckdb_reads_float_lists(folder: Path, expected: np.ndarray) -> None:
    import duckdb

    query = f"select typeof(embedding), embedding from '{folder}/*.parquet' order by id"
    kinds, values = zip(*duckdb.sql(query).fetchall(), strict=True)
    assert set(kinds) <= {"FLOAT[]", f"FLOAT[{DIMENSION}]"}
    read = [np.full(DIMENSION, np.nan) if value is None else value for value in values]
    np.testing.assert_allclose(np.array(read, np.float32), expected, atol=1e-5)


def test_polars_reads_float32_arrays(folder: Path, expected: np.ndarray) -> None:
    import polars

    read = polars.read_parquet(f"{folder}/*.parquet").sort("id")
    assert read.schema["embedding"] == polars.Array(polars.Float32, DIMENSION)
    present = read["embedding"].drop_nulls().to_numpy()
    np.testing.assert_allclose(present, np.delete(expected, 7, axis=0), atol=1e-5)


def test_read_parquet_gives_vectors_again(folder: Path, expected: np.ndarray, minilm: str) -> None:
    lazy = de.read_parquet(folder)
    read = lazy.compute()
    written = dd.from_pandas(_frame(), npartitions=3).ml.embed("text", model=minilm)
    assert read["embedding"].dtype == lazy.dtypes["embedding"] == written.dtypes["embedding"]
    np.testing.assert_allclose(
        de.to_array(lazy["embedding"]).compute(), de.to_array(read["embedding"])
    )
    np.testing.assert_allclose(de.to_array(read["embedding"]), expected, atol=1e-5)


def test_the_file_says_what_made_the_vectors(folder: Path, minilm: str) -> None:
    metadata = json.loads(_schema(folder).metadata[b"dask_embed"])
    column = metadata["columns"]["embedding"]
    assert metadata["version"] == de.__version__
    assert column["model"] == minilm
    assert column["revision"].startswith("local-")
    assert column["dimension"] == DIMENSION
    assert column["pooling"] == ["mean"]
    assert column["normalized"] is True


def test_the_file_says_what_made_the_chunks(minilm: str, tmp_path: Path) -> None:
    """Of chunks the rules, of late vectors also how they were pooled; kept columns have none."""
    frame = dd.from_pandas(_frame().head(2), npartitions=1)
    options = {"model": minilm, "max_tokens": 6, "overlap": 1}
    chunks = frame.ml.chunk("text", output="part", boundaries="words", **options)
    late = chunks.ml.chunk("part", late=True, context=2, keep_text=True, **options)
    late.drop(columns="part_end").ml.to_parquet(tmp_path / "out")
    schema = _schema(tmp_path / "out")
    columns = json.loads(schema.metadata[b"dask_embed"])["columns"]
    names = {f"{name}{end}" for name in ("part", "chunk") for end in ENDS} - {"part_end"}
    assert set(columns) == {*names, "embedding"}
    revision = columns["part"].pop("revision")
    assert revision.startswith("local-")
    assert columns["part"] == {
        "operator": "Chunker",
        "input": ["text"],
        "model": minilm,
        "max_tokens": 6,
        "overlap": 1,
        "boundaries": "words",
    }
    assert columns["chunk_tokens"] == columns["embedding"]
    told = columns["embedding"]
    assert (told["operator"], told["input"]) == ("LateChunkEmbedder", ["part"])
    assert (told["boundaries"], told["context"], told["max_length"]) == ("sentences", 2, 256)
    assert (told["dimension"], told["pooling"], told["normalized"]) == (DIMENSION, ["mean"], True)
    assert (told["revision"], told["max_tokens"]) == (revision, 6)


def test_a_column_made_again_is_told_by_its_last_operator(minilm: str, tmp_path: Path) -> None:
    frame = dd.from_pandas(_frame().head(2), npartitions=1)
    first = frame.ml.chunk("text", model=minilm, max_tokens=9, output="text")
    again = first[["text"]].ml.chunk("text", model=minilm, max_tokens=5, output="text")
    again.ml.to_parquet(tmp_path / "out")
    schema = _schema(tmp_path / "out")
    told = json.loads(schema.metadata[b"dask_embed"])["columns"]["text"]
    assert told["max_tokens"] == 5


def test_no_file_and_no_log_names_a_token(
    minilm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecretsecret")
    frame = dd.from_pandas(_frame().head(2), npartitions=1).ml.embed("text", model=minilm)
    frame.ml.to_parquet(tmp_path / "out")
    written = b"".join(path.read_bytes() for path in (tmp_path / "out").iterdir())
    shown = repr(frame.expr) + str(frame.__dask_graph__()) + caplog.text
    assert b"secretsecret" not in written
    assert "secretsecret" not in shown


def test_token_vectors_survive(minilm: str, tmp_path: Path) -> None:
    frame = dd.from_pandas(_frame().head(9), npartitions=2)
    embedded = frame.ml.embed("text", model=minilm, pooling="none")
    embedded.ml.to_parquet(tmp_path / "tokens")
    read = pd.read_parquet(tmp_path / "tokens")["embedding"]
    expected = embedded.compute()["embedding"]
    assert read[7] is None
    for row in (0, 8):
        np.testing.assert_array_equal(np.stack(read[row]), np.stack(expected[row]))


def test_old_and_new_files_do_not_mix(minilm: str, tmp_path: Path) -> None:
    frame = dd.from_pandas(_frame().head(4), npartitions=2).ml.embed("text", model=minilm)
    frame.ml.to_parquet(tmp_path / "out")
    with pytest.raises(FileExistsError, match="already holds 2 Parquet files"):
        frame.ml.to_parquet(tmp_path / "out")
    frame.partitions[:1].ml.to_parquet(tmp_path / "out", overwrite=True)
    assert len(pd.read_parquet(tmp_path / "out")) == 2


def test_only_what_is_asked_for_is_read_back(folder: Path) -> None:
    read = de.read_parquet(folder, columns=["id"], filters=[("id", "<", 5)]).compute()
    assert read.columns.tolist() == ["id"]
    assert sorted(read["id"]) == [0, 1, 2, 3, 4]


# ------------------------------------------------------------------------------------- appending
@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("bert", tmp_path_factory.mktemp("append") / "bert")


@pytest.fixture(scope="module")
def cased(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another model with vectors of as many values."""
    return tiny.save("bert", tmp_path_factory.mktemp("append") / "cased", lowercase=False)


def _numbers(start: int, stop: int) -> dd.DataFrame:
    rows = range(start, stop)
    texts = [f"Number {row}" for row in rows]
    frame = pd.DataFrame({"id": rows, "text": texts, "odd": [row % 2 for row in rows]}, index=rows)
    return dd.from_pandas(frame, npartitions=2)


def _embedded(start: int, stop: int, model: Path, **settings: object) -> dd.DataFrame:
    model = de.Model(str(model), device="cpu")
    return _numbers(start, stop).ml.embed("text", model=model, **settings)


@pytest.mark.parametrize("columns", [["id", "text", "odd", "embedding"], ["embedding", "id"]])
@pytest.mark.parametrize(
    "options",
    [{}, {"write_index": True}, {"write_metadata_file": True}, {"partition_on": ["odd"]}],
    ids=str,
)
def test_appended_vectors_are_read_with_those_before(
    bert: Path, tmp_path: Path, options: dict[str, object], columns: list[str]
) -> None:
    if "partition_on" in options:
        columns = [*dict.fromkeys([*columns, "odd"])]
    for rows in ((0, 6), (100, 107)):
        frame = _embedded(*rows, bert)[columns]
        frame.ml.to_parquet(tmp_path / "out", append=True, **options)
    whole = [_embedded(*rows, bert)[columns].compute() for rows in ((0, 6), (100, 107))]
    expected = pd.concat(whole)
    plain = pd.read_parquet(tmp_path / "out").sort_values("id")
    read = de.read_parquet(tmp_path / "out").compute().sort_values("id")
    for given in (plain, read):
        assert set(given.columns) == set(columns)
        assert given["id"].tolist() == expected["id"].tolist()
    if options.get("write_index"):
        assert plain.index.tolist() == expected.index.tolist()
    assert read["embedding"].dtype == expected["embedding"].dtype
    vectors = np.stack(expected["embedding"])
    np.testing.assert_allclose(np.stack(plain["embedding"]), vectors, atol=1e-6)
    np.testing.assert_allclose(de.to_array(read["embedding"]), vectors, atol=1e-6)


def test_a_copied_model_may_append(bert: Path, tmp_path: Path) -> None:
    """Where the folder of a model lies does not change its vectors."""
    copied = Path(shutil.copytree(bert, tmp_path / "copied"))
    _embedded(0, 4, bert).ml.to_parquet(tmp_path / "out")
    _embedded(10, 14, copied).ml.to_parquet(tmp_path / "out", append=True)
    assert len(pd.read_parquet(tmp_path / "out")) == 8


def test_another_model_must_not_append(bert: Path, cased: Path, tmp_path: Path) -> None:
    _embedded(0, 4, bert).ml.to_parquet(tmp_path / "out")
    frame = _embedded(10, 14, cased)
    _refused(frame, tmp_path / "out", "'embedding'", str(bert), str(cased), "Embedder")


@pytest.mark.parametrize("settings", [{"normalize": True}, {"pooling": "max"}, {"prompt": "a "}])
def test_another_setting_must_not_append(
    bert: Path, tmp_path: Path, settings: dict[str, object]
) -> None:
    _embedded(0, 4, bert).ml.to_parquet(tmp_path / "out")
    [(name, value)] = settings.items()
    shown = {"normalize": "normalized=True", "pooling": "pooling=['max']"}
    shown = shown.get(name, f"{name}={value!r}")
    _refused(_embedded(10, 14, bert, **settings), tmp_path / "out", "'embedding'", shown)


def test_vectors_of_unknown_origin_must_not_append(bert: Path, tmp_path: Path) -> None:
    """Neither to those of a model, nor the other way round; to one another they may."""
    _embedded(0, 4, bert).ml.to_parquet(tmp_path / "told")
    untold = _embedded(20, 24, bert).persist(scheduler="sync")
    _refused(untold, tmp_path / "told", "nothing in the frame")
    untold.ml.to_parquet(tmp_path / "untold")
    _refused(_embedded(10, 14, bert), tmp_path / "untold", "nothing in the files", str(bert))
    de.read_parquet(tmp_path / "untold").ml.to_parquet(tmp_path / "untold", append=True)
    assert len(pd.read_parquet(tmp_path / "untold")) == 8


RENAMED = {
    "renamed": lambda frame: frame[["id", "mean"]].rename(columns={"mean": "v"}),
    "two names change places": lambda frame: frame.rename(columns={"v": "mean", "mean": "v"}),
    "names in order": lambda frame: _with_names(frame[["id", "mean"]], ["id", "v"]),
    "assigned": lambda frame: frame.assign(v=frame["mean"])[["id", "v"]],
    "filtered": lambda frame: frame[["id", "mean"]].rename(columns={"mean": "v"})[frame.id > 0],
    "a suffix less": lambda frame: frame[["id", "v"]].add_suffix("_old").assign(v=frame["mean"]),
}


def _with_names(frame: dd.DataFrame, names: list[str]) -> dd.DataFrame:
    frame.columns = names
    return frame


def _made(path: Path) -> dict[str, object]:
    """Return the pooling that the files of a folder tell of each vector column."""
    schema = pq.read_schema(next(path.glob("*.parquet")))
    columns = json.loads(schema.metadata[b"dask_embed"])["columns"]
    return {name: made.get("pooling", made["operator"]) for name, made in columns.items()}


@pytest.mark.parametrize("change", RENAMED)
def test_a_column_is_told_by_its_origin_and_not_by_its_name(
    bert: Path, tmp_path: Path, change: str
) -> None:
    """And under its new name it is not mixed with what was made otherwise."""
    mean = _numbers(0, 4).ml.embed("text", model=bert, output="mean", pooling="mean")
    both = mean.ml.embed("text", model=bert, output="v", pooling="cls")
    frame = RENAMED[change](both)
    frame.ml.to_parquet(tmp_path / "out")
    assert _made(tmp_path / "out")["v"] == ["mean"]
    other = _numbers(10, 14).ml.embed("text", model=bert, output="v", pooling="cls")
    _refused(other, tmp_path / "out", "cls")


def test_a_computed_column_is_none_of_the_operator(bert: Path, tmp_path: Path) -> None:
    """It has the name of one, or of none, but its values are others."""
    frame = _embedded(0, 4, bert)
    frame.assign(embedding=frame.id * 0.5, half=frame.id).ml.to_parquet(tmp_path / "out")
    assert _made(tmp_path / "out") == {}


def test_rows_of_several_origins_are_told_so(bert: Path, tmp_path: Path) -> None:
    """In either order: neither of the two made all of them."""
    first, second = _embedded(0, 4, bert), _embedded(4, 8, bert, pooling="cls")
    for name, parts in {"a": [first, second], "b": [second, first]}.items():
        dd.concat(parts).ml.to_parquet(tmp_path / name)
        assert _made(tmp_path / name) == {"embedding": "several"}
        _refused(_embedded(10, 14, bert), tmp_path / name, "several")
    dd.concat([first, _embedded(4, 8, bert)]).ml.to_parquet(tmp_path / "same")
    assert _made(tmp_path / "same") == {"embedding": ["mean"]}


def test_vectors_of_another_size_must_not_append(tmp_path: Path) -> None:
    """Also where nothing says what made them."""
    for size in (3, 4):
        vectors = pd.array([np.ones(size, "f4")] * 2, pd.ArrowDtype(pa.list_(pa.float32(), size)))
        frame = dd.from_pandas(pd.DataFrame({"v": vectors}), npartitions=1)
        if size == 3:
            frame.ml.to_parquet(tmp_path / "out")
    _refused(frame, tmp_path / "out", "'v'", "[3]", "[4]")


def _refused(frame: dd.DataFrame, path: Path, *named: str) -> None:
    before = sorted(path.iterdir())
    with pytest.raises(ValueError, match="append=True") as caught:
        frame.ml.to_parquet(path, append=True, compute=False)
    assert "\n" not in str(caught.value)
    for part in (*named, str(path)):
        assert part in str(caught.value)
    assert sorted(path.iterdir()) == before


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"partition_on": ["odd"]}], ids=str)
def test_a_partition_is_one_task(options: dict[str, Any], tmp_path: Path) -> None:
    """From its file to its file, so that no results wait, or move to another worker to be written.

    Besides there are the beginning of the job and its end.
    """
    rows = pd.DataFrame({"id": range(12), "text": ["a text"] * 12, "odd": [0, 1] * 6})
    dd.from_pandas(rows, npartitions=6).to_parquet(tmp_path / "in")
    read = dd.read_parquet(tmp_path / "in", split_row_groups=True)
    ran: list[Any] = []

    class Seen(Callback):
        def _posttask(self, key: Any, *rest: Any) -> None:
            ran.append(key)

    with Seen():
        Length()(read[read.id >= 0]).ml.to_parquet(
            tmp_path / "out", compute_kwargs={"scheduler": "sync"}, **options
        )
    assert len(ran) == read.npartitions + 2
    assert len(de.read_parquet(tmp_path / "out")) == 12
