"""What has run is counted: rows, tokens, padding, batches and seconds, wherever it ran."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import time
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import torch
from distributed import Client, LocalCluster
from support import headed, tiny
from support.clusters import cluster
from transformers import AutoModel, AutoTokenizer, MistralConfig

import dask_embed as de
from dask_embed.runtime import stats

pytestmark = pytest.mark.usefixtures("one_torch_thread")

COLUMNS = [
    *("worker", "operator", "model", "device"),
    *("rows", "cached", "failed", "unique_rows", "tokenized", "truncated", "max_length"),
    *("tokens", "padding", "batches", "splits", "pairs", "alike"),
    *("tokenize_seconds", "forward_seconds", "convert_seconds", "waiting_seconds"),
]
SECONDS = COLUMNS[-4:]
# A repeat, nulls, an empty string, unsorted lengths.
TEXTS = ["Return the value.", None, "x", "Return the value.", "", "one two three four five", None]
UNIQUE = ["Return the value.", "x", "", "one two three four five"]


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A checkpoint of its own, so that its records are told from those of other tests."""
    return str(tiny.save("bert", tmp_path / "bert"))


@pytest.fixture
def frame() -> pd.DataFrame:
    return pd.DataFrame({"text": pd.Series(TEXTS, dtype="str")})


def tokens_of(model: str) -> list[int]:
    """Tokens of each of the unique texts, from transformers."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    return [len(ids) for ids in tokenizer(UNIQUE)["input_ids"]]


def recorded(model: str, client: Any = None) -> pd.DataFrame:
    """The rows of `stats` that are about this checkpoint."""
    found = de.stats(client)
    assert list(found.columns) == COLUMNS
    return found[found["model"] == model].reset_index(drop=True)


@pytest.fixture
def no_rayon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers of this process would set it for the rest of the tests."""
    monkeypatch.setenv("RAYON_NUM_THREADS", "1")
    del os.environ["RAYON_NUM_THREADS"]


# ---------------------------------------------------------------------------------------- numbers
def test_numbers_by_hand(model: str, frame: pd.DataFrame) -> None:
    """Rows without nulls, unique texts, and the tokens that the reference's tokenizer gives."""
    frame.ml.embed(model=model)  # loads
    started = time.perf_counter()
    frame.ml.embed(model=model)
    wall = time.perf_counter() - started
    found = recorded(model)
    assert len(found) == 2
    last = found.iloc[1]
    assert (last.worker, last.operator, last.device) == ("", "Embedder", "cpu")
    assert (last.rows, last.unique_rows, last.tokenized) == (5, 4, 5)
    assert last.tokens == sum(tokens_of(model))
    assert (last.padding, last.splits, last.batches) == (0, 0, 1)
    assert (last[SECONDS] >= 0).all()
    assert last.forward_seconds > 0
    assert last.tokenize_seconds > 0
    assert last[SECONDS].sum() <= wall


@pytest.mark.parametrize(("batch_size", "batches"), [(1, 4), (2, 2), (3, 2), (4, 1), (100, 1)])
def test_batches(model: str, frame: pd.DataFrame, batch_size: int, batches: int) -> None:
    frame.ml.embed(model=model, batch_size=batch_size)
    assert recorded(model).batches.tolist() == [batches]


def test_padding_of_one_batch(model: str, frame: pd.DataFrame) -> None:
    """Every row of it is as long as the longest."""
    frame.ml.embed(model=de.Model(model, attention="padded"))
    lengths = tokens_of(model)
    assert len(set(lengths)) > 2
    found = recorded(model).iloc[0]
    assert found.batches == 1
    assert found.tokens == sum(lengths)
    assert found.padding == max(lengths) * len(lengths) - sum(lengths)


def test_padding_of_batches_by_length(model: str, frame: pd.DataFrame) -> None:
    """Texts of like length share a batch: the two longest, the two shortest."""
    frame.ml.embed(model=de.Model(model, attention="padded"), batch_size=2)
    first, second, third, fourth = sorted(tokens_of(model))
    assert recorded(model).padding.tolist() == [second - first + fourth - third]


