"""What does not fit is an error on the client, before any row, in one line that helps.

Every case is given to the accessor of a Dask frame, to that of a pandas frame, and to the
operator itself.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import polars
import pyarrow as pa
import pytest
from support import tiny
from support.contract import shared_tiny_bert

import dask_embed as de
from dask_embed.inference import runner
from dask_embed.loading import load as loading


@dataclass
class Bad:
    """One kind of bad input.

    Attributes
    ----------
    error : type
    says : tuple of str
        What the message has to name: the value given, what is allowed, what to do.
    options : dict
        Arguments of `Embedder` besides the model.
    frame : callable
        The good frame to one that does not fit.
    model : callable
        A folder, of which there is a fresh copy for each case, to the model.
    """

    error: type[Exception]
    says: tuple[str, ...]
    options: dict[str, Any] = field(default_factory=dict)
    frame: Callable[[pd.DataFrame], pd.DataFrame] = lambda frame: frame
    model: Callable[[Path], Any] = str


def rewritten(file: str, **changes: Any) -> Callable[[Path], str]:
    """Return a model whose json `file` has other values; None removes the key."""

    def build(folder: Path) -> str:
        if "sentence" in file:  # read beside a modules.json alone
            tiny.add_modules(folder)
        path = folder / file
        written = json.loads(path.read_text()) if path.is_file() else {}
        written = {key: value for key, value in {**written, **changes}.items() if value is not None}
        path.write_text(json.dumps(written))
        return str(folder)

    return build


def written(file: str, text: str) -> Callable[[Path], str]:
    def build(folder: Path) -> str:
        if "sentence" in file:
            tiny.add_modules(folder)
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text(text)
        return str(folder)

    return build


def without(*patterns: str) -> Callable[[Path], str]:
    def build(folder: Path) -> str:
        for pattern in patterns:
            for path in folder.glob(pattern):
                path.unlink()
        return str(folder)

    return build


def pickled(folder: Path) -> str:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return str(folder)


def with_prompts(folder: Path) -> str:
    prompts = {"query": "query: ", "passage": "passage: "}
    return rewritten("config_sentence_transformers.json", prompts=prompts)(folder)


def with_modules(*entries: tuple[str, str], **configs: dict[str, Any]) -> Callable[[Path], str]:
    """Return a sentence-transformers folder of these (path, type) and config.json by path."""

    def build(folder: Path) -> str:
        listing = [
            {"idx": index, "name": str(index), "path": path, "type": kind}
            for index, (path, kind) in enumerate(entries)
        ]
        (folder / "modules.json").write_text(json.dumps(listing))
        for path, config in configs.items():
            (folder / path).mkdir()
            (folder / path / "config.json").write_text(json.dumps(config))
        return str(folder)

    return build


def spec(**options: Any) -> Callable[[Path], de.Model]:
    return lambda folder: de.Model(str(folder), **options)


ST = "sentence_transformers.models."
POOLING = ("pooling", f"{ST}Pooling")
TRANSFORMER = ("", f"{ST}Transformer")
MEAN = {"pooling_mode": "mean"}
DENSE = {"in_features": 48, "out_features": 8}
TYPES = ("str", "object", "Arrow", "categor")

CASES = {
    # The frame
    "missing column": Bad(
        ValueError,
        ("'texts'", "is not in the dataframe", "did you mean 'text'?", "'number'"),
        {"column": "texts"},
    ),
    "column that resembles nothing": Bad(ValueError, ("'zzz'", "['id', 'text'"), {"column": "zzz"}),
    "column is not a name": Bad(TypeError, ("None", "the name of a column"), {"column": None}),
    "number column": Bad(
        TypeError, ("'number'", "float64", *TYPES, "astype"), {"column": "number"}
    ),
    "integer column": Bad(TypeError, ("'id'", "int64", *TYPES), {"column": "id"}),
    "boolean column": Bad(TypeError, ("'flag'", "bool", *TYPES), {"column": "flag"}),
    "datetime column": Bad(TypeError, ("'day'", "datetime64", *TYPES), {"column": "day"}),
    "list column": Bad(TypeError, ("'lists'", "list", *TYPES), {"column": "lists"}),
    "categories of numbers": Bad(
        TypeError,
        ("'id'", "category", *TYPES),
        {"column": "id"},
        lambda f: f.astype({"id": "category"}),
    ),
    "column twice": Bad(
        ValueError,
        ("'text'", "more than once"),
        frame=lambda f: f[["id", "text", "text"]],
    ),
    "output exists": Bad(
        ValueError, ("'number'", "already exists", "output="), {"output": "number"}
    ),
    "error column exists": Bad(
        ValueError,
        ("'embedding_error'", "already exists"),
        {"on_error": "null"},
        lambda f: f.assign(embedding_error=1),
    ),
    "output is the input": Bad(ValueError, ("'text'", "already exists"), {"output": "text"}),
    # The operator's arguments
    "output is not a string": Bad(TypeError, ("output", "3"), {"output": 3}),
    "output is empty": Bad(ValueError, ("output", "''"), {"output": ""}),
    "output is None": Bad(TypeError, ("output", "None"), {"output": None}),
    "unknown pooling": Bad(
        ValueError,
        ("pooling", "'meann'", "did you mean 'mean'?", "'cls'", "'lasttoken'", "'none'", "'auto'"),
        {"pooling": "meann"},
    ),
    "unknown pooling in a tuple": Bad(
        ValueError, ("pooling", "'clss'", "did you mean 'cls'?"), {"pooling": ("mean", "clss")}
    ),
    "no pooling at all": Bad(ValueError, ("pooling", "()"), {"pooling": ()}),
    "none among poolings": Bad(ValueError, ("pooling", "'none'"), {"pooling": ("mean", "none")}),
    "pooling is a number": Bad((TypeError, ValueError), ("pooling", "3"), {"pooling": 3}),
    "pooling is None": Bad((TypeError, ValueError), ("pooling", "None"), {"pooling": None}),
    "unknown normalize": Bad(
        ValueError, ("normalize", "'l2'", "'auto'", "True", "False"), {"normalize": "l2"}
    ),
    "normalize is a number": Bad(
        (TypeError, ValueError), ("normalize", "got 1", "True", "False"), {"normalize": 1}
    ),
    "both prompts": Bad(
        ValueError,
        ("prompt", "prompt_name", "'query: '", "'query'", "not both"),
        {"prompt": "query: ", "prompt_name": "query"},
        model=with_prompts,
    ),
    "prompt that is no text": Bad(
        ValueError, ("prompt", "UTF-8", "surrogates", "position 2"), {"prompt": "a \ud800"}
    ),
    "unknown prompt_name": Bad(
        ValueError,
        ("prompt_name", "'querry'", "'query', 'passage'", "did you mean 'query'?"),
        {"prompt_name": "querry"},
        model=with_prompts,
    ),
    "prompt_name without prompts": Bad(
        ValueError, ("prompt_name", "'query'", "no prompts", "prompt="), {"prompt_name": "query"}
    ),
    "prompt is not a string": Bad((TypeError, ValueError), ("prompt", "3"), {"prompt": 3}),
    "default prompt that is missing": Bad(
        ValueError,
        ("'qurey'", "'query'"),
        model=rewritten(
            "config_sentence_transformers.json",
            prompts={"query": "query: "},
            default_prompt_name="qurey",
        ),
    ),
    "max_length too large": Bad(ValueError, ("max_length", "65", "64"), {"max_length": 65}),
    "max_length zero": Bad(ValueError, ("max_length", "positive", "0"), {"max_length": 0}),
    "max_length below the special tokens": Bad(
        ValueError, ("max_length", "at least 2", "2 special", "got 1"), {"max_length": 1}
    ),
    "max_length negative": Bad(ValueError, ("max_length", "positive", "-3"), {"max_length": -3}),
    "max_length a fraction": Bad(TypeError, ("max_length", "integer", "8.5"), {"max_length": 8.5}),
    "max_length a string": Bad(TypeError, ("max_length", "integer", "'8'"), {"max_length": "8"}),
    "max_length a bool": Bad(TypeError, ("max_length", "integer", "True"), {"max_length": True}),
    "max_chars zero": Bad(ValueError, ("max_chars", "positive", "0"), {"max_chars": 0}),
    "batch_size zero": Bad(ValueError, ("batch_size", "positive", "0"), {"batch_size": 0}),
    "tokens_per_batch negative": Bad(
        ValueError, ("tokens_per_batch", "positive", "-1"), {"tokens_per_batch": -1}
    ),
    "truncate_dim too large": Bad(ValueError, ("truncate_dim", "33", "32"), {"truncate_dim": 33}),
    "truncate_dim zero": Bad(ValueError, ("truncate_dim", "positive", "0"), {"truncate_dim": 0}),
    "truncate_dim of token vectors": Bad(
        ValueError,
        ("truncate_dim", "pooling='none'"),
        {"truncate_dim": 8, "pooling": "none"},
    ),
    "normalized token vectors": Bad(
        ValueError, ("normalize", "pooling='none'"), {"normalize": True, "pooling": "none"}
    ),
    "unknown on_error": Bad(
        ValueError, ("on_error", "'ignore'", "'raise'", "'null'"), {"on_error": "ignore"}
    ),
    "unknown padding_side": Bad(
        ValueError,
        ("padding_side", "'lefft'", "'left'", "'right'", "did you mean 'left'?"),
        {"padding_side": "lefft"},
    ),
    "unknown keyword": Bad(TypeError, ("pooling_mode",), {"pooling_mode": "mean"}),
    # The model's specification
    "model is None": Bad(
        TypeError, ("model", "None", "Hub id", "folder", "Model"), model=lambda folder: None
    ),
    "model is a number": Bad(
        TypeError, ("model", "3", "Hub id", "folder", "Model"), model=lambda folder: 3
    ),
    "model is empty": Bad(TypeError, ("model", "''", "Hub id"), model=lambda folder: ""),
    "unknown dtype": Bad(
        ValueError,
        ("dtype", "'float23'", "'float32'", "'bfloat16'", "did you mean"),
        model=spec(dtype="float23"),
    ),
    "unknown autocast": Bad(
        ValueError, ("autocast", "'float32'", "'bfloat16'"), model=spec(autocast="float32")
    ),
    "unknown device": Bad(
        ValueError, ("device", "'gpu'", "'auto'", "'cpu'", "'cuda'"), model=spec(device="gpu")
    ),
    "device that has no number": Bad(
        ValueError, ("device", "'cuda:first'", "'cuda:N'"), model=spec(device="cuda:first")
    ),
    "device that goes on": Bad(
        ValueError, ("device", "'cpus'", "'auto'", "'cpu'"), model=spec(device="cpus")
    ),
    "device is a number": Bad(
        (TypeError, ValueError), ("device", "got 0", "'cuda:N'"), model=spec(device=0)
    ),
    "model_kwargs unhashable": Bad(
        TypeError,
        ("model_kwargs", "hashable", "['eager']"),
        model=spec(model_kwargs={"attn_implementation": ["eager"]}),
    ),
    "model_kwargs is a number": Bad(TypeError, ("model_kwargs", "3"), model=spec(model_kwargs=3)),
    "another fingerprint": Bad(
        ValueError,
        ("fingerprint", "'local-0000000000000000'", "local-"),
        model=spec(revision="local-0000000000000000"),
    ),
    # The checkpoint
    "folder that does not exist": Bad(
        ValueError,
        ("no-such-folder", "neither an existing folder nor a Hub id"),
        model=lambda folder: str(folder / "no-such-folder"),
    ),
    "Hub id that is not there": Bad(
        ValueError,
        ("'dask-embed/no-such-model'", "was not found"),
        model=lambda folder: de.Model(
            "dask-embed/no-such-model", local_files_only=True, cache_dir=str(folder)
        ),
    ),
    "revision that is not there": Bad(
        ValueError,
        ("'dask-embed/no-such-model'", "'v2'"),
        model=lambda folder: de.Model(
            "dask-embed/no-such-model", revision="v2", local_files_only=True, cache_dir=str(folder)
        ),
    ),
    "file instead of a folder": Bad(
        ValueError, ("config.json", "folder"), model=lambda folder: str(folder / "config.json")
    ),
    "folder without config": Bad(
        ValueError, ("no config.json", "no modules.json"), model=without("config.json")
    ),
    "config is not json": Bad(
        ValueError, ("config.json", "not valid json"), model=written("config.json", "{,")
    ),
    "config is a list": Bad(
        ValueError, ("config.json", "list"), model=written("config.json", "[1]")
    ),
    "unknown model_type": Bad(
        ValueError,
        ("config.json", "model_type", "'bertt'"),
        model=rewritten("config.json", model_type="bertt"),
    ),
    "no model_type": Bad(
        ValueError, ("config.json", "model_type"), model=rewritten("config.json", model_type=None)
    ),
    "remote code": Bad(
        ValueError,
        ("Python code of its own", "modeling.Model", "trust_remote_code=True"),
        model=rewritten("config.json", model_type="own", auto_map={"AutoModel": "modeling.Model"}),
    ),
    "pickled weights": Bad(
        ValueError,
        ("pytorch_model.bin", "pickle", "safetensors", "allow_pickle=True"),
        model=pickled,
    ),
    "no weights": Bad(ValueError, ("no weights", "safetensors"), model=without("*.safetensors")),
    "no tokenizer": Bad(ValueError, ("tokenizer",), model=without("tokenizer*", "special*")),
    "modules.json is not json": Bad(
        ValueError, ("modules.json", "json"), model=written("modules.json", "[,")
    ),
    "prompts are not json": Bad(
        ValueError,
        ("config_sentence_transformers.json", "json"),
        model=written("config_sentence_transformers.json", "{,"),
    ),
    "no modules": Bad(ValueError, ("modules.json", "Transformer"), model=with_modules()),
    "unsupported module": Bad(
        ValueError,
        ("modules.json", f"'{ST}CNN'", "Transformer", "Pooling", "Dense"),
        model=with_modules(TRANSFORMER, POOLING, ("cnn", f"{ST}CNN"), pooling=MEAN),
    ),
    "module of another package": Bad(
        ValueError,
        ("modules.json", "'my_package.Pooling'"),
        model=with_modules(TRANSFORMER, ("pooling", "my_package.Pooling")),
    ),
    "first module is another": Bad(
        ValueError,
        ("modules.json", "Transformer", f"'{ST}WordEmbeddings'"),
        model=with_modules(("", f"{ST}WordEmbeddings"), POOLING),
    ),
    "no pooling module": Bad(
        ValueError,
        ("modules.json", "Pooling"),
        model=with_modules(TRANSFORMER, ("norm", f"{ST}Normalize")),
    ),
    "pooling module without settings": Bad(
        ValueError, ("'pooling'", "config.json"), model=with_modules(TRANSFORMER, POOLING)
    ),
    "pooling module of another kind": Bad(
        ValueError,
        ("'attention'", "'mean'"),
        model=with_modules(TRANSFORMER, POOLING, pooling={"pooling_mode": "attention"}),
    ),
    "Dense of another width": Bad(
        ValueError,
        ("'dense'", "48", "32"),
        model=with_modules(
            TRANSFORMER, POOLING, ("dense", f"{ST}Dense"), pooling=MEAN, dense=DENSE
        ),
    ),
    "Dense without sizes": Bad(
        ValueError,
        ("'dense'", "'in_features'"),
        model=with_modules(
            TRANSFORMER, POOLING, ("dense", f"{ST}Dense"), pooling=MEAN, dense={"bias": True}
        ),
    ),
    "Dense with code of its own": Bad(
        ValueError,
        ("'dense'", "'evil.Activation'", "torch.nn"),
        model=with_modules(
            TRANSFORMER,
            POOLING,
            ("dense", f"{ST}Dense"),
            pooling=MEAN,
            dense={**DENSE, "in_features": 32, "activation_function": "evil.Activation"},
        ),
    ),
}


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory):
    return shared_tiny_bert(tmp_path_factory)


@pytest.fixture
def copy(tiny_bert, tmp_path) -> Path:
    """A checkpoint that a test may spoil."""
    return Path(shutil.copytree(tiny_bert, tmp_path / "model"))


@pytest.fixture(autouse=True)
def _no_weights(monkeypatch):
    """Loading weights fails the test, so errors are found from configurations alone."""

    def fail(*args):
        raise AssertionError("weights were loaded")

    monkeypatch.setattr(loading, "load", fail)
    monkeypatch.setattr(runner, "load", fail)


def good_frame() -> pd.DataFrame:
    lists = pd.arrays.ArrowExtensionArray(pa.array([["a"], ["b", "c"]]))
    return pd.DataFrame(
        {
            "id": [1, 2],
            "text": ["one", "two"],
            "number": [0.5, 1.5],
            "flag": [True, False],
            "day": pd.to_datetime(["2024-01-01", "2024-01-02"]),
            "lists": lists,
        }
    )


def through_dask_accessor(frame, model, column="text", **options):
    return dask_frame(frame).ml.embed(column, model=model, **options)


def through_pandas_accessor(frame, model, column="text", **options):
    return frame.ml.embed(column, model=model, **options)


def through_operator(frame, model, **options):
    return de.Embedder(model, **options)(frame)


def through_operator_on_dask(frame, model, **options):
    return de.Embedder(model, **options)(dask_frame(frame))


def dask_frame(frame):
    if frame.columns.is_unique:
        return dd.from_pandas(frame, npartitions=2)
    return dd.from_map(lambda part: part, [frame], meta=frame.iloc[:0])


WAYS = [
    through_dask_accessor,
    through_pandas_accessor,
    through_operator,
    through_operator_on_dask,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.removeprefix("through_"))
@pytest.mark.parametrize("name", CASES)
def test_bad_input(copy, rows_through_model, name, way):
    """The error is of the expected type, in one line, and names what is given and allowed."""
    case = CASES[name]
    frame = case.frame(good_frame())

    def apply():
        with pytest.raises(case.error) as caught:
            way(frame, case.model(copy), **case.options)
        message = str(caught.value)
        assert "\n" not in message
        for part in case.says:
            assert part in message
        assert type(caught.value) in (ValueError, TypeError)  # not one of their subclasses

    assert rows_through_model(apply) == 0


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__.removeprefix("through_"))
def test_good_input_gets_as_far_as_the_weights(copy, way):
    """The frame and checkpoint of these tests are fine: only loading, forbidden here, fails."""

    def run():
        way(good_frame(), str(copy)).compute()

    with pytest.raises(AssertionError, match="weights were loaded"):
        run()


@pytest.mark.parametrize(
    ("thing", "kind", "hint"),
    [
        (["a text"], "got list", "pandas.DataFrame({'text': texts})"),
        ("a text", "got 'a text'", "pandas.DataFrame({'text': texts})"),
        ({"text": ["a text"]}, "got dict", "pandas.DataFrame({'text': texts})"),
        (np.array(["a text"]), "got numpy.ndarray", "pandas.DataFrame({'text': texts})"),
        (None, "got None", ""),
        (pd.Series(["a text"]), "got pandas.Series", ".to_frame()"),
        (dd.from_pandas(pd.Series(["a text"]), npartitions=1), "Series", ".to_frame()"),
        (pa.table({"text": ["a text"]}), "got pyarrow.Table", ".to_pandas()"),
        (polars.DataFrame({"text": ["a text"]}), "got polars.DataFrame", ".to_pandas()"),
        (polars.LazyFrame({"text": ["a text"]}), "got polars.LazyFrame", ".to_pandas()"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_calling_an_operator_on_something_else(copy, thing, kind, hint):
    """Only dataframes are taken; the error says what was given, and how it becomes one."""
    embedder = de.Embedder(str(copy))
    with pytest.raises(TypeError, match="takes a pandas, cuDF or Dask DataFrame") as caught:
        embedder(thing)
    assert kind in str(caught.value)
    assert hint in str(caught.value)
    assert "\n" not in str(caught.value)


def test_model_is_needed():
    """There is no default model."""
    with pytest.raises(TypeError, match="model"):
        de.Embedder()
    with pytest.raises(TypeError, match="model"):
        good_frame().ml.embed("text")


def test_remote_code_is_not_run(copy):
    """A checkpoint's own code is not even imported when it is refused."""
    (copy / "modeling.py").write_text("raise SystemExit('ran')")
    rewritten("config.json", model_type="own", auto_map={"AutoConfig": "modeling.Config"})(copy)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        good_frame().ml.embed(model=str(copy))


def test_spoiled_after_the_graph_was_built(copy):
    """A folder that changes between building and computing is an error, not another result."""
    lazy = dask_frame(good_frame()).ml.embed(model=str(copy))
    rewritten("config.json", hidden_act="relu")(copy)
    with pytest.raises((ValueError, AssertionError)) as caught:
        lazy.compute()
    assert "weights were loaded" in str(caught.value) or "fingerprint" in str(caught.value)


def test_message_of_a_typo_without_a_close_match(copy):
    """Where nothing is close, nothing is suggested."""
    with pytest.raises(ValueError, match="pooling") as caught:
        de.Embedder(str(copy), pooling="xyzzy")
    assert "did you mean" not in str(caught.value)
