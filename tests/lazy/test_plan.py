"""`explain` says in words what is left of a plan."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
import pytest
from support.counting import Length, LengthVector, table

import dask_embed as de


@pytest.fixture
def embedded(minilm: str) -> dd.DataFrame:
    frame = pd.DataFrame({"id": [1, 2], "lang": ["en", "de"], "text": ["a", "b"]})
    return dd.from_pandas(frame, npartitions=2).ml.embed("text", model=minilm)


def _explained(frame: dd.DataFrame) -> str:
    out = io.StringIO()
    de.explain(frame, file=out)
    return out.getvalue()


def _steps(text: str) -> list[str]:
    return re.findall(r"^  \d+\. (.*)$", text, re.MULTILINE)


def test_names_steps_columns_and_filters_in_order(embedded: dd.DataFrame, minilm: str) -> None:
    text = _explained(embedded[embedded.lang == "en"][["id", "embedding"]])
    lines = text.splitlines()
    assert lines[0] == "Plan (2 partitions), first step first:"
    assert _steps(text) == [
        "read a pandas frame in memory: columns id, lang, text",
        "keep rows where (lang == 'en')",
        "keep columns id, text",
        "run Embedder on text -> embedding",
        "keep columns id, embedding",
    ]
    details = [line.strip() for line in lines]
    assert any(line.startswith(f"model {minilm} at revision local-") for line in details)
    assert "384 x float32, mean pooling, normalize" in details
    assert "over columns id, text" in details
    assert "over rows where (lang == 'en')" in details


def test_a_filter_on_the_result_stays_above(embedded: dd.DataFrame) -> None:
    text = _explained(embedded[embedded.embedding.astype(str) != ""])
    assert text.index("run Embedder") < text.index("keep rows where")
    assert "over all rows that reach it" in text


def test_values_that_a_filter_looks_for_are_told_in_short(embedded: dd.DataFrame) -> None:
    (step,) = [x for x in _steps(_explained(embedded[embedded.id.isin([3, 1])])) if "rows" in x]
    assert step == "keep rows where (id in [1, 3])"
    text = _explained(embedded[~embedded.id.isin(list(range(9999)))])
    assert "(id in [0, 1, 2, 3" in text
    assert "9998" not in text


CUT = "chunk, chunk_index, chunk_start, chunk_end, chunk_tokens"


@pytest.fixture
def chunks(embedded: dd.DataFrame, minilm: str) -> dd.DataFrame:
    frame = embedded.drop(columns="embedding")
    return frame.ml.chunk("text", model=minilm, late=True, max_tokens=9, overlap=2)


def test_cutting_is_a_step_like_others(chunks: dd.DataFrame, minilm: str) -> None:
    """With its model, columns and rows; a row of the result is said to be a chunk."""
    text = _explained(chunks[chunks.lang == "en"][["id", "embedding"]])
    assert _steps(text) == [
        "read a pandas frame in memory: columns id, lang, text",
        "keep rows where (lang == 'en')",
        "keep columns id, text",
        f"run LateChunkEmbedder on text -> {CUT}, embedding, a row for each chunk",
        "keep columns id, embedding",
    ]
    details = [line.strip() for line in text.splitlines()]
    assert any(line.startswith(f"model {minilm} at revision local-") for line in details)
    assert "384 x float32, mean pooling, normalize" in details
    assert "chunks of at most 9 tokens, at most 2 shared with the next, cut at sentences" in details
    assert details.count("over columns id, text") == 1
    assert "over rows where (lang == 'en')" in details
    assert "not run: the model" not in text


def test_unwanted_vectors_are_said_not_to_be_computed(chunks: dd.DataFrame, minilm: str) -> None:
    """The texts are cut all the same, even if only an input column is wanted."""
    text = _explained(chunks[["id"]])
    assert f"run Chunker on text -> {CUT}, a row for each chunk" in text
    assert f"tokenizer of {minilm} at revision local-" in text
    assert "    model " not in text
    message = "not run: the model of LateChunkEmbedder on text -> embedding, no result column"
    assert text.count(message) == 1


def test_text_that_is_not_kept_after_all_is_no_operator_left_out(
    embedded: dd.DataFrame, minilm: str
) -> None:
    chunked = embedded[["id", "text"]].ml.chunk(model=minilm, max_tokens=9, keep_text=True)
    assert "not run: Chunker" not in _explained(chunked[["chunk"]])


def test_conditions_on_chunks_and_on_their_texts(chunks: dd.DataFrame, minilm: str) -> None:
    """Each is told where it runs, also the one that the second model's rows are left by."""
    both = chunks[["id", "lang", "chunk", "chunk_index"]].ml.embed("chunk", model=minilm)
    kept = (both.lang == "en") & (both.chunk_index == 0) & (both.embedding.astype(str) != "")
    text = _explained(both[kept][["id", "embedding"]])
    assert _steps(text)[1:] == [
        "keep rows where (lang == 'en')",
        "keep columns id, text",
        f"run Chunker on text -> {CUT}, a row for each chunk",
        "keep rows where (chunk_index == 0)",
        "keep columns id, chunk",
        "run Embedder on chunk -> embedding",
        "keep columns id, embedding",
        "keep rows where (astype(embedding, <class 'str'>) != '')",
    ]
    assert "over rows where (chunk_index == 0) and (lang == 'en')" in text


