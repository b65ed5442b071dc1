"""PEFT adapters give what peft gives, several at a time on one copy of the weights."""

from __future__ import annotations

import json
import shutil
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
import transformers
from dask.base import tokenize
from support import headed, tiny

import dask_embed as de
from dask_embed.inference.runner import runner_for
from dask_embed.loading.load import load
from dask_embed.operators.labels.classifier import Classifier
from dask_embed.tokens.lists import TokenLists

peft = pytest.importorskip("peft")
pytestmark = pytest.mark.usefixtures("one_torch_thread")

TEXTS = tiny.mixed_texts()
LABELS = ("good", "so so", "bad", "unknown")
BASES = {
    # name: architecture, task, task type of peft, layers that are adapted
    "bert": ("bert", "embed", "FEATURE_EXTRACTION", ["query", "value"]),
    "roberta": ("roberta", "classify", "SEQ_CLS", ["query", "dense"]),
    "llama": ("llama", "causal-lm", "CAUSAL_LM", ["q_proj", "down_proj"]),
}
ADAPTERS = {"first": {}, "second": {"r": 2, "use_dora": True}, "biases": {"bias": "all"}}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("adapters")


def base_folder(root: Path, name: str) -> Path:
    architecture, task, _, _ = BASES[name]
    folder = root / name
    if folder.exists():
        return folder
    if task == "embed":
        return tiny.save(architecture, folder)
    return headed.save(architecture, task, folder, num_labels=3)


def adapter(root: Path, name: str, kind: str = "first", **settings: Any) -> Path:
    """Save an adapter of random weights, once."""
    folder = root / f"{name}-{kind}"
    if folder.exists():
        return folder
    _, task, task_type, layers = BASES[name]
    settings = {"r": 4, "target_modules": layers, **ADAPTERS.get(kind, {}), **settings}
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(len(kind))
        model = reference_base(base_folder(root, name), task)
        adapted = peft.get_peft_model(model, peft.LoraConfig(task_type=task_type, **settings))
        for weights in adapted.parameters():
            if weights.requires_grad:
                weights.data.add_(torch.randn_like(weights) * 0.3)
        adapted.save_pretrained(folder)
    return folder


def quiet() -> Any:
    """Peft calls what transformers deprecates."""
    return warnings.catch_warnings(action="ignore")


def reference_base(folder: Path, task: str, **settings: Any) -> Any:
    kind = "AutoModel" if task == "embed" else headed.CLASSES[task]
    return getattr(transformers, kind).from_pretrained(folder, **settings).eval()


def reference(folder: Path, task: str, adapter_folder: Path | None, **settings: Any) -> Any:
    """Each text alone through peft: its vectors, or its logits."""
    with quiet():
        model = reference_base(folder, task, **settings)
        if adapter_folder is not None:
            model = peft.PeftModel.from_pretrained(model, adapter_folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    results = []
    for text in TEXTS:
        tokens = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        if not tokens["input_ids"].numel():
            results.append(None)
            continue
        with torch.inference_mode(), quiet():
            output = model(**tokens)
        kept = "last_hidden_state" if task == "embed" else "logits"
        results.append(output[kept][0].numpy())
    return results


def close(given: np.ndarray, expected: np.ndarray) -> None:
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * scale)


def ours(model: de.Model, task: str) -> list[Any]:
    """What this library gives for each text, from one batch of all of them."""
    runner = runner_for(model, task)
    tokens = runner.tokenizer(64)(TEXTS)
    present = np.flatnonzero(tokens.lengths > 0)
    batch = tokens.take(present)
    run = runner.token_vectors if task == "embed" else runner.logits
    given = run(batch).numpy()
    results: list[Any] = [None] * len(TEXTS)
    parts = given if task == "classify" else np.split(given, np.cumsum(batch.lengths)[:-1])
    for place, part in zip(present, parts, strict=True):
        results[place] = part
    return results


def model_with(root: Path, name: str, kind: str = "first", **settings: Any) -> de.Model:
    path = adapter(root, name, kind)
    return de.Model(str(base_folder(root, name)), device="cpu", adapter=path, **settings)


# ------------------------------------------------------------------------------------- equality
@pytest.mark.parametrize("attention", ["auto", "padded"])
@pytest.mark.parametrize("kind", ADAPTERS)
@pytest.mark.parametrize("name", BASES)
def test_results_are_those_of_peft(root: Path, name: str, kind: str, attention: str) -> None:
    task = BASES[name][1]
    model = model_with(root, name, kind, attention=attention)
    expected = reference(base_folder(root, name), task, Path(model.adapter))
    bare = reference(base_folder(root, name), task, None)
    for given, wanted, without in zip(ours(model, task), expected, bare, strict=True):
        if wanted is None:
            assert given is None
            continue
        close(given, wanted)
        assert not np.allclose(wanted, without, atol=1e-2)
    assert runner_for(model, task).verdict.packed == (attention == "auto")


