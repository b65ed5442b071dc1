"""Classify docstrings with dask-embed and with transformers' pipeline; print and write the times.

The model is all-MiniLM-L6-v2 under a head for classification with random weights, drawn from a
seed: what it says means nothing, but it costs what a trained one costs. Both sides get the same
pandas frame, cut texts alike and use the same number of torch threads. The pipeline is tried with
several batch sizes and counts with its best. All ways take turns within a round, so that other work
on the machine disturbs all alike; the ratio is the median of those of the rounds.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask
import machine
import pandas as pd

import dask_embed as de

_BATCH_SIZES = (1, 8, 16, 32, 64)
_MAX_TOKENS = 256
_TOLERANCE = 1e-4
_SEED = 20260


def save_classifier(folder: Path, labels: int) -> str:
    """Save MiniLM with a random head of so many labels, as a checkpoint of transformers."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    source = de.datasets.minilm()
    torch.manual_seed(_SEED)
    names = {number: f"class {number}" for number in range(labels)}
    model = AutoModelForSequenceClassification.from_pretrained(
        source, num_labels=labels, id2label=names, label2id={v: k for k, v in names.items()}
    )
    torch.nn.init.normal_(model.classifier.weight, std=0.2)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return str(folder)


def texts(rows: int) -> pd.DataFrame:
    """Return so many docstrings of installed packages."""
    frame = de.datasets.docstrings(["dask", "pandas", "torch"], rows=rows)
    return frame.compute(scheduler="synchronous").reset_index(drop=True)[["text"]]


def contenders(folder: str, frame: pd.DataFrame) -> dict[str, Callable[[], list[Any]]]:
    """Return functions that classify all texts; each gives a list of (label, score)."""
    from transformers import pipeline

    classifier = de.Classifier(folder, max_length=_MAX_TOKENS)
    reference = pipeline("text-classification", model=folder, device="cpu")

    def ours() -> list[Any]:
        out = classifier(frame)
        return list(zip(out["label"], out["label_score"], strict=True))

    def theirs(batch_size: int) -> Callable[[], list[Any]]:
        def run() -> list[Any]:
            found = reference(
                frame["text"].tolist(),
                batch_size=batch_size,
                truncation=True,
                max_length=_MAX_TOKENS,
            )
            return [(entry["label"], entry["score"]) for entry in found]

        return run

    pipelines = {f"pipeline, batches of {size}": theirs(size) for size in _BATCH_SIZES}
    return {"dask-embed": ours, **pipelines}


def timed(ways: dict[str, Callable[[], list[Any]]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each way in each round; another one begins each round.

    Raises
    ------
    ValueError
        If the ways do not agree on labels and scores.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    names = list(ways)
    expected = ways["dask-embed"]()  # also loads the model and starts threads
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begun = time.perf_counter()
            results = ways[name]()
            seconds[name].append(time.perf_counter() - begun)
            compare(name, results, expected)
    return seconds


def compare(name: str, results: list[Any], expected: list[Any]) -> None:
    """Raise ValueError unless both are the same labels, scores within 1e-4."""
    apart = max(abs(a[1] - b[1]) for a, b in zip(results, expected, strict=True))
    # labels with nearly the same score may change places
    others = [a for a, b in zip(results, expected, strict=True) if a[0] != b[0]]
    if apart > _TOLERANCE or len(others) > len(results) / 1000:
        raise ValueError(
            f"{name} gives {len(others)} other labels than dask-embed, and scores that are up to "
            f"{apart:.1e} apart"
        )


def summary(seconds: dict[str, list[float]], rows: int) -> dict[str, Any]:
    """Return medians, the pipeline's best batch size, and the ratio to it."""
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    best = min((name for name in medians if name != "dask-embed"), key=medians.__getitem__)
    rounds = zip(seconds[best], seconds["dask-embed"], strict=True)
    return {
        "rows": rows,
        "seconds": seconds,
        "median_seconds": medians,
        "rows_per_second": {name: rows / median for name, median in medians.items()},
        "best_pipeline": best,
        "ratio": statistics.median(theirs / ours for theirs, ours in rounds),
    }


def show(found: dict[str, Any]) -> None:
    """Print a table of the ways."""
    print(f"{'':26}{'seconds':>10}{'rows/s':>10}{'speed':>8}")
    base = found["median_seconds"][found["best_pipeline"]]
    for name, median in found["median_seconds"].items():
        speed = found["rows_per_second"][name]
        print(f"{name:26}{median:10.2f}{speed:10.1f}{base / median:8.2f}")
    print(f"dask-embed against the best of the pipeline: {found['ratio']:.2f} times as fast")


def main() -> None:
    """Run the benchmark as told on the command line."""
    dask.config.set({"embed.cached-vectors-bytes": 0})  # every round runs all texts
    parser = argparse.ArgumentParser(description="Time dask-embed against transformers' pipeline.")
    parser.add_argument("--rows", type=int, default=2000, help="docstrings (2000)")
    parser.add_argument("--rounds", type=int, default=5, help="runs of every way (5)")
    parser.add_argument("--labels", type=int, default=4, help="labels of the head (4)")
    parser.add_argument("--threads", type=int, help="threads of torch, by default its own choice")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    given = parser.parse_args()

    import torch
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    if given.threads:
        torch.set_num_threads(given.threads)
    with tempfile.TemporaryDirectory() as folder:
        frame = texts(given.rows)
        ways = contenders(save_classifier(Path(folder), given.labels), frame)
        found = summary(timed(ways, given.rounds), len(frame))
    show(found)
    found["machine"] = machine.describe("cpu")
    found["transformers"], found["torch"] = transformers.__version__, torch.__version__
    if given.output:
        given.output.parent.mkdir(parents=True, exist_ok=True)
        given.output.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
