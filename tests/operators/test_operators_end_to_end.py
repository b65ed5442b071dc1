"""Every operator as its users meet it: on a cluster, in files, in chains, with bad arguments."""

from __future__ import annotations

import dataclasses
import inspect
import io
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import dask
import dask.dataframe as dd
import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from dask.base import tokenize
from distributed import Client, LocalCluster
from safetensors.numpy import save_file
from support import headed, pairs, tiny
from support.contract import (
    assert_matches_meta,
    assert_same_value,
    checkpoint_of,
    cut,
    lazy,
    needed,
    values_of,
)

import dask_embed as de
from dask_embed.accessor import FrameAccessor
from dask_embed.inference import runner
from dask_embed.loading import load as loading
from dask_embed.runtime.stats import totals

SIZE = tiny.HIDDEN
TOLERANCE = 1e-4  # sums of log-likelihoods are in the hundreds
PROTOTYPES = {"left": np.linspace(-1, 1, SIZE), "right": np.linspace(1, -1, SIZE)}
RANGES = np.stack([np.full(SIZE, -3.0), np.full(SIZE, 3.0)])
NLI = ("contradiction", "neutral", "entailment")
NER = ("O", "B-PER", "I-PER", "B-LOC")
TEXTS = (
    "Return a [MASK] table of all rows.",
    None,
    "x",
    "a [MASK] of [MASK] text; " + "lazy tables " * 30,
    "",
    "[MASK] ünïcode 漢字 😀",
    "x",
    "Arguments are parsed. Errors are raised.",
)
LISTS = (["yes", "no"], ["a"], None, ["b", "c"], [], ["yes"], ["no"], ["no", "yes"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Callable[[str], str]:
    """Checkpoints by what they do, and a linear head."""
    root = tmp_path_factory.mktemp("models")
    for task, settings in (("classify", {"num_labels": 3}), ("answer", {}), ("fill-mask", {})):
        pairs.join_pairs(headed.save("bert", task, root / task, **settings))
    names = {"id2label": dict(enumerate(NER)), "label2id": {n: i for i, n in enumerate(NER)}}
    headed.save("bert", "classify-tokens", root / "classify-tokens", **names)
    headed.save("llama", "causal-lm", root / "causal-lm")
    pairs.save("bert", root / "nli", labels=NLI)
    pairs.save("bert", root / "cross", num_labels=1)
    tiny.save("bert", root / "embed")
    tiny.add_mask(tiny.save("bert", root / "multi-vector"))
    weight = np.random.default_rng(0).normal(size=(3, SIZE)).astype(np.float32)
    save_file({"weight": weight}, root / "head.safetensors")
    return lambda name: str(root / name)


@dataclasses.dataclass(frozen=True)
class Case:
    """An operator of a checkpoint with some arguments."""

    name: str
    checkpoint: str
    options: dict[str, Any]

    def build(self, folder: Callable[[str], str], **options: Any) -> Any:
        model: Any = PROTOTYPES if self.checkpoint == "" else folder(self.checkpoint)
        options = {**self.options, "on_error": "null", **options}
        return getattr(de, self.name)(model, **options)


OPERATORS = {
    "float32": Case("Embedder", "embed", {}),
    "int8": Case("Embedder", "embed", {"precision": "int8", "ranges": RANGES}),
    "float16": Case("Embedder", "embed", {"precision": "float16"}),
    "ubinary": Case("Embedder", "embed", {"precision": "ubinary"}),
    "token vectors": Case("Embedder", "embed", {"pooling": "none"}),
    "label": Case("Classifier", "classify", {"scores": "all"}),
    "labels": Case("Classifier", "classify", {"top_k": "all", "pair": "other"}),
    "zero shot": Case("ZeroShotClassifier", "nli", {"labels": ["x", "y"], "scores": "all"}),
    "spans": Case("TokenClassifier", "classify-tokens", {"ignore_labels": ["O"]}),
    "entities": Case("TokenClassifier", "classify-tokens", {"aggregation": "simple"}),
    "rerank": Case("Reranker", "cross", {"query": "a lazy table"}),
    "rerank vectors": Case("Reranker", "nli", {"query_column": "other"}),
    "fill": Case("MaskFiller", "fill-mask", {"top_k": 2, "targets": ["x", "a"]}),
    "fills": Case("MaskFiller", "fill-mask", {"top_k": 2, "masks": "any"}),
    "answer": Case("QuestionAnswerer", "answer", {"question": "what?"}),
    "answers": Case("QuestionAnswerer", "answer", {"question_column": "other", "top_k": 2}),
    "choice": Case("CandidateScorer", "causal-lm", {"candidates": ["yes", "no"], "scores": "all"}),
    "choices": Case(
        "CandidateScorer", "causal-lm", {"candidates_column": "lists", "scores": "all"}
    ),
    "likelihood": Case("PerplexityScorer", "causal-lm", {}),
    "next": Case("NextTokenScorer", "causal-lm", {"top_k_next": 2}),
    "generate": Case("Generator", "causal-lm", {"max_new_tokens": 3, "hidden": "states"}),
    "tokens": Case("Tokenizer", "embed", {"offsets": "offsets"}),
    "windows": Case("Tokenizer", "embed", {"windows": True, "max_length": 8, "offsets": "offsets"}),
    "linear": Case("LinearHead", "head.safetensors", {"column": "vector", "scores": "all"}),
    "similar": Case("Similarity", "", {"column": "vector", "scores": "all"}),
    "chunks": Case("Chunker", "embed", {"max_tokens": 12}),
    "late": Case("LateChunkEmbedder", "embed", {"max_tokens": 12, "normalize": True}),
}
CHUNKERS = ("Chunker", "LateChunkEmbedder")


@pytest.fixture(params=OPERATORS)
def operator(request, folder):
    return OPERATORS[request.param].build(folder)


def arrow(values: Any) -> pd.Series:
    return pd.Series(pd.arrays.ArrowExtensionArray(values))


def table(texts: Any = TEXTS, dtype: Any = "str") -> pd.DataFrame:
    """Return a frame with an input for every operator."""
    vectors = np.random.default_rng(3).normal(size=len(texts) * SIZE).astype(np.float32)
    return pd.DataFrame(
        {
            "id": [(7 * place) % len(texts) for place in range(len(texts))],
            "text": pd.Series([*texts], dtype=dtype),
            "other": pd.Series([*texts[3:], *texts[:3]], dtype=dtype),
            "vector": arrow(pa.FixedSizeListArray.from_arrays(pa.array(vectors), SIZE)),
            "lists": arrow(pa.array(LISTS, pa.list_(pa.string()))),
        }
    )


def in_order(frame: pd.DataFrame, operator: Any) -> pd.DataFrame:
    chunked = type(operator).__name__ in CHUNKERS
    keys = ["id", f"{operator.output}_index"] if chunked else ["id"]
    return frame.reset_index(drop=True).sort_values(keys, ignore_index=True)


def assert_same(
    given: pd.DataFrame, expected: pd.DataFrame, names: Any, *, dtypes=True, atol=TOLERANCE
) -> None:
    """Compare columns; files have their own names for the dtype of text."""
    assert len(given) == len(expected)
    for name in names:
        if dtypes:
            assert given[name].dtype == expected[name].dtype
        # a perplexity of thousands is right to as many digits as other numbers
        numbers = pd.to_numeric(expected[name], errors="coerce").astype("float64").abs()
        size = max(1.0, float(numbers.max())) if numbers.notna().any() else 1.0
        assert_same_value(values_of(given[name]), values_of(expected[name]), atol * size)


# Partitions


@pytest.mark.parametrize("room", [2**20, 4000])
def test_what_another_partition_made_changes_nothing(operator, room):
    """Whether rows are new, or known, or some of each, and whether there is room for all."""
    frame = table()
    parts = [frame.iloc[:5], frame.iloc[3:][::-1], frame]
    alone = [operator.apply(part) for part in parts]
    de.unload()
    with dask.config.set({"embed.cached-vectors-bytes": room}):
        given = [operator.apply(part) for part in parts]
    de.unload()
    for one, expected in zip(given, alone, strict=True):
        assert_same(one, expected, operator.output_columns)


def test_partitions_have_the_types_of_the_meta(operator):
    """Usual rows, no rows, only nulls, and only rows that cannot be used."""
    frame = table()
    nothing = frame.iloc[:0]
    meta = operator.meta(nothing)
    nulls = frame.astype({"text": object, "other": object})
    nulls[["text", "other"]] = None
    nulls["vector"], nulls["lists"] = (
        frame[name].where(pd.Series(False, index=frame.index)) for name in ("vector", "lists")
    )
    numbers = pd.Series([7] * len(frame), dtype=object)
    unusable = frame.assign(text=numbers, other=numbers)
    for part in (frame, nothing, nulls, unusable):
        out = operator.apply(part)
        assert list(out.columns) == list(meta.columns)
        for name in operator.output_columns:
            assert out[name].dtype == meta[name].dtype
        assert all(name in meta for name in operator.output_columns)
    failed = operator.apply(unusable)
    messages = failed[f"{operator.output_columns[0]}_error"]
    if "text" not in getattr(operator, "input_columns", ("text",)):
        assert messages.isna().all()
    else:
        assert messages.str.contains("int is not text").all()


def test_equal_operators(operator, request, folder):
    """Built twice they are equal, hash alike, pickle, and have one Dask token."""
    name = request.node.callspec.params["operator"]
    again = OPERATORS[name].build(folder)
    for other in (again, pickle.loads(pickle.dumps(operator))):
        assert other == operator
        assert hash(other) == hash(operator)
        assert tokenize(other) == tokenize(operator)
    assert tokenize(OPERATORS[name].build(folder, output="another")) != tokenize(operator)


def test_plan_names_the_operator(operator):
    """What runs, on which column and with which model, chunking included."""
    text = io.StringIO()
    de.explain(operator(lazy([table()])), file=text)
    name = type(operator).__name__
    column = operator.column
    written = ", ".join(operator.output_columns)
    assert re.search(rf"run {name} on {column}[^>]* -> {written}", text.getvalue())
    if hasattr(operator, "spec"):
        assert f"model {operator.spec.name} at" in text.getvalue().replace("tokenizer of", "model")


# A cluster of two processes, and files


@pytest.fixture(scope="module")
def results(folder, tmp_path_factory):
    """All operators on one cluster in one go: merged between the workers, and written to files."""
    source = lazy(cut(table(), [3, 3]))
    other = dd.from_pandas(pd.DataFrame({"id": range(len(TEXTS)), "more": 1}), npartitions=2)
    root = tmp_path_factory.mktemp("files")
    metas, work = {}, []
    for name, case in OPERATORS.items():
        out = case.build(folder)(source)
        metas[name] = out._meta
        path = root / name.replace(" ", "-")
        work += [out.merge(other, on="id", shuffle_method="p2p")]
        work += [out.repartition(npartitions=2).ml.to_parquet(path, compute=False)]
    host = {"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"}
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, processes=True, **host) as cluster,
        Client(cluster) as client,
    ):
        done = dask.compute(*work, scheduler=client)
    return {
        name: (metas[name], root / name.replace(" ", "-"), done[2 * place])
        for place, name in enumerate(metas)
    }


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_results_travel_between_workers(name, folder, results):
    """A merge between two processes keeps values, and the types of the meta."""
    operator = OPERATORS[name].build(folder)
    expected = in_order(operator(table()), operator)
    meta, _, frame = results[name]
    assert list(frame[list(meta.columns)].dtypes) == list(meta.dtypes)
    assert_same(in_order(frame, operator), expected, operator.output_columns)