@pytest.mark.parametrize("name", BASES)
def test_merged_equals_unmerged(root: Path, name: str) -> None:
    task = BASES[name][1]
    merged = ours(model_with(root, name, merge_adapter=True), task)
    for given, wanted in zip(merged, ours(model_with(root, name), task), strict=True):
        assert (given is None) == (wanted is None)
        if given is not None:
            close(given, wanted)
    model = load(model_with(root, name, merge_adapter=True), task).model
    assert not any("lora" in part for part, _ in model.named_parameters())


def test_a_layer_that_lends_its_weight_is_not_merged(root: Path) -> None:
    folder = headed.save("gpt2", "causal-lm", root / "tied")
    with quiet():
        model = reference_base(folder, "causal-lm")
        settings = peft.LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["wte"])
        adapted = peft.get_peft_model(model, settings)
        tiny.enlarge(adapted)
        adapted.save_pretrained(root / "tied-adapter")
    with pytest.raises(ValueError, match=r"wte\.weight, which is lm_head\.weight as well"):
        ours(de.Model(folder, adapter=root / "tied-adapter", merge_adapter=True), "causal-lm")


def test_an_embedder_with_an_adapter(root: Path) -> None:
    """On pandas and on Dask, mean pooling; the empty text has its special tokens."""
    model = model_with(root, "bert")
    frame = pd.DataFrame({"text": [*TEXTS, None]})
    embedder = de.Embedder(model, pooling="mean", column="text")
    expected = reference(base_folder(root, "bert"), "embed", Path(model.adapter))
    means = np.stack([vectors.mean(0) for vectors in expected])
    for given in (embedder(frame), embedder(dd.from_pandas(frame, npartitions=3)).compute()):
        assert given["embedding"].isna().tolist() == [False] * len(TEXTS) + [True]
        close(de.to_array(given["embedding"].iloc[:-1]), means)


def test_a_classifier_whose_head_comes_with_the_adapter(root: Path) -> None:
    """The checkpoint has no head, the adapter has one for four labels."""
    folder = root / "headless"
    if not folder.exists():
        tiny.save("roberta", folder)
    with quiet(), torch.random.fork_rng():
        torch.manual_seed(5)
        model = reference_base(folder, "classify", num_labels=4)
        settings = peft.LoraConfig(task_type="SEQ_CLS", r=4, target_modules=["value"])
        adapted = peft.get_peft_model(model, settings)
        for weights in adapted.parameters():
            if weights.requires_grad:
                weights.data.add_(torch.randn_like(weights) * 0.6)
        adapted.save_pretrained(root / "head")
    spec = de.Model(str(folder), device="cpu", adapter=root / "head", labels=LABELS)
    given = Classifier(spec)(pd.DataFrame({"text": TEXTS}))
    logits = np.stack(reference(folder, "classify", root / "head", num_labels=4))
    assert given["label"].tolist() == [LABELS[place] for place in logits.argmax(1)]
    assert len(set(given["label"])) > 1
    scores = torch.softmax(torch.from_numpy(logits), 1).numpy().max(1)
    np.testing.assert_allclose(given["label_score"], scores, rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="ForSequenceClassification"):
        Classifier(de.Model(str(folder), labels=LABELS))(pd.DataFrame({"text": TEXTS}))
    with pytest.raises(ValueError, match=r"trained for task type 'SEQ_CLS', does not fit"):
        Classifier(de.Model(str(folder), adapter=root / "head", labels=LABELS[:3]))(
            pd.DataFrame({"text": TEXTS})
        )


# -------------------------------------------------------------------------------------- one copy
def pointers(model: Any) -> set[int]:
    return {weights.data_ptr() for weights in model.parameters()}


@pytest.mark.parametrize("order", [[None, "first", "second"], ["second", "first", None]])
def test_adapters_share_the_weights_below_them(root: Path, order: list[str | None]) -> None:
    """Counted by their addresses: those of the base stand once in memory."""
    de.unload()
    folder = base_folder(root, "bert")
    models = {
        kind: runner_for(
            model_with(root, "bert", kind) if kind else de.Model(str(folder), device="cpu"), "embed"
        ).loaded
        for kind in order
    }
    adapted = [loaded for kind, loaded in models.items() if kind]
    assert adapted[0].base is adapted[1].base
    shared = pointers(adapted[0].base.model)
    assert len(shared) == len(list(reference_base(folder, "embed").parameters()))
    for loaded in adapted:
        others = pointers(loaded.model) - shared
        assert shared <= pointers(loaded.model)
        small = [w for w in loaded.model.parameters() if w.data_ptr() in others]
        assert (
            0
            < sum(w.numel() for w in small)
            < sum(w.numel() for w in loaded.base.model.parameters())
        )
    if order[0] is None:
        assert pointers(models[None].model) == shared
    merged = load(model_with(root, "bert", merge_adapter=True)).model
    assert not pointers(merged) & shared


