"""The part of a checkpoint that embeds, against the class of transformers that it was saved as.

The reference is loaded by that class and called on one text at a time as its tokenizer says.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from support import built, shrunk, tiny

import dask_embed as de
from dask_embed.models.classes import plain_class

pytestmark = pytest.mark.usefixtures("one_torch_thread")

Part = Callable[[Any], Any]


def whole(model: Any) -> Any:
    return model


def encoder(model: Any) -> Any:
    return model.get_encoder()


def text_decoder(model: Any) -> Any:
    return model.language_model.model


# Architecture, the class that is saved, and what of it the reference calls.
CASES: dict[str, tuple[str, Part]] = {
    "T5GemmaForConditionalGeneration": ("t5gemma", encoder),
    "LongT5EncoderModel": ("longt5", whole),
    "SwitchTransformersEncoderModel": ("switch_transformers", whole),
    "MarianEncoder": ("marian", whole),
    "MarianMTModel": ("marian", encoder),  # saved without the positions, which are computed
    "PegasusEncoder": ("pegasus", whole),
    "M2M100Encoder": ("m2m_100", whole),
    "FSMTForConditionalGeneration": ("fsmt", encoder),  # its encoder is a bare module
    "Llama4ForConditionalGeneration": ("llama4", text_decoder),
    "DPRQuestionEncoder": ("dpr", whole),
    "DPRContextEncoder": ("dpr", whole),
}
SENTENCE = ("LongT5EncoderModel", "MarianEncoder", "M2M100Encoder")


@pytest.fixture(autouse=True)
def _unload() -> Iterator[None]:
    yield
    de.unload()


def saved_class(name: str, kind: str) -> Any:
    config_class = transformers.CONFIG_MAPPING[kind]
    return vars(__import__(plain_class(config_class).__module__, fromlist=[name]))[name]


def save(name: str, folder: Path, **fields: Any) -> tuple[Any, Any]:
    """Save a tiny model; return its class and tokenizer."""
    kind, _ = CASES[name]
    model_class = saved_class(name, kind)
    config_class = transformers.CONFIG_MAPPING[kind]
    tokens = built.tokenizer(kind, config_class(), False)
    config = shrunk.shrunk(config_class, tokens, shrunk.ATTEMPTS[0])
    for field, value in fields.items():
        setattr(config, field, value)
    torch.manual_seed(0)
    model = model_class(config).eval()
    tiny.enlarge(model, 0.1)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return model_class, tokens


def vectors(name: str, model_class: Any, tokens: Any, folder: Path) -> np.ndarray:
    """The mean of the token vectors of each text, or the one vector that the model gives."""
    part = CASES[name][1](model_class.from_pretrained(folder, dtype=torch.float32).eval())
    given = []
    with torch.inference_mode():
        for text in built.texts():
            inputs = tokens(text, truncation=True, return_tensors="pt")
            output = copy.deepcopy(part)(**inputs)
            hidden = output.get("last_hidden_state")
            given.append(output["pooler_output"][0] if hidden is None else hidden[0].mean(0))
    return torch.stack(given).numpy()


def embedded(folder: Path, **settings: Any) -> np.ndarray:
    model = de.Model(str(folder), device="cpu")
    embedder = de.Embedder(model, column="text", normalize=False, **settings)
    return de.to_array(embedder(pd.DataFrame({"text": built.texts()}))["embedding"])


def assert_close(given: np.ndarray, expected: np.ndarray) -> None:
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_vectors_are_those_of_the_class_that_was_saved(name: str, tmp_path: Path) -> None:
    model_class, tokens = save(name, tmp_path)
    expected = vectors(name, model_class, tokens, tmp_path)
    assert_close(embedded(tmp_path), expected)
    assert_close(embedded(tmp_path, batch_size=1), expected)


@pytest.mark.parametrize("name", SENTENCE)
def test_vectors_are_those_of_sentence_transformers(name: str, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    save(name, tmp_path)
    model = SentenceTransformer(str(tmp_path), device="cpu")
    expected = np.stack([model.encode(text) for text in built.texts()])
    assert_close(embedded(tmp_path), expected)


# What sentence-transformers takes of a model with a decoder, from its class without a head.
DECODED = ("bart", "bigbird_pegasus", "led", "mbart", "mvp", "plbart")
ENCODED = ("blenderbot", "pegasus", "t5", "t5gemma")


@pytest.mark.parametrize(
    "kind",
    [
        kind if kind in ("bart", "pegasus") else pytest.param(kind, marks=pytest.mark.slow)
        for kind in (*DECODED, *ENCODED)
    ],
)
def test_a_saved_folder_gives_what_it_gives_in_sentence_transformers(
    kind: str, tmp_path: Path
) -> None:
    """Each text in a fresh model, since BigBird remembers the first."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer
    from sentence_transformers.sentence_transformer.modules import Pooling

    config_class = transformers.CONFIG_MAPPING[kind]
    built.save(kind, plain_class(config_class), base := tmp_path / "base")
    modules = [module := Transformer(str(base)), Pooling(module.get_embedding_dimension(), "mean")]
    folder = tmp_path / "saved"
    SentenceTransformer(modules=modules, device="cpu").save(str(folder), create_model_card=False)
    fresh = (SentenceTransformer(str(folder), device="cpu") for _ in built.texts())
    expected = np.stack(
        [model.encode(text) for model, text in zip(fresh, built.texts(), strict=True)]
    )
    assert_close(embedded(folder), expected)
    assert_close(embedded(folder, batch_size=1), expected)
    if kind in DECODED:  # of the plain checkpoint the encoder's states are taken
        assert not np.allclose(embedded(base), expected, atol=1e-2)


