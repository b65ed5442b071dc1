"""Wrong values for every public argument: each is told in one line of ours, before any work.

Arguments are found by introspection, so that a new one is tried without a line here. Of what is
accepted nothing is run here.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import io
import json
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import save_file
from support import bad_inputs, headed, tiny
from support.bad_inputs import Subject, arguments_of, attempt, judge
from support.contract import checkpoint_of, needed

import dask_embed as de
from dask_embed import operators
from dask_embed.jobs import cluster
from dask_embed.jobs.reading import _READER_OPTIONS
from dask_embed.operators.filters.base import TextFilter

BASES = {"ColumnOperator", "ModelOperator"}
KINDS = {name: getattr(de, name) for name in operators.__all__ if name not in BASES}
WITH_MODEL = [name for name, kind in KINDS.items() if checkpoint_of(kind) != "none"]
FILTERS = [name for name, kind in KINDS.items() if issubclass(kind, TextFilter)]
FRAME = pd.DataFrame({"text": ["Return the lines of a file.", "x"], "other": ["a", "b"]})


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    root = tmp_path_factory.mktemp("bad-inputs")

    def folder(task: str) -> str:
        place = root / task
        if not place.exists():
            if task == "embed":
                tiny.save("bert", place)
            elif task == "multi-vector":
                tiny.add_mask(tiny.save("bert", place))
            else:
                name = "llama" if task == "causal-lm" else "bert"
                labels = 2 if task == "answer" else 3
                headed.save(name, task, place, num_labels=labels)
        return str(place)

    return folder


@pytest.fixture(scope="module")
def vectors(made) -> pd.DataFrame:
    return de.Embedder(made("embed"))(FRAME)


def operator(name: str, good: dict[str, Any], frame: pd.DataFrame, *also: str) -> Subject:
    cls, lazy = getattr(de, name), dd.from_pandas(frame, npartitions=1)
    also = (*also, "name must not hold")  # of the model that is named
    return Subject(name, lambda **given: cls(**given)(lazy), good, arguments_of(cls), also=also)


def assert_told(subject: Subject, *, skipping: tuple[str, ...] = ()) -> None:
    """Try all wrong values for all arguments."""
    wrong = []
    for argument, name, value in subject.cases():
        if name in skipping:
            continue
        found = attempt(subject, argument, value)
        if found.problem:
            told = f"{type(found.error).__name__}: {found.error!s:.200}"
            wrong.append(f"{argument}={name}: {found.problem}: {told} at {found.place}")
    assert not wrong, f"{len(wrong)} cases:\n" + "\n".join(wrong)


@pytest.mark.parametrize("name", WITH_MODEL)
def test_operators_with_a_model(name: str, made) -> None:
    kind = KINDS[name]
    assert_told(operator(name, {"model": made(checkpoint_of(kind)), **needed(kind)}, FRAME))


def test_operators_on_vectors(vectors: pd.DataFrame, tmp_path: Path) -> None:
    file = tmp_path / "head.safetensors"
    save_file({"weight": np.eye(3, 32, dtype="float32")}, file)
    assert_told(operator("LinearHead", {"weights": str(file)}, vectors, "for head LinearWeights"))
    prototypes = {"a": np.arange(32.0), "b": np.ones(32)}
    assert_told(operator("Similarity", {"prototypes": prototypes}, vectors, "prototype "))


@pytest.mark.parametrize("name", FILTERS)
def test_operators_without_a_model(name: str) -> None:
    assert_told(operator(name, needed(getattr(de, name)), FRAME))


def test_every_operator_is_tried() -> None:
    assert {*KINDS} == {*WITH_MODEL, *FILTERS, "LinearHead", "Similarity"}


def test_model(made) -> None:
    lazy = dd.from_pandas(FRAME, npartitions=1)
    good = {"name": made("embed"), "local_files_only": True}
    call = lambda **given: de.Embedder(de.Model(**given))(lazy)  # noqa: E731
    assert_told(Subject("Model", call, good, arguments_of(de.Model), also=("model",)))


def test_functions(vectors: pd.DataFrame, made) -> None:
    lazy = dd.from_pandas(vectors, npartitions=1)
    quantized = {"frame": lazy, "column": "embedding", "precision": "int8"}
    series = {"series": vectors["embedding"]}
    for call, good in (
        (de.quantize, quantized),
        (de.quantize, {**quantized, "frame": vectors}),
        (de.to_array, series),
        (de.to_array, {"series": lazy["embedding"]}),
        (de.calibration_ranges, series),
        (de.explain, {"frame": lazy, "file": io.StringIO()}),
        (de.stats, {}),
        (de.declare_columns, {"function": len, "reads": ["text"], "writes": ["a"]}),
        (de.Embedder(made("embed")).__call__, {}),
    ):
        also = (call.__name__, "Embedder takes", "takes a column of vectors")
        assert_told(Subject(call.__name__, call, good, arguments_of(call), also=also))


STEPS = {
    "mark_exact_duplicates": {"column": "text"},
    "mark_fuzzy_duplicates": {"column": "text"},
    "fuzzy_signatures": {"column": "text"},
    "mark_semantic_duplicates": {"column": "embedding"},
    "cluster": {"column": "embedding", "n_clusters": 2},
    "nearest": {"queries": None, "column": "embedding", "k": 2},
}


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_steps_over_a_corpus(name: str, vectors: pd.DataFrame) -> None:
    call = getattr(dd.from_pandas(vectors, npartitions=2).ml, name)
    names = tuple(each for each in arguments_of(call) if each != "self")
    assert_told(Subject(name, call, STEPS[name], names, also=("",)))


@pytest.mark.parametrize("name", ["mark_exact_duplicates", "mark_fuzzy_duplicates", "nearest"])
def test_what_knows_rows_is_no_list(name: str, vectors: pd.DataFrame) -> None:
    call = getattr(dd.from_pandas(vectors, npartitions=2).ml, name)
    with pytest.raises(TypeError, match="id must name a column of numbers, texts or dates; column"):
        call(**STEPS[name], id="embedding")


def test_steps_take_a_column_that_stands_once(vectors: pd.DataFrame) -> None:
    twice = dd.from_pandas(pd.concat([vectors, vectors[["other"]]], axis=1), npartitions=1)
    with pytest.raises(ValueError, match="names column 'other', which stands more than once"):
        twice.ml.mark_exact_duplicates("other")


def test_centres(vectors: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """k-means, what it has fitted, and the file of that."""
    monkeypatch.chdir(tmp_path)
    lazy = dd.from_pandas(vectors, npartitions=1)
    fitted = de.KMeans(2).fit(lazy["embedding"])
    fitted.save("good.safetensors")
    centres = {"centres": fitted.centres, "metric": "cosine"}
    used = lambda made: lazy.ml.cluster(centres=made)  # noqa: E731
    for subject in (
        Subject("KMeans", de.KMeans, {"n_clusters": 2}, arguments_of(de.KMeans)),
        Subject("fit", de.KMeans(2).fit, {"series": lazy["embedding"]}, ("series", "check")),
        Subject("FittedKMeans", de.FittedKMeans, centres, arguments_of(de.FittedKMeans), used),
        Subject("save", fitted.save, {}, ("path",)),
        Subject("load", de.FittedKMeans.load, {}, ("path",)),
    ):
        assert_told(dataclasses.replace(subject, also=("",)))


@pytest.mark.parametrize(
    "told",
    [
        *("", "{", "[]", "null", "[" * 100_000, '{"metric": 5}', '{"metric": "cosine", "a": 1}'),
        *('{"metric": "cosine", "steps": "x"}', '{"metric": "cosine", "origin": []}'),
    ],
)
def test_damaged_centres(told: str, vectors: pd.DataFrame, tmp_path: Path) -> None:
    save_file(
        {"centres": np.ones((2, 32), "float32")}, tmp_path / "a.safetensors", {"dask_embed": told}
    )
    with pytest.raises(ValueError, match=r"a\.safetensors' is damaged, or of another version"):
        dd.from_pandas(vectors, npartitions=1).ml.cluster(centres=tmp_path / "a.safetensors")


def _joined(**given: Any) -> None:
    with de.cluster(**given):
        pass


def test_clusters(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is wrong is told before a cluster is started; an address without one, in one line."""

    @contextlib.contextmanager
    def started(*given: Any) -> Iterator[None]:
        yield

    options = ("workers", "threads", "memory", "dashboard", "timeout")
    there = {"where": "tcp://127.0.0.1:1", "timeout": "1ms"}
    assert_told(Subject("joined", _joined, there, ("where", *options[:3]), also=("",)))
    with pytest.raises(OSError, match=r"no scheduler answers at 'tcp://127\.0\.0\.1:1': "):
        _joined(**there)
    monkeypatch.setattr(cluster, "_local", started)
    assert_told(Subject("local", _joined, {}, options))


