"""As many threads as a worker has, never more than cores, on every scheduler."""

from __future__ import annotations

import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import pandas as pd
import psutil
import pyarrow as pa
import pytest
import torch
from dask.system import CPU_COUNT
from support import tiny
from support.clusters import cluster

import dask_embed as de
from dask_embed.runtime.lanes import Lanes, lanes_of

pytestmark = pytest.mark.alone


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save("bert", tmp_path_factory.mktemp("threads") / "bert"))


@pytest.fixture(autouse=True)
def _unload() -> Iterator[None]:
    yield
    de.unload()


def threads_of_the_lanes() -> tuple[int, int, int, int]:
    """Batches at a time, torch's threads in one of them and in one alone, and here; in a task."""
    lanes = lanes_of(torch.device("cpu"))
    before = torch.get_num_threads()
    with lanes.jobs() as jobs:
        shared = jobs.run(torch.get_num_threads).result()
        alone = jobs.run(torch.get_num_threads, lanes.count).result()
    assert torch.get_num_threads() == before
    return lanes.count, shared, alone, before


@pytest.mark.parametrize(
    ("workers", "threads", "processes", "expected"),
    [
        (1, 2, True, 2),
        (1, 1, False, 1),
        (1, 2, False, 2),
        (2, 1, False, 2),
        (1, 5 * CPU_COUNT, False, CPU_COUNT),
        (2, CPU_COUNT, False, CPU_COUNT),
    ],
)
def test_lanes_of_a_worker(workers: int, threads: int, processes: bool, expected: int) -> None:
    """As many as the worker has threads, or all workers of the process, and never more cores."""
    with cluster(workers, threads, processes=processes) as client:
        count, shared, alone, _ = client.submit(threads_of_the_lanes, pure=False).result()
    assert (count, shared, alone) == (min(expected, CPU_COUNT), 1, min(expected, CPU_COUNT))


def test_a_thread_that_begins_while_batches_run_has_all_cores() -> None:
    """torch starts a thread with what was set last, so a batch's one thread must not be that."""
    own = torch.get_num_threads()
    begun: list[tuple[int, int]] = []

    def begin() -> None:
        begun.append((torch.get_num_threads(), lanes_of(torch.device("cpu")).count))

    lanes = Lanes(torch.device("cpu"), 2)
    with lanes.jobs() as jobs:
        seen = [jobs.run(torch.get_num_threads, threads).result() for threads in (1, 2, 1)]
        thread = threading.Thread(target=begin)
        thread.start()
        thread.join()
    assert seen == [1, 2, 1]
    assert begun == [(own, own)]
    assert torch.get_num_threads() == own


def test_outside_of_workers_torch_decides() -> None:
    own = torch.get_num_threads()
    assert threads_of_the_lanes() == (own, 1, own, own)


def test_texts_are_tokenized_on_the_lanes(model: str) -> None:
    """Not by another team of threads, unless the user asks for one."""
    run = "import sys, os, dask_embed as de; de.describe_model(sys.argv[1]); "
    code = run + "print(os.environ['TOKENIZERS_PARALLELISM'])"
    for given, expected in ((None, "false"), ("true", "true")):
        variables = {k: v for k, v in os.environ.items() if k != "TOKENIZERS_PARALLELISM"}
        variables |= {} if given is None else {"TOKENIZERS_PARALLELISM": given}
        command = [sys.executable, "-c", code, model]
        done = subprocess.run(command, env=variables, check=True, capture_output=True, text=True)
        assert done.stdout.split()[-1] == expected


def test_batches_never_take_more_threads_than_there_are() -> None:
    """Also where some of them take several."""
    lanes = Lanes(torch.device("cpu"), 3)
    lock, running, most = threading.Lock(), 0, 0

    def work(threads: int) -> None:
        nonlocal running, most
        with lock:
            running += threads
            most = max(most, running)
        time.sleep(0.01)
        with lock:
            running -= threads

    with lanes.jobs() as jobs:
        futures = [jobs.run(partial(work, n), n) for n in (1, 3, 2, 1, 1, 2, 3, 1, 1, 1)]
        for future in futures:
            future.result()
    assert most == 3