def test_vectors_that_are_wider_than_hidden_states(tmp_path: Path) -> None:
    """EmbeddingGemma 2 projects each token, 512 values to 768."""
    kind = transformers.CONFIG_MAPPING["embedding_gemma2"]
    tokens = built.tokenizer("embedding_gemma2", kind(), False)
    config = shrunk.shrunk(kind, tokens, shrunk.ATTEMPTS[0])
    config.get_text_config().embedding_dim = 48
    torch.manual_seed(0)
    model = plain_class(kind)(config).eval()
    tiny.enlarge(model, 0.1)
    model.save_pretrained(tmp_path)
    tokens.save_pretrained(tmp_path)
    with torch.inference_mode():
        outputs = [model(**built.inputs(tokens, text)) for text in built.texts()]
    expected = np.stack([output.last_hidden_state[0].mean(0).numpy() for output in outputs])
    assert expected.shape == (len(built.texts()), 48)
    assert_close(embedded(tmp_path, pooling="mean"), expected)
    lazy = de.Embedder(str(tmp_path))(dd.from_pandas(pd.DataFrame({"text": ["x"]}), npartitions=1))
    assert "48" in str(lazy.dtypes["embedding"])


def test_weights_that_the_part_needs_must_be_there(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save("FSMTForConditionalGeneration", tmp_path)
    file = tmp_path / "model.safetensors"
    weights = load_file(file)
    kept = {name: each for name, each in weights.items() if "decoder.layers" not in name}
    save_file(kept, file, {"format": "pt"})
    assert np.isfinite(embedded(tmp_path)).all()
    de.unload()
    del kept["model.encoder.layers.1.fc1.weight"]
    save_file(kept, file, {"format": "pt"})
    with pytest.raises(ValueError, match=r"1 weights are missing .*encoder.layers.1.fc1.weight"):
        embedded(tmp_path)


def test_a_projection_behind_the_first_token(tmp_path: Path) -> None:
    save("DPRContextEncoder", tmp_path, projection_dim=8)
    with pytest.raises(ValueError, match=r"projects the vectors of texts .*encode_proj"):
        embedded(tmp_path)
