"""Every setting of a sentence-transformers folder is honoured, or refused by its name.

The settings are those of the classes of sentence-transformers that write them: one that a newer
version adds fails here until somebody decides, and is refused meanwhile.
"""

from __future__ import annotations

import importlib
import inspect
import json
import pkgutil
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import sentence_transformers
from sentence_transformers import CrossEncoder, SentenceTransformer, SparseEncoder
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import (
    Dense,
    Dropout,
    LayerNorm,
    Normalize,
    Pooling,
)
from support import tiny

import dask_embed as de

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TEXTS = ["Return the LINES of a file.", tiny.corpus()[50], "x", tiny.corpus()[9]]
SENTENCE, WHOLE = "sentence_bert_config.json", "config_sentence_transformers.json"
TEXT = {"method": "forward", "method_output_name": "last_hidden_state"}


def modality(**changes: Any) -> dict[str, Any]:
    """Return the settings of a folder whose texts go another way through the model."""
    inputs = {"text": TEXT | changes}
    return {"modality_config": inputs, "module_output_name": "token_embeddings"}


# Settings of a Transformer that are tried: values by name, with what else they need.
TRANSFORMER: dict[str, list[dict[str, Any]]] = {
    "transformer_task": [
        {"transformer_task": task} for task in ("feature-extraction", "fill-mask")
    ],
    "modality_config": [
        modality(),
        modality(method_output_name=["last_hidden_state"]),
        modality(method_output_name=["hidden_states", 1]),
        {
            "modality_config": {"image+text": TEXT, "text": TEXT},
            "module_output_name": "token_embeddings",
        },
    ],
    "module_output_name": [modality() | {"module_output_name": "other"}],
    "processing_kwargs": [
        {"processing_kwargs": given}
        for given in (
            {"text": {"max_length": 8}},
            {"text": {"truncation": True}},
            {"common": {"add_special_tokens": False}},
            {"image": {"do_resize": False}},
        )
    ],
    "unpad_inputs": [{"unpad_inputs": False}, {"unpad_inputs": True}],
    "query_length": [{"query_length": 8}],
    "document_length": [{"document_length": 8}],
    "query_expansion": [{"query_expansion": {"strategy": "fixed", "length": 8}}],
    "max_seq_length": [{"max_seq_length": 9}, {"max_seq_length": None}],
    "do_lower_case": [{"do_lower_case": True}],
    "tokenizer_name_or_path": [{"tokenizer_name_or_path": "OTHER"}],
    "model_kwargs": [
        {name: given}
        for name in ("model_args", "model_kwargs")
        for given in (
            {"dtype": "bfloat16"},
            {"torch_dtype": "float16"},
            {"attn_implementation": "eager"},
            {"trust_remote_code": True},
            {"hidden_dropout_prob": 0.5},
        )
    ],
    "processor_kwargs": [
        {name: given}
        for name in ("tokenizer_args", "processor_kwargs")
        for given in (
            {"model_max_length": 9},
            {"padding_side": "left"},
            {"truncation_side": "left", "model_max_length": 9},
            {"do_lower_case": True},
        )
    ],
    "config_kwargs": [
        {name: given}
        for name in ("config_args", "config_kwargs")
        for given in ({"num_hidden_layers": 1}, {"use_cache": False})
    ],
    "backend": [{"backend": "torch"}],
}
# The same of other modules, and of the whole.
MODULES: dict[type, tuple[str, dict[str, list[Any]]]] = {
    Pooling: (
        "1_Pooling",
        {
            "embedding_dimension": [tiny.HIDDEN],
            "pooling_mode": ["max", ["cls"]],
            "include_prompt": [False, True],
        },
    ),
    Dense: (
        "2_Dense",
        {
            "in_features": [tiny.HIDDEN],
            "out_features": [tiny.HIDDEN],
            "bias": [True],
            "activation_function": ["torch.nn.modules.activation.ReLU", "torch.nn.GELU"],
            "module_input_name": ["sentence_embedding", "token_embeddings"],
            "module_output_name": ["sentence_embedding", "other"],
            "use_residual": [True],
        },
    ),
    LayerNorm: ("3_LayerNorm", {"dimension": [tiny.HIDDEN]}),
    Normalize: (
        "4_Normalize",
        {
            "module_input_name": ["sentence_embedding", "token_embeddings"],
            "module_output_name": ["sentence_embedding", "other"],
        },
    ),
    Dropout: ("5_Dropout", {"dropout": [0.7]}),
}
MODEL: dict[str, list[dict[str, Any]]] = {
    "__version__": [{"__version__": {"sentence_transformers": "1.0"}}],
    "model_type": [{"model_type": "SentenceTransformer"}, {"model_type": "SparseEncoder"}],
    "prompts": [{"prompts": {"query": "query: ", "document": None}}],
    "default_prompt_name": [{"prompts": {"q": "query: "}, "default_prompt_name": "q"}],
    "similarity_fn_name": [{"similarity_fn_name": "dot"}],
    "truncate_dim": [{"truncate_dim": 7}, {"truncate_dim": 99}],
}
OF_MODULES = [
    pytest.param(f"{path}/config.json", {name: value}, id=f"{kind.__name__} {name}={value}")
    for kind, (path, settings) in MODULES.items()
    for name, values in settings.items()
    for value in values
]
OF_THE_WHOLE = [
    pytest.param(file, given, id=str(given))
    for file, settings in ((SENTENCE, TRANSFORMER), (WHOLE, MODEL))
    for values in settings.values()
    for given in values
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every module that is run here, over a tokenizer that keeps capitals."""
    root = tmp_path_factory.mktemp("settings")
    base = tiny.save("bert", root / "base", lowercase=False)
    size = tiny.HIDDEN
    head = [Pooling(size), Dense(size, size), LayerNorm(size), Normalize(), Dropout()]
    for module in head:
        tiny.enlarge(module)
    model = SentenceTransformer(modules=[Transformer(str(base)), *head], device="cpu")
    model.save(str(root / "whole"), create_model_card=False)
    return root / "whole"


@pytest.fixture
def edited(folder: Path, tmp_path: Path) -> Any:
    """Return a function that gives a copy of the folder with other settings in a file."""

    def copy(file: str, changes: dict[str, Any]) -> Path:
        target = Path(shutil.copytree(folder, tmp_path / "copy"))
        path = target / file
        written = json.loads(path.read_text()) if path.is_file() else {}
        path.write_text(json.dumps(written | changes))
        return target

    return copy


def encode(folder: Path) -> np.ndarray:
    """Return the reference's vectors, of a text at a time: padding on the left may change them."""
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    return model.encode(TEXTS, batch_size=1, show_progress_bar=False)


def embed(folder: Path, **settings: Any) -> np.ndarray:
    embedder = de.Embedder(de.Model(str(folder), device="cpu"), **settings)
    return de.to_array(embedder(pd.DataFrame({"text": TEXTS}))["embedding"])


def names_in(given: Any) -> list[str]:
    """Return the names of settings, those within settings too."""
    if not isinstance(given, dict):
        return []
    return [*given, *(name for each in given.values() for name in names_in(each))]


# --------------------------------------------------------------------------- no setting is missed
def test_every_setting_of_a_transformer_is_tried() -> None:
    arguments = set(inspect.signature(Transformer.__init__).parameters)
    known = arguments - {"self", "model_name_or_path"} | set(Transformer.config_keys)
    assert known == set(TRANSFORMER)


@pytest.mark.parametrize("kind", MODULES)
def test_every_setting_of_a_module_is_tried(kind: Any) -> None:
    assert set(kind.config_keys) == set(MODULES[kind][1])


def test_every_setting_of_the_whole_is_tried(folder: Path) -> None:
    model = SentenceTransformer(str(folder), device="cpu", truncate_dim=7)
    assert set(model._get_model_config()) == set(MODEL)


# -------------------------------------------------------------------- each is honoured or named
@pytest.mark.parametrize(("file", "changes"), [*OF_THE_WHOLE, *OF_MODULES])
def test_a_setting_is_honoured_or_refused(edited: Any, file: str, changes: dict[str, Any]) -> None:
    copy = edited(file, changes)
    try:
        given = embed(copy)
    except ValueError as error:
        assert "\n" not in str(error)  # noqa: PT017
        assert any(name in str(error) for name in names_in(changes))  # noqa: PT017
        return
    expected = encode(copy)
    half = "float16" in str(changes)  # of texts in another order, and padded
    assert given.shape == expected.shape
    np.testing.assert_allclose(given, expected, rtol=0, atol=2e-2 if half else 1e-5)


HONOURED = [
    (SENTENCE, {"max_seq_length": 9}),
    (SENTENCE, {"do_lower_case": True}),
    (SENTENCE, {"processor_kwargs": {"model_max_length": 9}, "max_seq_length": 20}),
    (SENTENCE, {"model_args": {"dtype": "bfloat16"}}),
    (WHOLE, {"truncate_dim": 7}),
    (WHOLE, {"prompts": {"q": "query: "}, "default_prompt_name": "q"}),
    ("1_Pooling/config.json", {"pooling_mode": "max"}),
    ("2_Dense/config.json", {"activation_function": "torch.nn.modules.activation.ReLU"}),
    ("2_Dense/config.json", {"use_residual": True}),
]


@pytest.mark.parametrize(("file", "changes"), HONOURED, ids=str)
def test_what_is_honoured_changes_vectors(
    edited: Any, folder: Path, file: str, changes: dict[str, Any]
) -> None:
    """Lest all of them be refused, or make no difference."""
    given, before = embed(edited(file, changes)), embed(folder)
    assert given.shape != before.shape or not np.array_equal(given, before)


NEW = [SENTENCE, WHOLE, *(f"{path}/config.json" for path, _ in MODULES.values())]


@pytest.mark.parametrize("file", NEW)
@pytest.mark.parametrize("value", [True, False, 0, "mean", {"depth": 2}], ids=str)
def test_a_setting_of_a_version_to_come_is_refused(edited: Any, file: str, value: Any) -> None:
    with pytest.raises(ValueError, match=r"new_setting=.* not known"):
        de.Embedder(str(edited(file, {"new_setting": value}))).types()


@pytest.mark.parametrize(
    ("file", "changes", "name"),
    [
        ("1_Pooling/config.json", {"pooling_mode_median_tokens": True}, "pooling_mode_median"),
        ("1_Pooling/config.json", {"pooling_mode_cls_token": "yes"}, "pooling_mode_cls_token"),
        ("1_Pooling/config.json", {"pooling_mode": []}, "cannot be concatenated"),
        (SENTENCE, {"max_seq_length": "long"}, "max_seq_length"),
        (SENTENCE, {"max_seq_length": 0}, "max_seq_length"),
        (SENTENCE, {"model_args": {"quantization_config": {}}}, r"model_args\.quantization_config"),
        (SENTENCE, {"model_args": 3}, "model_args"),
        (SENTENCE, {"modality_config": 3}, "modality_config"),
        (SENTENCE, {"modality_config": {"image": TEXT}}, "takes no text"),
        (SENTENCE, modality(method="get_text_features"), r"modality_config\.text\.method="),
        (SENTENCE, {"modality_config": {"smell": TEXT, "text": TEXT}}, "smell"),
        (WHOLE, {"prompts": ["query: "]}, "prompts"),
    ],
    ids=str,
)
def test_other_values_are_refused(
    edited: Any, file: str, changes: dict[str, Any], name: str
) -> None:
    with pytest.raises(ValueError, match=name):
        de.Embedder(str(edited(file, changes))).types()


@pytest.mark.parametrize("place", range(6))
def test_arguments_in_modules_json_are_refused(folder: Path, tmp_path: Path, place: int) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    listing = json.loads((copy / "modules.json").read_text())
    listing[place]["kwargs"] = ["task"]
    (copy / "modules.json").write_text(json.dumps(listing))
    with pytest.raises(ValueError, match=r"kwargs=\['task'\]"):
        de.Embedder(str(copy)).types()


@pytest.mark.parametrize("numbered", [True, False])
def test_modules_run_in_the_order_of_the_file(folder: Path, tmp_path: Path, numbered: bool) -> None:
    """Whatever their numbers say, and without any."""
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    listing = json.loads((copy / "modules.json").read_text())
    listing[2], listing[3] = listing[3], listing[2]  # LayerNorm before Dense
    if not numbered:
        for entry in listing:
            del entry["idx"]
    (copy / "modules.json").write_text(json.dumps(listing))
    given = embed(copy)
    np.testing.assert_allclose(given, encode(copy), rtol=0, atol=1e-5)
    assert not np.allclose(given, embed(folder), atol=1e-2)


def test_a_normalization_before_a_layer_stays(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    listing = json.loads((copy / "modules.json").read_text())
    listing.insert(2, listing.pop(4))
    (copy / "modules.json").write_text(json.dumps(listing))
    given = embed(copy, normalize=False)
    np.testing.assert_allclose(given, encode(copy), rtol=0, atol=1e-5)
    assert not np.allclose(given, embed(folder, normalize=False), atol=1e-2)


def test_a_file_that_says_nothing_leaves_it_to_the_next(folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    (copy / SENTENCE).write_text("{}")
    (copy / "sentence_roberta_config.json").write_text(json.dumps({"max_seq_length": 7}))
    given = embed(copy)
    np.testing.assert_allclose(given, encode(copy), rtol=0, atol=1e-5)
    assert not np.allclose(given, embed(folder), atol=1e-2)


@pytest.mark.parametrize("kind", ["default", "dynamic"])
def test_more_tokens_than_a_model_that_rotates_was_trained_on(tmp_path: Path, kind: str) -> None:
    base = tiny.save("qwen3", tmp_path / "base")
    settings = json.loads((base / "config.json").read_text())
    rope = {"rope_type": kind, "rope_theta": 10_000.0}
    rope |= {"factor": 2.0} if kind == "dynamic" else {}
    settings |= {"rope_parameters": rope, "max_position_embeddings": 12}
    (base / "config.json").write_text(json.dumps(settings))
    model = SentenceTransformer(
        modules=[Transformer(str(base)), Pooling(tiny.HIDDEN)], device="cpu"
    )
    model.save(str(whole := tmp_path / "whole"), create_model_card=False)
    written = json.loads((whole / SENTENCE).read_text())
    short = embed(whole)
    (whole / SENTENCE).write_text(json.dumps(written | {"max_seq_length": 40}))
    given = embed(whole)
    # each in a fresh model: there a long text changes the frequencies of those after it
    expected = [
        SentenceTransformer(str(whole), device="cpu").encode(text, show_progress_bar=False)
        for text in TEXTS
    ]
    np.testing.assert_allclose(given, np.stack(expected), rtol=0, atol=1e-5)
    assert not np.allclose(given, short, atol=1e-3)


@pytest.mark.parametrize("name", ["GLU", "Threshold", "LSTM", "MaxPool1d"])
def test_activations_that_are_none(edited: Any, name: str) -> None:
    copy = edited("2_Dense/config.json", {"activation_function": f"torch.nn.{name}"})
    with pytest.raises(
        ValueError, match=rf"module '2_Dense' has the activation 'torch\.nn\.{name}'"
    ):
        embed(copy)


def test_settings_without_modules_are_not_read(tmp_path: Path) -> None:
    """sentence-transformers makes of such a folder what it makes of any plain checkpoint."""
    plain = tiny.save("bert", tmp_path / "plain")
    (plain / SENTENCE).write_text(json.dumps({"max_seq_length": 5}))
    prompts = {"prompts": {"q": "query: "}, "default_prompt_name": "q"}
    (plain / WHOLE).write_text(json.dumps(prompts))
    np.testing.assert_allclose(embed(plain), encode(plain), rtol=0, atol=1e-5)


# ------------------------------------------------------------- classes that are written elsewhere
TRIED = {"Transformer", "StaticEmbedding", *(kind.__name__ for kind in MODULES)}


def module_classes() -> list[type]:
    """Return every class of sentence-transformers that a folder may name as a module."""
    found: dict[str, type] = {}
    for each in pkgutil.walk_packages(sentence_transformers.__path__, "sentence_transformers."):
        if ".modules" not in each.name:
            continue
        for value in vars(importlib.import_module(each.name)).values():
            there = (getattr(value, "__module__", None) or "").startswith("sentence_transformers.")
            if there and isinstance(value, type) and hasattr(value, "config_keys"):
                found[f"{value.__module__}.{value.__name__}"] = value
    return [found[name] for name in sorted(found)]


@pytest.mark.parametrize("place", [0, 1])
def test_modules_that_are_not_run_are_refused(folder: Path, tmp_path: Path, place: int) -> None:
    """All there are, so one of a version to come too."""
    kinds = [kind for kind in module_classes() if kind.__name__ not in TRIED]
    assert {"BoW", "LSTM", "Router", "SpladePooling"} <= {kind.__name__ for kind in kinds}
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    listing = json.loads((copy / "modules.json").read_text())
    for kind in kinds:
        changed = [dict(each) for each in listing]
        changed[place]["type"] = f"{kind.__module__}.{kind.__name__}"
        settings = dict.fromkeys(kind.config_keys, 3)
        if place:
            (copy / "1_Pooling" / "config.json").write_text(json.dumps(settings))
        (copy / "modules.json").write_text(json.dumps(changed))
        with pytest.raises(ValueError, match=kind.__name__) as raised:
            de.Embedder(str(copy)).types()
        assert "\n" not in str(raised.value)


def test_settings_of_other_models_are_known_or_refused(edited: Any) -> None:
    """What classes of models write beside `SentenceTransformer`."""
    for kind, known in (
        (CrossEncoder, {"activation_fn", "keep_in_fp32_modules"}),
        (SparseEncoder, {"max_active_dims"}),
    ):
        written = set(re.findall(r'"(\w+)"', inspect.getsource(kind._get_model_config)))
        assert written - set(MODEL) == known
    with pytest.raises(ValueError, match="max_active_dims"):
        de.Embedder(str(edited(WHOLE, {"max_active_dims": 0}))).types()