@pytest.mark.slow
@pytest.mark.parametrize("name", OPERATORS)
def test_results_in_files(name, folder, results):
    """Every reader opens the files; values are those that were written."""
    operator = OPERATORS[name].build(folder)
    expected = in_order(operator(table()), operator)
    names = operator.output_columns
    path = results[name][1]
    back = de.read_parquet(path)
    for number in range(back.npartitions):
        assert_matches_meta(back.get_partition(number).compute(), back._meta)
    assert_same(in_order(back.compute(), operator), expected, names, dtypes=False)
    read = in_order(pd.read_parquet(path), operator)
    files = pq.read_table(path)
    columns = ", ".join(f'"{each}"' for each in names)
    rows = duckdb.sql(f"select {columns} from '{path}/*.parquet' order by id").fetchall()
    frame = pl.read_parquet(path / "*.parquet")
    assert len(rows) == len(frame) == len(expected)
    for column, dtype in operator.types().items():
        nulls = expected[column].isna()
        assert read[column].isna().tolist() == nulls.tolist()
        assert files.schema.field(column).type in (dtype, pa.large_string())
        assert frame[column].null_count() == nulls.sum()
        place = names.index(column)
        assert sum(row[place] is None for row in rows) == nulls.sum()


# Chains


def test_operators_in_one_expression(folder, rows_through_model):
    """Seven operators in a row give what each gives alone, and reductions see their results."""
    frame = table()[["id", "text"]]
    model = folder("classify")
    ddf = dd.from_pandas(frame, npartitions=3, sort=False)
    out = (
        ddf.ml.tokenize(model=model)
        .ml.classify(model=model)
        .ml.embed(model=model)
        .ml.linear_head(weights=folder("head.safetensors"), output="head")
        .ml.similarity(prototypes=PROTOTYPES, output="near")
        .ml.score(model=folder("causal-lm"), output="likelihood")
        .ml.rerank(model=folder("cross"), query="a lazy table")
    )
    whole = out.compute()
    assert_matches_meta(whole, out._meta)
    for one in (
        de.Tokenizer(model),
        de.Classifier(model),
        de.Embedder(model),
        de.PerplexityScorer(folder("causal-lm"), output="likelihood"),
        de.Reranker(folder("cross"), query="a lazy table"),
    ):
        assert_same(whole, one(frame), one.output_columns)
    counts = whole["label"].value_counts().to_dict()
    assert len(counts) > 1
    assert out["label"].value_counts().compute().to_dict() == counts
    assert out.groupby("label").size().compute().to_dict() == counts
    best = out.nlargest(2, "rerank_score").compute()["rerank_score"].tolist()
    assert best == sorted(whole["rerank_score"].dropna(), reverse=True)[:2]
    assert rows_through_model(lambda: out.head(2, npartitions=1)) <= 4 * 2
    label = min(counts, key=counts.get)
    chosen = out[out["label"] == label].ml.embed(model=folder("embed"), output="chosen")
    kept = frame[(whole["label"] == label).to_numpy()]
    assert_same(
        chosen[["id", "chosen"]].compute(),
        de.Embedder(folder("embed"), output="chosen")(kept),
        ["id", "chosen"],
    )


