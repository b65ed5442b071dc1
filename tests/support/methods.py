"""A call of every method of ``.ml``, and the small checkpoints that they need."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

import dask_embed as de
from support import headed, tiny

ROWS = 16
TEXTS = pd.DataFrame(
    {"id": range(ROWS), "text": [f"text {row % 11} of many" for row in range(ROWS)]}
)
_NUMBERS = np.random.default_rng(0).normal(size=(ROWS, 8)).astype("float32")
_VECTORS = pa.FixedSizeListArray.from_arrays(pa.array(_NUMBERS.ravel()), 8)
VECTORS = TEXTS.assign(vector=pd.arrays.ArrowExtensionArray(_VECTORS))
WEIGHTS = np.arange(24.0).reshape(3, 8)

# Method and what tells it from another of its name: which model, and the call with that model and
# a folder to write to.
Call = Callable[[Any, Any, str], Any]
CALLS: dict[str, tuple[str, Call]] = {
    "embed": ("embed", lambda f, model, to: f.ml.embed("text", model=model)),
    "tokenize": ("embed", lambda f, model, to: f.ml.tokenize("text", model=model)),
    "chunk": ("embed", lambda f, model, to: f.ml.chunk("text", model=model, max_tokens=8)),
    "chunk late": (
        "embed",
        lambda f, model, to: f.ml.chunk("text", model=model, max_tokens=8, late=True),
    ),
    "classify": ("classify", lambda f, model, to: f.ml.classify("text", model=model)),
    "rerank": ("rerank", lambda f, model, to: f.ml.rerank("text", model=model, query="x")),
    "classify_zero_shot": (
        "classify",
        lambda f, model, to: f.ml.classify_zero_shot(
            "text", model=model, labels=["a", "b"], entailment_id=1
        ),
    ),
    "classify_tokens": (
        "classify-tokens",
        lambda f, model, to: f.ml.classify_tokens("text", model=model),
    ),
    "answer": ("answer", lambda f, model, to: f.ml.answer("text", model=model, question="who?")),
    "fill_mask": (
        "fill-mask",
        lambda f, model, to: f.assign(masked="a [MASK]").ml.fill_mask("masked", model=model),
    ),
    "embed_sparse": ("fill-mask", lambda f, model, to: f.ml.embed_sparse("text", model=model)),
    "embed_multi_vector": (
        "multi-vector",
        lambda f, model, to: f.ml.embed_multi_vector("text", model=model),
    ),
    "score": (
        "causal-lm",
        lambda f, model, to: f.ml.score("text", model=model, candidates=["a", "b"]),
    ),
    "score perplexity": ("causal-lm", lambda f, model, to: f.ml.score("text", model=model)),
    "score next": ("causal-lm", lambda f, model, to: f.ml.score("text", model=model, top_k_next=2)),
    "generate": (
        "causal-lm",
        lambda f, model, to: f.ml.generate("{text}", model=model, max_new_tokens=2),
    ),
    "linear_head": ("", lambda f, model, to: f.ml.linear_head("vector", weights=WEIGHTS)),
    "similarity": (
        "",
        lambda f, model, to: f.ml.similarity("vector", prototypes={"a": WEIGHTS[0]}),
    ),
    "text_statistics": ("", lambda f, model, to: f.ml.text_statistics("text")),
    "text_quality": ("", lambda f, model, to: f.ml.text_quality("text", preset="gopher")),
    "detect_language": ("", lambda f, model, to: f.ml.detect_language("text")),
    "replace_personal_data": ("", lambda f, model, to: f.ml.replace_personal_data("text")),
    "mark_exact_duplicates": ("", lambda f, model, to: f.ml.mark_exact_duplicates("text")),
    "drop_exact_duplicates": ("", lambda f, model, to: f.ml.drop_exact_duplicates("text")),
    "mark_fuzzy_duplicates": ("", lambda f, model, to: f.ml.mark_fuzzy_duplicates("text")),
    "drop_fuzzy_duplicates": ("", lambda f, model, to: f.ml.drop_fuzzy_duplicates("text")),
    "fuzzy_signatures": ("", lambda f, model, to: f.ml.fuzzy_signatures("text")),
    "mark_semantic_duplicates": ("", lambda f, model, to: f.ml.mark_semantic_duplicates("vector")),
    "drop_semantic_duplicates": ("", lambda f, model, to: f.ml.drop_semantic_duplicates("vector")),
    "cluster": ("", lambda f, model, to: f.ml.cluster("vector", n_clusters=2)),
    "nearest": ("", lambda f, model, to: f.ml.nearest(f, k=2, column="vector")),
    "nearest by texts": (
        "embed",
        lambda f, model, to: (
            f[["id", "text"]].ml.embed("text", model=model).ml.nearest(["a text"], k=2)
        ),
    ),
    "to_parquet": (
        "embed",
        lambda f, model, to: _read(f.ml.embed("text", model=model).ml.to_parquet(to), to),
    ),
    "to_lance": ("embed", lambda f, model, to: f.ml.embed("text", model=model).ml.to_lance(to)),
    "to_delta": ("embed", lambda f, model, to: f.ml.embed("text", model=model).ml.to_delta(to)),
}


def _read(written: None, to: str) -> Any:
    return de.read_parquet(to)


def save(task: str, folder: Path) -> str:
    """Write what the calls of `task` run; return the name of the folder."""
    if task == "embed":
        tiny.save("bert", folder)
    elif task == "multi-vector":
        tiny.add_mask(tiny.save("bert", folder))
    elif task:
        labels = {"rerank": 1, "answer": 2}.get(task, 3)
        name = "llama" if task == "causal-lm" else "bert"
        headed.save(name, "classify" if task == "rerank" else task, folder, num_labels=labels)
    return str(folder)
