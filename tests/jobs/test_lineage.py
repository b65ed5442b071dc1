"""What made a column goes on to what is computed from it, through frames and files."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from support import tiny

import dask_embed as de
from dask_embed.jobs.lineage import origins

HEAD = np.eye(2, 32, dtype="f4")


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save("bert", tmp_path_factory.mktemp("lineage") / "bert"))


def _rows(start: int = 0, stop: int = 4) -> dd.DataFrame:
    texts = [f"number {row}" for row in range(start, stop)]
    return dd.from_pandas(pd.DataFrame({"id": range(start, stop), "text": texts}), npartitions=2)


def _vectors(model: str, rows: Any = None, **settings: Any) -> dd.DataFrame:
    return (_rows() if rows is None else rows).ml.embed("text", model=model, **settings)


def _told(frame: Any, column: str) -> dict[str, Any]:
    """What files would say of a column."""
    return origins(frame)[column].to_json()


# ------------------------------------------------------------------------- what results are made of
LATER: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "linear head": ("label", lambda frame: frame.ml.linear_head(weights=HEAD)),
    "similarity": ("nearest_score", lambda frame: frame.ml.similarity(prototypes=HEAD)),
    "of another name": (
        "label",
        lambda frame: frame.rename(columns={"embedding": "v"}).ml.linear_head("v", weights=HEAD),
    ),
    "assigned": (
        "label",
        lambda frame: _rows().assign(v=frame.embedding).ml.linear_head("v", weights=HEAD),
    ),
    "of quantized vectors": (
        "label",
        lambda frame: de.quantize(frame, "embedding", "float16").ml.linear_head(weights=HEAD),
    ),
    "quantized": ("embedding", lambda frame: de.quantize(frame, "embedding", "float16")),
    "a selection": ("label", lambda frame: frame.ml.linear_head(weights=HEAD)[["label"]]),
    "optimized": ("label", lambda frame: frame.ml.linear_head(weights=HEAD).optimize()),
    "merged": (
        "label_b",
        lambda frame: (
            _rows()
            .assign(label=1)
            .merge(frame.ml.linear_head(weights=HEAD), on="id", suffixes=("_a", "_b"))
        ),
    ),
    "in map_partitions": (
        "label",
        lambda frame: frame.map_partitions(de.LinearHead(HEAD)),
    ),
}


@pytest.mark.parametrize("step", LATER)
def test_results_know_what_their_vectors_were_made_by(bert: str, step: str) -> None:
    column, later = LATER[step]
    mean, again, cls = (
        _told(later(_vectors(bert, **settings)), column)
        for settings in ({"pooling": "mean"}, {"pooling": "mean"}, {"pooling": "cls"})
    )
    assert mean == again != cls
    assert "['cls']" in str(cls)
    assert "['cls']" not in str(mean)


def test_labels_of_other_vectors_do_not_append(bert: str, tmp_path: Path) -> None:
    """The vectors themselves need not be written."""

    def labels(rows: Any, **settings: Any) -> Any:
        return _vectors(bert, rows, **settings).ml.linear_head(weights=HEAD)[["id", "label"]]

    labels(_rows(), pooling="mean").ml.to_parquet(tmp_path / "out")
    for other, named in (
        (labels(_rows(4, 8), pooling="cls"), r"embedding\.pooling=\['cls'\] in the frame"),
        (labels(_rows(4, 8), max_chars=3), r"embedding\.max_chars=3 in the frame"),
        (
            _vectors(bert, _rows(4, 8)).persist(scheduler="sync").ml.linear_head(weights=HEAD),
            "embedding of unknown origin in the frame",
        ),
    ):
        with pytest.raises(ValueError, match=f"column 'label' .*{named}"):
            other[["id", "label"]].ml.to_parquet(tmp_path / "out", append=True)
    labels(_rows(4, 8), pooling="mean").ml.to_parquet(tmp_path / "out", append=True)
    assert len(pd.read_parquet(tmp_path / "out")) == 8


def test_vectors_know_how_their_texts_were_cut(bert: str) -> None:
    told = []
    for size in (4, 5):
        chunks = _rows().ml.chunk("text", model=bert, max_tokens=size)
        told.append(_told(chunks.ml.embed("chunk", model=bert), "embedding"))
    assert [each["from"]["chunk"]["max_tokens"] for each in told] == [4, 5]


# ------------------------------------------------------------------------------------ through files
READERS: dict[str, Callable[[Path], Any]] = {
    "de.read_parquet": de.read_parquet,
    "of some columns": lambda path: de.read_parquet(path, columns=["embedding", "id"]),
    "dd.read_parquet": lambda path: dd.read_parquet(path, filters=[("id", ">", 1)]),
    "arrow": lambda path: dd.read_parquet(path, filesystem="arrow"),
    "optimized": lambda path: dd.read_parquet(path, filesystem="arrow")[["embedding"]].optimize(),
}


@pytest.mark.parametrize("reader", READERS)
def test_files_tell_what_made_their_columns(bert: str, tmp_path: Path, reader: str) -> None:
    """So that labels of vectors in files stand beside labels of the same vectors in a frame."""
    vectors = _vectors(bert, pooling="cls")
    vectors.ml.to_parquet(tmp_path / "vectors")
    read = READERS[reader](tmp_path / "vectors")
    assert _told(read, "embedding") == _told(vectors, "embedding")
    if reader == "de.read_parquet":
        labels = [frame.ml.linear_head(weights=HEAD) for frame in (read, vectors)]
        assert _told(labels[0], "label") == _told(labels[1], "label")


def test_files_of_two_folders_are_of_both_origins(bert: str, tmp_path: Path) -> None:
    """And what nobody told of is one more."""
    for name in ("mean", "cls"):
        _vectors(bert, pooling=name).ml.to_parquet(tmp_path / name)
    _vectors(bert).persist(scheduler="sync").ml.to_parquet(tmp_path / "untold")
    _vectors(bert, _rows(4, 8), pooling="mean").ml.to_parquet(tmp_path / "mean", append=True)
    folders = [str(tmp_path / name) for name in ("mean", "cls", "untold")]
    assert _told(de.read_parquet(folders[0]), "embedding")["pooling"] == ["mean"]
    files = [str(file) for name in folders for file in Path(name).glob("*.parquet")]
    told = _told(de.read_parquet(files), "embedding")
    assert told["operator"] == "several"
    assert sorted(str(each.get("pooling")) for each in told["from"].values()) == [
        "None", "['cls']", "['mean']",
    ]  # fmt: skip
    both = dd.concat([_vectors(bert, pooling="mean"), de.read_parquet(folders[2])])
    assert _told(both, "embedding")["operator"] == "several"


# ----------------------------------------------------------------------------------- map_partitions
@pytest.mark.parametrize("given", ["operator", "partial", "method"])
def test_an_operator_in_map_partitions_is_known(bert: str, tmp_path: Path, given: str) -> None:
    operator = de.Embedder(bert, pooling="cls")
    function: Any = {
        "operator": operator,
        "partial": functools.partial(operator),
        "method": operator.apply,
    }[given]
    expected = _vectors(bert, pooling="cls")
    out = _rows(4, 8).map_partitions(function, meta=expected._meta)
    assert _told(out, "embedding") == _told(expected, "embedding")
    if given == "operator":
        expected.ml.to_parquet(tmp_path / "out")
        out.ml.to_parquet(tmp_path / "out", append=True)
        mean = _rows(8, 9).map_partitions(de.Embedder(bert, pooling="mean"))
        with pytest.raises(ValueError, match=r"pooling=\['mean'\] in the frame"):
            mean.ml.to_parquet(tmp_path / "out", append=True)


def test_a_model_that_only_workers_have_leaves_the_origin_unknown(tmp_path: Path) -> None:
    operator = de.Embedder(str(tmp_path / "elsewhere"))
    out = _rows().map_partitions(operator, meta=_rows()._meta.assign(embedding=0.5))
    assert origins(out) == {}


def test_columns_that_a_function_makes_are_of_unknown_origin(bert: str, tmp_path: Path) -> None:
    """Those that were there before are taken to be the same."""
    out = _vectors(bert).map_partitions(lambda rows: rows.assign(mine=1.0))
    assert list(origins(out)) == ["embedding"]
    out[["id", "mine"]].ml.to_parquet(tmp_path / "out")
    known = _vectors(bert, _rows(4, 8)).ml.linear_head(weights=HEAD, score="mine")[["id", "mine"]]
    with pytest.raises(ValueError, match="nothing in the files, but operator='LinearHead'"):
        known.ml.to_parquet(tmp_path / "out", append=True)


# ------------------------------------------------------------------------------------- older files
def _rewrite(folder: Path, change: Callable[[dict[str, Any]], None]) -> None:
    for file in folder.glob("*.parquet"):
        table = pq.read_table(file)
        said = json.loads(table.schema.metadata[b"dask_embed"])
        change(said)
        metadata = {**table.schema.metadata, b"dask_embed": json.dumps(said).encode()}
        pq.write_table(table.replace_schema_metadata(metadata), file)


def test_files_that_could_not_tell_of_inputs_are_appended_to(bert: str, tmp_path: Path) -> None:
    """The label's own settings still count, also where old labels are written to a new file."""

    def second_format(said: dict[str, Any]) -> None:
        said["format"] = 2
        del said["columns"]["label"]["from"]

    def labels(start: int, **settings: Any) -> Any:
        rows = _vectors(bert, _rows(start, start + 4), pooling="cls")
        return rows.ml.linear_head(weights=HEAD, **settings)[["id", "label"]]

    labels(0).ml.to_parquet(tmp_path / "old")
    _rewrite(tmp_path / "old", second_format)
    de.read_parquet(tmp_path / "old").ml.to_parquet(tmp_path / "new")
    for name in ("old", "new"):
        with pytest.raises(ValueError, match="activation='sigmoid' in the frame"):
            labels(4, activation="sigmoid").ml.to_parquet(tmp_path / name, append=True)
        labels(4).ml.to_parquet(tmp_path / name, append=True)
        assert len(pd.read_parquet(tmp_path / name)) == 8


