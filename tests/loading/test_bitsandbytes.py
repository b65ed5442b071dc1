"""Models that bitsandbytes quantizes, on a CPU, give what they give in transformers."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from support import headed, tiny

import dask_embed as de
from dask_embed.inference.generation.engines import engine_of
from dask_embed.inference.generation.settings import GenerationSettings
from dask_embed.inference.runner import runner_for
from dask_embed.loading.load import load
from dask_embed.operators.labels.classifier import Classifier
from dask_embed.operators.language.generator import Generator

pytest.importorskip("bitsandbytes")
pytest.importorskip("accelerate")
pytestmark = pytest.mark.usefixtures("one_torch_thread")

METHOD = {"quant_method": "bitsandbytes"}
# Outliers of int8 are told by whole batches; without a threshold each token is by itself.
INT8 = {**METHOD, "load_in_8bit": True}
INT8_ALONE = {**INT8, "llm_int8_threshold": 0.0}
NF4 = {**METHOD, "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
TEXTS = [
    "Return the LINES of a file.",
    tiny.corpus()[50][:90],
    "x",
    "Ünï, 日本語 and\n lines",
    "two",
]
FRAME = pd.DataFrame({"text": TEXTS})


@pytest.fixture(scope="module", autouse=True)
def _no_packed_weights() -> Iterator[None]:
    """Leave out the form for CPUs with AVX512-BF16, which takes no layer narrower than a block.

    bitsandbytes 0.50 divides the width of a layer by the size of a block, 64: 0 for these layers.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bitsandbytes.nn.modules.has_avx512bf16", lambda: False)
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves a checkpoint once."""
    return headed.saver(tmp_path_factory.mktemp("bitsandbytes"))


def reference(path: Path, config: dict[str, Any], task: str = "embed") -> Any:
    """The model as transformers quantizes it."""
    settings = {key: value for key, value in config.items() if key != "quant_method"}
    kind = "AutoModel" if task == "embed" else headed.CLASSES[task]
    return getattr(transformers, kind).from_pretrained(
        path,
        quantization_config=transformers.BitsAndBytesConfig(**settings),
        dtype=torch.float32,
        device_map={"": "cpu"},
    )


def alone(model: Any, path: Path) -> list[Any]:
    """What it gives for each text by itself."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    found = []
    for text in TEXTS:
        ids = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")["input_ids"]
        with torch.inference_mode():
            found.append(model(input_ids=ids))
    return found


def means(outputs: list[Any]) -> np.ndarray:
    return np.stack([output.last_hidden_state[0].mean(0).numpy() for output in outputs])


def embed(path: Path, config: Any, frame: Any = FRAME, **options: Any) -> np.ndarray:
    model = de.Model(path, device="cpu", quantization=config, **options.pop("model", {}))
    out = frame.ml.embed("text", model=model, pooling="mean", **options)
    return de.to_array(out["embedding"])


def close(given: np.ndarray, expected: np.ndarray) -> None:
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * scale)