@pytest.mark.parametrize(
    "order", [("PerplexityScorer", "Generator"), ("Generator", "PerplexityScorer")], ids="-".join
)
def test_scoring_and_generating_with_one_model(order, folder):
    """They share weights in a process, and each gives what it gives alone."""
    operators = {
        "PerplexityScorer": de.PerplexityScorer(folder("causal-lm"), output="score"),
        "Generator": de.Generator(folder("causal-lm"), max_new_tokens=3),
    }
    frame = table().dropna(subset="text")
    alone = {}
    for name in order:
        de.unload()
        alone[name] = operators[name](frame)
    de.unload()
    for name in (*order, *order):
        names = operators[name].output_columns
        assert_same(operators[name](frame), alone[name], names)
    later = dataclasses.replace(operators["Generator"], max_new_tokens=2)  # plans anew
    assert later(frame)["generated_tokens"].max() == 2


# Memory


@pytest.mark.parametrize(
    "name",
    ["label", "spans"]
    + [
        pytest.param(name, marks=pytest.mark.slow)
        for name in ("zero shot", "answers", "fills", "choice", "likelihood", "rerank")
    ],
)
def test_out_of_memory(name, folder, monkeypatch):
    """Batches that do not fit run in halves; a row that never fits is null with its message."""
    operator = OPERATORS[name].build(folder, max_length=48)
    if name == "spans":
        operator = dataclasses.replace(operator, stride=4)
    frame = table()
    de.unload()  # a model remembers what did not fit
    expected = operator(frame)
    most = 49  # any sequence fits alone
    failed = 0

    def limited(method):
        def run(self, tokens, *args, **options):
            nonlocal failed
            if len(tokens.values) > most:
                failed += 1
                raise torch.OutOfMemoryError("injected")
            return method(self, tokens, *args, **options)

        return run

    for method in ("logits", "token_vectors"):
        monkeypatch.setattr(runner.Runner, method, limited(getattr(runner.Runner, method)))
    # perplexities are in the thousands
    atol = 0.05 if name == "likelihood" else TOLERANCE
    assert_same(operator(frame), expected, operator.output_columns, atol=atol)
    assert failed
    most = 40
    out = operator(frame)
    errors = out[f"{operator.output_columns[0]}_error"]
    lost = errors.str.contains("do not fit in the memory", na=False)
    assert lost.tolist().count(True) == 1
    assert lost[3]
    assert out.loc[lost, [*operator.result_columns]].isna().all(axis=None)
    assert_same(out[~lost], expected[~lost], operator.output_columns, atol=atol)


