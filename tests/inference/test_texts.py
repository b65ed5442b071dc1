"""Texts through the loop that runs models: repeats, failures, memory, threads."""

from __future__ import annotations

import threading
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from support import tiny
from support.contract import values_of

import dask_embed as de
from dask_embed.columns import TextColumn
from dask_embed.inference import texts as texts_module
from dask_embed.inference.kept_columns import KeptColumns
from dask_embed.inference.stream import Batching
from dask_embed.inference.texts import ColumnSink, run_texts
from dask_embed.runtime.stats import Meter, totals
from dask_embed.tokens.texts import Made, Texts

pytestmark = pytest.mark.usefixtures("one_torch_thread")
TEXTS = ["one", None, "two words", "", "one", "a bad text", "three more words", "a bad text"]


class Counter:
    """Makes of each text its words; notes what it was given, and in which thread."""

    def __init__(self, refuse: Callable[[Texts], None] = lambda texts: None) -> None:
        self.given: list[str] = []
        self.threads: set[str] = set()
        self.refuse = refuse

    def __call__(self, texts: Texts) -> Made:
        self.refuse(texts)
        self.threads.add(threading.current_thread().name)
        self.given += [text for (text,) in texts.rows]
        counts = [len(text.split()) for (text,) in texts.rows]
        return Made(np.arange(len(counts)), [pa.array(counts, pa.int32())])


def words_of(texts: list[str | None], counter: Counter) -> tuple[list[object], dict, Meter]:
    sink, meter = ColumnSink(len(texts), [pa.int32()]), Meter("Words", "")
    failures = run_texts([TextColumn(texts)], counter, sink, meter)
    return sink.columns()[0].to_pylist(), failures, meter


def test_each_text_is_made_once() -> None:
    """On the threads of the CPU; nulls stay, an empty text is one."""
    counter = Counter()
    counts, failures, meter = words_of(TEXTS, counter)
    assert counts == [1, None, 2, 0, 1, 3, 3, 3]
    assert failures == {}
    assert sorted(counter.given) == sorted({text for text in TEXTS if text is not None})
    assert (meter.record.rows, meter.record.unique_rows, meter.record.batches) == (7, 5, 0)
    assert all(name.startswith("dask-embed-cpu") for name in counter.threads)
    assert meter.record.tokenize_seconds > 0