def test_trained_biases_leave_the_base_alone(root: Path) -> None:
    """An adapter that was saved with biases has its own; the base keeps its, and its results."""
    de.unload()
    folder = base_folder(root, "roberta")
    biased, bare = model_with(root, "roberta", "biases"), de.Model(str(folder), device="cpu")
    plain = np.stack(reference(folder, "classify", None))
    trained = np.stack(reference(folder, "classify", Path(biased.adapter)))
    assert (np.abs(plain - trained).max(axis=1) > 1e-2).all()
    for model, expected in ((bare, plain), (biased, trained), (bare, plain)):
        close(np.stack(ours(model, "classify")), expected)
    of_base = pointers(runner_for(bare, "classify").loaded.model)
    shared = {
        name.rpartition(".")[2]
        for name, weights in runner_for(biased, "classify").loaded.model.named_parameters()
        if weights.data_ptr() in of_base
    }
    assert shared == {"weight"}


@pytest.mark.parametrize("initial", ["pissa", "olora"])
def test_an_adapter_that_changes_the_layers_below_leaves_the_base_alone(
    root: Path, initial: str
) -> None:
    """These begin with a part of the layer's weights, and take it out of them."""
    de.unload()
    folder = base_folder(root, "bert")
    path = adapter(root, "bert", initial, init_lora_weights=initial)
    adapted = de.Model(str(folder), device="cpu", adapter=path)
    bare = de.Model(str(folder), device="cpu")
    wanted, plain = reference(folder, "embed", path), reference(folder, "embed", None)
    for model, expected in ((bare, plain), (adapted, wanted), (bare, plain)):
        for given, vectors in zip(ours(model, "embed"), expected, strict=True):
            close(given, vectors)
    base = runner_for(bare, "embed").loaded.model
    shared = pointers(base) & pointers(runner_for(adapted, "embed").loaded.model)
    assert 0.5 < len(shared) / len(pointers(base)) < 1


def test_an_adapter_that_begins_at_random_is_refused(root: Path) -> None:
    path = adapter(root, "bert", "niter", init_lora_weights="pissa_niter_4")
    spec = de.Model(str(base_folder(root, "bert")), adapter=path)
    with pytest.raises(ValueError, match=r"init_lora_weights='pissa_niter_4'.* at random"):
        de.Embedder(spec, column="text")(pd.DataFrame({"text": TEXTS}))


def test_unload_gives_the_base_back(root: Path) -> None:
    import gc
    import weakref

    de.unload()
    base = weakref.ref(runner_for(model_with(root, "bert"), "embed").loaded.base)
    assert base() is not None
    de.unload()
    gc.collect()
    assert base() is None


def test_threads_run_different_adapters_at_a_time(root: Path) -> None:
    de.unload()
    draw = np.random.default_rng(0)
    batches = [
        TokenLists.of([draw.integers(5, 300, n).tolist() for n in draw.integers(1, 40, 6)])
        for _ in range(6)
    ]
    kinds = ["first", "second", "biases", None]
    runners = [
        runner_for(
            model_with(root, "bert", kind, attention=attention)
            if kind
            else de.Model(str(base_folder(root, "bert")), device="cpu", attention=attention),
            "embed",
        )
        for kind in kinds
        for attention in ("auto", "padded")
    ]
    jobs = [(runner, batch) for batch in batches for runner in runners]
    alone = [runner.token_vectors(batch).numpy() for runner, batch in jobs]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda job: job[0].token_vectors(job[1]).numpy(), jobs))
    for given, wanted in zip(together, alone, strict=True):
        close(given, wanted)
    assert all(not np.allclose(alone[0], alone[n], atol=1e-2) for n in (2, 4, 6))


@pytest.mark.parametrize("merge", [False, True])
def test_a_quantized_base_with_an_adapter(root: Path, merge: bool) -> None:
    pytest.importorskip("torchao")
    model = model_with(root, "bert", quantization="int8", merge_adapter=merge)
    expected = reference(base_folder(root, "bert"), "embed", Path(model.adapter))
    for given, wanted in zip(ours(model, "embed"), expected, strict=True):
        cosine = (given * wanted).sum() / np.linalg.norm(given) / np.linalg.norm(wanted)
        assert 0.99 < cosine < 1 - 1e-9
    loaded = runner_for(model, "embed").loaded
    assert "Int8Tensor" in {type(weights).__name__ for weights in loaded.model.parameters()}