# Arguments


def _bad(name: str, checkpoint: str, says: str, **options: Any) -> Any:
    return pytest.param(name, checkpoint, says, options, id=f"{name} {options}"[:60])


NOT_GOOD = [
    *(
        _bad(case.name, case.checkpoint, says, **{**case.options, **options})
        for key, case in OPERATORS.items()
        if key in ("float32", "label", "spans", "fill", "answer", "likelihood", "tokens", "chunks")
        for options, says in (
            ({"column": "txt"}, "'txt' is not in the dataframe .did you mean 'text'"),
            ({"column": "id"}, "'id' has dtype int64, text is needed"),
            ({"output": "id"}, "'id' already exists"),
            ({"output": 3}, "output must be a string, got 3"),
            ({"on_error": "drop"}, "'raise', 'null'; got 'drop'"),
        )
    ),
    *(
        _bad(case.name, case.checkpoint, "must be at most 64, .*got 65", **case.options, **limit)
        for key, case in OPERATORS.items()
        if key in ("float32", "label", "zero shot", "spans", "rerank", "fill", "answer", "choice")
        for limit in ({"max_length": 65},)
    ),
    _bad("Classifier", "embed", "BertModel.*ForSequenceClassification"),
    _bad("TokenClassifier", "classify", "ForTokenClassification"),
    _bad("Reranker", "answer", "ForSequenceClassification", query="x"),
    _bad("QuestionAnswerer", "embed", "ForQuestionAnswering", question="x"),
    _bad("PerplexityScorer", "fill-mask", "causal language model"),
    _bad("ZeroShotClassifier", "classify", "begins with 'entail'", labels=["x"]),
    _bad("Classifier", "classify", "must differ, got .*'label', 'label'", score="label"),
    _bad("Classifier", "classify", "must differ", score="label_error", on_error="null"),
    _bad(
        "CandidateScorer",
        "causal-lm",
        "must differ",
        candidates=["x"],
        scores="candidate_error",
        on_error="null",
    ),
    _bad("Tokenizer", "embed", "must differ", offsets="tokens_error", on_error="null"),
    _bad("Tokenizer", "embed", "got ''", count=""),
    _bad("Generator", "causal-lm", "must differ", hidden="generated_error", on_error="null"),
    _bad("LinearHead", "head.safetensors", "must differ", score="label_error", on_error="null"),
    _bad("Similarity", "", "got ''", column="vector", score=""),
    _bad("Similarity", "", "vectors are needed", column="text"),
    _bad(
        "CandidateScorer",
        "causal-lm",
        "candidates must be strings that are not empty",
        candidates=[],
    ),
    _bad("CandidateScorer", "causal-lm", "candidates must differ", candidates=["x", "x"]),
    _bad("PerplexityScorer", "causal-lm", "'nope' is not in the dataframe", prompt="{nope} is"),
    _bad(
        "PerplexityScorer", "causal-lm", "at least one column in braces .*'plain'", prompt="plain"
    ),
    _bad("CandidateScorer", "causal-lm", "lists of strings are needed", candidates_column="id"),
    _bad("ZeroShotClassifier", "nli", "all different; got", labels=["x", "x"]),
    _bad("ZeroShotClassifier", "nli", "got 'x'", labels="x"),
    _bad("MaskFiller", "fill-mask", "targets must be one or more words, got 5", targets=5),
    _bad(
        "LinearHead",
        "head.safetensors",
        "has rows, 3; got 1",
        column="vector",
        labels=["x"],
    ),
    _bad("LateChunkEmbedder", "embed", "output columns must differ", embedding="chunk"),
]