def test_an_error_drops_what_has_not_begun() -> None:
    """And torch has its threads again."""
    own = torch.get_num_threads()
    begun = []
    lanes = Lanes(torch.device("cpu"), 1)
    futures = []

    def fail() -> None:
        with lanes.jobs() as jobs:
            jobs.run(lambda: time.sleep(0.2))
            futures.extend(jobs.run(partial(begun.append, number)) for number in range(5))
            raise RuntimeError("lost")

    with pytest.raises(RuntimeError, match="lost"):
        fail()
    assert not begun
    assert [future.cancelled() for future in futures] == [True] * 5
    assert torch.get_num_threads() == own


def test_a_lane_is_free_again_whatever_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch, a setting that cannot be used, or what gives memory back."""
    lanes = Lanes(torch.device("cpu"), 1)
    with lanes.jobs() as jobs:
        with dask.config.set({"embed.keep-freed-bytes": "much"}):
            assert jobs.run(lambda: 7).result(10) == 7
        assert lanes._free == 1
        monkeypatch.setattr("dask_embed.runtime.lanes.give_back_freed_memory", lambda: 1 / 0)
        assert jobs.run(lambda: 7).result(10) == 7
        with pytest.raises(TypeError):
            jobs.run(lambda: len(3)).result(10)
    assert lanes._free == 1


def test_partitions_take_turns() -> None:
    """One with a single batch waits for none of those that another has queued, but the running."""
    order: list[str] = []
    held = threading.Event()
    lanes = Lanes(torch.device("cpu"), 1)
    with lanes.jobs() as long, lanes.jobs() as short:
        long.run(held.wait)
        futures = [long.run(partial(order.append, "long")) for _ in range(5)]
        futures += [short.run(partial(order.append, "short")) for _ in range(2)]
        held.set()
        for future in futures:
            future.result(10)
    assert order == ["long", "short", "long", "short", "long", "long", "long"]


def test_a_batch_of_all_cores_is_not_overtaken() -> None:
    """While others of one core each come without end."""
    lanes = Lanes(torch.device("cpu"), 2)
    alone = threading.Event()
    with lanes.jobs() as many, lanes.jobs() as one:
        futures = [many.run(partial(time.sleep, 0.01)) for _ in range(200)]
        one.run(alone.set, 2)
        assert alone.wait(10)
        assert sum(future.done() for future in futures) < 20


# ------------------------------------------------------------------- what nobody waits for any more
BATCHES = 400
_ran: list[str] = []


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batches(de.ColumnOperator):
    """Run many short batches for each partition, eight seconds in all; or what the text says."""

    input_columns = property(lambda self: ("text",))
    result_columns = property(lambda self: ("ran",))

    def types(self) -> dict[str, pa.DataType]:
        return {"ran": pa.int64()}

    def plan(self) -> list[str]:
        return ["batches"]

    def provenance(self) -> dict[str, Any]:
        return {"operator": "Batches"}

    def run(self, columns: list[Any], *, on_device: bool, meter: Any) -> Any:
        text = columns[0].values[0]
        if text != "batches":
            assert eventually(lambda: bool(_ran))
            if text == "interrupt":
                # a signal, as of Ctrl-C: it wakes a thread that waits for a lock
                signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
                time.sleep(2)
            raise ValueError("lost")
        with lanes_of(torch.device("cpu")).jobs() as jobs:
            for future in [jobs.run(self._batch) for _ in range(BATCHES)]:
                future.result()
        return {"ran": pa.array([1] * len(columns[0].values))}, {}

    def _batch(self) -> None:
        _ran.append("batch")
        time.sleep(0.02)


def eventually(holds: Callable[[], bool]) -> bool:
    """Return whether it does within half a minute."""
    end = time.monotonic() + 30
    while not holds() and time.monotonic() < end:
        time.sleep(0.01)
    return holds()


def ended() -> bool:
    """Return whether no batch begins any more, and most never did."""
    before = len(_ran)
    time.sleep(0.3)
    return len(_ran) == before < BATCHES / 2


@pytest.fixture
def frame() -> Callable[..., Any]:
    _ran.clear()

    def lazy(*texts: str) -> Any:
        whole = pd.DataFrame({"text": list(texts)})
        return dd.from_pandas(whole, npartitions=len(texts), sort=False)

    return lazy


@pytest.fixture
def _interruptible() -> Iterator[None]:
    """A shell starts what runs in its background with interrupts ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_interruptible")
