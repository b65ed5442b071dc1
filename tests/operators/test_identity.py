"""What files say of a column: every setting that can change a value, of operator and model."""

from __future__ import annotations

import collections
import dataclasses
import json
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file
from support import contract, tiny

import dask_embed as de
from dask_embed import operators
from dask_embed.curation.queries import embedder_of
from dask_embed.jobs.origin import Origin
from dask_embed.operators.identity import told_fields

OPERATORS = [
    operator
    for operator in (getattr(operators, name) for name in operators.__all__)
    if operator not in (de.ColumnOperator, de.ModelOperator)
]
# Where results go and which rows share a batch; no value depends on them.
SAME = {
    "output", "score", "scores", "probabilities", "count", "offsets", "hidden", "embedding",
    "cache", "columns", "keep_text", "padding_side", "batch_size", "tokens_per_batch", "on_error",
}  # fmt: skip
MODEL_SAME = {
    "device", "attention", "compile", "allow_pickle", "cache_dir", "local_files_only",
    "device_map", "offload_folder", "max_memory",
}  # fmt: skip

RANGES = np.array([np.zeros(32), np.ones(32)])
# Another value of each field than its default, whichever operator has it; others are guessed.
OTHER: dict[str, Any] = {
    "activation": "sigmoid",
    "aggregation": "simple",
    "batch_size": 3,
    "boundaries": "words",
    "cache": "seen",
    "candidates": ("yes", "no"),
    "candidates_column": "words",
    "chat": True,
    "chat_template_kwargs": {"enable_thinking": False},
    "columns": ("words",),
    "context": 2,
    "engine": "transformers",
    "engine_options": {"block_size": 16},
    "entailment_id": 0,
    "hypothesis_template": "It is {}.",
    "ignore_labels": ("B",),
    "labels": ("this", "that"),
    "max_answer_length": 3,
    "max_chars": 5,
    "max_active_dims": 9,
    "max_length": 9,
    "max_tokens": 9,
    "measure": "dot",
    "min_new_tokens": 2,
    "min_p": 0.1,
    "no_repeat_ngram_size": 2,
    "normalize": True,
    "num_beams": 2,
    "on_error": "null",
    "on_long": "error",
    "overlap": 1,
    "padding_side": "left",
    "pair": "second",
    "pooling": "max",
    "precision": "float16",
    "prompt": "Read this: {text}",
    "prompt_name": "query",
    "prototypes": {"north": [0.0, 2.0], "east": [1.0, 0.0]},
    "query": "why?",
    "query_column": "asked",
    "question": "how?",
    "question_column": "asked",
    "ranges": RANGES + 1,
    "repetition_penalty": 1.2,
    "scores": "all",
    "stop": ("end",),
    "stride": 2,
    "targets": ("good",),
    "temperature": 0.7,
    "threshold": 0.5,
    "tokens_per_batch": 99,
    "top_k": 3,
    "top_p": 0.5,
    "truncate_dim": 8,
    "truncation": "only_first",
}
# What an operator with this field has to be given besides.
NEEDED: dict[Any, dict[str, Any]] = {
    (de.Embedder, "ranges"): {"precision": "int8", "ranges": RANGES},
    (de.Generator, "system"): {"chat": True},
    (de.Generator, "chat_template_kwargs"): {"chat": True},
    (de.Generator, "engine_options"): {"engine": "vllm"},
    (de.Tokenizer, "on_long"): {"max_length": 12},
    (de.Tokenizer, "truncation"): {"max_length": 12, "pair": "second"},
    (de.Tokenizer, "windows"): {"max_length": 12},
    (de.Tokenizer, "stride"): {"max_length": 12, "windows": True},
}
OTHERS: dict[Any, dict[str, Any]] = {
    (de.Embedder, "chat"): {"chat": False},
    (de.Embedder, "ranges"): {},
    (de.QuestionAnswerer, "question_column"): {"question": None},
    (de.SparseEmbedder, "activation"): {"activation": "log1p_relu"},
    (de.SparseEmbedder, "pooling"): {"pooling": "sum"},
    (de.Reranker, "query_column"): {"query": None},
    (de.CandidateScorer, "candidates_column"): {"candidates": None},
    (de.CandidateScorer, "normalize"): {"normalize": "mean"},
}


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("identity")
    bert = tiny.add_modules(tiny.save("bert", root / "bert"))
    (bert / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "query: "}})
    )
    for name, size in (("head", 3), ("other-head", 2)):
        save_file({"weight": np.eye(2, size, dtype="f4")}, root / f"{name}.safetensors")
    return {
        "bert": bert,
        "other": tiny.save("bert", root / "other", lowercase=False),
        "head": root / "head.safetensors",
        "other-head": root / "other-head.safetensors",
    }


