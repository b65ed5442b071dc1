"""``.ml.nearest``: the rows that NumPy finds by all products, in any partitions."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sentence_transformers import MultiVectorEncoder, SentenceTransformer, util
from sentence_transformers.base.modules import Transformer
from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
from support import tiny
from support.clusters import cluster

import dask_embed as de
from dask_embed.curation.vectors import vector_series

ROWS, DIMENSION = 300, 16
ASKED = [10, 50, 299]


def some_frame() -> pd.DataFrame:
    """Vectors of which some are equal, one is null, and ids in another order than rows."""
    random = np.random.default_rng(0)
    vectors = random.normal(size=(ROWS, DIMENSION)).astype("float32")
    vectors[200], vectors[7] = vectors[10], vectors[299]
    frame = pd.DataFrame({"id": [f"r{i:03}" for i in random.permutation(ROWS)]})
    frame["embedding"] = vector_series(vectors)
    frame.loc[5, "embedding"] = None
    return frame


def lazy(frame: pd.DataFrame, npartitions: int = 4) -> Any:
    return dd.from_pandas(frame, npartitions=npartitions, sort=False)


def vectors_of(frame: pd.DataFrame) -> np.ndarray:
    return de.to_array(frame.embedding).astype(float)


def cosines(queries: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    left, right = (
        each / np.linalg.norm(each, axis=1, keepdims=True) for each in (queries, vectors)
    )
    return left @ right.T


def expected_rows(found: np.ndarray, names: list[Any], k: int) -> list[tuple[Any, ...]]:
    """Query, rank and neighbour of the highest values; equal ones by name, rows of NaN not."""
    rows: list[tuple[Any, ...]] = []
    for query, values in enumerate(found.round(6)):
        there = [
            (-value, name) for value, name in zip(values, names, strict=True) if value == value
        ]
        rows += [(query, rank, name) for rank, (_, name) in enumerate(sorted(there)[:k], 1)]
    return rows


def rows_of(out: pd.DataFrame) -> list[tuple[Any, ...]]:
    return list(out[["query", "rank", "neighbour"]].itertuples(index=False, name=None))


@pytest.mark.parametrize("npartitions", [1, 4, 16])
@pytest.mark.parametrize("id", [None, "id"])
def test_neighbours_of_an_array(npartitions: int, id: str | None) -> None:
    frame = some_frame()
    vectors = vectors_of(frame)
    queries = vectors[ASKED].astype("float32")
    out = lazy(frame, npartitions).ml.nearest(queries, 4, id=id).compute()
    expected = cosines(vectors[ASKED], vectors)
    names = list(range(ROWS)) if id is None else frame.id.tolist()
    assert rows_of(out) == expected_rows(expected, names, 4)
    assert list(out.columns) == ["query", "rank", "neighbour", "similarity"]
    assert out.dtypes.similarity == "float32"
    wanted = [np.sort(row[~np.isnan(row)])[::-1][:4] for row in expected]
    np.testing.assert_allclose(out.similarity, np.concatenate(wanted), rtol=1e-6)


def test_neighbours_of_every_row_without_itself() -> None:
    frame = some_frame()
    found = cosines(vectors_of(frame), vectors_of(frame))
    np.fill_diagonal(found, np.nan)
    expected = expected_rows(found, list(range(ROWS)), 3)
    for npartitions in (1, 5):
        out = lazy(frame, npartitions).ml.nearest(k=3).compute()
        assert rows_of(out) == expected
        assert 5 not in [*out["query"], *out.neighbour]
    by_id = lazy(frame, 5).ml.nearest(k=3, id="id").compute()
    assert by_id["query"].tolist() == [frame.id[query] for query, _, _ in expected]
    mixed = lazy(frame.sample(frac=1, random_state=1), 7).ml.nearest(k=3, id="id").compute()
    pd.testing.assert_frame_equal(
        mixed.sort_values(["query", "rank"], ignore_index=True),
        by_id.sort_values(["query", "rank"], ignore_index=True),
    )


def test_lists_stand_beside_the_queries() -> None:
    frame = some_frame()
    long = lazy(frame).ml.nearest(k=3, id="id").compute()
    ddf = lazy(frame)
    lists = ddf.ml.nearest(k=3, id="id", lists=True)
    assert lists.divisions == ddf.divisions
    out = lists.compute()
    assert out.dtypes.to_dict() == lists.dtypes.to_dict()
    pd.testing.assert_frame_equal(out[["id", "embedding"]], ddf.compute())
    assert out.index[out.neighbours.isna()].tolist() == [5]
    assert out.index[out.similarities.isna()].tolist() == [5]
    there = out.drop(index=5)
    assert [name for row in there.neighbours for name in row] == long.neighbour.tolist()
    given = np.array([value for row in there.similarities for value in row], "float32")
    assert given.tolist() == long.similarity.tolist()


def test_queries_of_another_frame() -> None:
    frame = some_frame()
    other = frame.iloc[ASKED].rename(columns={"embedding": "v", "id": "name"})
    expected = lazy(frame).ml.nearest(de.to_array(other.v), 2, id="id").compute()
    for queries in (other, lazy(other, 1), lazy(other, 2)):
        out = lazy(frame).ml.nearest(queries, 2, id="id", query_column="v", query_id="name")
        out = out.compute()
        assert out["query"].tolist() == other.name.repeat(2).tolist()
        assert out.neighbour.tolist() == expected.neighbour.tolist()
        plain = lazy(frame).ml.nearest(queries, 2, id="id", query_column="v").compute()
        assert plain["query"].tolist() == [0, 0, 1, 1, 2, 2]
        lists = lazy(frame).ml.nearest(queries, 2, id="id", query_column="v", lists=True).compute()
        assert list(lists.columns) == ["name", "v", "neighbours", "similarities"]
        assert np.concatenate([*lists.neighbours]).tolist() == expected.neighbour.tolist()


def test_numbers_as_ids_and_no_rows() -> None:
    frame = some_frame().assign(id=np.arange(ROWS)[::-1] * 10)
    out = lazy(frame).ml.nearest(vectors_of(frame)[[10]], 2, id="id").compute()
    assert out.neighbour.tolist() == [990, 2890]  # of two that are equal the lower one
    empty = lazy(frame)[lazy(frame).id < 0]
    assert len(empty.ml.nearest(vectors_of(frame)[[10]], 2).compute()) == 0
    assert len(empty.ml.nearest(k=2, lists=True).compute()) == 0
    few = lazy(frame)[lazy(frame).id < 30].ml.nearest(k=5).compute()
    assert len(few) == 3 * 2


@pytest.mark.parametrize("metric", ["dot", "euclidean"])
def test_metrics_are_those_of_sentence_transformers(metric: str) -> None:
    frame = some_frame().drop(index=5).reset_index(drop=True)
    vectors = de.to_array(frame.embedding)
    score = util.dot_score if metric == "dot" else util.euclidean_sim
    expected = score(vectors[:9], vectors).numpy().astype(float)
    out = lazy(frame).ml.nearest(vectors[:9], 5, metric=metric).compute()
    np.testing.assert_allclose(
        out.similarity, (-np.sort(-expected, axis=1)[:, :5]).ravel(), rtol=1e-5, atol=5e-3
    )
    picked = expected[out["query"], out.neighbour]
    np.testing.assert_allclose(out.similarity, picked, rtol=1e-5, atol=5e-3)


@pytest.mark.parametrize("precision", ["float16", "int8", "uint8", "binary", "ubinary"])
def test_stored_types(precision: str) -> None:
    frame = some_frame().drop(index=5).reset_index(drop=True)
    small = de.quantize(frame, "embedding", precision)
    vectors = de.to_array(small.embedding)
    metric = "hamming" if "binary" in precision else "cosine"
    if metric == "hamming":
        bits = np.unpackbits(vectors.view("uint8"), axis=1)
        expected = -(bits[ASKED[:2], None] != bits[None]).sum(axis=2).astype(float)
    else:
        expected = cosines(vectors[ASKED[:2]].astype(float), vectors.astype(float))
    out = lazy(small).ml.nearest(vectors[ASKED[:2]], 6, metric=metric).compute()
    assert rows_of(out) == expected_rows(expected, list(range(len(frame))), 6)
    if metric == "hamming":  # vectors of numbers are packed as the column was
        given = de.to_array(frame.embedding)[ASKED[:2]]
        again = lazy(small).ml.nearest(given, 6, metric=metric).compute()
        pd.testing.assert_frame_equal(again, out)


def test_token_vectors() -> None:
    random = np.random.default_rng(1)
    texts = [random.normal(size=(n, 4)).astype("float32") for n in random.integers(1, 6, 60)]
    kind = pa.list_(pa.list_(pa.float32(), 4))
    column = pa.array([None if n == 9 else text.tolist() for n, text in enumerate(texts)], kind)
    frame = pd.DataFrame({"tokens": pd.Series(pd.arrays.ArrowExtensionArray(column))})
    expected = np.array([[(a @ b.T.astype(float)).max(axis=1).sum() for b in texts] for a in texts])
    np.fill_diagonal(expected, np.nan)
    expected[9] = expected[:, 9] = np.nan
    for npartitions in (1, 4):
        out = lazy(frame, npartitions).ml.nearest(k=3, column="tokens").compute()
        assert rows_of(out) == expected_rows(expected, list(range(60)), 3)


# -------------------------------------------------------------------------------------- with models
TEXTS = [text for text in tiny.corpus()[:80] if text.strip()]


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save("bert", tmp_path_factory.mktemp("nearest") / "bert"))


@pytest.fixture(scope="module")
def documents() -> Any:
    return lazy(pd.DataFrame({"text": TEXTS}), 3)


SETTINGS: dict[str, dict[str, Any]] = {
    "as it is": {},
    "pooling": {"pooling": "cls", "normalize": True},
    "truncated": {"truncate_dim": 8, "normalize": True},
    "a prompt": {"prompt": "search: "},
    "cut": {"max_chars": 20, "max_length": 9},
    "float16": {"precision": "float16"},
    "int8": {"precision": "int8", "ranges": [[-3.0] * 32, [3.0] * 32]},
    "ubinary": {"precision": "ubinary"},
    "tokens": {"pooling": "none"},
}


@pytest.mark.parametrize("name", SETTINGS)
def test_texts_are_embedded_as_the_column_was(
    documents: Any, bert: str, tmp_path: Path, name: str
) -> None:
    """A text of the column finds its row, at the similarity of a vector to itself."""
    embedded = documents.ml.embed("text", model=bert, **SETTINGS[name])
    embedded.ml.to_parquet(tmp_path / "out")
    own = embedded.compute()
    for frame in (embedded, de.read_parquet(tmp_path / "out")):
        out = frame.ml.nearest([TEXTS[3], TEXTS[41]], 2).compute()
        assert out["query"].tolist() == [TEXTS[3]] * 2 + [TEXTS[41]] * 2
        by_vector = frame.ml.nearest(own.iloc[[3, 41]], 2).compute()
        assert out.neighbour[::2].tolist() == by_vector.neighbour[::2].tolist()
        np.testing.assert_allclose(out.similarity, by_vector.similarity, rtol=1e-5, atol=1e-5)
        if name != "tokens":
            assert out.neighbour[::2].tolist() == [3, 41]


def test_a_prompt_for_questions(documents: Any, bert: str) -> None:
    reference = SentenceTransformer(bert, device="cpu")
    corpus = reference.encode(TEXTS)
    question = reference.encode(["query: lines of a file"])
    out = documents.ml.embed("text", model=bert).ml.nearest("lines of a file", 3, prompt="query: ")
    expected = util.semantic_search(question, corpus, top_k=3)[0]
    found = out.compute()
    assert found.neighbour.tolist() == [each["corpus_id"] for each in expected]
    np.testing.assert_allclose(found.similarity, [each["score"] for each in expected], atol=1e-5)


def test_a_multi_vector_model_reads_questions_as_such(tmp_path: Path) -> None:
    """With masks added to the question, as MultiVectorEncoder does."""
    base = tiny.save("bert", tmp_path / "base")
    fill = {"strategy": "fixed", "length": 12}
    modules = [Transformer(str(base), query_expansion=fill), MultiVectorMask()]
    reference = MultiVectorEncoder(modules=modules, device="cpu")
    reference.save(str(tmp_path / "model"))
    texts = TEXTS[:20]
    expected = reference.similarity(
        reference.encode_query(["lines of a file"]), reference.encode_document(texts)
    )
    rows = lazy(pd.DataFrame({"text": texts}), 2)
    embedded = rows.ml.embed_multi_vector("text", model=str(tmp_path / "model"))
    out = embedded.ml.nearest("lines of a file", 3, column="token_embeddings").compute()
    best = expected.numpy()[0].argsort()[::-1][:3]
    assert out.neighbour.tolist() == best.tolist()
    np.testing.assert_allclose(out.similarity, expected.numpy()[0][best], rtol=1e-4)


def test_the_model_runs_once(documents: Any, bert: str, rows_through_model: Any) -> None:
    embedded = documents.ml.embed("text", model=bert)
    assert rows_through_model(embedded.ml.nearest(k=2).compute) == len(TEXTS)
    assert rows_through_model(embedded.ml.nearest(k=2, lists=True).compute) == len(TEXTS)
    assert rows_through_model(embedded.ml.nearest(["a", "b"], 2).compute) == len(TEXTS) + 2


def test_spaces_do_not_mix(documents: Any, bert: str) -> None:
    mean = documents.ml.embed("text", model=bert)
    cls = documents.ml.embed("text", model=bert, pooling="cls")
    message = r"pooling=\['mean'\], but the queries are of .*pooling=\['cls'\]: these are different"
    with pytest.raises(ValueError, match=message):
        mean.ml.nearest(cls)
    assert len(mean.ml.nearest(cls, 1, check=False).compute()) == len(TEXTS)
    with pytest.raises(ValueError, match="its other rows are of"):
        dd.concat([mean, cls]).ml.nearest(k=1)
    other = documents.ml.embed("text", model=bert, prompt="query: ", max_chars=30)
    assert len(mean.ml.nearest(other, 1).compute()) == len(TEXTS)


def test_texts_need_to_know_the_model(documents: Any, bert: str) -> None:
    embedded = documents.ml.embed("text", model=bert)
    with pytest.raises(ValueError, match=r"need the model of column 'embedding', but nothing tell"):
        embedded.persist().ml.nearest("a text")
    calibrated = documents.ml.embed("text", model=bert, precision="int8")
    with pytest.raises(ValueError, match="only a token of ranges is known"):
        calibrated.ml.nearest("a text")
    both = dd.concat([embedded, embedded.persist()])
    with pytest.raises(ValueError, match="was made by several"):
        both.ml.nearest("a text")


# ------------------------------------------------------------------------------------------- faiss
def test_faiss_finds_the_same_where_all_lists_are_searched(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    frame = some_frame()
    queries = vectors_of(frame)[ASKED]
    for metric in ("cosine", "dot", "euclidean"):
        options = {"metric": metric, "id": "id"}
        exact = lazy(frame, 2).ml.nearest(queries, 4, **options).compute()
        options |= {"engine": "faiss", "n_lists": 5, "n_probe": 5}
        pd.testing.assert_frame_equal(
            lazy(frame, 2).ml.nearest(queries, 4, **options).compute(), exact
        )
    every = lazy(frame, 2).ml.nearest(k=3, engine="faiss", n_lists=3, n_probe=3).compute()
    pd.testing.assert_frame_equal(every, lazy(frame, 2).ml.nearest(k=3).compute())


def test_an_index_is_kept_and_used_again(tmp_path: Path) -> None:
    faiss = pytest.importorskip("faiss")
    frame = some_frame()
    queries = vectors_of(frame)[ASKED]
    options = {"engine": "faiss", "index": tmp_path / "index", "n_probe": 99}
    first = lazy(frame, 2).ml.nearest(queries, 4, **options).compute()
    files = {file: file.stat().st_mtime_ns for file in (tmp_path / "index").iterdir()}
    assert len(files) == 2
    assert sum(faiss.read_index(str(file)).ntotal for file in files) == ROWS - 1
    again = lazy(frame, 2).ml.nearest(queries[:1], 2, **options).compute()
    assert again.neighbour.tolist() == first.neighbour[:2].tolist()
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "index").iterdir()} == files
    lazy(frame.iloc[1:], 2).ml.nearest(queries, 4, **options).compute()  # of other rows
    assert len(list((tmp_path / "index").iterdir())) == 4


def test_an_index_is_of_rows_in_the_order_of_one_id(tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    frame = some_frame()
    frame["other"] = np.random.default_rng(1).permutation(ROWS)
    queries = vectors_of(frame)[ASKED]
    options = {"engine": "faiss", "index": tmp_path / "index", "n_probe": 99}
    for known_by in ("id", "other", None):
        found = lazy(frame, 2).ml.nearest(queries, 4, id=known_by, **options).compute()
        exact = lazy(frame, 2).ml.nearest(queries, 4, id=known_by).compute()
        pd.testing.assert_frame_equal(found, exact)


def test_a_partition_without_queries_has_no_mean() -> None:
    frame = some_frame()
    frame["number"] = range(ROWS)
    some = lazy(frame, 4)
    found = some[some.number < 100].ml.nearest(k=2, metric="euclidean").compute()
    expected = lazy(frame[:100], 1).ml.nearest(k=2, metric="euclidean").compute()
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected)


# ---------------------------------------------------------------------------------- bad arguments
@pytest.mark.parametrize(
    ("queries", "options", "message"),
    [
        (np.zeros((2, 3)), {}, "the queries are of dimension 3, the vectors .* of 16"),
        ([1, 2], {}, r"queries must be texts, .* got \[1, 2\]"),
        ([], {}, "queries must be texts"),
        (["a", 3], {}, "queries must be texts"),
        ({"a": 1}, {}, "queries must be texts"),
        (np.full((1, 16), np.nan), {}, "queries hold NaN or infinite numbers"),
        (np.ones((1, 16), "int8"), {}, "vectors of float, the queries are of int8"),
        ("text", {}, "nothing tells it"),
        (None, {"k": 0}, "k must be a positive integer, got 0"),
        (None, {"k": 2.5}, "k must be a positive integer, got 2.5"),
        (None, {"column": "id"}, "vectors are needed"),
        (None, {"column": "vector"}, "column 'vector' is not in the dataframe;"),
        (None, {"id": "name"}, "id names column 'name', which is not in the dataframe"),
        (None, {"metric": "l2"}, "metric must be one of 'cosine', 'dot', 'euclidean', 'hamming'"),
        (None, {"metric": "hamming"}, "metric='hamming' needs packed signs"),
        (None, {"metric": "maxsim"}, "holds one vector a row"),
        (None, {"engine": "fais"}, "did you mean 'faiss'"),
        (None, {"n_probe": 3}, "n_probe=3 has no effect without engine='faiss'"),
        (None, {"index": "x"}, "index='x' has no effect without engine='faiss'"),
        (None, {"engine": "faiss", "n_probe": 0}, "n_probe must be a positive integer"),
        (None, {"prompt": "a"}, "prompt='a' has no effect without queries"),
        (None, {"query_id": "a"}, "query_id='a' has no effect without queries"),
        (np.ones((1, 16)), {"prompt_name": "a"}, "no effect without texts as queries"),
        (np.ones((1, 16)), {"query_column": "a"}, "no effect without a dataframe as queries"),
        (some_frame(), {"query_id": "name"}, "query_id names column 'name', which is not in the"),
        (some_frame(), {"query_column": "id"}, "vectors are needed"),
        (None, {"lists": 1}, "lists must be True or False"),
        (None, {"check": 1}, "check must be True or False"),
        (None, {"top_k": 1}, "nearest has no option 'top_k'"),
    ],
)
def test_bad_arguments_are_told_on_the_client(
    queries: Any, options: dict[str, Any], message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        lazy(some_frame(), 2).ml.nearest(queries, **options)


def test_the_plan_in_words() -> None:
    plan = io.StringIO()
    de.explain(lazy(some_frame(), 3).ml.nearest(k=2), file=plan)
    words = "find the 2 nearest by cosine in embedding for every row, itself left out: 3 x 3 parti"
    assert words in plan.getvalue()


def test_rows_without_an_id_are_an_error() -> None:
    frame = some_frame()
    frame.loc[9, "id"] = None
    with pytest.raises(ValueError, match="id column 'id' has rows without a value"):
        lazy(frame).ml.nearest(k=2, id="id").compute()


@pytest.mark.slow
def test_workers_of_a_cluster_agree() -> None:
    out = lazy(some_frame(), 5).ml.nearest(k=3, id="id")
    lists = lazy(some_frame(), 5).ml.nearest(k=3, engine="faiss", lists=True)
    with cluster(2, 1, processes=True) as client:
        got = client.compute([out, lists], sync=True)
    pd.testing.assert_frame_equal(got[0], out.compute())
    pd.testing.assert_frame_equal(got[1], lists.compute())