def test_no_padding_where_each_text_is_a_batch(model: str, frame: pd.DataFrame) -> None:
    frame.ml.embed(model=de.Model(model, attention="padded"), batch_size=1)
    assert recorded(model).padding.tolist() == [0]


def test_tokens_are_those_that_are_kept(model: str, frame: pd.DataFrame) -> None:
    """Cut to four, special tokens included; what is then equal runs once."""
    frame.ml.embed(model=model, max_length=4)
    ids = AutoTokenizer.from_pretrained(model)(UNIQUE, truncation=True, max_length=4)["input_ids"]
    distinct = {tuple(each) for each in ids}
    found = recorded(model).iloc[0]
    assert found.tokens == sum(map(len, distinct))
    assert found.unique_rows == len(distinct)
    assert found.rows == 5


def test_one_row_per_partition(model: str, frame: pd.DataFrame) -> None:
    """Partitions without rows run nothing; one of nulls alone has zeros."""
    parts = [frame.iloc[:2], frame.iloc[:0], frame.iloc[2:6], frame.iloc[6:]]
    dd.from_map(lambda part: part, parts, meta=frame.iloc[:0]).ml.embed(model=model).compute()
    found = recorded(model)
    assert sorted(found.rows) == [0, 1, 4]
    nulls = found[found.rows == 0].iloc[0]
    assert nulls.tokens == nulls.batches == nulls.unique_rows == 0


def test_a_partition_that_fails_is_recorded(model: str) -> None:
    """It took its time, too; rows that are no text were not run."""
    frame = pd.DataFrame({"text": pd.Series(["one", 7, "two"], dtype=object)})
    with pytest.raises(ValueError, match="row 1"):
        frame.ml.embed(model=model)
    frame.ml.embed(model=model, on_error="null")
    assert recorded(model).rows.tolist() == [0, 2]


def test_totals_grow_by_the_records(model: str, frame: pd.DataFrame) -> None:
    before = stats.totals()
    frame.ml.embed(model=model)
    grown = {name: count - before[name] for name, count in stats.totals().items()}
    assert grown == {name: recorded(model)[name].iloc[0] for name in grown}


def test_before_anything_ran() -> None:
    """The columns are there all the same."""
    assert list(de.stats().iloc[:0].columns) == COLUMNS


def test_progress_shows_tokens_a_second(model: str, frame: pd.DataFrame) -> None:
    shown = io.StringIO()
    started = time.monotonic()
    with de.progress(total=len(frame), file=shown):  # those without a text are done, too
        frame.ml.embed(model=model)
    elapsed = time.monotonic() - started
    last = [line for line in shown.getvalue().split("\r") if "tokens/s" in line][-1]
    assert f"{len(frame)}/{len(frame)}" in last
    rate = float(last.split("tokens/s")[0].split(",", 1)[1].split()[-1].replace(",", ""))
    assert rate >= int(sum(tokens_of(model)) / elapsed)
    assert rate > 0


# --------------------------------------------------------------------------------------- clusters
def test_in_process_workers_are_not_counted_twice(
    model: str, frame: pd.DataFrame, no_rayon: None
) -> None:
    """Two workers of this process: its records are those of both, once."""
    with cluster(2, 1, processes=False) as client:
        dd.from_pandas(frame, npartitions=3).ml.embed(model=model).compute(scheduler=client)
        for given in (client, None):
            found = recorded(model, given)
            assert len(found) == 3
            assert found.rows.sum() == 5
            assert set(found.worker) == {""}


ASKED: list[None] = []


def one_fails() -> tuple[tuple[str, int], list[dict[str, Any]]]:
    """What the first worker that is asked cannot tell."""
    ASKED.append(None)
    if len(ASKED) == 1:
        raise OSError("no file handle is left")
    return ("elsewhere", 1), [{"operator": "another", "rows": 11}]