def _first(operator: type, files: dict[str, Path], other: bool = False) -> dict[str, Any]:
    if operator is de.LinearHead:
        return {"weights": files["other-head" if other else "head"]}
    if operator is de.Similarity:
        return {"prototypes": OTHER["prototypes"] if other else {"north": [0, 1], "east": [1, 0]}}
    if "model" not in {field.name for field in dataclasses.fields(operator)}:
        return {}
    return {"model": str(files["other" if other else "bert"])}


FIELDS = [
    pytest.param(operator, field.name, id=f"{operator.__name__}-{field.name}")
    for operator in OPERATORS
    for field in dataclasses.fields(operator)
    if field.name not in ("revision",)  # set by `pinned`, from the content
]


@pytest.mark.parametrize(("operator", "name"), FIELDS)
def test_every_field_counts_unless_it_is_listed(
    operator: type, name: str, files: dict[str, Path]
) -> None:
    given = {**_first(operator, files), **contract.needed(operator)}
    given |= NEEDED.get((operator, name), {})
    if name in _first(operator, files):
        changed = {**given, **_first(operator, files, other=True)}
    else:
        other = OTHER[name] if name in OTHER else contract.another(operator, name)
        changed = {**given, name: other, **OTHERS.get((operator, name), {})}
    before, after = (operator(**each).pinned().provenance() for each in (given, changed))
    assert (before == after) == (name in SAME)
    assert json.loads(json.dumps(after)) == after


MODEL_OTHER: dict[str, Any] = {
    "name": "owner/other",
    "revision": "v2",
    "dtype": "bfloat16",
    "autocast": "bfloat16",
    "device": "cpu",
    "attention": "padded",
    "compile": True,
    "trust_remote_code": True,
    "allow_pickle": True,
    "cache_dir": "/tmp/elsewhere",
    "local_files_only": True,
    "model_kwargs": {"hidden_act": "relu"},
    "adapter": "owner/adapter",
    "adapter_revision": "v2",
    "merge_adapter": True,
    "quantization": "int8",
    "device_map": "auto",
    "offload_folder": "/tmp/elsewhere",
    "max_memory": {"cpu": "1GiB"},
    "tokenizer": "owner/words",
    "tokenizer_revision": "v2",
    "factory": collections.OrderedDict,
    "labels": ("a", "b"),
}
MODEL_NEEDED: dict[str, dict[str, Any]] = {
    "adapter_revision": {"adapter": "owner/adapter"},
    "merge_adapter": {"adapter": "owner/adapter"},
    "tokenizer_revision": {"tokenizer": "owner/words"},
    "offload_folder": {"device_map": "auto"},
    "max_memory": {"device_map": "auto"},
}