@pytest.mark.parametrize("as_function", [False, True])
@pytest.mark.parametrize("why", ["interrupt", "fail"])
def test_partitions_of_threads_end_with_their_computation(
    frame: Callable[..., Any], why: str, as_function: bool
) -> None:
    given = frame(why, "batches")
    operator = Batches()
    out = (
        given.map_partitions(operator, meta=operator.meta(given._meta))
        if as_function
        else operator(given)
    )
    expected = KeyboardInterrupt if why == "interrupt" else ValueError
    with dask.config.set(scheduler="threads", num_workers=2), pytest.raises(expected):
        out.compute()
    assert eventually(ended)


def test_other_computations_go_on(frame: Callable[..., Any]) -> None:
    """One that fails beside another, and one that runs within a task, end no other."""
    lost, kept = Batches()(frame("fail", "batches")), Batches()(frame("batches"))
    found = []
    with dask.config.set(scheduler="threads", num_workers=2):
        other = threading.Thread(target=lambda: found.append(kept.compute()))
        other.start()
        with pytest.raises(ValueError, match="lost"):
            lost.compute()
        other.join(60)
    assert found[0]["ran"].tolist() == [1]


def test_a_cancelled_task_of_a_worker_ends(frame: Callable[..., Any]) -> None:
    with cluster(1, 1, processes=False) as client:
        future = client.compute(Batches()(frame("batches")))
        assert eventually(lambda: bool(_ran))
        future.cancel()
        del future
        assert eventually(ended)
        again = client.compute(Batches()(frame("batches")))
        assert again.result()["ran"].tolist() == [1]


