"""Texts of dual encoders, held against `get_text_features` of transformers, one text at a time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from support import built, tiny

import dask_embed as de

pytestmark = pytest.mark.usefixtures("one_torch_thread")

_LAYERS = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
_TEXT = {
    **_LAYERS,
    "num_hidden_layers": 2,
    "max_position_embeddings": 77,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "pad_token_id": 0,
}
_VISION = {**_LAYERS, "num_hidden_layers": 1, "image_size": 16, "patch_size": 8}
_GROUPS = {"depths": [1, 1, 1], "num_group_tokens": [4, 2, 0], "num_output_groups": [4, 2, 0]}
_MIT = {
    "mit_hidden_size": 32,
    "mit_intermediate_size": 48,
    "mit_num_hidden_layers": 1,
    "mit_num_attention_heads": 4,
}
_AUDIO = {
    "depths": [1, 1],
    "num_attention_heads": [2, 2],
    "num_hidden_layers": 2,
    "hidden_size": 64,
    "patch_embeds_hidden_size": 32,
    "spec_size": 64,
    "window_size": 4,
    "projection_dim": 24,
}
_CLIP = {"text_config": _TEXT, "vision_config": _VISION, "projection_dim": 24}
_SIGLIP = {
    "text_config": {**_TEXT, "max_position_embeddings": 64, "projection_size": 20},
    "vision_config": _VISION,
}
_OWL = {**_CLIP, "text_config": {**_TEXT, "max_position_embeddings": 16}}
# Architecture: its configuration; sizes of texts' vectors are 24, of SigLIP 20.
CASES: dict[str, dict[str, Any]] = {
    "clip": _CLIP,
    "chinese_clip": _CLIP,
    "altclip": {**_CLIP, "text_config": {**_TEXT, "project_dim": 24}},
    "clipseg": _CLIP,
    "metaclip_2": _CLIP,
    "aimv2": _CLIP,
    "siglip": _SIGLIP,
    "siglip2": _SIGLIP,
    "groupvit": {**_CLIP, "vision_config": {**_VISION, **_GROUPS, "num_hidden_layers": 3}},
    "blip": {**_CLIP, "text_config": {**_TEXT, "encoder_hidden_size": 32}},
    "xclip": {**_CLIP, "vision_config": {**_VISION, **_MIT}},
    "clap": {"text_config": _TEXT, "audio_config": _AUDIO, "projection_dim": 24},
    "owlvit": _OWL,
    "owlv2": _OWL,
}
_QUICK = ("clip", "chinese_clip", "siglip")


def limit_of(kind: str) -> int:
    """Most tokens of a text; AltCLIP and CLAP count positions from behind the padding's."""
    positions = CASES[kind]["text_config"]["max_position_embeddings"]
    return positions - 1 if kind in ("altclip", "clap") else positions


def save(kind: str, folder: Path) -> Path:
    tokens = tiny.wordpiece()
    if kind.startswith("siglip"):  # their tokenizers give no mask
        tokens.model_input_names = ["input_ids"]
    text = {**CASES[kind]["text_config"], "vocab_size": len(tokens)}
    config = transformers.CONFIG_MAPPING[kind](**{**CASES[kind], "text_config": text})
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(config)
    tiny.enlarge(model, 0.1)
    model.save_pretrained(folder)
    tokens.save_pretrained(folder)
    return folder


def texts() -> list[str]:
    words = tiny.corpus()
    long = " ".join(words[:30])
    return ["Return the lines.", long, "x", words[7], "[PAD] to fill up [MASK] a batch [SEP]", ""]


def features(folder: Path, kind: str) -> np.ndarray:
    """The reference: SigLIP's texts are filled up to 64 tokens, as it was trained."""
    tokens = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    settings: dict[str, Any] = {"truncation": True, "max_length": limit_of(kind)}
    settings |= {"padding": "max_length"} if kind.startswith("siglip") else {}
    with torch.inference_mode():
        outputs = [
            model.get_text_features(**tokens(text, return_tensors="pt", **settings))
            for text in texts()
        ]
    return np.concatenate([output.pooler_output.numpy() for output in outputs])