@pytest.mark.parametrize("name", [field.name for field in dataclasses.fields(de.Model)])
@pytest.mark.parametrize("operator", [de.Embedder, de.Tokenizer, de.Chunker, de.ZeroShotClassifier])
def test_every_field_of_a_model_counts_unless_it_is_listed(operator: type, name: str) -> None:
    given = {"name": "owner/model", **MODEL_NEEDED.get(name, {})}
    changed = {**given, name: MODEL_OTHER[name]}
    labels = {"labels": ("x",)} if operator is de.ZeroShotClassifier else {}
    before, after = (
        told_fields(operator(model=de.Model(**each), **labels)) for each in (given, changed)
    )
    assert (before == after) == (name in MODEL_SAME)
    assert json.loads(json.dumps(after)) == after


def test_arguments_for_other_libraries_are_not_written_out() -> None:
    model = de.Model("owner/model", model_kwargs={"hidden_act": "s3cr3t", "layers": 3})
    told = told_fields(de.Embedder(model))["model_kwargs"]
    assert told["layers"] == 3
    assert "s3cr3t" not in json.dumps(told)


def test_an_operator_of_ones_own_is_told_by_its_fields() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Own(de.ModelOperator):
        column: str = "text"
        weight: float = 0.5

        @property
        def input_columns(self) -> tuple[str, ...]:
            return (self.column,)

    told = [told_fields(Own(model="owner/model", weight=each)) for each in (0.5, 0.7)]
    assert told[0] != told[1]


@pytest.mark.parametrize("folder", ["plain", "mean-normalize"])
def test_embedders_that_are_told_alike_give_equal_vectors(folder: str, tmp_path: Path) -> None:
    bases = {"bert": tiny.save("bert", tmp_path / "bert")}
    model = tiny.SENTENCE_TRANSFORMERS[folder](tmp_path / folder, bases)
    texts = pd.DataFrame({"text": ["a table of numbers", "rain"]})
    known: dict[str, tuple[np.ndarray, de.Embedder]] = {}
    for normalize in ("auto", True, False):
        for dimension in (None, 8):
            embedder = de.Embedder(model, normalize=normalize, truncate_dim=dimension)
            told = json.dumps(embedder.pinned().provenance(), sort_keys=True)
            vectors = de.to_array(embedder(texts)["embedding"])
            same, _ = known.setdefault(told, (vectors, embedder))
            np.testing.assert_allclose(vectors, same, atol=1e-6)
            # what is computed again from what was told, as for queries
            origin = Origin(embedder.pinned().provenance())
            again = embedder_of(origin, "embedding")(texts.rename(columns={"text": "query"}))
            np.testing.assert_allclose(de.to_array(again["embedding"]), vectors, atol=1e-6)
    assert len(known) == (4 if folder == "plain" else 5)


# --------------------------------------------------------------------------------------- appending
def _frame(start: int, stop: int) -> dd.DataFrame:
    texts = [f"number {row}" for row in range(start, stop)]
    return dd.from_pandas(pd.DataFrame({"id": range(start, stop), "text": texts}), npartitions=1)


@pytest.mark.parametrize(
    ("settings", "model", "named"),
    [
        ({"max_chars": 3}, {}, "max_chars=3"),
        ({"on_long": "error"}, {}, "on_long='error'"),
        ({}, {"dtype": "bfloat16"}, "dtype='bfloat16'"),
        ({}, {"autocast": "bfloat16"}, "autocast='bfloat16'"),
        ({}, {"model_kwargs": {"layer_norm_eps": 0.1}}, "model_kwargs={'layer_norm_eps': 0.1}"),
    ],
    ids=str,
)
def test_what_changes_vectors_does_not_append(
    files: dict[str, Path], tmp_path: Path, settings: Any, model: Any, named: str
) -> None:
    name = str(files["bert"])
    _frame(0, 4).ml.embed("text", model=de.Model(name)).ml.to_parquet(tmp_path / "out")
    other = _frame(4, 8).ml.embed("text", model=de.Model(name, **model), **settings)
    with pytest.raises(ValueError, match="append=True would mix values") as caught:
        other.ml.to_parquet(tmp_path / "out", append=True)
    assert named in str(caught.value)
    batches = de.Model(name, device="cpu", attention="padded")
    same = _frame(4, 8).ml.embed("text", model=batches, batch_size=2, padding_side="left")
    same.ml.to_parquet(tmp_path / "out", append=True)
    assert len(pd.read_parquet(tmp_path / "out")) == 8