def cosines(given: np.ndarray, expected: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(given, axis=1) * np.linalg.norm(expected, axis=1)
    return (given * expected).sum(1) / norms


@pytest.mark.parametrize("name", ["bert", "llama"])
@pytest.mark.parametrize(
    ("config", "options"),
    [(NF4, {}), (INT8_ALONE, {}), (INT8, {"batch_size": 1})],
    ids=["nf4", "int8", "int8 with outliers"],
)
def test_vectors_are_those_of_transformers(
    folder: Callable[..., Path], name: str, config: Any, options: Any
) -> None:
    path = folder(name)
    expected = means(alone(reference(path, config), path))
    close(embed(path, config, **options), expected)
    lazy = embed(path, config, dd.from_pandas(FRAME, npartitions=2), **options)
    close(np.asarray(lazy), expected)
    found = cosines(embed(path, None), expected)
    assert 0.7 < found.min() < found.max() < 1 - 1e-6  # so narrow layers lose much


@pytest.mark.parametrize(("config", "least"), [(INT8, 0.998), (NF4, 0.95)])
def test_accuracy(minilm: str, config: Any, least: float, record_property: Any) -> None:
    """Cosine similarity to float32 over docstrings; shown by ``pytest -s``."""
    frame = pd.DataFrame({"text": tiny.corpus()[::24]})
    vectors = [
        de.to_array(de.Embedder(model, column="text", max_length=64)(frame)["embedding"])
        for model in (de.Model(minilm, device="cpu", quantization=config), minilm)
    ]
    found = cosines(*vectors)
    name = [*config][1]
    print(f"\n{name}: cosine to float32 mean {found.mean():.4f}, least {found.min():.4f}")
    record_property(f"cosine-{name}", float(found.mean()))
    assert least < found.min() < found.mean() < 1 - 1e-5


@pytest.mark.parametrize("config", [NF4, INT8_ALONE], ids=["nf4", "int8"])
def test_heads(folder: Callable[..., Path], config: Any) -> None:
    path = folder("llama", "classify")
    logits = torch.cat([o.logits for o in alone(reference(path, config, "classify"), path)])
    out = Classifier(de.Model(path, device="cpu", quantization=config), scores="scores")(FRAME)
    scores = np.array([list(row.values()) for row in out["scores"]])
    np.testing.assert_allclose(scores, logits.softmax(1).numpy(), rtol=0, atol=1e-5)
    assert np.ptp(scores, axis=0).max() > 0.1


@pytest.mark.parametrize("config", [NF4, INT8], ids=["nf4", "int8"])
def test_generated_texts(folder: Callable[..., Path], config: Any) -> None:
    """By the loop too, which runs a copy of the model that shares all of its weights."""
    path = folder("llama", "causal-lm")
    model = de.Model(path, device="cpu", quantization=config)
    given = Generator(model, column="text", max_new_tokens=6, batch_size=1)(FRAME)
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    whole = reference(path, config, "causal-lm")
    expected = []
    for text in TEXTS:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        output = whole.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=6, do_sample=False
        )
        expected.append(tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True))
    assert given["generated"].tolist() == expected
    engine = engine_of(runner_for(model, "causal-lm"), "auto")
    loops = not engine.why_not_packed(GenerationSettings())  # type: ignore[attr-defined]
    assert loops == (config is NF4)


def test_a_copy_shares_what_bitsandbytes_keeps(folder: Callable[..., Path]) -> None:
    """Once it ran, int8 weights are found in the layer's state alone."""
    from dask_embed.loading.copies import sharing_copy

    for config, name in ((INT8, "state"), (NF4, "quant_state")):
        loaded = load(de.Model(folder("llama"), device="cpu", quantization=config))
        layers = [each.layers[0].mlp.up_proj for each in (loaded.model, sharing_copy(loaded.model))]
        assert layers[0] is not layers[1]
        assert getattr(layers[0], name) is getattr(layers[1], name)


def test_adapters_on_one_base(folder: Callable[..., Path], tmp_path: Path) -> None:
    """The second one is put on weights that the first one's layers have run."""
    peft = pytest.importorskip("peft")
    path = folder("llama")
    for seed in (1, 2):
        target = tmp_path / str(seed)
        with warnings.catch_warnings(action="ignore"):  # peft calls what transformers deprecates
            torch.manual_seed(seed)
            settings = peft.LoraConfig(
                r=2, target_modules=["q_proj", "up_proj"], init_lora_weights=False
            )
            base = transformers.AutoModel.from_pretrained(path)
            peft.get_peft_model(base, settings).save_pretrained(target)
            quantized = reference(path, INT8_ALONE)
            expected = alone(peft.PeftModel.from_pretrained(quantized, target).eval(), path)
        close(embed(path, INT8_ALONE, model={"adapter": target}), means(expected))


def test_an_adapter_is_not_merged_into_such_weights() -> None:
    with pytest.raises(ValueError, match="with merge_adapter quantization must be one of 'int8'"):
        de.Model("x", adapter="y", merge_adapter=True, quantization=NF4)


def test_a_checkpoint_that_was_saved_quantized(folder: Callable[..., Path], tmp_path: Path) -> None:
    path = folder("bert")
    model = reference(path, NF4)
    model.save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(path).save_pretrained(tmp_path)
    close(embed(tmp_path, None), means(alone(model, path)))


def test_a_configuration_object_is_kept_as_it_is(folder: Callable[..., Path]) -> None:
    given = transformers.BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="fp4", bnb_4bit_compute_dtype=torch.bfloat16
    )
    model = de.Model(folder("bert"), device="cpu", quantization=given)
    assert model == de.Model(folder("bert"), device="cpu", quantization=given.to_dict())
    config = load(model).model.config.quantization_config
    assert config.to_dict() == given.to_dict()


def test_bitsandbytes_warns_once(folder: Callable[..., Path], caplog: Any) -> None:
    """Not at every matrix product, as it would."""
    with caplog.at_level(logging.WARNING, "bitsandbytes"):
        embed(folder("bert"), INT8, max_length=9)
        embed(folder("llama"), INT8, max_length=9)
    said = [record for record in caplog.records if "will be cast from" in record.getMessage()]
    assert len(said) <= 1