@pytest.mark.parametrize(("name", "checkpoint", "says", "options"), NOT_GOOD)
def test_bad_arguments(name, checkpoint, says, options, folder, monkeypatch):
    """One line that says what was given and what is allowed, before weights are read."""

    def load(*args: Any) -> None:
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(loading, "load", load)
    monkeypatch.setattr(runner, "load", load)
    frame = lazy([table()])
    with pytest.raises((TypeError, ValueError), match=says) as caught:
        getattr(de, name)(folder(checkpoint) if checkpoint else PROTOTYPES, **options)(frame)
    assert "\n" not in str(caught.value)


# Names


def test_classes_do_not_bring_torch():
    """A client that only names operators imports no model library."""
    code = "import sys, dask_embed as de; [getattr(de, name) for name in de.__all__]; "
    code += "print({'torch', 'transformers'} & {*sys.modules})"
    command = [sys.executable, "-c", code]
    assert subprocess.run(command, capture_output=True, text=True).stdout.strip() == "set()"


@pytest.mark.parametrize("name", [n for n in vars(FrameAccessor) if not n.startswith("_")])
def test_accessor_methods_are_documented(name):
    """Every own argument of ``df.ml.<name>`` stands in its docstring."""
    method = getattr(FrameAccessor, name)
    documented = inspect.getdoc(method) or ""
    for argument in list(inspect.signature(method).parameters)[1:]:
        named = rf"^(\*\*)?(\w+, (and )?)*{argument}\b"  # several may stand together
        assert re.search(named, documented, re.MULTILINE), argument