def test_a_worker_that_fails_is_left_out(
    model: str, frame: pd.DataFrame, no_rayon: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And named; the others tell theirs."""
    frame.ml.embed(model=model)
    monkeypatch.setattr(sys.modules[__name__], "ASKED", [])
    with cluster(2, 1, processes=False) as client:
        workers = list(client.scheduler_info()["workers"])
        monkeypatch.setattr("dask_embed.jobs.inspection._process_records", one_fails)
        with pytest.warns(UserWarning, match="statistics of worker .* left out: OSError") as raised:
            found = de.stats(client)
    found = found[(found.model == model) | (found.operator == "another")]
    assert found.rows.tolist() == [5, 11]
    (left_out,) = [worker for worker in workers if worker in str(raised[0].message)]
    assert found.worker.tolist() == ["", next(w for w in workers if w != left_out)]


def test_an_asynchronous_client_is_refused(model: str) -> None:
    """With what to do instead; nothing is left that was never awaited."""

    async def ask() -> None:
        async with (
            LocalCluster(
                n_workers=0,
                processes=False,
                asynchronous=True,
                dashboard_address="127.0.0.1:0",
                scheduler_port=0,
            ) as local,
            Client(local, asynchronous=True) as client,
        ):
            for given in (client, None):
                with pytest.raises(ValueError, match=r"synchronous client, .*stats\(client="):
                    de.stats(given)

    asyncio.run(ask())


@pytest.mark.slow
def test_worker_processes_tell_theirs(model: str, frame: pd.DataFrame) -> None:
    """With their address; Dask's own metrics have the same numbers under our labels."""
    with cluster(2, 1, processes=True) as client:
        out = dd.from_pandas(frame, npartitions=3).ml.embed(model=model)
        out.compute(scheduler=client)
        found = recorded(model)
        assert len(found) == 3
        assert found.rows.sum() == 5
        workers = set(client.scheduler_info()["workers"])
        assert set(found.worker) <= workers
        assert len(client.run(de.unload)) == 2
        assert recorded(model, client).equals(found)
        metrics = _metrics(client)
    assert recorded(model).empty  # this process ran nothing
    assert metrics["model-tokens"] == found.tokens.sum()
    assert metrics["model-rows"] == 5
    assert metrics["model-forward"] == pytest.approx(found.forward_seconds.sum(), rel=0.2, abs=0.02)


def _metrics(client: Client) -> dict[str, float]:
    """Sum what each worker has told Dask, over all tasks, by label."""

    def of_worker(dask_worker: Any) -> dict[Any, float]:
        return dict(dask_worker.digests_total)

    sums: dict[str, float] = {}
    for digests in client.run(of_worker).values():
        for key, amount in digests.items():
            if isinstance(key, tuple) and key[0] == "execute":
                sums[key[-2]] = sums.get(key[-2], 0) + amount
    return sums


# ----------------------------------------------------------------------------------- descriptions
def test_a_packed_model_described(model: str) -> None:
    plain = AutoModel.from_pretrained(model)
    given = de.describe_model(model)
    assert given.architecture == "BertModel"
    assert given.parameters == plain.num_parameters()
    assert (given.dtype, given.device, given.hidden_size) == ("float32", "cpu", 32)
    assert given.position_limit == tiny.POSITIONS
    assert (given.runs, given.reason) == ("packed", "")
    assert "reason" not in str(given)
    assert given.tokens_per_batch == 1024
    assert not given.compiled
    assert given.revision
    assert given.revision.startswith("local-")
    lines = dict(line.split(maxsplit=1) for line in str(given).splitlines() if " " in line.strip())
    assert lines["architecture"] == "BertModel"
    assert lines["runs"] == "packed"
    assert lines["parameters"] == str(plain.num_parameters())


def test_padded_models_described(model: str, tmp_path: Path) -> None:
    """Each says why."""
    t5 = de.describe_model(tiny.save("t5", tmp_path / "t5"))
    assert t5.runs == "padded"
    assert "position_ids" in t5.reason
    assert t5.reason in str(t5)
    told = de.describe_model(de.Model(model, attention="padded"))
    assert told.runs == "padded"
    assert "attention='padded'" in told.reason


def test_a_wide_window_described(tmp_path: Path) -> None:
    sizes = {**tiny._SIZES, **tiny._PADDED, "max_position_embeddings": 1024}
    config = MistralConfig(vocab_size=400, num_key_value_heads=2, sliding_window=600, **sizes)
    torch.manual_seed(0)
    AutoModel.from_config(config).save_pretrained(tmp_path)
    tiny.bpe().save_pretrained(tmp_path)
    given = de.describe_model(str(tmp_path))
    assert given.runs == "packed"
    assert "600" in given.reason
    assert "run alone" in given.reason


def test_counts_are_whole_numbers(model: str, frame: pd.DataFrame) -> None:
    frame.ml.embed(model=model)
    found = recorded(model)
    assert all(found[name].dtype == np.int64 for name in COLUMNS[4:14] if name != "max_length")
    assert found["max_length"].dtype == "Int64"


# ------------------------------------------------------------------------------------ truncation
LONG = ["word " * 30, "x", "for each value " * 20, "one two", "  " + "y " * 6 + " " * 40, ""]


def _longer(model: Any, limit: int, texts: list[str]) -> int:
    """How many of the texts have more tokens than the limit, from transformers."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    return sum(len(ids) > limit for ids in tokenizer(texts)["input_ids"])


@pytest.mark.parametrize("name", ["bert", "roberta", "llama", "t5"])
def test_truncated_texts_are_counted(name: str, tmp_path: Path) -> None:
    """Where a text fills the limit and has no more, it was not cut."""
    folder = str(tiny.save(name, tmp_path / "model"))
    frame = pd.DataFrame({"text": LONG})
    for limit in (6, 8, 40):
        frame.ml.embed(model=folder, max_length=limit)
        last = recorded(folder).iloc[-1]
        assert (last["truncated"], last["max_length"]) == (_longer(folder, limit, LONG), limit)
    frame.ml.embed(model=folder)
    assert recorded(folder)["max_length"].iloc[-1] == tiny.POSITIONS
    frame.iloc[:3].ml.embed(model=folder, max_length=8, on_long="error", on_error="null")
    assert recorded(folder)["truncated"].iloc[-1] == 0


def test_truncated_prompts_are_counted(tmp_path: Path) -> None:
    """Of a decoder the limit leaves room for what it writes, or what it scores."""
    folder = str(headed.save("llama", "causal-lm", tmp_path / "model"))
    frame = pd.DataFrame({"text": LONG})
    de.Generator(folder, max_new_tokens=4, max_length=16)(frame)
    last = recorded(folder).iloc[-1]
    assert (last["truncated"], last["max_length"]) == (_longer(folder, 12, LONG), 12)
    de.CandidateScorer(folder, candidates=["x"], max_length=16)(frame)
    scored = len(AutoTokenizer.from_pretrained(folder)("x", add_special_tokens=False)["input_ids"])
    assert recorded(folder)["truncated"].iloc[-1] == _longer(folder, 16 - scored, LONG) > 0


def test_windows_cut_nothing(tmp_path: Path) -> None:
    folder = str(headed.save("bert", "classify-tokens", tmp_path / "model"))
    frame = pd.DataFrame({"text": LONG})
    de.TokenClassifier(folder, max_length=10)(frame)
    de.TokenClassifier(folder, max_length=10, stride=2)(frame)
    found = recorded(folder)
    assert found["truncated"].tolist() == [_longer(folder, 10, LONG), 0]
    assert found["max_length"].fillna(-1).tolist() == [10, -1]


def test_the_limit_is_explained(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    lazy = dd.from_pandas(pd.DataFrame({"text": LONG}), npartitions=1)
    de.explain(lazy.ml.embed(model=model, max_length=9))
    assert (
        "at most 9 tokens of a row are read, longer ones are cut there" in capsys.readouterr().out
    )