def test_integers_of_other_ranges_do_not_append(tmp_path: Path) -> None:
    """Calibrated ones are of the rows that they were calibrated over."""

    def vectors(seed: int) -> dd.DataFrame:
        rows = np.random.default_rng(seed).normal(size=(4, 3)).astype("f4")
        column = pd.array(list(rows), pd.ArrowDtype(pa.list_(pa.float32(), 3)))
        return dd.from_pandas(pd.DataFrame({"v": column}), npartitions=1)

    ranges = [[-1, -1, -1], [1, 1, 1]]
    for name, first, other in (("given", ranges, [[-2] * 3, [1] * 3]), ("all", None, None)):
        de.quantize(vectors(0), "v", "int8", ranges=first).ml.to_parquet(tmp_path / name)
        with pytest.raises(ValueError, match=r"'v' of .* ranges="):
            de.quantize(vectors(1), "v", "int8", ranges=other).ml.to_parquet(
                tmp_path / name, append=True
            )
    de.quantize(vectors(1), "v", "int8", ranges=ranges).ml.to_parquet(
        tmp_path / "given", append=True
    )
    assert len(pd.read_parquet(tmp_path / "given")) == 8


def _as_written_before(folder: Path) -> None:
    """Give the files the metadata of the first format, which named some settings only."""
    [file] = folder.iterdir()
    table = pq.read_table(file)
    said = json.loads(table.schema.metadata[b"dask_embed"])
    for name in ("format", "frame", "run"):
        del said[name]
    for name in ("max_chars", "on_long", "dtype"):
        said["columns"]["embedding"].pop(name, None)
    metadata = {**table.schema.metadata, b"dask_embed": json.dumps(said).encode()}
    file.unlink()
    pq.write_table(table.replace_schema_metadata(metadata), folder / "part.0.parquet")


def test_files_of_the_first_format_are_appended_to(files: dict[str, Path], tmp_path: Path) -> None:
    """By what they say: their other settings are not known."""
    name = str(files["bert"])
    _frame(0, 4).ml.embed("text", model=name, max_chars=9).ml.to_parquet(tmp_path / "out")
    _as_written_before(tmp_path / "out")
    other = _frame(4, 8).ml.embed("text", model=name, max_chars=9, pooling="max")
    with pytest.raises(ValueError, match=r"pooling=\['max'\]"):
        other.ml.to_parquet(tmp_path / "out", append=True)
    _frame(4, 8).ml.embed("text", model=name, max_chars=9).ml.to_parquet(
        tmp_path / "out", append=True
    )
    assert len(pd.read_parquet(tmp_path / "out")) == 8


def test_a_setting_that_is_newer_than_the_files_had_its_default(
    files: dict[str, Path], tmp_path: Path
) -> None:
    name = str(files["bert"])
    _frame(0, 4).ml.embed("text", model=name).ml.to_parquet(tmp_path / "out")
    [file] = (tmp_path / "out").iterdir()
    table = pq.read_table(file)
    said = json.loads(table.schema.metadata[b"dask_embed"])
    del said["columns"]["embedding"]["max_chars"]
    metadata = {**table.schema.metadata, b"dask_embed": json.dumps(said).encode()}
    pq.write_table(table.replace_schema_metadata(metadata), file)
    with pytest.raises(ValueError, match="max_chars=5"):
        _frame(4, 8).ml.embed("text", model=name, max_chars=5).ml.to_parquet(
            tmp_path / "out", append=True
        )
    _frame(4, 8).ml.embed("text", model=name).ml.to_parquet(tmp_path / "out", append=True)
    assert len(pd.read_parquet(tmp_path / "out")) == 8
