"""What workers tell while they run: Dask's own metrics, and Prometheus."""

from __future__ import annotations

import functools
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import pandas as pd
import pytest
from distributed.metrics import context_meter
from support import tiny
from support.clusters import cluster

from dask_embed.runtime.stats import metered, writing

FRAME = pd.DataFrame({"text": [f"text {row}" for row in range(11)] + [None]})


def _samples(text: str) -> dict[str, float]:
    """The lines of ours on a page of Prometheus, name and labels to value."""
    lines = [line for line in text.splitlines() if line.startswith("dask_embed_")]
    pairs = [line.rpartition(" ") for line in lines if "_created" not in line]
    return {name: float(value) for name, _, value in pairs}


def test_a_worker_tells_dask_and_prometheus(tmp_path: Path) -> None:
    """Counts by hand: 12 rows of which 11 hold text, in 2 partitions, each of them written once."""
    pytest.importorskip("prometheus_client")
    bert = str(tiny.save("bert", tmp_path / "bert"))
    with cluster(1, 1, processes=False) as client:
        (worker,) = client.cluster.workers.values()
        page = f"http://127.0.0.1:{worker.http_server.port}/metrics"
        before = _samples(urllib.request.urlopen(page).read().decode())
        out = dd.from_pandas(FRAME, npartitions=2).ml.embed("text", model=bert)
        out.ml.to_parquet(tmp_path / "out")
        after = _samples(urllib.request.urlopen(page).read().decode())
        told = {key[-2:]: value for key, value in worker.digests_total.items() if len(key) > 3}
    more = {name: value - before.get(name, 0) for name, value in after.items()}
    assert more['dask_embed_amount_total{kind="rows",operator="Embedder"}'] == 11
    assert more['dask_embed_amount_total{kind="failed",operator="Embedder"}'] == 0
    # "text", a number of one or two pieces, [CLS] and [SEP]
    tokens = FRAME.dropna().ml.tokenize("text", model=bert, count="n").n.sum()
    assert more['dask_embed_amount_total{kind="tokens",operator="Embedder"}'] == tokens
    for phase in ("tokenize", "forward", "convert", "waiting"):
        assert more[f'dask_embed_seconds_total{{operator="Embedder",phase="{phase}"}}'] >= 0
    assert more['dask_embed_seconds_total{operator="to_parquet",phase="write"}'] > 0
    assert told["model-rows", "rows"] == 11
    assert told["model-write", "seconds"] > 0


def test_nothing_is_told_of_a_row_or_a_model() -> None:
    """Neither text nor the place of a model is a label: both may be nobody's business."""
    client = pytest.importorskip("prometheus_client")
    with metered("Embedder", "/home/me/secret-model", 1) as meter:
        meter.count(rows=1)
    page = client.generate_latest().decode()
    assert 'kind="rows",operator="Embedder"' in page
    assert "secret-model" not in page


def test_works_without_prometheus() -> None:
    code = (
        "import sys; sys.modules['prometheus_client'] = None;"
        "from dask_embed.runtime.stats import metered, totals\n"
        "with metered('Embedder', 'model', 3) as meter: meter.count(rows=2)\n"
        "print(totals()['rows'])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"


def test_threads_that_begin_at_a_time_make_one_counter(monkeypatch: pytest.MonkeyPatch) -> None:
    client = pytest.importorskip("prometheus_client")
    from dask_embed.runtime import prometheus

    registry, make = client.CollectorRegistry(), client.Counter

    def slowly(*arguments: Any) -> Any:
        time.sleep(0.05)
        return make(*arguments, registry=registry)

    monkeypatch.setattr(client, "Counter", slowly)
    monkeypatch.setattr(prometheus, "_made", functools.cache(prometheus._made.__wrapped__))
    with ThreadPoolExecutor(4) as pool:
        futures = [pool.submit(prometheus.count, "Op", {"rows": 1}, {}) for _ in range(8)]
        for future in futures:
            future.result()
    page = client.generate_latest(registry).decode()
    assert 'dask_embed_amount_total{kind="rows",operator="Op"} 8.0' in page


def test_seconds_of_writing_are_told_after_an_error_too() -> None:
    told: list[tuple[str, float, str]] = []
    with (
        context_meter.add_callback(lambda label, value, unit: told.append((label, value, unit))),
        pytest.raises(OSError, match="full"),
        writing(),
    ):
        raise OSError(28, "disk full")
    ((label, seconds, unit),) = told
    assert (label, unit) == ("model-write", "seconds")
    assert 0 <= seconds < 10