def test_rows_of_several_origins_in_older_files(bert: str, tmp_path: Path) -> None:
    """They told each as a text of json."""

    def second_format(said: dict[str, Any]) -> None:
        told = said["columns"]["embedding"]
        said["format"] = 2
        told["of"] = [json.dumps(each, sort_keys=True) for each in told.pop("from").values()]

    def both(start: int, *poolings: str) -> Any:
        rows = (_rows(start, start + 2), _rows(start + 2, start + 4))
        pairs = zip(rows, poolings, strict=True)
        return dd.concat([_vectors(bert, each, pooling=pooling) for each, pooling in pairs])

    both(0, "mean", "cls").ml.to_parquet(tmp_path / "old")
    _rewrite(tmp_path / "old", second_format)
    both(4, "cls", "mean").ml.to_parquet(tmp_path / "old", append=True)
    with pytest.raises(ValueError, match=r"pooling=\['max'\]"):
        both(8, "mean", "max").ml.to_parquet(tmp_path / "old", append=True)


def test_a_setting_newer_than_files_of_vectors_had_its_default(bert: str, tmp_path: Path) -> None:
    """Also where both are told by files, and behind a later result."""
    for name in ("old", "new"):
        _vectors(bert).ml.to_parquet(tmp_path / name)
    _rewrite(tmp_path / "old", lambda said: said["columns"]["embedding"].pop("max_chars"))
    old, new = (
        de.read_parquet(tmp_path / name).ml.linear_head(weights=HEAD) for name in ("old", "new")
    )
    new.ml.to_parquet(tmp_path / "out")
    old.ml.to_parquet(tmp_path / "out", append=True)
    short = _vectors(bert, _rows(4, 8), max_chars=3).ml.linear_head(weights=HEAD)
    for frame in (old, new):
        frame.ml.to_parquet(tmp_path / "again", overwrite=True)
        with pytest.raises(ValueError, match=r"embedding\.max_chars=3 in the frame"):
            short[["id", "label"]].ml.to_parquet(tmp_path / "again", append=True)
