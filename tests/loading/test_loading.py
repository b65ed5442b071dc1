"""Every way to load a model gives what transformers, torchao or the module itself gives."""

from __future__ import annotations

import configparser
import json
import pickle
import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cloudpickle
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from dask.base import tokenize
from safetensors.torch import load_file, save_file, save_model
from support import headed, tiny

import dask_embed as de
from dask_embed.inference.runner import runner_for
from dask_embed.loading.load import load
from dask_embed.models import requirements
from dask_embed.models.options import STRATEGIES
from dask_embed.operators.labels.classifier import Classifier

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TEXTS = tiny.mixed_texts()
FRAME = pd.DataFrame({"text": TEXTS})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that saves a checkpoint once."""
    return headed.saver(tmp_path_factory.mktemp("loading"))


def embed(model: Any) -> np.ndarray:
    embedder = de.Embedder(model, pooling="mean", column="text")
    return de.to_array(embedder(FRAME)["embedding"])


def close(given: np.ndarray, expected: np.ndarray) -> None:
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * scale)


# ---------------------------------------------------------------------------------- a factory
class Head(torch.nn.Module):
    """The shape of NeMo Curator's classifiers: a transformer, a linear layer on every token."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.model = transformers.AutoModel.from_config(config)
        self.dropout = torch.nn.Dropout(0.5)
        self.fc = torch.nn.Linear(config.hidden_size, config.num_labels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        hidden = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        return self.fc(self.dropout(hidden))[:, 0, :]


class WithTypes(Head):
    def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
        hidden = self.model(input_ids, attention_mask, token_type_ids).last_hidden_state
        return transformers.modeling_outputs.SequenceClassifierOutput(
            logits=self.fc(hidden).sum(1) / attention_mask.sum(1, keepdim=True)
            if attention_mask.all()
            else self.fc(hidden)[:, 0]
        )


class Tokens(Head):
    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.fc(self.model(input_ids, attention_mask).last_hidden_state)


class Own(torch.nn.Module):
    """A model with nothing of transformers in it, its output weights tied to its embeddings."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.words = torch.nn.Embedding(config.words, config.num_labels)
        self.out = torch.nn.Linear(config.num_labels, config.words, bias=False)
        self.out.weight = self.words.weight

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return self.words(input_ids).mul(attention_mask[..., None]).sum(1)


class Placed(Own):
    """With positions of which the configuration says nothing."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.places = torch.nn.Embedding(16, config.num_labels)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        places = self.places(torch.arange(input_ids.shape[1], device=input_ids.device))
        vectors = self.words(input_ids) + places
        return vectors.mul(attention_mask[..., None]).sum(1)


def nothing(config: Any) -> str:
    return "no module"


def too_many(config: Any) -> torch.nn.Module:
    config.id2label = dict(enumerate("abcde"))
    return Head(config)


@pytest.fixture(scope="module")
def custom(folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BERT with the weights of `Head`, which no class of transformers reads."""
    target = tmp_path_factory.mktemp("custom") / "model"
    shutil.copytree(folder("bert"), target)
    config = json.loads((target / "config.json").read_text())
    config |= {"id2label": {"0": "good", "1": "so so", "2": "bad"}, "architectures": ["Head"]}
    config["label2id"] = {"good": 0, "so so": 1, "bad": 2}
    (target / "config.json").write_text(json.dumps(config))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        module = Head(transformers.AutoConfig.from_pretrained(target))
        tiny.enlarge(module)
    save_model(module, str(target / "model.safetensors"))
    return target


def alone(module: torch.nn.Module, folder: Path) -> np.ndarray:
    """Each text by itself through the module of the test."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    module.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    results = []
    for text in TEXTS:
        tokens = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            output = module.eval()(tokens["input_ids"], tokens["attention_mask"])
        results.append(getattr(output, "logits", output)[0].numpy())
    return np.stack(results)


def assert_classified(model: de.Model, logits: np.ndarray, labels: list[str]) -> None:
    given = Classifier(model, scores="scores")(FRAME)
    assert given["label"].tolist() == [labels[place] for place in logits.argmax(1)]
    assert len(set(given["label"])) > 1
    expected = torch.softmax(torch.from_numpy(logits), 1).numpy()
    scores = np.array([[row[label] for label in labels] for row in given["scores"]])
    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("factory", "pads"), [(Head, True), (WithTypes, False)])
def test_a_factory_gives_the_logits_of_its_module(custom: Path, factory: Any, pads: bool) -> None:
    """Padded where padding was seen to change nothing, else texts of one length together."""
    model = de.Model(custom, device="cpu", factory=factory)
    logits = alone(factory(transformers.AutoConfig.from_pretrained(custom)), custom)
    assert_classified(model, logits, ["good", "so so", "bad"])
    runner = runner_for(model, "classify")
    assert (runner.head.pads, runner.verdict.pads, runner.verdict.packed) == (pads, pads, False)
    lazy = Classifier(model)(dd.from_pandas(FRAME, npartitions=3))
    assert lazy.compute()["label"].tolist() == Classifier(model)(FRAME)["label"].tolist()


class OfTransformers(transformers.BertForSequenceClassification):
    """A model of transformers that gives logits alone, as a module of one's own."""

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        return super().forward(input_ids=input_ids, attention_mask=attention_mask).logits


def test_a_factory_may_give_a_model_of_transformers(folder: Callable[..., Path]) -> None:
    path = folder("bert", "classify")
    config = transformers.AutoConfig.from_pretrained(path)
    model = de.Model(path, device="cpu", factory=OfTransformers)
    logits = alone(OfTransformers(config), path)
    assert_classified(model, logits, [config.id2label[n] for n in range(config.num_labels)])
    assert de.describe_model(model).task == "classify"


def test_a_factory_with_logits_for_tokens(custom: Path) -> None:
    module = Tokens(transformers.AutoConfig.from_pretrained(custom)).eval()
    module.load_state_dict(load_file(custom / "model.safetensors"))
    runner = runner_for(de.Model(custom, device="cpu", factory=Tokens), "classify-tokens")
    tokens = runner.tokenizer(64)(TEXTS)
    given = np.split(runner.logits(tokens).numpy(), tokens.offsets[1:-1])
    assert runner.head.pads
    for row, logits in enumerate(given):
        ids = torch.from_numpy(tokens[row].astype(np.int64))[None]
        with torch.inference_mode():
            close(logits, module(ids, torch.ones_like(ids))[0].numpy())


def test_a_factory_needs_no_type_of_transformers(custom: Path, tmp_path: Path) -> None:
    """A config.json with nothing that transformers knows, tied weights stored once."""
    for file in custom.glob("tokenizer*"):
        shutil.copy(file, tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"words": 400}))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = transformers.PretrainedConfig(words=400, num_labels=3)
        module = Own(config)
        save_model(module, str(tmp_path / "model.safetensors"))
    assert len(load_file(tmp_path / "model.safetensors")) == 1
    labels = ["a", "b", "c"]
    model = de.Model(tmp_path, device="cpu", factory=Own, labels=labels)
    with torch.inference_mode():
        tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
        logits = [module.words(torch.tensor(tokenizer(t)["input_ids"])).sum(0) for t in TEXTS]
    assert_classified(model, torch.stack(logits).numpy(), labels)


