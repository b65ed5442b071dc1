"""Texts that repeat in another partition of the process run once, as far as memory goes."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from support import headed
from support.contract import LONG, shared_tiny_bert

import dask_embed as de
from dask_embed.inference.repeats import Claims, VectorCache
from dask_embed.inference.runner import Runner
from dask_embed.runtime.stats import totals

pytestmark = pytest.mark.usefixtures("one_torch_thread")
TEXTS = [
    "Dask reads a table lazily.",
    "x",
    LONG,
    "two words",
    "more than two words",
    "ünïcode 漢字",
]


@pytest.fixture(scope="module")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return shared_tiny_bert(tmp_path_factory)


@pytest.fixture
def cache() -> Iterator[None]:
    """Keep vectors, which the other tests do not, and forget them afterwards."""
    de.unload()
    with dask.config.set({"embed.cached-vectors-bytes": 2**20}):
        yield
    de.unload()


def repeating(partitions: int = 4) -> dd.DataFrame:
    """Every partition holds the same texts, in other orders, some of them twice."""
    texts = [text for shift in range(partitions) for text in [*TEXTS[shift:], *TEXTS[:shift], "x"]]
    return dd.from_pandas(pd.DataFrame({"text": texts}), npartitions=partitions, sort=False)


def reference(folder: str, texts: list[str]) -> np.ndarray:
    """Mean of the token vectors of transformers, one text at a time."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModel.from_pretrained(folder)
    known = {}
    for text in set(texts):
        tokens = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            known[text] = model(**tokens).last_hidden_state[0].mean(0).numpy()
    return np.stack([known[text] for text in texts])


def ran(frame: dd.DataFrame, **scheduler: object) -> tuple[pd.DataFrame, int]:
    """Compute, and return how many texts the model ran."""
    before = totals()["unique_rows"]
    with dask.config.set(**scheduler):
        out = frame.compute()
    return out, totals()["unique_rows"] - before


@pytest.mark.parametrize(
    "scheduler", [{"scheduler": "sync"}, {"scheduler": "threads", "num_workers": 4}], ids=str
)
def test_each_text_runs_once_in_a_process(cache: None, tiny_bert: str, scheduler: dict) -> None:
    """Also when partitions that share texts run at the same time."""
    rows = totals()["rows"]
    out, count = ran(repeating().ml.embed(model=tiny_bert), **scheduler)
    assert (count, totals()["rows"] - rows) == (len(TEXTS), 4 * 7)
    expected = reference(tiny_bert, out.text.tolist())
    np.testing.assert_allclose(de.to_array(out.embedding), expected, rtol=0, atol=1e-5)
    _, again = ran(repeating().ml.embed(model=tiny_bert), **scheduler)
    assert again == 0


def test_without_a_cache_each_partition_runs_its_own(tiny_bert: str) -> None:
    _, count = ran(repeating().ml.embed(model=tiny_bert))
    assert count == 4 * len(TEXTS)


@pytest.mark.parametrize("room", [1, 2])
def test_a_cache_that_is_too_small_loses_nothing(tiny_bert: str, room: int) -> None:
    """Each vector has 32 values; what is not kept runs again."""
    de.unload()
    with dask.config.set({"embed.cached-vectors-bytes": room * (32 * 4 + 480)}):
        frame = repeating().ml.embed(model=tiny_bert)
        out, count = ran(frame, scheduler="threads", num_workers=4)
    de.unload()
    assert len(TEXTS) < count <= 4 * len(TEXTS)
    expected = reference(tiny_bert, out.text.tolist())
    np.testing.assert_allclose(de.to_array(out.embedding), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    "options",
    [{"prompt": "ask: "}, {"pooling": "max"}, {"normalize": True}, {"max_length": 5},
     {"precision": "binary"}, {"truncate_dim": 8}, {"max_chars": 3}],
    ids=str,
)  # fmt: skip
def test_other_vectors_are_told_apart(cache: None, tiny_bert: str, options: dict) -> None:
    """What was kept of one operator is not given to another whose vectors differ."""
    frame = pd.DataFrame({"text": TEXTS})
    frame.ml.embed(model=tiny_bert)
    given = frame.ml.embed(model=tiny_bert, **options)
    de.unload()
    alone = frame.ml.embed(model=tiny_bert, **options)
    left, right = de.to_array(given.embedding), de.to_array(alone.embedding)
    np.testing.assert_allclose(left, right, rtol=0, atol=1e-6)
    assert left.shape != (6, 32) or np.abs(left - reference(tiny_bert, TEXTS)).max() > 1e-3