@pytest.mark.parametrize("most", [5, 250_000])
def test_what_is_refused_fails_alone(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Whatever batch it is in, and its repeats with it."""

    def refuse(texts: Texts) -> None:
        if ("a bad text",) in texts.rows:
            raise OverflowError("no token for it")

    monkeypatch.setattr(texts_module, "_BATCH", Batching(max_tokens=most))
    counts, failures, meter = words_of(TEXTS, Counter(refuse))
    assert counts == [1, None, 2, 0, 1, None, 3, None]
    message = "it cannot be tokenized: no token for it"
    assert failures == {5: message, 7: message}
    assert meter.record.rows == 7
    assert meter.record.splits == 0  # which counts what memory asked for


def test_memory_that_runs_out() -> None:
    """Batches of one text fit, but for the longest, which is told as a model's row is."""

    def refuse(texts: Texts) -> None:
        if len(texts) > 1 or len(texts.rows[0][0]) > 15:
            raise MemoryError("no more")

    counts, failures, meter = words_of(TEXTS, Counter(refuse))
    assert counts == [1, None, 2, 0, 1, 3, None, 3]
    told = "its 16 characters do not fit in the memory of cpu, even alone: no more"
    assert failures == {6: told}
    assert meter.record.splits > 0


def test_an_interrupt_is_no_refusal() -> None:
    def refuse(texts: Texts) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        words_of(TEXTS, Counter(refuse))


def test_rows_of_texts_are_told_apart() -> None:
    """By where one text of a pair ends, too; half of a surrogate pair is a text."""
    rows = [("ab",), ("ab", ""), ("a", "b"), ("", "ab"), ("b", "a"), ("\ud800",), ("",), ("", "")]
    assert len(set(Texts(rows).digests())) == len(rows)
    assert Texts(rows).digests() == [Texts([row]).digests()[0] for row in rows]
    assert Texts(rows).lengths.tolist() == [2, 2, 2, 2, 2, 1, 1, 1]


# ------------------------------------------------------------------------- in another partition
WORDS = ["a few words here", "one", "lazy tables of words", "", "one more row. And another."]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.save("bert", tmp_path_factory.mktemp("texts") / "bert")


@pytest.fixture
def kept() -> Iterator[None]:
    """Keep results, which the other tests do not, and forget them afterwards."""
    de.unload()
    with dask.config.set({"embed.cached-vectors-bytes": 2**20}):
        yield
    de.unload()


def repeating() -> dd.DataFrame:
    """Every partition holds the same texts, in other orders, one of them twice."""
    texts = [text for shift in range(4) for text in [*WORDS[shift:], *WORDS[:shift], "one"]]
    return dd.from_pandas(pd.DataFrame({"text": texts}), npartitions=4, sort=False)


def reference_ids(folder: Path, texts: list[str]) -> list[list[int]]:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    return [tokenizer(text)["input_ids"] for text in texts]


def test_tokens_of_another_partition(kept: None, folder: Path) -> None:
    """Each text is tokenized once in a process, for each way to do it."""
    before = totals()
    out = repeating().ml.tokenize(model=folder).compute(scheduler="sync")
    after = totals()
    assert values_of(out["tokens"]) == reference_ids(folder, out["text"].tolist())
    assert after["tokenized"] - before["tokenized"] == len(WORDS)
    assert after["unique_rows"] - before["unique_rows"] == len(WORDS)
    assert after["rows"] - before["rows"] == 4 * 6
    other = repeating().ml.tokenize(model=folder, special_tokens=False).compute(scheduler="sync")
    expected = [ids[1:-1] for ids in reference_ids(folder, out["text"].tolist())]
    assert values_of(other["tokens"]) == expected
    assert totals()["tokenized"] - after["tokenized"] == len(WORDS)


def test_chunks_of_another_partition(kept: None, folder: Path) -> None:
    """They are the slices that they were, of every row that has the text."""
    frame, before = repeating(), totals()["unique_rows"]
    out = de.Chunker(folder, max_tokens=5, keep_text=True)(frame).compute(scheduler="sync")
    assert totals()["unique_rows"] - before == len(WORDS)
    rows = zip(out["text"], out["chunk_start"], out["chunk_end"], strict=True)
    assert out["chunk"].tolist() == [text[start:end] for text, start, end in rows]
    ids = reference_ids(folder, out["chunk"].tolist())
    assert out["chunk_tokens"].tolist() == [len(each) for each in ids]
    with dask.config.set({"embed.cached-vectors-bytes": 0}):
        alone = de.Chunker(folder, max_tokens=5, keep_text=True)(frame).compute()
    pd.testing.assert_frame_equal(out, alone)


def test_failures_are_not_kept(kept: None, folder: Path) -> None:
    frame = pd.DataFrame({"text": ["one", "many more words than three"]})
    strict = de.Tokenizer(folder, max_length=6, on_long="error", on_error="null")
    for _ in range(2):
        assert strict(frame)["tokens_error"].notna().tolist() == [False, True]
    assert totals()["failed"] >= 2


def test_blocks_go_with_their_digests() -> None:
    """What was not used for longest goes; of a block that is too large the first rows stay."""

    def digests(numbers: range) -> list[bytes]:
        return [bytes([number]) for number in numbers]

    def known(numbers: range) -> dict[int, int]:
        found = {}
        for places, (column,) in kept.find("kind", digests(numbers)):
            found |= dict(zip(places.tolist(), column.to_pylist(), strict=True))
        return found

    # two blocks that take 2,200 bytes besides their rows, of 8 bytes and 200 beside them
    kept = KeptColumns(2 * 2200 + 25 * 208)
    for first in (0, 10):
        numbers = range(first, first + 10)
        kept.keep("kind", digests(numbers), [pa.array(numbers, pa.int64())])
    assert known(range(20)) == {number: number for number in range(20)}
    assert not list(kept.find("another", digests(range(20))))
    known(range(10))
    kept.keep("kind", digests(range(20, 30)), [pa.array(range(20, 30), pa.int64())])
    assert known(range(30)) == {n: n for n in (*range(10), *range(20, 30))}
    kept.keep("kind", digests(range(100, 200)), [pa.array(range(100, 200), pa.int64())])
    assert known(range(100)) == {}
    assert known(range(100, 200)) == {place: 100 + place for place in range(32)}
    assert sum(map(len, kept._places.values())) == 32


def test_a_kind_goes_with_its_last_row() -> None:
    """A process may run any number of operators, and an empty table stays as large as it was."""
    kept = KeptColumns(2 * 2500)
    for number in range(50):
        kept.keep(number, [b"a"], [pa.array([number])])
        kept.keep(number, [b"a"], [pa.array([number])])  # another partition made it, too
    assert list(kept._places) == [49]
    [(places, (column,))] = kept.find(49, [b"a", b"b"])
    assert (places.tolist(), column.to_pylist()) == ([0], [49])


@pytest.mark.alone
def test_rows_that_come_one_by_one_stay_within_the_bound() -> None:
    """Of three columns, as who serves requests has them: most of it is not the values."""
    kept = KeptColumns(2**20)
    columns = [pa.array([1], pa.int32()), pa.array(["label"]), pa.array([0.5])]
    tracemalloc.start()
    for number in range(3000):
        copies = [column.take(pa.array([0])) for column in columns]
        kept.keep("kind", [number.to_bytes(16, "big")], copies)
    taken, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert taken < 2**20