# -------------------------------------------------------------------------------------- processes
FORKS = """
import multiprocessing, sys, threading
import numpy as np, pandas as pd, pyarrow as pa, torch
import dask_embed as de
from dask_embed.runtime import registry

frame = pd.DataFrame({"text": [f"some words {i} " * 10 for i in range(100)]})
near = de.Similarity({"a": [1.0, 0.0], "b": [0.0, 1.0]})
vector = pd.Series([[1.0, 0.5]], dtype=pd.ArrowDtype(pa.list_(pa.float32())))

def embedded():
    return de.to_array(frame.ml.embed(model=sys.argv[1]).embedding)

def nearest():
    return near(pd.DataFrame({"embedding": vector}))["nearest"].tolist()

def tokenized():
    return frame.head(2).ml.tokenize(model=sys.argv[1])["tokens_count"].tolist()

def in_a_fork(work):
    def child():
        try:
            found.put(work())
        except Exception as error:
            found.put(f"{type(error).__name__}: {error}")
    context = multiprocessing.get_context("fork")
    found = context.Queue()
    process = context.Process(target=child, daemon=True)
    process.start()
    try:
        return found.get(timeout=30)
    finally:
        process.kill()

unused, counts = in_a_fork(embedded), tokenized()
torch.ones(1000, 1000) @ torch.ones(1000, 1000)  # by a team of threads
expected = embedded()
print(np.abs(unused - expected).max() < 1e-6)
print(in_a_fork(embedded))
print(in_a_fork(tokenized) == counts == tokenized())
held, done = threading.Event(), threading.Event()

def hold():
    with registry._models._lock, registry.parts._lock:
        held.set()
        done.wait()

threading.Thread(target=hold).start()
held.wait()
print(in_a_fork(nearest), in_a_fork(de.unload))
done.set()
print(de.unload() > 0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_processes(model: str) -> None:
    """Before a model ran they work, afterwards they say why not; what needs none works always."""
    command = [sys.executable, "-c", FORKS, model]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=150)
    same, refused, counted, others, unloaded = done.stdout.splitlines()[-5:]
    assert same == "True"
    assert refused.startswith("RuntimeError: this process was forked after a model ran in its pare")
    assert refused.endswith("start workers with spawn or forkserver")
    assert counted == "True"
    assert others == "['a'] 0"
    assert unloaded == "True"


# ------------------------------------------------------------------------------- threads that run
class RunningThreads:
    """Sample which threads of some processes run or want to, this one left out."""

    def __init__(self, processes: list[int]) -> None:
        self._processes = processes
        self._samples = 0
        self._running: Counter[Path] = Counter()
        self._spent: dict[Path, list[int]] = {}
        self._finished = threading.Event()

    def __enter__(self) -> RunningThreads:
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *error: Any) -> None:
        self._finished.set()
        self._thread.join()

    def mean(self) -> float:
        """Mean number at a time, of threads that do a tenth of what the busiest does.

        The others, such as event loops, are queued for long where the machine is busy.
        """
        assert self._samples > 20, "too few samples to say anything"
        spent = {task: ticks[-1] - ticks[0] for task, ticks in self._spent.items()}
        least = max(spent.values()) / 10
        return sum(self._running[task] for task in spent if spent[task] >= least) / self._samples

    def _watch(self) -> None:
        own = str(threading.get_native_id())
        while not self._finished.wait(0.01):
            self._samples += 1
            for process in self._processes:
                for task in Path(f"/proc/{process}/task").iterdir():
                    if task.name != own:
                        self._look_at(task)

    def _look_at(self, task: Path) -> None:
        try:
            state, *fields = (task / "stat").read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            return
        self._running[task] += state == "R"
        self._spent.setdefault(task, []).append(int(fields[10]) + int(fields[11]))


@pytest.fixture(scope="module")
def texts() -> pd.DataFrame:
    # 240 texts of unsorted lengths, none twice
    return pd.DataFrame({"text": [f"{i} " + "some words " * (i * 7 % 40) for i in range(240)]})


SCHEDULERS = {
    "threads": None,
    "two processes of one thread": (2, 1),
    "one process of two threads": (1, 2),
}


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="needs Linux's /proc")
@pytest.mark.parametrize("name", SCHEDULERS)
def test_no_more_threads_run_than_there_are_cores(
    minilm: str, texts: pd.DataFrame, name: str
) -> None:
    """While MiniLM runs, tokenizing included, on average; the machine is not oversubscribed."""
    cores = len(psutil.Process().cpu_affinity())
    out = dd.from_pandas(texts, npartitions=8).ml.embed(model=minilm)
    if SCHEDULERS[name] is None:
        out.head(1)  # loads
        with dask.config.set(scheduler="threads", num_workers=4):
            mean = _mean_while(out, [os.getpid()])
    else:
        workers, threads = SCHEDULERS[name]
        cores = min(cores, workers * threads)
        with cluster(workers, threads, processes=True) as client:
            client.run(de.describe_model, minilm)  # loads
            mean = _mean_while(out, list(client.run(os.getpid).values()))
    assert 0.3 < mean <= cores + 0.5


def _mean_while(out: Any, processes: list[int]) -> float:
    """The mean over at least a second."""
    with RunningThreads(processes) as running:
        started = time.monotonic()
        while time.monotonic() - started < 2:
            out.compute()
    return running.mean()
