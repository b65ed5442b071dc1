"""A sentence-transformers folder gives the vectors of ``SentenceTransformer(folder).encode``.

Pooling, dense layers, layer norms, normalization, prompts and limits are those of the folder,
nothing is skipped; what cannot be honoured is an error that names it, on the client, from the
small files alone.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer
from support import tiny

import dask_embed as de
from dask_embed.models.checkpoint import read_checkpoint
from dask_embed.models.prepared import prepared

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TEXTS = [
    "Return the LINES of a file.",
    tiny.corpus()[50] + tiny.corpus()[51],
    "",
    "x",
    "Ünïcode, 日本語 and  two\n lines\tof it ",
    tiny.corpus()[9],
    "Return the LINES of a file.",
]
NORMALIZED = {
    "mean-normalize",
    "dense-identity",
    "layer-norm-dropout",
    "prompts",
    "default-prompt",
    "prompt-left-out-t5",
    "old-style",
}


@pytest.fixture(scope="module")
def bases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return tiny.save_bases(tmp_path_factory.mktemp("bases"))


@pytest.fixture(scope="module")
def sentence_folder(
    tmp_path_factory: pytest.TempPathFactory, bases: dict[str, Path]
) -> Callable[[str], Path]:
    """Return a function that makes a sentence-transformers folder once."""
    root = tmp_path_factory.mktemp("sentence")

    def folder(name: str) -> Path:
        if not (root / name).exists():
            tiny.SENTENCE_TRANSFORMERS[name](root / name, bases)
        return root / name

    return folder


def reference(folder: Path) -> SentenceTransformer:
    return SentenceTransformer(str(folder), device="cpu", local_files_only=True)


def encode(folder: Path, **settings: Any) -> np.ndarray:
    return reference(folder).encode(TEXTS, batch_size=3, show_progress_bar=False, **settings)


def embed(folder: Path, **settings: Any) -> np.ndarray:
    embedder = de.Embedder(de.Model(str(folder), device="cpu"), column="text", **settings)
    return de.to_array(embedder(pd.DataFrame({"text": TEXTS}))["embedding"])


def assert_close(given: np.ndarray, expected: np.ndarray) -> None:
    assert given.shape == expected.shape
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * scale)


def copy_of(folder: Path, target: Path) -> Path:
    shutil.copytree(folder, target)
    return target


def edit_json(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize("name", tiny.SENTENCE_TRANSFORMERS)
def test_vectors_equal_encode(sentence_folder: Any, name: str) -> None:
    folder = sentence_folder(name)
    assert_close(embed(folder), encode(folder))


@pytest.mark.parametrize("name", tiny.SENTENCE_TRANSFORMERS)
def test_dimension_equals_the_reference(sentence_folder: Any, name: str) -> None:
    folder = sentence_folder(name)
    embedder = de.Embedder(str(folder), column="text")
    meta = embedder.meta(pd.DataFrame({"text": TEXTS}).iloc[:0])
    dimension = meta["embedding"].dtype.pyarrow_dtype.list_size
    assert dimension == reference(folder).get_embedding_dimension()


@pytest.mark.parametrize("name", tiny.SENTENCE_TRANSFORMERS)
def test_normalize_overrides_the_folder(sentence_folder: Any, name: str) -> None:
    folder = sentence_folder(name)
    expected = encode(folder, normalize_embeddings=True)
    assert_close(embed(folder, normalize=True), expected)
    raw = embed(folder, normalize=False)
    lengths = np.linalg.norm(raw, axis=1, keepdims=True)
    assert_close(raw / np.maximum(lengths, 1e-12), expected)
    assert not np.allclose(lengths, 1, atol=1e-3)
    if name not in NORMALIZED:
        assert_close(raw, encode(folder))


@pytest.mark.parametrize("name", ["prompts", "default-prompt", "prompt-left-out"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"prompt": "Read this: "},
        {"prompt": ""},
        {"prompt_name": "document"},
        {"prompt_name": "empty"},
        {"prompt_name": "query"},
    ],
    ids=str,
)
def test_prompts_equal_encode(sentence_folder: Any, name: str, settings: dict[str, str]) -> None:
    folder = sentence_folder(name)
    expected = encode(folder, **settings)
    assert_close(embed(folder, **settings), expected)
    if settings.get("prompt"):
        assert not np.allclose(expected, encode(folder, prompt=""), atol=1e-3)


def test_a_prompt_left_out_of_pooling_t5(sentence_folder: Any) -> None:
    folder = sentence_folder("prompt-left-out-t5")
    for settings in ({"prompt_name": "query"}, {"prompt": "Read: this "}):
        assert_close(embed(folder, **settings), encode(folder, **settings))


def test_an_unknown_prompt_name_is_an_error(sentence_folder: Any) -> None:
    with pytest.raises(ValueError, match=r"prompt_name.*'document'.*'query'.*'qerry'"):
        embed(sentence_folder("prompts"), prompt_name="qerry")


@pytest.mark.parametrize("name", sorted(NORMALIZED))
@pytest.mark.parametrize("dimension", [1, 7, 24])
def test_truncation_of_normalized_vectors(sentence_folder: Any, name: str, dimension: int) -> None:
    """They are not normalized again, unless they are asked to be."""
    folder = sentence_folder(name)
    expected = encode(folder, truncate_dim=dimension)
    assert expected.shape[1] == dimension
    assert_close(embed(folder, truncate_dim=dimension), expected)
    expected = encode(folder, truncate_dim=dimension, normalize_embeddings=True)
    assert_close(embed(folder, truncate_dim=dimension, normalize=True), expected)


@pytest.mark.parametrize("normalize", ["auto", True])
def test_truncation_that_a_folder_says(
    sentence_folder: Any, tmp_path: Path, normalize: str | bool
) -> None:
    folder = copy_of(sentence_folder("mean-normalize"), tmp_path / "copy")
    edit_json(folder / "config_sentence_transformers.json", truncate_dim=8)
    expected = encode(folder, normalize_embeddings=normalize is True)
    assert expected.shape[1] == 8
    assert_close(embed(folder, normalize=normalize), expected)


def test_truncation_of_vectors_of_any_length(sentence_folder: Any) -> None:
    folder = sentence_folder("dense-tanh")
    assert_close(embed(folder, truncate_dim=9), encode(folder, truncate_dim=9))
    expected = encode(folder, truncate_dim=9, normalize_embeddings=True)
    assert_close(embed(folder, truncate_dim=9, normalize=True), expected)


def test_truncation_of_the_call_goes_before_that_of_the_folder(sentence_folder: Any) -> None:
    folder = sentence_folder("truncated")
    assert encode(folder).shape[1] == 10
    assert_close(embed(folder, truncate_dim=4), encode(folder, truncate_dim=4))


def test_truncation_beyond_the_dimension_is_an_error(sentence_folder: Any) -> None:
    with pytest.raises(ValueError, match=r"truncate_dim must be at most .* 20, got 21"):
        embed(sentence_folder("dense-tanh"), truncate_dim=21)


@pytest.mark.parametrize("limit", [2, 3, 7, 33])  # two special tokens are the least
def test_max_length_equals_max_seq_length(sentence_folder: Any, limit: int) -> None:
    folder = sentence_folder("mean-normalize")
    model = reference(folder)
    model.max_seq_length = limit
    expected = model.encode(TEXTS, show_progress_bar=False)
    assert_close(embed(folder, max_length=limit), expected)


def test_a_limit_without_room_for_special_tokens_is_an_error(sentence_folder: Any) -> None:
    """The tokenizers would not cut at all then."""
    with pytest.raises(ValueError, match="max_length"):
        embed(sentence_folder("mean-normalize"), max_length=1)


def test_a_prompt_that_fills_the_limit(sentence_folder: Any) -> None:
    """Nothing is left to pool; the reference still gives finite vectors where it can."""
    folder = sentence_folder("prompt-left-out")
    model = reference(folder)
    model.max_seq_length = 6
    expected = model.encode(TEXTS, prompt="A prompt that takes all the room", batch_size=3)
    given = embed(folder, prompt="A prompt that takes all the room", max_length=6)
    finite = np.isfinite(expected)
    assert_close(np.where(finite, given, 0), np.where(finite, expected, 0))


def test_the_folder_limits_the_length(sentence_folder: Any) -> None:
    assert reference(sentence_folder("short")).max_seq_length == 12
    cut, whole = embed(sentence_folder("short")), embed(sentence_folder("plain"))
    assert not np.allclose(cut[1], whole[1], atol=1e-3)
    assert_close(embed(sentence_folder("short"), max_length=tiny.POSITIONS), whole)
    with pytest.raises(ValueError, match=r"max_length must be at most 64.*got 65"):
        embed(sentence_folder("short"), max_length=tiny.POSITIONS + 1)


def test_lowercasing_is_needed_here(sentence_folder: Any, bases: dict[str, Path]) -> None:
    """The tokenizer alone keeps capitals, so the flag of the folder is what lowercases."""
    assert not np.allclose(
        embed(sentence_folder("lower-case"))[0], embed(bases["bert-cased"])[0], atol=1e-3
    )


def test_a_plain_checkpoint_is_mean_pooled(bases: dict[str, Path]) -> None:
    """As sentence-transformers does with an encoder that has no modules.json."""
    assert_close(embed(bases["distilbert"]), encode(bases["distilbert"]))


def test_temporary_files_may_be_taken_away(bases: dict[str, Path], tmp_path: Path) -> None:
    """Machines clean their folder for these of what nothing has read for days."""
    for name in ("first", "second"):
        folder = shutil.copytree(bases["bert"], tmp_path / name)
        assert read_checkpoint(de.Model(folder)).config.model_type == "bert"
        shutil.rmtree(prepared(folder, code=False).parents[1])


@pytest.mark.parametrize("changes", [{}, {"is_causal": False}, {"architectures": None}], ids=str)
def test_a_plain_model_that_writes_gives_its_last_token(
    tmp_path: Path, changes: dict[str, Any]
) -> None:
    """As sentence-transformers does it, which looks at what the configuration says it was."""
    folder = tiny.save("qwen3", tmp_path / "plain")
    edit_json(folder / "config.json", architectures=["Qwen3ForCausalLM"])
    edit_json(folder / "config.json", **changes)
    model = reference(folder)
    mode = "mean" if changes else "lasttoken"
    assert model[1].pooling_mode == mode
    kept = [text for text in TEXTS if text]  # one token alone is the first and the last
    expected = model.encode(kept, batch_size=1, show_progress_bar=False)
    rows = [row for row, text in enumerate(TEXTS) if text]
    assert_close(embed(folder)[rows], expected)
    other = embed(folder, pooling="lasttoken" if changes else "mean")[rows]
    assert not np.allclose(other, expected, atol=1e-3)


def test_pooling_overrides_the_folder(sentence_folder: Any) -> None:
    model = reference(sentence_folder("mean-normalize"))
    model[1].pooling_mode = "max"
    expected = model.encode(TEXTS, show_progress_bar=False)
    assert_close(embed(sentence_folder("mean-normalize"), pooling="max"), expected)


def test_the_bundled_model_equals_encode(minilm: str) -> None:
    texts = [*TEXTS, *tiny.corpus()[300:310]]
    model = SentenceTransformer(minilm, device="cpu", local_files_only=True)
    expected = model.encode(texts, show_progress_bar=False)
    embedder = de.Embedder(de.Model(minilm, device="cpu"), column="text")
    assert_close(de.to_array(embedder(pd.DataFrame({"text": texts}))["embedding"]), expected)


# ------------------------------------------------------------------------------- what is refused
@pytest.mark.parametrize("kind", ["CNN", "LSTM", "WeightedLayerPooling", "WordWeights"])
def test_an_unsupported_module_is_named(sentence_folder: Any, tmp_path: Path, kind: str) -> None:
    folder = copy_of(sentence_folder("mean-normalize"), tmp_path / "copy")
    modules = json.loads((folder / "modules.json").read_text())
    modules[2]["type"] = f"sentence_transformers.models.{kind}"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=kind):
        read_checkpoint(de.Model(str(folder)))


def test_a_module_of_another_package_is_named(sentence_folder: Any, tmp_path: Path) -> None:
    folder = copy_of(sentence_folder("mean-normalize"), tmp_path / "copy")
    modules = json.loads((folder / "modules.json").read_text())
    modules[2]["type"] = "somebody.Normalize"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=r"somebody\.Normalize"):
        read_checkpoint(de.Model(str(folder)))


def test_a_first_module_that_is_no_transformer_is_named(
    sentence_folder: Any, tmp_path: Path
) -> None:
    folder = copy_of(sentence_folder("mean-normalize"), tmp_path / "copy")
    modules = json.loads((folder / "modules.json").read_text())
    modules[0]["type"] = "sentence_transformers.models.StaticEmbedding"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="StaticEmbedding"):
        read_checkpoint(de.Model(str(folder)))


@pytest.mark.parametrize(
    ("module", "changes", "message"),
    [
        ("2_Dense", {"activation_function": "os.system"}, r"2_Dense.*os\.system"),
        ("2_Dense", {"module_input_name": "token_embeddings"}, "2_Dense.*token_embeddings"),
        ("2_Dense", {"in_features": 31}, "2_Dense.*31.*32"),
        ("1_Pooling", {"pooling_mode": "median"}, "median"),
    ],
    ids=str,
)
def test_a_module_that_cannot_be_run_is_an_error_before_loading(
    sentence_folder: Any, tmp_path: Path, module: str, changes: dict[str, Any], message: str
) -> None:
    folder = copy_of(sentence_folder("dense-tanh"), tmp_path / "copy")
    edit_json(folder / module / "config.json", **changes)
    frame = dd.from_pandas(pd.DataFrame({"text": TEXTS}), npartitions=2)
    with pytest.raises(ValueError, match=message):
        de.Embedder(str(folder), column="text")(frame)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("tokenizer_args", {"model_max_length": 8}),
        ("processor_kwargs", {"model_max_length": 8}),
        ("processing_kwargs", {"text": {"max_length": 8, "truncation": True}}),
        ("config_args", {"num_hidden_layers": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_setting_is_honoured_or_named(
    sentence_folder: Any, tmp_path: Path, key: str, value: dict[str, Any]
) -> None:
    """Of sentence_bert_config.json; it is never ignored."""
    folder = copy_of(sentence_folder("mean-normalize"), tmp_path / "copy")
    edit_json(folder / "sentence_bert_config.json", **{key: value})
    expected = encode(folder)
    assert not np.allclose(expected, encode(sentence_folder("mean-normalize")), atol=1e-3)
    try:
        given = embed(folder)
    except ValueError as error:
        assert key in str(error)  # noqa: PT017
    else:
        assert_close(given, expected)


@pytest.mark.parametrize("part", ["layer.1.attention.self.query.bias", "word_embeddings.weight"])
def test_missing_weights_are_an_error(bases: dict[str, Path], tmp_path: Path, part: str) -> None:
    folder = copy_of(bases["bert"], tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    [missing] = [key for key in weights if key.endswith(part)]
    del weights[missing]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=part.replace(".", r"\.")):
        embed(folder)


def test_a_missing_pooler_is_no_error(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(bases["bert"], tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    kept = {key: value for key, value in weights.items() if "pooler" not in key}
    assert len(kept) < len(weights)
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    assert_close(embed(folder), embed(bases["bert"]))


def client(folder: Path) -> str:
    """Return the message of the error on the client, of one line that names the folder."""
    frame = dd.from_pandas(pd.DataFrame({"text": TEXTS}), npartitions=2)
    with pytest.raises(ValueError, match="of checkpoint") as caught:
        de.Embedder(str(folder), column="text")(frame)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    return message


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda whole: b"", "is cut short: 0 bytes of at least 8"),
    "length": (lambda whole: whole[:7], "is cut short: 7 bytes of at least"),
    "header": (lambda whole: whole[:500], "is cut short: 500 bytes of at least"),
    "half": (lambda whole: whole[: len(whole) // 2], "is cut short: {half} bytes of {size};"),
    "one byte": (lambda whole: whole[:-1], "is cut short: {less} bytes of {size};"),
    "one more": (lambda whole: whole + b"0", "is too long: {more} bytes of {size};"),
    "a pointer": (lambda whole: b"version https://git-lfs.github.com/spec/v1", "Git LFS"),
    "no json": (lambda whole: whole[:8] + b"x" + whole[9:], "a header that is no index"),
    "no index": (lambda whole: (2).to_bytes(8, "little") + b"[]", "a header that is no index"),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_is_named_on_the_client(
    bases: dict[str, Path], tmp_path: Path, damage: str
) -> None:
    folder = copy_of(bases["bert"], tmp_path / "copy")
    whole = (folder / "model.safetensors").read_bytes()
    change, message = DAMAGES[damage]
    (folder / "model.safetensors").write_bytes(change(whole))
    size = len(whole)
    wanted = message.format(size=size, half=size // 2, less=size - 1, more=size + 1)
    given = client(folder)
    assert "'model.safetensors'" in given
    assert wanted in given


def test_a_damaged_shard_is_named_on_the_client(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(bases["bert"], tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    places: dict[str, str] = {}
    for number in range(2):
        file = f"model-0000{number + 1}-of-00002.safetensors"
        part = {name: weights[name] for name in names[number::2]}
        save_file(part, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(part, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "unused.safetensors").write_bytes(b"")
    assert_close(embed(folder), embed(bases["bert"]))
    shard = folder / "model-00002-of-00002.safetensors"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-100])
    assert f"'{shard.name}'" in client(folder)
    assert f"{len(whole) - 100} bytes of {len(whole)}" in client(folder)
    shard.unlink()
    assert f"'{shard.name}'" in client(folder)
    assert "is missing" in client(folder)


def test_a_damaged_module_is_named_on_the_client(sentence_folder: Any, tmp_path: Path) -> None:
    folder = copy_of(sentence_folder("dense-tanh"), tmp_path / "copy")
    file = folder / "2_Dense" / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    assert "'2_Dense/model.safetensors'" in client(folder)


@pytest.mark.parametrize("damage", ["cut", "empty", "deleted"])
def test_a_tokenizer_that_cannot_be_loaded_is_named(
    bases: dict[str, Path], tmp_path: Path, damage: str
) -> None:
    folder = copy_of(bases["bert"], tmp_path / "copy")
    file = folder / "tokenizer.json"
    if damage == "deleted":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:1000] if damage == "cut" else b"")
    with pytest.raises(
        ValueError, match=r"tokenizer.* (cannot be loaded|is not valid json)"
    ) as caught:
        embed(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert "\n" not in message
    assert len(message) < 600 + 2 * len(str(folder))
    assert caught.value.__cause__ is not None


def test_weights_of_another_shape_are_an_error(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(bases["bert"], tmp_path / "copy")
    edit_json(folder / "config.json", intermediate_size=40)
    with pytest.raises(ValueError, match=r"another shape.*intermediate\.dense"):
        embed(folder)


@pytest.mark.parametrize("name", ["dense-tanh", "layer-norm-dropout", "dense-residual"])
def test_missing_weights_of_a_module_are_an_error(
    sentence_folder: Any, tmp_path: Path, name: str
) -> None:
    folder = copy_of(sentence_folder(name), tmp_path / "copy")
    [file, *_] = sorted(folder.glob("[2-9]_*/model.safetensors"))
    weights = load_file(file)
    missing = min(weights)
    del weights[missing]
    save_file(weights, file)
    with pytest.raises(ValueError, match=missing.replace(".", r"\.")):
        embed(folder)
    file.unlink()
    with pytest.raises(ValueError, match=file.parent.name):
        embed(folder)


def test_pickled_weights_need_permission(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(bases["bert"], tmp_path / "copy")
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ValueError, match="holds no weights"):
        embed(folder)
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="allow_pickle=True"):
        embed(folder)
    model = de.Model(str(folder), device="cpu", allow_pickle=True)
    result = de.Embedder(model, column="text")(pd.DataFrame({"text": TEXTS}))
    assert_close(de.to_array(result["embedding"]), embed(bases["bert"]))


def test_pickled_weights_of_a_module_need_permission(sentence_folder: Any, tmp_path: Path) -> None:
    folder = copy_of(sentence_folder("dense-tanh"), tmp_path / "copy")
    file = folder / "2_Dense" / "model.safetensors"
    torch.save(load_file(file), folder / "2_Dense" / "pytorch_model.bin")
    file.unlink()
    with pytest.raises(ValueError, match=r"2_Dense.*allow_pickle=True"):
        embed(folder)


def test_an_unknown_model_type_is_named(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(bases["bert"], tmp_path / "copy")
    edit_json(folder / "config.json", model_type="bart-simpson")
    with pytest.raises(ValueError, match="bart-simpson"):
        read_checkpoint(de.Model(str(folder)))


def test_code_of_a_checkpoint_needs_permission(bases: dict[str, Path], tmp_path: Path) -> None:
    folder = copy_of(bases["bert"], tmp_path / "copy")
    mapping = {"AutoConfig": "own.Config", "AutoModel": "own.Model"}
    edit_json(folder / "config.json", model_type="own", auto_map=mapping)
    with pytest.raises(ValueError, match="trust_remote_code=True"):
        read_checkpoint(de.Model(str(folder)))


# ----------------------------------------------------------------------------- nothing is loaded
def test_the_graph_is_built_without_weights(
    sentence_folder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("weights were loaded to build the graph")

    folders = [str(sentence_folder(name)) for name in tiny.SENTENCE_TRANSFORMERS]
    monkeypatch.setattr("dask_embed.loading.load.load", refuse)
    monkeypatch.setattr("dask_embed.inference.runner.load", refuse)
    monkeypatch.setattr("transformers.AutoModel.from_pretrained", refuse)
    monkeypatch.setattr("safetensors.torch.load_file", refuse)
    frame = dd.from_pandas(pd.DataFrame({"text": TEXTS}), npartitions=2)
    for folder in folders:
        lazy = de.Embedder(folder, column="text", output="vector")(frame)
        assert lazy._meta["vector"].dtype.pyarrow_dtype.list_size > 0
        assert lazy.npartitions == 2


@pytest.mark.parametrize("name", ["plain", "dense-identity", "old-style"])
def test_meta_is_the_type_of_the_result(sentence_folder: Any, name: str) -> None:
    embedder = de.Embedder(de.Model(str(sentence_folder(name)), device="cpu"), column="text")
    frame = pd.DataFrame({"text": TEXTS})
    assert embedder.meta(frame.iloc[:0]).dtypes.to_dict() == embedder(frame).dtypes.to_dict()