def test_what_is_told_of_a_frame(vectors: pd.DataFrame) -> None:
    lazy = dd.from_pandas(vectors, npartitions=1)
    marks = {"frame": lazy.ml.mark_exact_duplicates("text")}
    for call, good in (
        (de.curation_report, {"frame": lazy}),
        (de.duplicates_by_threshold, marks),
        (lambda operator: de.ModelPlugin(operator), {"operator": None}),
        (de.register_operator, {"name": "new", "operator": de.Embedder}),
    ):
        assert_told(Subject(call.__name__, call, good, arguments_of(call), also=("",)))


def test_pictures(vectors: pd.DataFrame) -> None:
    pyplot = pytest.importorskip("matplotlib.pyplot")
    lazy = dd.from_pandas(vectors, npartitions=1)
    marks = lazy.ml.mark_exact_duplicates("text").compute()
    axes = pyplot.figure().add_subplot()
    for call, good, names in (
        (de.plot.map, {"frame": vectors, "ax": axes}, ("frame", "column", "color", "method")),
        (de.plot.similarities, {"frame": marks, "ax": axes}, ("frame", "column", "threshold")),
        (de.plot.duplicates, {"frame": marks, "ax": axes}, ("frame", "thresholds", "prefix")),
        (de.plot.pairs, {"frame": marks}, ("frame", "column", "id", "rows", "prefix")),
    ):
        assert_told(Subject(call.__name__, call, good, names, also=("",)))
    with pytest.raises(TypeError, match="color must name a column of numbers, texts or dates"):
        de.plot.map(vectors, color="embedding", ax=axes)
    pyplot.close("all")