def test_positions_that_no_configuration_tells(custom: Path, tmp_path: Path) -> None:
    """Told by the table itself, before a GPU is asked for a row that there is not."""
    shutil.copy(custom / "tokenizer.json", tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{}")  # without a limit
    (tmp_path / "config.json").write_text(json.dumps({"words": 400}))
    module = Placed(transformers.PretrainedConfig(words=400, num_labels=2))
    save_model(module, str(tmp_path / "model.safetensors"))
    model = de.Model(tmp_path, device="cpu", factory=Placed, labels=("a", "b"))
    long = pd.DataFrame({"text": ["a short one", "of a " * 20]})
    told = r"'module.places' of the model has rows up to 15, .* asked for \d+: .*\(set max_length"
    with pytest.raises(ValueError, match=told):
        Classifier(model, column="text")(long)
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 16}')
    assert Classifier(model, column="text")(long)["label"].notna().all()
    with pytest.raises(ValueError, match=told):
        Classifier(model, column="text", max_length=17)(long)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda weights: weights.pop("fc.bias"), r"missing \['fc.bias'\], unexpected \[\]"),
        (
            lambda weights: weights.update({"more": torch.ones(2)}),
            r"missing \[\], unexpected \['more'\]",
        ),
        (
            lambda weights: weights.update({"fc.bias": torch.ones(2)}),
            r"fc.bias of shape \(2,\) for \(3,\)",
        ),
    ],
)
def test_weights_that_do_not_fit_the_module_are_named(
    custom: Path, tmp_path: Path, change: Any, message: str
) -> None:
    target = shutil.copytree(custom, tmp_path / "copy")
    weights = load_file(target / "model.safetensors")
    change(weights)
    save_file(weights, target / "model.safetensors")
    with pytest.raises(ValueError, match=message):
        load(de.Model(target, device="cpu", factory=Head), "classify")