# ---------------------------------------------------------------------------- pinning and errors
def test_an_adapter_is_pinned_to_its_content(root: Path, tmp_path: Path) -> None:
    copied = shutil.copytree(adapter(root, "bert"), tmp_path / "adapter")
    spec = de.Model(str(base_folder(root, "bert")), device="cpu", adapter=copied)
    pinned = de.Embedder(spec, column="text").pinned()
    assert pinned.model.adapter == str(copied)
    assert pinned.model.adapter_revision.startswith("local-")
    assert pinned.pinned() == pinned
    assert tokenize(pinned) != tokenize(de.Embedder(spec, column="text"))
    changed = json.loads((Path(copied) / "adapter_config.json").read_text()) | {"lora_alpha": 99}
    (Path(copied) / "adapter_config.json").write_text(json.dumps(changed))
    with pytest.raises(ValueError, match=r"another adapter in folder .* fingerprint is .*asked"):
        pinned(pd.DataFrame({"text": TEXTS}))


def test_an_adapter_of_virtual_tokens_is_refused_on_the_client(root: Path, tmp_path: Path) -> None:
    with quiet():
        settings = peft.PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
        peft.get_peft_model(
            reference_base(base_folder(root, "llama"), "causal-lm"), settings
        ).save_pretrained(tmp_path)
    spec = de.Model(str(base_folder(root, "llama")), adapter=tmp_path)
    frame = dd.from_pandas(pd.DataFrame({"text": TEXTS}), npartitions=1)
    with pytest.raises(ValueError, match="'PROMPT_TUNING', which adds virtual tokens"):
        de.Embedder(spec, column="text")(frame)


def test_an_adapter_of_another_model_is_refused(root: Path) -> None:
    spec = de.Model(str(base_folder(root, "bert")), device="cpu", adapter=adapter(root, "roberta"))
    with pytest.raises(ValueError, match=r"task type 'SEQ_CLS', does not fit BertModel"):
        load(spec)


@pytest.mark.parametrize(
    "entries",
    [
        {"alpha_pattern": 5},
        {"rank_pattern": ["a"]},
        {"bias": {"a": 1}},
        {"init_lora_weights": "no such way"},
        {"trainable_token_indices": {"a": "b"}},
        {"task_type": ["SEQ_CLS"]},
        {"task_type": 5},
    ],
    ids=str,
)
def test_entries_of_a_wrong_type(root: Path, tmp_path: Path, entries: dict[str, Any]) -> None:
    """Where they are looked at, on the client or when the adapter is loaded, in one line."""
    folder = shutil.copytree(adapter(root, "bert"), tmp_path / "adapter")
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | entries))
    spec = de.Model(str(base_folder(root, "bert")), device="cpu", adapter=folder)
    with quiet(), pytest.raises(ValueError, match=r"^adapter ") as caught:
        de.Embedder(spec, column="text")(pd.DataFrame({"text": TEXTS}))
    assert "\n" not in str(caught.value)


def test_a_missing_adapter_is_an_error_of_the_client(root: Path, tmp_path: Path) -> None:
    base = str(base_folder(root, "bert"))
    frame = dd.from_pandas(pd.DataFrame({"text": TEXTS}), npartitions=1)
    with pytest.raises(ValueError, match=r"adapter folder .* holds no adapter_config\.json"):
        de.Embedder(de.Model(base, adapter=tmp_path), column="text")(frame)
    nowhere = de.Model(base, adapter="org/none", local_files_only=True, cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="adapter 'org/none' was not found"):
        de.Embedder(nowhere, column="text")(frame)
    shutil.copy(adapter(root, "bert") / "adapter_config.json", tmp_path)
    with pytest.raises(ValueError, match=r"holds no adapter_model\.safetensors"):
        load(de.Model(base, adapter=tmp_path))


def test_without_peft_the_extra_is_named(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "dask_embed.models.requirements.find_spec", lambda name: None if name == "peft" else name
    )
    with pytest.raises(ModuleNotFoundError, match=r"package peft.*dask-embed\[adapters\]"):
        de.Embedder(model_with(root, "bert"), column="text")(pd.DataFrame({"text": TEXTS}))


def test_a_damaged_adapter_is_named_on_the_client(root: Path, tmp_path: Path) -> None:
    copied = Path(shutil.copytree(adapter(root, "bert"), tmp_path / "adapter"))
    weights = copied / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    spec = de.Model(str(base_folder(root, "bert")), adapter=copied)
    frame = dd.from_pandas(pd.DataFrame({"text": TEXTS}), npartitions=1)
    with pytest.raises(ValueError, match=r"of adapter .* is cut short") as caught:
        de.Embedder(spec, column="text")(frame)
    assert str(copied) in str(caught.value)
    assert repr(weights.name) in str(caught.value)
