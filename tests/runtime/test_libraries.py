"""The first use of model libraries in a process: by several threads at a time, and in silence."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from support import headed, tiny

# Every operator that reads files of a model, and what else does: task or None, and the call.
FIRST = {
    "embed": ("embed", "frame.ml.embed(model=model)"),
    "tokenize": ("embed", "frame.ml.tokenize(model=model)"),
    "chunk": ("embed", "frame.ml.chunk(model=model, max_tokens=8)"),
    "chunk late": ("embed", "frame.ml.chunk(model=model, max_tokens=8, late=True)"),
    "classify": ("classify", "frame.ml.classify(model=model)"),
    "rerank": ("classify", "frame.ml.rerank(model=model, query='x')"),
    "classify_zero_shot": (
        "classify",
        "frame.ml.classify_zero_shot(model=model, labels=['a', 'b'], entailment_id=1)",
    ),
    "linear_head": ("embed", "vectors.ml.linear_head('vector', weights=[[1.0] * 8] * 3)"),
    "classify_tokens": ("classify-tokens", "frame.ml.classify_tokens(model=model)"),
    "answer": ("answer", "frame.ml.answer(model=model, question='who?')"),
    "fill_mask": ("fill-mask", "frame.assign(text='a [MASK]').ml.fill_mask(model=model)"),
    "score": ("causal-lm", "frame.ml.score(model=model, candidates=['a', 'b'])"),
    "generate": ("causal-lm", "frame.ml.generate('{text}', model=model, max_new_tokens=2)"),
    "generate from encoded": (
        "seq2seq-lm",
        "frame.ml.generate('{text}', model=model, max_new_tokens=2)",
    ),
    "describe_model": ("embed", "de.describe_model(model)"),
    "quantize": ("embed", "de.quantize(vectors, 'vector', 'binary')"),
    "similarity": ("embed", "vectors.ml.similarity('vector', prototypes={'a': [1.0] * 8})"),
    "on threads of Dask": (
        "embed",
        "dask.dataframe.from_pandas(frame, npartitions=4).ml.embed(model=model).compute()",
    ),
    "a model by itself": ("embed", "de.Embedder(model).runner()"),
    "lazily": (
        "embed",
        "dask.dataframe.from_pandas(frame, npartitions=4).ml.embed(model=model)",
    ),
    "none as the others": (
        "embed",
        "(lambda: frame.ml.embed(model=model), lambda: frame.ml.tokenize(model=model),"
        "lambda: frame.ml.chunk(model=model, max_tokens=8), lambda: de.describe_model(model),"
        "lambda: de.Embedder(model).runner(),"
        "lambda: dask.dataframe.from_pandas(frame, npartitions=4).ml.embed(model=model))"
        "[next(number)]()",
    ),
}
LABELS = {"rerank": 1, "answer": 2}
ARCHITECTURES = {"causal-lm": "llama", "seq2seq-lm": "t5"}
PROGRAM = """
import itertools, sys, threading
import dask.dataframe, pandas as pd, pyarrow as pa
import dask_embed as de

model = sys.argv[1]
frame = pd.DataFrame({"text": [f"text {i}" for i in range(8)]})
vector = pa.array([[0.5] * 8] * 8, pa.list_(pa.float32(), 8))
vectors = pd.DataFrame({"vector": pd.Series(vector, dtype=pd.ArrowDtype(vector.type))})
threads, number = int(sys.argv[2]), itertools.count()
together = threading.Barrier(threads)
sys.setswitchinterval(1e-5)

def work():
    together.wait()
    try:
        CALL
    except Exception as error:
        print(f"{type(error).__name__}: {error}", flush=True)

running = [threading.Thread(target=work) for _ in range(threads)]
for thread in running:
    thread.start()
for thread in running:
    thread.join()
"""


def saved(task: str, folder: Path, labels: int) -> Path:
    architecture = ARCHITECTURES.get(task, "bert")
    if task == "embed":
        return tiny.save(architecture, folder)
    return headed.save(architecture, task, folder, num_labels=labels)


def first_use(folder: Path, name: str, threads: int) -> tuple[str, str]:
    """What a fresh interpreter prints in which so many threads begin with the same."""
    task, call = FIRST[name]
    model = saved(task, folder / "model", LABELS.get(name, 3))
    program = PROGRAM.replace("CALL", call)
    command = [sys.executable, "-c", program, str(model), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    return done.stdout, done.stderr


def test_threads_that_begin_together(tmp_path: Path) -> None:
    """None finds a library half imported; and none of them says a word."""
    assert first_use(tmp_path, "none as the others", 6) == ("", "")


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.parametrize("name", FIRST)
def test_every_operator_first_on_several_threads(tmp_path: Path, name: str) -> None:
    threads = 6 if name == "none as the others" else 4
    assert first_use(tmp_path, name, threads) == ("", "")