def test_counting_and_looking(chunks: dd.DataFrame) -> None:
    """What `head` and the index need of the rows is said as well."""
    first = _steps(_explained(chunks[["id"]].head(3, compute=False)))
    assert first[1] == "keep the first 3 rows of each partition"
    assert first[2].startswith("run Chunker")
    last = _steps(_explained(chunks[["id"]].tail(2, compute=False)))
    assert last[1] == "keep the last 2 rows of each partition"
    assert _steps(_explained(chunks.index))[-1] == "keep the index"


def test_a_removed_operator_is_said_to_be_removed(embedded: dd.DataFrame) -> None:
    text = _explained(embedded[["id"]])
    assert "run Embedder" not in text
    assert "not run: Embedder on text -> embedding, no result column is used" in text


def test_series_and_parquet(embedded: dd.DataFrame, tmp_path) -> None:
    embedded.drop(columns="embedding").to_parquet(tmp_path)
    text = _explained(dd.read_parquet(tmp_path).ml.embed("text", model=de.datasets.minilm()).id)
    assert f"read Parquet {tmp_path}: columns id" in text


def test_explaining_runs_nothing(embedded: dd.DataFrame, rows_through_model) -> None:
    assert rows_through_model(lambda: _explained(embedded)) == 0


def test_a_pandas_frame_is_refused() -> None:
    with pytest.raises(TypeError, match=r"explain takes a Dask DataFrame, got pandas\.DataFrame"):
        de.explain(pd.DataFrame({"a": [1]}))


PLACES: dict[str, tuple[Callable[[Any], Any], list[str]]] = {
    "a filter on the result": (
        lambda f: f[(f.vector.astype(str) != "") & (f.id > 3)],
        ["behind 2 of 3 other steps: step 4 reads vector"],
    ),
    "a filter behind another step": (
        lambda f: f.assign(twice=f.id * 2).query("id > 3"),
        ["behind 5 of 6 other steps: no step asks for fewer rows"],
    ),
    "nothing leaves rows out": (
        lambda f: f.sort_values("id"),
        ["behind 1 of 2 other steps: no step asks for fewer rows"],
    ),
    "rows are chosen": (lambda f: f.nlargest(3, "id"), ["behind all other steps"]),
    "the result is changed": (
        lambda f: f.astype({"vector": object}).query("id > 3"),  # row by row: a filter passes it
        ["behind 2 of 3 other steps: no step asks for fewer rows"],
    ),
    "its input is changed": (
        lambda f: f.astype({"text": object}).query("id > 3"),
        ["behind 1 of 3 other steps: step 3 changes text"],
    ),
    "a function of partitions": (
        lambda f: f.map_partitions(len),
        ["behind 1 of 2 other steps: step 3 may need all columns and rows"],
    ),
    "an aggregation": (
        lambda f: Length()(f).groupby("lang").length.mean(),
        ["behind 1 of 4 other steps: step 4 reads length of all rows"],
    ),
    "two filters": (
        lambda f: dd.concat([f[f.id < 3], f[f.id > 30]]),
        ["behind 1 of 4 other steps: several steps read its results, which are computed once"],
    ),
    "the same frame twice": (
        lambda f: dd.concat([f, f]).nlargest(3, "id"),
        ["behind 1 of 3 other steps: step 3 has rows twice, which run once"],
    ),
    "another operator": (
        lambda f: de.Similarity(prototypes={"a": [1.0, 0.5]}, column="vector", output="near")(f),
        ["behind 1 of 2 other steps: step 3 reads vector", "behind all other steps"],
    ),
    "two, a filter on one": (
        lambda f: Length()(f).pipe(lambda g: g[g.length > 3])[["id", "vector"]],
        [
            "behind 1 of 4 other steps: step 3 makes what rows are left out by",
            "behind 2 of 4 other steps: step 4 reads the result",
        ],
    ),
}