def test_a_partition_that_fails_does_not_hold_up_others(
    cache: None, tiny_bert: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first to run a batch fails; the other one, which waits for its vectors, runs them."""

    def token_vectors(self: Runner, *args: object) -> object:
        if threading.current_thread().name.startswith("dask-embed") and not failed:
            failed.append(True)
            arrived.wait(5)  # until the other partition has asked for the same texts
            raise RuntimeError("a broken pipe")
        return original(self, *args)

    failed: list[bool] = []
    arrived = threading.Event()
    embedder = de.Embedder(tiny_bert)
    embedder(pd.DataFrame({"text": ["something else"]}))
    original = Runner.token_vectors
    borrow = Claims.collect
    monkeypatch.setattr(Runner, "token_vectors", token_vectors)
    monkeypatch.setattr(Claims, "collect", lambda self: (arrived.set(), borrow(self))[1])
    outcomes: list[object] = []

    def work() -> None:
        try:
            outcomes.append(embedder(pd.DataFrame({"text": TEXTS})))
        except RuntimeError as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    (problem,) = [outcome for outcome in outcomes if isinstance(outcome, str)]
    (frame,) = [outcome for outcome in outcomes if isinstance(outcome, pd.DataFrame)]
    assert problem == "a broken pipe"
    expected = reference(tiny_bert, TEXTS)
    np.testing.assert_allclose(de.to_array(frame.embedding), expected, rtol=0, atol=1e-5)


def test_the_oldest_go_first() -> None:
    """The limit counts vectors and 480 bytes for each; using one keeps it."""
    cache = VectorCache(3 * (8 + 480))
    assert cache.holds(8) == 3
    for number in range(3):
        cache.put(("kind", bytes([number])), np.full(2, number, np.float32))
    assert cache.get(("kind", b"\x00")) is not None
    cache.put(("kind", b"\x03"), np.zeros(2, np.float32))
    kept = [number for number in range(4) if cache.get(("kind", bytes([number]))) is not None]
    assert kept == [0, 2, 3]


def test_unload_forgets_vectors(cache: None, tiny_bert: str) -> None:
    frame = pd.DataFrame({"text": TEXTS})
    frame.ml.embed(model=tiny_bert)
    de.unload()
    before = totals()["unique_rows"]
    frame.ml.embed(model=tiny_bert)
    assert totals()["unique_rows"] - before == len(TEXTS)


# ------------------------------------------------------------------------------- other results
class OwnClassifier(de.Classifier):
    """What a notebook may define: what it calls can change while its name does not."""


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("repeats") / "classifier"
    return str(headed.save("bert", "classify", folder, num_labels=3))


def labels(folder: str, texts: list[str]) -> tuple[list[str], list[float]]:
    """Labels and probabilities of transformers, one text at a time."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    found = {}
    for text in set(texts):
        tokens = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            best = model(**tokens).logits.softmax(1).max(1)
        found[text] = (model.config.id2label[int(best.indices)], float(best.values))
    names, scores = zip(*(found[text] for text in texts), strict=True)
    return list(names), list(scores)


def test_labels_of_another_partition(cache: None, classifier: str) -> None:
    """As vectors, of each operator for itself; a label costs no less to compute."""
    out, count = ran(repeating().ml.classify(model=classifier), scheduler="sync")
    assert count == len(TEXTS)
    names, scores = labels(classifier, out.text.tolist())
    assert out.label.tolist() == names
    np.testing.assert_allclose(out.label_score, scores, rtol=0, atol=1e-5)
    other, count = ran(repeating().ml.classify(model=classifier, max_length=5), scheduler="sync")
    assert count == len(TEXTS)
    assert other.label_score.round(4).tolist() != out.label_score.round(4).tolist()


def test_token_vectors_of_another_partition(cache: None, tiny_bert: str) -> None:
    """They are the last hidden states of transformers, each text run once."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    lazy = repeating().ml.embed(model=tiny_bert, pooling="none")
    out, count = ran(lazy, scheduler="sync")
    assert count == len(TEXTS)
    tokenizer, model = (
        AutoTokenizer.from_pretrained(tiny_bert),
        AutoModel.from_pretrained(tiny_bert),
    )
    for text, vectors in zip(out.text, out.embedding, strict=True):
        tokens = tokenizer(text, truncation=True, max_length=64, return_tensors="pt")
        with torch.inference_mode():
            expected = model(**tokens).last_hidden_state[0].numpy()
        np.testing.assert_allclose(np.stack(list(vectors)), expected, rtol=0, atol=1e-5)


def test_late_chunks_of_another_partition(cache: None, tiny_bert: str) -> None:
    """Each text runs once; its chunks have the vectors that they have alone in a process."""
    late = de.LateChunkEmbedder(tiny_bert, max_tokens=8, keep_text=True)
    before = totals()["tokens"]
    out = late(repeating()).compute(scheduler="sync")
    ran_once = totals()["tokens"] - before
    for text, rows in out.groupby("text"):
        de.unload()
        before = totals()["tokens"]
        alone = late(pd.DataFrame({"text": [text]}))
        ran_once -= totals()["tokens"] - before
        times = len(rows) // len(alone)
        expected = np.tile(de.to_array(alone.embedding), (times, 1))
        np.testing.assert_allclose(de.to_array(rows.embedding), expected, rtol=0, atol=1e-5)
    assert ran_once == 0


def test_an_operator_of_ones_own_is_not_kept(cache: None, classifier: str) -> None:
    _, count = ran(OwnClassifier(classifier)(repeating()), scheduler="sync")
    assert count == 4 * len(TEXTS)


def test_rows_that_failed_fail_again(cache: None, classifier: str) -> None:
    from transformers import AutoTokenizer

    strict = de.Classifier(classifier, max_length=5, on_long="error", on_error="null")
    first, second = (strict(pd.DataFrame({"text": TEXTS})) for _ in range(2))
    tokenizer = AutoTokenizer.from_pretrained(classifier)
    long = [len(tokenizer(text)["input_ids"]) > 5 for text in TEXTS]
    assert 0 < sum(long) < len(TEXTS)
    assert first.label_error.notna().tolist() == long
    pd.testing.assert_frame_equal(first, second)
