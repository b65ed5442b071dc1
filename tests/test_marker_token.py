"""An access token in the environment, or by mistake among options, is looked for everywhere."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import pickle
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import cloudpickle
import dask.dataframe as dd
import pandas as pd
import pytest
from distributed import Client
from support import tiny
from support.clusters import cluster
from test_storage_secrets import MARKER as OF_STORE
from test_storage_secrets import STORE, Vault

import dask_embed as de
from dask_embed.jobs.cli import main

# By its form a token of the Hub, by its content nobody's.
MARKER = "hf_m4rk3rm4rk3rm4rk3rm4rk3rm4rk3rm4rk3r"
_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "AWS_SECRET_ACCESS_KEY", "AZURE_STORAGE_KEY")
TEXTS = pd.DataFrame({"id": range(8), "text": [f"text {row}" for row in range(8)]})
PAGES = (
    *("status", "metrics", "health", "info/main/workers.html", "json/counts.json"),
    *("individual-task-stream", "individual-progress"),
    *("info/worker/{}.html", "info/logs/{}.html", "info/call-stacks/{}.html"),
)


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    import fsspec

    for name in _NAMES:
        monkeypatch.setenv(name, MARKER)
    fsspec.register_implementation("vault", Vault, clobber=True)
    yield
    Vault.store.clear()
    Vault.clear_instance_cache()


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save("bert", tmp_path_factory.mktemp("marker") / "bert"))


_begun: list[int] = []  # of a cluster in this process


def _broken(rows: pd.DataFrame) -> pd.DataFrame:
    """Fail with the last partition, whichever that is."""
    _begun.extend(rows["id"])
    if len(_begun) == len(TEXTS):
        raise ArithmeticError("a row that breaks")
    return rows


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_a_job_and_one_that_fails_tell_no_token(
    bert: str, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    told: dict[str, Any] = {}
    with caplog.at_level(logging.INFO), cluster(1, 1, processes=False) as client:
        out = dd.from_pandas(TEXTS, npartitions=2).ml.embed("text", model=bert)
        each = dd.from_pandas(TEXTS, npartitions=len(TEXTS)).ml.embed("text", model=bert)
        broken = each.map_partitions(_broken, meta=out._meta)
        options = {"storage_options": STORE, "resume": True}
        with de.progress():
            out.ml.to_parquet("vault://bucket/out", **options)
        with pytest.raises(ArithmeticError) as raised:
            broken.ml.to_parquet("vault://bucket/broken", **options)
        told["error"] = str(raised.value)
        late = broken.ml.to_parquet("vault://bucket/broken", **options, compute=False)
        told |= _shown_of(late) | _shown_of(out) | _told_by(client)
        told["statistics"] = de.stats().to_json()
    told["files"] = b"".join(file.getvalue() for file in Vault.store.values())
    told["names"] = [*Vault.store]
    assert any("unfinished" in name for name in told["names"])  # a mark and records, of the failed
    told["log"], told["screen"] = caplog.text, capfd.readouterr()
    assert "a row that breaks" in str(told["worker logs"])
    assert len(str(told["pages"])) > 10_000
    _assert_nothing_of(told, MARKER, OF_STORE)
    sent = cloudpickle.dumps(out) + pickle.dumps(out.ml)
    assert MARKER.encode() not in sent


def _shown_of(collection: Any) -> dict[str, Any]:
    """What a plan and its graph show; what a graph is sent with is another matter."""
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        collection.expr.pprint()
    optimized = collection.optimize()
    return {
        f"plan of {type(collection.expr).__name__}": [
            *(repr(collection), str(collection), printed.getvalue(), repr(optimized.expr)),
            *(str(list(optimized.dask)), repr(dict(optimized.dask)), collection._name),
        ]
    }


def _told_by(client: Client) -> dict[str, Any]:
    """What a scheduler and its workers know, show and have logged."""
    scheduler = client.cluster.scheduler
    (worker,) = client.cluster.workers.values()
    (address,) = scheduler.workers
    pages = [_page(scheduler, path.format(quote(address, safe=""))) for path in PAGES]
    return {
        "pages": pages,
        "metrics of the worker": _page(worker, "metrics"),
        "scheduler logs": client.get_scheduler_logs(),
        "worker logs": client.get_worker_logs(),
        "events": client.get_events(),
        "stories": [str(event) for event in scheduler.transition_log],
        "identity": client.scheduler_info(n_workers=-1),
        "digests": str(worker.digests_total),
    }


def _page(server: Any, path: str) -> str:
    home = f"http://127.0.0.1:{server.http_server.port}"
    with urllib.request.urlopen(f"{home}/{path}", timeout=60) as page:
        return str(page.read().decode())


def _assert_nothing_of(told: dict[str, Any], *markers: str) -> None:
    for place, what in told.items():
        text = what.decode("latin-1") if isinstance(what, bytes) else str(what)
        assert not [marker for marker in markers if marker in text], place


# ------------------------------------------------------------------------------- the command
Files = dict[str, str]
WRONG: dict[str, Callable[[], list[str]]] = {
    "an option": lambda: ["--model-kwargs", f"{{token: {MARKER}}}"],
    "an unknown option": lambda: [f"--hf-token={MARKER}"],
    "another unknown option": lambda: ["--hf-token", MARKER],
    "a folder": lambda: ["--to", f"s3://user:{MARKER}@bucket/out"],
    "an input": lambda: [f"s3://user:{MARKER}@bucket/in"],
    "a condition": lambda: ["--where", f"id == '{MARKER}'"],
    "a cluster": lambda: ["--cluster", f"tcp://user:{MARKER}@127.0.0.1:1"],
    "a cache": lambda: ["--cache", f"s3://bucket/cache?token={MARKER}"],
    "a signed folder": lambda: ["--to", f"s3://bucket/out?X-Amz-Security-Token={MARKER}"],
    "a model": lambda: ["--model", f"https://user:{MARKER}@huggingface.co/owner/model"],
    "--set": lambda: ["--set", f"hf_token={MARKER}"],
    "a value in --set": lambda: ["--set", f"batch_size={MARKER}"],
    "a kind in --set": lambda: ["--set", f"labels={{token: [{MARKER}"],
    "no pair in --set": lambda: ["--set", MARKER],
}
YAML: Files = {
    "an unknown option": f"hf_token: {MARKER}\n",
    "a part of the model": f"model: {{name: bert, token: {MARKER}}}\n",
    "a kind": f"batch_size: {MARKER}\n",
    "a list": f"batch_size: [{MARKER}]\n",
    "an environment": f"model_kwargs: {{headers: {{authorization: 'Bearer {MARKER}'}}}}\n",
    "no yaml": f"to: [{MARKER}\n",
    "a command": f"command: {MARKER}\n",
    "a key": f"{MARKER}: 3\n",
}


@pytest.fixture
def folder(tmp_path: Path, bert: str, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    TEXTS.to_json("rows.jsonl", orient="records", lines=True)
    Path("bert").symlink_to(bert)
    return tmp_path


@pytest.mark.parametrize("where", [*WRONG, *(f"a file: {each}" for each in YAML)])
def test_the_command_refuses_a_token_and_does_not_tell_it(
    where: str, folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["embed", "rows.jsonl", "--to", "out", "--model", "./bert", "--quiet"]
    arguments += ["--log", "log.jsonl", "--json"]
    if where in WRONG:
        arguments += WRONG[where]()
    else:
        Path("options.yaml").write_text(YAML[where.removeprefix("a file: ")])
        arguments += ["--config", "options.yaml"]
    code = main(arguments)
    said = "".join(capfd.readouterr())
    assert code in (2, 3, 4), said
    assert "Traceback" not in said
    log = Path("log.jsonl").read_text() if Path("log.jsonl").exists() else ""
    _assert_nothing_of({"screen": said, "log": log}, MARKER)


def test_the_command_keeps_the_environment_to_itself(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Log, line of json, files and their metadata."""
    arguments = ["embed", "rows.jsonl", "--to", "out", "--model", "./bert", "--cache", "seen"]
    assert main([*arguments, "--log", "log.jsonl", "--json"]) == 0
    screen = capfd.readouterr()
    told: dict[str, Any] = {"screen": "".join(screen)}
    assert json.loads(screen.out)["exit_code"] == 0
    for file in folder.rglob("*"):
        if file.is_file() and "bert" not in file.parts:
            told[str(file)] = file.read_bytes()
    assert len(told) > 4
    _assert_nothing_of(told, MARKER)