# Rows that were seen before


# Those that the tests above leave out, as their classes say.
MORE = {
    name: Case(name, checkpoint_of(getattr(de, name)), needed(getattr(de, name)))
    for name in de.operators.__all__
    if name not in {"ColumnOperator", "ModelOperator", *(each.name for each in OPERATORS.values())}
}


@pytest.mark.parametrize("name", [*OPERATORS, *MORE])
def test_rows_that_were_seen_do_not_run(name, folder, tmp_path):
    """In other partitions and another order; what has failed runs again."""
    case = {**OPERATORS, **MORE}[name]
    if case.checkpoint == "none":
        operator = getattr(de, case.name)(on_error="null", **case.options)
    else:
        operator = case.build(folder)
    texts = pd.Series([*TEXTS, 7], dtype=object)
    lists = arrow(pa.array([*LISTS, ["a"]], pa.list_(pa.string())))
    frame = table(texts, object).assign(lists=lists)
    expected = operator.apply(frame)
    kept = dataclasses.replace(operator, cache=tmp_path / "cache")
    names = ["id", *operator.output_columns]
    for size in (4, 9):
        before = totals()
        parts = [frame.iloc[place : place + size] for place in range(0, len(frame), size)]
        given = pd.concat([kept.apply(part) for part in (parts if size == 4 else [frame[::-1]])])
        assert_same(in_order(given, operator), in_order(expected, operator), names)
    error = next(each for each in operator.output_columns if each.endswith("_error"))
    failed = set(expected["id"][expected[error].notna()])
    inputs = [*getattr(operator, "input_columns", ("text",))]
    usable = frame[inputs].notna().all(axis=1) & ~frame["id"].isin(failed)
    assert totals()["cached"] - before["cached"] == usable.sum() > 0