def _shown_progress(**given: Any) -> None:
    with de.progress(**given):
        pass


def test_jobs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, made) -> None:
    """What writes, reads and watches, with the arguments of Dask and pyarrow that they pass on."""
    monkeypatch.chdir(tmp_path)
    lazy = dd.from_pandas(FRAME, npartitions=1)
    lazy.ml.to_parquet(written := str(tmp_path / "written"))
    options = (
        *("path", "overwrite", "append", "repeat", "resume", "write_index", "compression"),
        *(
            "partition_on",
            "name_function",
            "storage_options",
            "filesystem",
            "schema",
            "custom_metadata",
        ),
        *("compute_kwargs", "write_metadata_file", "ignore_divisions", "row_group_size"),
    )
    reads = {"path": written}
    subjects = [
        Subject("write", lazy.ml.to_parquet, {"path": "new", "compute": False}, options),
        Subject("read", de.read_parquet, reads, ("path", *_READER_OPTIONS)),
        Subject("discard", de.discard_unfinished, reads, arguments_of(de.discard_unfinished)),
        Subject("progress", _shown_progress, {}, arguments_of(de.progress)),
        Subject("describe", de.describe_model, {"model": made("embed")}, ("model",)),
    ]
    for subject in subjects:
        subject = dataclasses.replace(subject, also=("",))  # words of libraries name others
        assert_told(subject, skipping=("root",))  # all files of this machine are looked through


def test_what_another_library_would_do(made) -> None:
    """Methods of sentence-transformers and pipelines are told what an operator takes."""
    embedder, reranker = de.Embedder(made("embed")), de.Reranker(made("classify"), query="q")
    for call in (
        lambda: embedder.encode(["a"]),
        lambda: embedder.encode(["a"], batch_size=2),
        lambda: embedder.encode(sentences=["a"]),
        lambda: embedder.encode("a", "b"),
        lambda: reranker.encode(["a"]),
        lambda: reranker.predict([("a", "b")]),
        lambda: embedder.fit_transform(["a"]),
        lambda: embedder.spec.encode("a"),
    ):
        with pytest.raises((AttributeError, TypeError), match=r"DataFrame\(") as raised:
            call()
        assert judge(raised.value).problem in ("", "is a AttributeError")
    with pytest.raises(AttributeError, match="did you mean 'max_length'"):
        embedder.max_lenght  # noqa: B018
    assert not hasattr(embedder, "__dask_graph__")
    assert pickle.loads(pickle.dumps(embedder)) == copy.deepcopy(embedder) == embedder


