"""Compare dask_embed with sentence-transformers, alone and inside map_partitions.

Every contender embeds the same docstrings with the same weights. Each run is a fresh process,
so that peak memory is its own; the contenders take turns, so that a drifting machine hits all
of them. The clock starts when model and texts are in memory and the first small batch has run.

    python benchmarks/compare.py --rows 1000 --rounds 7
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

PACKAGES = ("dask", "distributed", "numpy", "pandas", "pyarrow", "sentence-transformers")
PACKAGES += ("tokenizers", "torch", "transformers")
CORPUS = ["dask", "distributed", "numpy", "pandas", "scikit-learn", "torch"]
PARTITIONS = 4
BATCH_ROWS = 32  # the default of SentenceTransformer.encode
WARM_UP_ROWS = 8


def main() -> None:
    options = _parser().parse_args()
    if options.contender:
        print(json.dumps(_run_contender(options.contender, options.texts, options.device)))
        return
    if options.rounds < 1 or options.rows < 1:
        raise SystemExit("--rounds and --rows must be positive")
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "texts.parquet"
        corpus = _write_corpus(texts, options.rows)
        runs = _take_turns(texts, options.rounds, options.device)
    result = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": _machine(options.device),
        "versions": {name: metadata.version(name) for name in ("dask-embed", *PACKAGES)},
        "model": "sentence-transformers/all-MiniLM-L6-v2 (float32, at most 256 tokens)",
        "corpus": corpus,
        "rounds": options.rounds,
        "results": _summarize(runs, corpus),
    }
    output = options.output or Path(__file__).parent / "results" / f"compare-{options.device}.json"
    output.write_text(json.dumps(result, indent=2) + "\n")
    _print_table(result)
    print(f"written to {output}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1000, help="docstrings (1000)")
    parser.add_argument("--rounds", type=int, default=7, help="runs of each contender (7)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--output", type=Path, help="json file to write")
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    parser.add_argument("--texts", type=Path, help=argparse.SUPPRESS)
    return parser


def _write_corpus(path: Path, rows: int) -> dict[str, Any]:
    import dask_embed as de
    from dask_embed.inference.runner import runner_for

    every = de.datasets.docstrings(CORPUS).compute(scheduler="synchronous")
    frame = every.sample(n=min(rows, len(every)), random_state=0).reset_index(drop=True)
    frame.to_parquet(path)
    runner = runner_for(de.Model(de.datasets.minilm(), device="cpu"))
    tokens = runner.tokenizer(runner.loaded.checkpoint.max_seq_length)(frame["text"].tolist())
    lengths = tokens.lengths
    return {
        "what": f"a random sample of all docstrings of {', '.join(CORPUS)}",
        "documents": len(frame),
        "distinct": int(frame["text"].nunique()),
        "tokens": int(lengths.sum()),
        "tokens per document": {
            "mean": round(float(lengths.mean()), 1),
            "median": int(statistics.median(lengths.tolist())),
            "longest": int(lengths.max()),
        },
    }


def _take_turns(texts: Path, rounds: int, device: str) -> dict[str, list[dict[str, float]]]:
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in CONTENDERS}
    for number in range(rounds):
        for name in CONTENDERS:
            command = [sys.executable, __file__, "--contender", name, "--texts", str(texts)]
            done = subprocess.run(
                [*command, "--device", device], check=True, stdout=subprocess.PIPE, text=True
            )
            run = json.loads(done.stdout.splitlines()[-1])
            runs[name].append(run)
            print(f"round {number + 1}: {name} {run['seconds']:.1f} s", file=sys.stderr)
    return runs


def _run_contender(name: str, texts: Path, device: str) -> dict[str, float]:
    import pandas as pd

    frame = pd.read_parquet(texts)
    embed = CONTENDERS[name](device)
    embed(frame.head(WARM_UP_ROWS))
    start = time.perf_counter()
    vectors = embed(frame)
    seconds = time.perf_counter() - start
    assert vectors.shape == (len(frame), 384), vectors.shape
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"seconds": seconds, "peak_mib": peak, "checksum": float(abs(vectors).sum())}


def _dask_embed(device: str) -> Any:
    import dask.dataframe as dd

    import dask_embed as de

    embedder = de.Embedder(de.Model(de.datasets.minilm(), device=device, dtype="float32"))

    def embed(frame: Any) -> Any:
        lazy = embedder(dd.from_pandas(frame, npartitions=PARTITIONS, sort=False))
        return de.to_array(lazy.compute()["embedding"])

    return embed


def _sentence_transformers(device: str) -> Any:
    model = _reference(device)
    return lambda frame: model.encode(frame["text"].tolist(), batch_size=BATCH_ROWS)


def _map_partitions(device: str) -> Any:
    import dask.dataframe as dd
    import numpy as np

    model = _reference(device)

    def partition(frame: Any) -> Any:
        vectors = model.encode(frame["text"].tolist(), batch_size=BATCH_ROWS)
        return frame.assign(embedding=list(vectors))

    def embed(frame: Any) -> Any:
        lazy = dd.from_pandas(frame, npartitions=PARTITIONS, sort=False)
        meta = lazy._meta.assign(embedding=None)
        return np.stack(lazy.map_partitions(partition, meta=meta).compute()["embedding"])

    return embed


def _reference(device: str) -> Any:
    from sentence_transformers import SentenceTransformer

    import dask_embed as de

    return SentenceTransformer(de.datasets.minilm(), device=device)


CONTENDERS = {
    "dask_embed": _dask_embed,
    "sentence-transformers": _sentence_transformers,
    "map_partitions(encode)": _map_partitions,
}


def _machine(device: str) -> dict[str, Any]:
    import os

    import torch

    described: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "torch_threads": torch.get_num_threads(),
    }
    if device == "cuda":
        described["gpu"] = torch.cuda.get_device_name()
    return described


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _summarize(
    runs: dict[str, list[dict[str, float]]], corpus: dict[str, Any]
) -> dict[str, dict[str, Any]]:
    summary = {}
    for name, contender in runs.items():
        seconds = [run["seconds"] for run in contender]
        ratios = [
            theirs["seconds"] / ours["seconds"]
            for ours, theirs in zip(contender, runs["sentence-transformers"], strict=True)
        ]
        median = statistics.median(seconds)
        summary[name] = {
            "seconds": [round(value, 2) for value in seconds],
            "median_seconds": round(median, 2),
            "documents_per_second": round(corpus["documents"] / median, 1),
            "tokens_per_second": round(corpus["tokens"] / median),
            "peak_mib": round(statistics.median(run["peak_mib"] for run in contender)),
            "times_sentence_transformers": round(statistics.median(ratios), 2),
            "checksum": round(contender[0]["checksum"], 3),
        }
    return summary


def _print_table(result: dict[str, Any]) -> None:
    machine, corpus = result["machine"], result["corpus"]
    print(f"{machine.get('gpu', machine['processor'])}, {machine['cores']} cores; ", end="")
    print(f"{corpus['documents']} documents, {corpus['tokens']} tokens; median of ", end="")
    print(f"{result['rounds']} interleaved rounds")
    print("| | docs/s | tokens/s | peak MiB | ratio |\n|---|---|---|---|---|")
    for name, row in result["results"].items():
        print(
            f"| {name} | {row['documents_per_second']} | {row['tokens_per_second']:,} "
            f"| {row['peak_mib']:,} | {row['times_sentence_transformers']} |"
        )


if __name__ == "__main__":
    main()