STEPS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "nlargest": (lambda f: f.nlargest(3, "id"), "keep the 3 rows with the largest id"),
    "sorted head": (
        lambda f: f.sort_values(["lang", "id"]).head(3, compute=False),
        "keep the 3 first rows by lang, id",
    ),
    "head": (
        lambda f: f.head(3, compute=False),
        "keep the first 3 rows of the first partition",
    ),
    "head of several": (
        lambda f: f.head(3, npartitions=-1, compute=False),
        "keep the first 3 rows of all partitions",
    ),
    "tail": (lambda f: f.tail(2, compute=False), "keep the last 2 rows of the last partition"),
    "unique": (lambda f: f.drop_duplicates(subset=["lang"]), "keep the first row of each lang"),
    "query": (
        lambda f: f.query("id > 3 and lang == 'en'"),
        "keep rows where ((id > 3) & (lang == 'en'))",
    ),
    "merge": (lambda f: f.merge(_names(), on="lang"), "inner merge by lang"),
    "concat": (lambda f: dd.concat([f, f]), "put 2 frames behind each other"),
    "assign": (lambda f: f.assign(a=1, b=f.id), "assign a, b"),
    "rename": (lambda f: f.rename(columns={"id": "number"}), "rename id to number"),
    "set_index": (lambda f: f.set_index("id"), "sort rows by id, as the index"),
    "sort_values": (lambda f: f.sort_values("id"), "sort rows by id"),
    "loc": (lambda f: f.loc[10:20], "keep labels"),
    "explode": (lambda f: f.explode("lang"), "explode lang"),
    "repartition": (lambda f: f.repartition(npartitions=1), "repartition into 1"),
    "a function": (lambda f: f.map_partitions(_same), "map _same over partitions"),
}


def _names() -> Any:
    names = pd.DataFrame({"lang": ["en", "de"], "name": ["English", "German"]})
    return dd.from_pandas(names, npartitions=1)


def _same(part: pd.DataFrame) -> pd.DataFrame:
    return part


@pytest.mark.parametrize("name", STEPS)
def test_steps_of_dask_in_words(name: str) -> None:
    step, told = STEPS[name]
    assert told in _steps(_explained(step(LengthVector()(dd.from_pandas(table(), npartitions=2)))))


def test_a_condition_of_frames_behind_each_other_is_told_once() -> None:
    one, other = (LengthVector()(dd.from_pandas(table(), npartitions=n)) for n in (1, 2))
    text = _explained(dd.concat([one, other]).query("id > 3"))
    assert text.count("over rows where") == 1
    assert text.count("id > 3") == 3  # each frame, and the operator
    assert _places(dd.concat([one, other]).query("id > 3")) == ["behind all other steps"]


def _places(frame: dd.DataFrame) -> list[str]:
    return re.findall(r"^       (behind .*)$", _explained(frame), re.MULTILINE)


@pytest.mark.parametrize("name", PLACES)
def test_how_far_an_operator_has_risen_and_why_no_further(name: str) -> None:
    step, told = PLACES[name]
    frame = step(LengthVector()(dd.from_pandas(table(), npartitions=2)))
    assert _places(frame) == told


STAYS = "behind 1 of 2 other steps: step 3 stays above: embed.operators-rise is"


@pytest.mark.parametrize(
    ("rise", "told"),
    [
        ("all", "behind all other steps"),
        ("blockwise", f"{STAYS} 'blockwise'"),
        ("none", f"{STAYS} 'none'"),
    ],
)
def test_the_setting_is_told(rise: str, told: str) -> None:
    with dask.config.set({"embed.operators-rise": rise}):
        frame = LengthVector()(dd.from_pandas(table(), npartitions=2))
        assert _places(frame.nlargest(3, "id")) == [told]