def test_a_property_that_fails_says_why() -> None:
    class Failing(de.ColumnOperator):
        input_columns = result_columns = ("a",)
        types = run = plan = None

        @property
        def subject(self) -> str:
            return self.spec.nosuch

        @property
        def spec(self) -> Any:
            return object()

    with pytest.raises(AttributeError, match="'object' object has no attribute 'nosuch'"):
        Failing().subject  # noqa: B018


RAW = {
    "empty": "",
    "cut": '{"a": ',
    "a list": "[]",
    "null": "null",
    "a number": "5",
    "a string": '"a"',
    "nested": "[" * 100_000,
    "list of numbers": "[5]",
    "list of nulls": "[null]",
    "list of objects": "[{}]",
}
VALUES = (None, 5, -1, 1.5, True, "nosuch", [], [1], {}, "x" * 300, 10**30)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sentence-transformers folder with pooling and a dense layer."""
    root = tmp_path_factory.mktemp("damaged")
    bases = {"roberta": tiny.save("roberta", root / "roberta")}
    return tiny.SENTENCE_TRANSFORMERS["dense-tanh"](root / "whole", bases)


@pytest.mark.parametrize(
    "file",
    [
        *("config.json", "modules.json", "1_Pooling/config.json", "2_Dense/config.json"),
        *("sentence_bert_config.json", "config_sentence_transformers.json"),
    ],
)
def test_damaged_json(checkpoint: Path, tmp_path: Path, file: str) -> None:
    """Files that hold something else, or values of another kind under a known key."""
    folder = Path(shutil.copytree(checkpoint, tmp_path / "copy"))
    if not (folder / file).is_file():
        pytest.skip(f"sentence-transformers writes no {file}")
    lazy = dd.from_pandas(FRAME, npartitions=1)
    whole = json.loads((folder / file).read_text())
    contents = dict(RAW)
    for place, entry in enumerate(whole if isinstance(whole, list) else [whole]):
        for key in entry:
            for value in VALUES:
                changed: Any = {**entry, key: value}
                if isinstance(whole, list):
                    changed = [*whole[:place], changed, *whole[place + 1 :]]
                contents[f"{place} {key}={value!s:.20}"] = json.dumps(changed)
    wrong = []
    for name, content in contents.items():
        (folder / file).write_text(content)
        try:
            de.Embedder(str(folder))(lazy)
        except Exception as error:
            found = judge(error)
            if found.problem:
                wrong.append(f"{name}: {found.problem}: {error!r:.200} at {found.place}")
    assert not wrong, f"{len(wrong)} cases:\n" + "\n".join(wrong)


def test_the_judge_knows_wrong_from_right() -> None:
    """Foreign errors, long ones, of several lines, and those that name nothing are told apart."""
    for raising, says, problem in (
        (lambda: int("x"), "invalid literal", "foreign"),
        (lambda: de.Embedder("x", on_error="nosuch"), "on_error must be one of", ""),
    ):
        with pytest.raises(ValueError, match=says) as caught:
            raising()
        assert judge(caught.value, "on_error").problem == problem
    assert bad_inputs.judge(caught.value, "another").problem == "does not name another"


@pytest.mark.parametrize("on_error", ["raise", "null"])
@pytest.mark.parametrize(
    ("partition", "says"),
    [
        (pd.DataFrame([["a", "b"]], columns=["text", "text"]), "has 2 columns 'text'"),
        (pd.Series(["a"]), "is pandas.Series"),
        (None, "is None"),
        (["a"], "is list"),
    ],
    ids=["twice", "column", "none", "list"],
)
def test_a_partition_that_is_not_as_promised(
    partition: Any, says: str, on_error: Any, made: Callable[[str], str]
) -> None:
    promised = pd.DataFrame({"text": pd.Series([], dtype="str")})
    frame = dd.from_map(lambda _: partition, [0], meta=promised)
    lazy = frame.ml.embed("text", model=made("embed"), on_error=on_error)
    with pytest.raises((TypeError, ValueError), match=f"a partition {says}.* promises"):
        lazy.compute(scheduler="synchronous")