@pytest.mark.filterwarnings("ignore:.*deprecated.*")
@pytest.mark.parametrize(
    "kind",
    [kind if kind in _QUICK else pytest.param(kind, marks=pytest.mark.slow) for kind in CASES],
)
def test_the_vector_of_a_text_is_its_projected_feature(kind: str, tmp_path: Path) -> None:
    folder = save(kind, tmp_path / kind)
    expected = features(folder, kind)
    assert expected.shape == (len(texts()), 20 if kind.startswith("siglip") else 24)
    scale = max(1.0, float(np.abs(expected).max()))
    frame = pd.DataFrame({"text": texts()})
    for settings in ({}, {"batch_size": 2}, {"padding_side": "left"}):
        model = de.Model(str(folder), device="cpu")
        out = frame.ml.embed("text", model=model, **settings)
        given = de.to_array(out["embedding"])
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * scale)
    partitioned = dd.from_pandas(frame, npartitions=3, sort=False).ml.embed("text", model=model)
    given = de.to_array(partitioned["embedding"]).compute()
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * scale)
    de.unload()


def test_a_model_without_token_vectors_says_so(tmp_path: Path) -> None:
    model = de.Model(str(save("clip", tmp_path)), device="cpu")
    frame = dd.from_pandas(pd.DataFrame({"text": texts()}), npartitions=1)
    with pytest.raises(ValueError, match="pooling='none' needs token vectors"):
        frame.ml.embed("text", model=model, pooling="none")
    with pytest.raises(ValueError, match="late chunking needs token vectors"):
        de.LateChunkEmbedder(model)(frame)


def saved_by_sentence_transformers(kind: str, folder: Path, *after: Any) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.base.modules import Transformer

    base = save(kind, folder / "base")
    file = base / "tokenizer_config.json"
    limit = {"model_max_length": limit_of(kind)}
    file.write_text(json.dumps(json.loads(file.read_text()) | limit))
    if kind == "clap":
        transformers.ClapFeatureExtractor().save_pretrained(base)
    else:
        size = {"size": {"shortest_edge": 16}, "crop_size": {"height": 16, "width": 16}}
        transformers.CLIPImageProcessor(**size).save_pretrained(base)
    model = SentenceTransformer(modules=[Transformer(str(base)), *after], device="cpu")
    model.save(str(folder / "saved"), create_model_card=False)
    return folder / "saved"


@pytest.mark.parametrize(
    "kind", ["clip", *(pytest.param(k, marks=pytest.mark.slow) for k in ("clap", "xclip"))]
)
def test_a_folder_that_sentence_transformers_saved(kind: str, tmp_path: Path) -> None:
    """With what it puts behind the model, and without."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    torch.manual_seed(0)
    for number, after in enumerate([(), (Dense(24, 10), Normalize())]):
        folder = saved_by_sentence_transformers(kind, tmp_path / str(number), *after)
        reference = SentenceTransformer(str(folder), device="cpu")
        expected = np.stack([reference.encode(text) for text in texts() if text])
        frame = pd.DataFrame({"text": [text for text in texts() if text]})
        given = de.to_array(de.Embedder(str(folder))(frame)["embedding"])
        np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5)


def test_saved_folders_whose_vectors_depend_on_their_batch_are_refused(tmp_path: Path) -> None:
    folder = saved_by_sentence_transformers("siglip", tmp_path)
    with pytest.raises(ValueError, match="'siglip' depends on the texts of its batch; take the"):
        de.Embedder(str(folder)).types()


def test_a_saved_folder_that_names_what_its_model_does_not_have(tmp_path: Path) -> None:
    folder = saved_by_sentence_transformers("clip", tmp_path)
    settings = folder / "sentence_bert_config.json"
    written = json.loads(settings.read_text())
    for method, told in (("get_image_features", "method="), ("forward", "method=")):
        text = {"method": method, "method_output_name": "pooler_output"}
        settings.write_text(json.dumps(written | {"modality_config": {"text": text}}))
        with pytest.raises(ValueError, match=told):
            de.Embedder(str(folder)).types()
    settings.write_text(json.dumps(written))
    tiny.save("bert", tmp_path / "bert")
    (folder / "config.json").write_text((tmp_path / "bert" / "config.json").read_text())
    with pytest.raises(ValueError, match="get_text_features, which 'bert' does not have"):
        de.Embedder(str(folder)).types()


@pytest.mark.filterwarnings("ignore:.*deprecated.*")
def test_features_that_are_no_vector_of_a_text_are_told(tmp_path: Path) -> None:
    built.save("blip-2", transformers.Blip2Model, tmp_path)
    told = "get_text_features of Blip2Model gives no vector of a text"
    with pytest.raises(ValueError, match=told):
        de.Embedder(str(tmp_path))(pd.DataFrame({"text": ["x"]}))