def split(folder: Path, first: str, second: str, *, twice: bool = False) -> None:
    """Save the weights in two files, with one of them in both if `twice`."""
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(weights)
    halves = names[: len(names) // 2 + twice], names[len(names) // 2 :]
    for file, half in zip((first, second), halves, strict=True):
        save_file({name: weights[name] for name in half}, folder / file)


def test_weights_of_a_factory_in_files_of_any_name(custom: Path, tmp_path: Path) -> None:
    """Each weight once; and nothing that lies outside of the folder, or belongs to an adapter."""
    logits = alone(Head(transformers.AutoConfig.from_pretrained(custom)), custom)
    target = Path(shutil.copytree(custom, tmp_path / "parts"))
    split(target, "body.safetensors", "head.safetensors")
    save_file({"lora": torch.ones(1)}, target / "adapter_model.safetensors")
    assert_classified(
        de.Model(target, device="cpu", factory=Head), logits, ["good", "so so", "bad"]
    )
    target = Path(shutil.copytree(custom, tmp_path / "twice"))
    split(target, "model.fp16.safetensors", "model.fp32.safetensors", twice=True)
    with pytest.raises(ValueError, match=r"several files of .* hold '.*'model\.fp32\.safetensors'"):
        load(de.Model(target, device="cpu", factory=Head), "classify")
    target = Path(shutil.copytree(custom, tmp_path / "above"))
    index = {"weight_map": {"fc.bias": "../parts/head.safetensors"}}
    (target / "model.safetensors").unlink()
    (target / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match="in its folder"):
        Classifier(de.Model(target, factory=Head))(dd.from_pandas(FRAME, npartitions=1))


def test_an_adapter_beside_the_weights_of_a_factory(custom: Path, tmp_path: Path) -> None:
    target = Path(shutil.copytree(custom, tmp_path / "copy"))
    (target / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.raises(ValueError, match="holds a PEFT adapter beside the model"):
        Classifier(de.Model(target, factory=Head))(dd.from_pandas(FRAME, npartitions=1))


def test_what_a_factory_must_give(custom: Path) -> None:
    with pytest.raises(TypeError, match=r"must return a torch\.nn\.Module, got 'no module'"):
        load(de.Model(custom, factory=nothing), "classify")
    with pytest.raises(ValueError, match=r"shape \(\d+, 3\) .*got \(\d+, \d+, 3\)"):
        Classifier(de.Model(custom, device="cpu", factory=Tokens))(FRAME)
    with pytest.raises(ValueError, match=r"shape \(\d+, 2\).*got \(\d+, 3\)"):
        _with_labels(custom, ("yes", "no"))
    with pytest.raises(ValueError, match="other shapes"):
        load(de.Model(custom, factory=too_many), "classify")
    with pytest.raises(ValueError, match=r"has a factory.*'classify'.*needs 'embed'"):
        de.Embedder(de.Model(custom, factory=Head), column="text")(FRAME)


class Three(Head):
    def __init__(self, config: Any) -> None:
        config.id2label = dict(enumerate("abc"))
        super().__init__(config)


def _with_labels(custom: Path, labels: tuple[str, ...]) -> None:
    Classifier(de.Model(custom, device="cpu", factory=Three, labels=labels))(FRAME)


@pytest.mark.parametrize(
    "factory",
    [
        lambda config: None,
        3,
        "Head",
        Head(
            transformers.BertConfig(
                vocab_size=9,
                hidden_size=4,
                num_hidden_layers=1,
                num_attention_heads=1,
                intermediate_size=4,
            )
        ),
    ],
)
def test_a_factory_is_found_by_its_name(factory: Any) -> None:
    with pytest.raises(TypeError, match="factory must be a function or class at the top of"):
        de.Model("x", factory=factory)


def test_a_factory_of_a_notebook_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setattr(nothing, "__module__", "__main__")
    monkeypatch.setattr(sys.modules["__main__"], "nothing", nothing, raising=False)
    with pytest.raises(TypeError, match="one of a notebook"):
        de.Model("x", factory=nothing)


def test_a_quantized_factory(custom: Path) -> None:
    pytest.importorskip("torchao")
    model = de.Model(custom, device="cpu", factory=Head, quantization="int8")
    logits = alone(Head(transformers.AutoConfig.from_pretrained(custom)), custom)
    runner = runner_for(model, "classify")
    given = runner.logits(runner.tokenizer(64)(TEXTS)).numpy()
    assert 0 < np.abs(given - logits).max() < 0.2 * np.abs(logits).max()
    assert type(runner.loaded.model.module.fc.weight).__name__ == "Int8Tensor"


# ------------------------------------------------------------------------------- quantized weights
def cosines(given: np.ndarray, expected: np.ndarray) -> np.ndarray:
    norms = np.linalg.norm(given, axis=1) * np.linalg.norm(expected, axis=1)
    return (given * expected).sum(1) / norms


@pytest.mark.parametrize(("bits", "least", "mean"), [("int8", 0.998, 0.999), ("int4", 0.92, 0.96)])
def test_accuracy_of_quantized_weights(
    minilm: str,
    bits: str,
    least: float,
    mean: float,
    record_property: Any,
) -> None:
    """Cosine similarity to float32 over docstrings; shown by ``pytest -s``."""
    pytest.importorskip("torchao")
    frame = pd.DataFrame({"text": tiny.corpus()[::8]})
    model = de.Model(minilm, device="cpu", quantization=bits)
    vectors = {
        name: de.to_array(de.Embedder(spec, column="text", max_length=64)(frame)["embedding"])
        for name, spec in (("whole", de.Model(minilm, device="cpu")), (bits, model))
    }
    found = cosines(vectors[bits], vectors["whole"])
    print(f"\n{bits}: cosine to float32 mean {found.mean():.4f}, least {found.min():.4f}")
    record_property(f"cosine-{bits}", float(found.mean()))
    assert found.min() > least
    assert mean < found.mean() < 1 - 1e-7
    assert runner_for(model).verdict.packed


@pytest.mark.parametrize("task", ["classify", "causal-lm"])
def test_the_head_of_a_quantized_model(folder: Callable[..., Path], task: str) -> None:
    """It runs packed all the same; the weights that give words keep their type."""
    pytest.importorskip("torchao")
    path = folder("llama", task)
    given, whole = (
        runner_for(de.Model(path, device="cpu", quantization=bits), task) for bits in ("int8", None)
    )
    tokens = whole.tokenizer(64)([text for text in TEXTS if text])
    found = cosines(given.logits(tokens).numpy(), whole.logits(tokens).numpy())
    assert 0.98 < found.min() < found.max() < 1 - 1e-9
    assert given.verdict.packed
    head = given.loaded.model.get_output_embeddings()
    assert (head is None) == (task == "classify")
    assert head is None or type(head.weight) is torch.nn.Parameter


def test_a_configuration_of_transformers_is_passed_on(folder: Callable[..., Path]) -> None:
    torchao = pytest.importorskip("torchao.quantization")
    config = transformers.TorchAoConfig(torchao.Int8WeightOnlyConfig())
    path = folder("bert")
    for given in (config, config.to_dict(), tuple(config.to_dict().items())):
        model = de.Model(path, quantization=given)
        assert hash(model) == hash(de.Model(path, quantization=config))
        assert de.Model(path, quantization=model.quantization) == model
    np.testing.assert_allclose(
        embed(model), embed(de.Model(path, device="cpu", quantization="int8")), rtol=0, atol=1e-5
    )


def test_a_missing_package_is_named_on_the_client(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = ("bitsandbytes", "vptq")
    monkeypatch.setattr(
        requirements, "find_spec", lambda name: None if name in absent else find_spec(name)
    )
    ddf = dd.from_pandas(FRAME, npartitions=1)
    config = {"quant_method": "bitsandbytes", "load_in_4bit": True}
    with pytest.raises(ModuleNotFoundError, match=r"bitsandbytes: pip install 'dask-embed\[bits"):
        de.Embedder(de.Model(folder("bert"), quantization=config), column="text")(ddf)
    config = {"quant_method": "vptq"}
    with pytest.raises(ModuleNotFoundError, match="needs the package vptq: pip install vptq"):
        de.Embedder(de.Model(folder("bert"), quantization=config), column="text")(ddf)
    config = {"quant_method": "nobody"}
    with pytest.raises(ValueError, match=r"quant_method must be one of .*'torchao'.*got 'nobody'"):
        de.Embedder(de.Model(folder("bert"), quantization=config), column="text")(ddf)


def quantized(source: Path, path: Path, config: dict[str, Any], *, plain: bool = False) -> Path:
    """Copy a checkpoint that says it was saved quantized, and holds integers unless `plain`."""
    shutil.copytree(source, path)
    settings = json.loads((path / "config.json").read_text("utf8"))
    settings["quantization_config"] = config
    (path / "config.json").write_text(json.dumps(settings), "utf8")
    if not plain:
        tensors = load_file(path / "model.safetensors")
        whole = {"pooler.dense.qweight": torch.ones(4, 4, dtype=torch.int32)}
        save_file(tensors | whole, path / "model.safetensors", {"format": "pt"})
    return path


def test_a_package_for_weights_that_were_saved_quantized_is_named_on_the_client(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: name != "gptqmodel" or None)
    path = quantized(folder("bert"), tmp_path / "saved", {"quant_method": "gptq", "bits": 4})
    with pytest.raises(ModuleNotFoundError, match=r"saved', which .*'gptq', needs .*gptqm"):
        de.Embedder(path, column="text")(dd.from_pandas(FRAME, npartitions=1))


def test_saved_weights_for_which_code_would_be_fetched(
    folder: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "find_spec", lambda name: True)
    path = quantized(folder("bert"), tmp_path / "saved", {"quant_method": "mxfp4"})
    with pytest.raises(ValueError, match=r"'mxfp4', for which .* code from the Hub"):
        de.Embedder(path, column="text")(dd.from_pandas(FRAME, npartitions=1))


SAVED_AS = {
    "bitsandbytes in 4 bits": {"quant_method": "bitsandbytes", "load_in_4bit": True},
    "bitsandbytes of old": {"load_in_8bit": True},
    **{
        method: {"quant_method": method}
        for method in (
            *("gptq", "awq", "auto-round", "fp8", "fbgemm_fp8", "mxfp4", "mxfp8", "nvfp4", "hqq"),
            *("torchao", "quanto", "eetq", "aqlm", "vptq", "higgs", "spqr"),
        )
    },
}


@pytest.mark.parametrize("case", SAVED_AS)
def test_plain_weights_that_are_said_to_be_quantized_are_told_on_the_client(
    case: str, folder: Callable[..., Path], tmp_path: Path
) -> None:
    path = quantized(folder("bert"), tmp_path / "saved", SAVED_AS[case], plain=True)
    says = "config.json of .*saved' says that weights were saved quantized by .* but they are plain"
    for call in (
        lambda: de.Embedder(path, column="text")(dd.from_pandas(FRAME, npartitions=1)),
        lambda: de.Classifier(path, column="text")(dd.from_pandas(FRAME, npartitions=1)),
        lambda: de.describe_model(path),
        lambda: FRAME.ml.embed("text", model=path),  # as a worker, which may have them alone
    ):
        with pytest.raises(ValueError, match=says):
            call()


def test_extras_that_messages_name_are_there() -> None:
    settings = configparser.ConfigParser()
    settings.read(Path(de.__file__).parents[1] / "setup.cfg")
    extras = settings["options.extras_require"]
    assert all(package in extras[extra] for package, extra in requirements._EXTRAS.items())


# ------------------------------------------------------------------------------- models in parts
@pytest.mark.parametrize("where", ["auto", {"": "cpu"}, "disk"])
@pytest.mark.parametrize(("name", "task"), [("bert", "embed"), ("llama", "classify")])
def test_a_model_in_parts_gives_the_same(
    folder: Callable[..., Path], tmp_path: Path, name: str, task: str, where: Any
) -> None:
    pytest.importorskip("accelerate")
    path = folder(name, task)
    settings: dict[str, Any] = {"device_map": where}
    if where == "disk":
        settings = {
            "device_map": "auto",
            "max_memory": {"cpu": 60_000},
            "offload_folder": tmp_path,
        }
    runner = runner_for(de.Model(path, **settings), task)
    whole = runner_for(de.Model(path, device="cpu"), task)
    tokens = whole.tokenizer(64)([text for text in TEXTS if text])
    run = "token_vectors" if task == "embed" else "logits"
    expected = getattr(whole, run)(tokens).numpy()
    close(getattr(runner, run)(tokens).cpu().numpy(), expected)
    parts = set(getattr(runner.loaded.model, "hf_device_map", {}).values())
    assert ("disk" in parts) == (where == "disk")
    on_disk = [w for w in runner.loaded.model.parameters() if w.device.type == "meta"]
    assert bool(on_disk) == (where == "disk")
    assert not runner.shares
    assert runner.verdict.packed
    assert task == "embed" or runner.head.reads == "last"


# ------------------------------------------------------------------------------- own tokenizers
def test_another_tokenizer_than_the_checkpoints(
    folder: Callable[..., Path], tmp_path: Path
) -> None:
    """A BERT that keeps capitals, of an equally large vocabulary."""
    tiny.wordpiece(lowercase=False).save_pretrained(tmp_path)
    model = de.Model(folder("bert"), device="cpu", tokenizer=tmp_path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    reference = transformers.AutoModel.from_pretrained(folder("bert")).eval()
    expected = []
    for text in TEXTS:
        tokens = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            expected.append(reference(**tokens).last_hidden_state[0].mean(0).numpy())
    close(embed(model), np.stack(expected))
    assert not np.allclose(embed(model), embed(folder("bert")), atol=1e-2)
    pinned = de.Embedder(model, column="text").pinned()
    assert pinned.model.tokenizer == str(tmp_path)
    assert pinned.model.tokenizer_revision.startswith("local-")
    (tmp_path / "tokenizer_config.json").write_text("{}")
    with pytest.raises(ValueError, match=r"another tokenizer in folder .* fingerprint is .*asked"):
        pinned(FRAME)


def test_a_tokenizer_that_does_not_fit(folder: Callable[..., Path], tmp_path: Path) -> None:
    tokenizer = tiny.wordpiece()
    tokenizer.add_tokens([f"word{number}" for number in range(20)])
    tokenizer.save_pretrained(tmp_path)
    highest = max(tokenizer.get_vocab().values())
    known = transformers.AutoConfig.from_pretrained(folder("bert")).vocab_size
    ddf = dd.from_pandas(FRAME, npartitions=1)
    model = de.Model(folder("bert"), tokenizer=tmp_path)
    with pytest.raises(ValueError, match=f"tokens up to {highest}, .* up to {known - 1}"):
        de.Embedder(model, column="text")(ddf)
    with pytest.raises(ValueError, match=r"tokenizer folder .* holds no tokenizer\.json"):
        de.Embedder(de.Model(folder("bert"), tokenizer=tmp_path.parent), column="text")(ddf)


# ------------------------------------------------------------------------------ the specification
SECRET = "hf_thisisnotforgraphs"


def test_no_access_token_leaves_the_environment(
    folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", SECRET)
    operator = de.Embedder(folder("bert"), column="text")
    lazy = operator(dd.from_pandas(FRAME, npartitions=2))
    graph = lazy.optimize().__dask_graph__()
    said = [repr(operator), repr(lazy.expr), str(list(graph)), de.explain(lazy), repr(graph)]
    sent = [cloudpickle.dumps(part) for part in (operator, lazy, graph)]
    assert not any(SECRET in str(text) for text in said)
    assert not any(SECRET.encode() in part for part in sent)
    assert not any(name == "token" for name in vars(operator.model))
    for name in ("token", "use_auth_token"):
        with pytest.raises(ValueError, match="must not hold an access token") as caught:
            de.Model("x", model_kwargs={name: SECRET})
        assert SECRET not in str(caught.value)


OPTIONS: dict[str, dict[str, Any]] = {
    "adapter": {"adapter": "org/adapter"},
    "adapter_revision": {"adapter": "org/adapter", "adapter_revision": "v2"},
    "merge_adapter": {"adapter": "org/adapter", "merge_adapter": True},
    "int8": {"quantization": "int8"},
    "int4": {"quantization": "int4"},
    "configured": {"quantization": {"quant_method": "hqq", "modules": ["a"], "bits": {"a": 4}}},
    **{strategy: {"device_map": strategy} for strategy in STRATEGIES},
    "device map": {"device_map": {"encoder": 0, "pooler": "cpu"}},
    "offload_folder": {"device_map": "auto", "offload_folder": Path("/tmp/weights")},
    "max_memory": {"device_map": "auto", "max_memory": {0: "1GiB", "cpu": 10}},
    "tokenizer": {"tokenizer": "org/tokenizer"},
    "tokenizer_revision": {"tokenizer": "org/tokenizer", "tokenizer_revision": "v2"},
    "factory": {"factory": Head},
    "labels": {"labels": ["a", "b"]},
    "model_kwargs": {"model_kwargs": {"b": 1, "a": (2,)}},
    "nothing": {},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_a_specification_is_a_value(name: str) -> None:
    """Equal, hashed and pickled as a value; no two options share a Dask token."""
    model = de.Model("org/name", **OPTIONS[name])
    again = pickle.loads(pickle.dumps(model))
    assert (again, hash(again), tokenize(again)) == (model, hash(model), tokenize(model))
    assert cloudpickle.loads(cloudpickle.dumps(model)) == model
    others = [de.Model("org/name", **given) for key, given in OPTIONS.items() if key != name]
    assert model not in others
    assert tokenize(model) not in {tokenize(other) for other in others}


def test_old_calls_mean_what_they_did() -> None:
    model = de.Model("a", "v1", "float16", "bfloat16", "cpu", "eager", True, True, True, "/c", True)
    assert model == de.Model(
        name="a",
        revision="v1",
        dtype="float16",
        autocast="bfloat16",
        device="cpu",
        attention="eager",
        compile=True,
        trust_remote_code=True,
        allow_pickle=True,
        cache_dir="/c",
        local_files_only=True,
    )
    assert de.Model("a", model_kwargs={"z": 1, "b": 2}).model_kwargs == (("b", 2), ("z", 1))


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"quantization": "int9"}, ValueError, "quantization must be one of .*'int8'.*'int9'"),
        ({"quantization": {"bits": 4}}, ValueError, "must name its 'quant_method'"),
        ({"quantization": {"quant_method": "hqq", "a": {1}}}, TypeError, "json values"),
        ({"quantization": 8}, TypeError, "got 8"),
        ({"device_map": "atuo"}, ValueError, "did you mean 'auto'"),
        ({"device_map": 3}, TypeError, "device_map must map names"),
        ({"max_memory": {0: "1GiB"}}, ValueError, "needs device_map"),
        ({"offload_folder": "x"}, ValueError, "needs device_map"),
        ({"merge_adapter": True}, ValueError, "merge_adapter=True needs adapter"),
        ({"merge_adapter": 1, "adapter": "a"}, TypeError, "merge_adapter must be True or False"),
        ({"adapter_revision": "v1"}, ValueError, "needs adapter"),
        ({"tokenizer_revision": "v1"}, ValueError, "needs tokenizer"),
        ({"adapter": 3}, TypeError, "adapter must be a folder or a Hub id, got 3"),
        ({"tokenizer": " "}, TypeError, "tokenizer must be a folder or a Hub id"),
        ({"labels": "abc"}, TypeError, "labels must be a sequence of strings, got 'abc'"),
        ({"labels": ["a", "a"]}, ValueError, "labels must differ"),
        ({"device_map": "auto", "compile": True}, ValueError, "device_map and compile do not go"),
        ({"device_map": "auto", "adapter": "a"}, ValueError, "device_map and adapter do not go"),
        ({"factory": Head, "adapter": "a"}, ValueError, "factory and adapter do not go"),
        ({"factory": Head, "attention": "eager"}, ValueError, "chooses its attention itself"),
        (
            {"factory": Head, "quantization": {"quant_method": "hqq"}},
            ValueError,
            "with factory quantization must be one of 'int8', 'int4'",
        ),
        ({"local_files_only": "yes"}, TypeError, "local_files_only must be True or False"),
    ],
)
def test_bad_options_are_refused(options: dict[str, Any], error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        de.Model("org/name", **options)


def test_a_device_beside_a_device_map_is_refused(folder: Callable[..., Path]) -> None:
    pytest.importorskip("accelerate")
    model = de.Model(folder("bert"), device="cpu", device_map="auto")
    with pytest.raises(ValueError, match="leave device at 'auto', got 'cpu'"):
        embed(model)
