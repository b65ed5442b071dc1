"""Measure dask_embed beside sentence-transformers on a GPU, with models of real shapes.

Weights are random, so that nothing is downloaded: speed does not depend on them. Documents have
128 tokens each, then lengths as documentation has them. The two take turns in one process.

    python benchmarks/gpu.py
    python benchmarks/gpu.py --device cpu --tiny   # small shapes: only tries the code
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from machine import Work, describe, matmul_rate, synchronize
from peers import PROJECT
from random_models import (
    NAMES,
    documents,
    is_causal,
    mixed_lengths,
    save_model,
    uniform_lengths,
)
from report import REFERENCE, spread

CORPORA = {"uniform": uniform_lengths, "mixed": mixed_lengths}
# Large models get fewer documents.
SHARES = {"bert-large": 2, "llama-1b": 8}
FIRST_BATCH = 64
_TINY_DOCUMENTS = 32
_TINY_MATMUL = 256

Embed = Callable[[list[str]], np.ndarray]


def main() -> None:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["DASK_EMBED__CACHED_VECTORS_BYTES"] = "0"  # or later rounds run no model
    options = _options()
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(options.device),
        "versions": PROJECT.versions(),
        "dtype": options.dtype,
        "rounds": options.rounds,
        "sentence-transformers batch_size": options.batch_size,
        "models": {},
    }
    for name in options.models:
        with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
            measured = _measure(name, Path(folder), options)
        result["models"][name] = measured
        print(f"### {name}\n\n{_table(measured)}\n", flush=True)
    if options.output:
        options.output.write_text(json.dumps(result, indent=2) + "\n", "utf8")
        print(f"written to {options.output}")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="small shapes, few texts, float32")
    parser.add_argument("--models", nargs="+", choices=NAMES, default=list(NAMES))
    parser.add_argument("--documents", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=256, help="of sentence-transformers")
    parser.add_argument("--output", type=Path, help="json file (results/gpu.json unless --tiny)")
    options = parser.parse_args()
    options.dtype = "float32" if options.tiny else "bfloat16"
    if options.tiny:
        options.documents = _TINY_DOCUMENTS
    elif options.output is None:
        options.output = Path(__file__).parent / "results" / "gpu.json"
    return options


def _measure(name: str, folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    shape = save_model(name, folder, device=options.device, dtype=options.dtype, tiny=options.tiny)
    work = Work.of(str(folder), causal=is_causal(name))
    size = _TINY_MATMUL if options.tiny else None
    start = matmul_rate(options.device, options.dtype, size)
    count = options.documents // SHARES.get(name, 1)
    lengths = {corpus: drawn(count) for corpus, drawn in CORPORA.items()}
    texts = {corpus: documents(drawn) for corpus, drawn in lengths.items()}
    loaded = {
        contender: _Loaded(load, str(folder), texts["uniform"], options)
        for contender, load in _CONTENDERS.items()
    }
    rates = {"start": start}
    results = {}
    for corpus, some in texts.items():
        for contender in loaded.values():
            contender.run(some)  # what a first run allocates does not count
            contender.begin()
        for _ in range(options.rounds):
            for contender in loaded.values():
                contender.run(some)
        rates[corpus] = matmul_rate(options.device, options.dtype, size)
        seconds = work.flops(lengths[corpus]) / float(np.mean([*rates.values()]))
        reference, tokens = loaded[REFERENCE], int(lengths[corpus].sum())
        results[corpus] = {
            "documents": count,
            "tokens": tokens,
            "longest": int(lengths[corpus].max()),
            **{each: own.summary(reference, tokens, seconds) for each, own in loaded.items()},
        }
    return {
        **shape,
        "useful_flops": work.explained(),
        "matmul_tflops": {when: round(rate / 1e12, 3) for when, rate in rates.items()},
        "results": results,
    }


def _dask_embed(folder: str, options: argparse.Namespace) -> Embed:
    import pandas as pd

    import dask_embed as de

    embedder = de.Embedder(de.Model(folder, device=options.device, dtype=options.dtype))

    def embed(texts: list[str]) -> np.ndarray:
        return de.to_array(embedder(pd.DataFrame({"text": texts}))["embedding"])

    return embed


def _sentence_transformers(folder: str, options: argparse.Namespace) -> Embed:
    import torch
    from sentence_transformers import SentenceTransformer

    dtype = {"dtype": getattr(torch, options.dtype)}
    model = SentenceTransformer(folder, device=options.device, model_kwargs=dtype)
    return lambda texts: model.encode(texts, batch_size=options.batch_size).astype("float32")


_CONTENDERS = {"dask-embed": _dask_embed, REFERENCE: _sentence_transformers}


class _Loaded:
    """A contender that has embedded its first batch, and what its runs took."""

    def __init__(
        self,
        load: Callable[[str, argparse.Namespace], Embed],
        folder: str,
        texts: list[str],
        options: argparse.Namespace,
    ) -> None:
        self._device = options.device
        before = self._allocated()
        start = time.perf_counter()
        self._embed = load(folder, options)
        self._embed(texts[:FIRST_BATCH])
        self.first_batch_seconds = time.perf_counter() - start
        self._held = self._allocated() - before
        self.begin()

    def begin(self) -> None:
        """Forget the runs of another corpus."""
        self.seconds: list[float] = []
        self.peak_bytes = 0
        self.vectors = np.empty((0, 0), np.float32)

    def run(self, texts: list[str]) -> None:
        """Embed all texts; another contender's model in memory does not count as this one's."""
        import torch

        others = self._allocated() - self._held
        if self._device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        synchronize(self._device)
        start = time.perf_counter()
        self.vectors = np.asarray(self._embed(texts))
        synchronize(self._device)
        self.seconds.append(time.perf_counter() - start)
        if self._device == "cuda":
            self.peak_bytes = max(self.peak_bytes, torch.cuda.max_memory_allocated() - others)

    def summary(self, reference: _Loaded, tokens: int, seconds_at_peak: float) -> dict[str, Any]:
        """Return the figures for the result."""
        median = float(np.median(self.seconds))
        pairs = zip(reference.seconds, self.seconds, strict=True)
        lengths = [np.linalg.norm(vectors, axis=1) for vectors in (self.vectors, reference.vectors)]
        cosines = (self.vectors * reference.vectors).sum(axis=1) / (lengths[0] * lengths[1])
        return {
            "seconds": [round(value, 4) for value in self.seconds],
            "documents_per_second": round(len(self.vectors) / median, 1),
            "tokens_per_second": round(tokens / median),
            "times_sentence_transformers": spread([theirs / own for theirs, own in pairs], 3),
            "share_of_matmul_peak": round(seconds_at_peak / median, 4),
            "first_batch_seconds": round(self.first_batch_seconds, 3),
            "max_memory_allocated_mib": round(self.peak_bytes / 2**20),
            "lowest_cosine": round(float(cosines.min()), 6),
        }

    def _allocated(self) -> int:
        import torch

        return torch.cuda.memory_allocated() if self._device == "cuda" else 0


def _table(measured: dict[str, Any]) -> str:
    rates = measured["matmul_tflops"]
    lines = [
        f"{measured['parameters']:,} parameters; matrix product "
        + ", ".join(f"{rate} TFLOP/s ({when})" for when, rate in rates.items()),
        "",
        "| | | tokens/s | times sentence-transformers (min to max) | share of matmul peak "
        "| first batch s | peak MiB | lowest cosine |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for corpus, results in measured["results"].items():
        for name in _CONTENDERS:
            row = results[name]
            ratio = row["times_sentence_transformers"]
            lines.append(
                f"| {corpus} | {name} | {row['tokens_per_second']:,} | {ratio['median']:.2f} "
                f"({ratio['min']:.2f} to {ratio['max']:.2f}) | {row['share_of_matmul_peak']:.1%} "
                f"| {row['first_batch_seconds']} | {row['max_memory_allocated_mib']:,} "
                f"| {row['lowest_cosine']} |"
            )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
