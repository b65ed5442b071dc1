"""Compare dask_embed with other ways to embed the texts of Parquet files.

All contenders have the same weights, texts and type, and read and write Parquet. Each run is a
fresh process: it loads the model, embeds a few texts, and then the clock starts. Contenders take
turns within a round, each round beginning with another one, so that a drifting machine hits all.

    python benchmarks/peers.py install      # once; without it, only what the project has runs
    python benchmarks/compare.py
    python benchmarks/compare.py --rows 40 --rounds 1 --corpora docstrings   # a quick look
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from contenders import CONTENDERS
from corpora import CORPORA, STS, Corpus, Source, write_corpus
from machine import Work, describe, matmul_rate
from report import REFERENCE, Run, markdown, summarize
from trial import ContenderFailedError, Models, environment_of, export, run_once

# How far vectors may lie from the reference's; two orders of summation differ by more in
# shorter types.
TOLERANCES = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}
ROWS = CORPORA["docstrings"][1]
BUSY = 0.5  # load: a core that is shared halves the speed, or worse where threads wait spinning
Race = tuple[dict[str, list[Run]], dict[str, str]]  # runs of contenders; why others failed


def main() -> None:
    options = _options()
    options.load = os.getloadavg()[0]
    if options.load > BUSY:
        print(
            f"load {options.load:.1f}: this machine is busy, figures will be wrong", file=sys.stderr
        )
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        result = _measure(options, Path(folder))
    output = options.output or Path(__file__).parent / "results" / f"compare-{options.device}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n", "utf8")
    print(markdown(result))
    print(f"\nwritten to {output}")
    problems = _problems(result)
    if problems:
        raise SystemExit("\n".join(["", *problems]))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rows",
        type=int,
        default=ROWS,
        help=f"rows of the corpus docstrings ({ROWS}); the others keep their proportion to it",
    )
    parser.add_argument("--rounds", type=int, default=3, help="runs of each contender (3)")
    parser.add_argument("--corpora", nargs="+", choices=CORPORA, default=list(CORPORA))
    parser.add_argument("--contenders", nargs="+", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=TOLERANCES, default="float32")
    parser.add_argument("--sts", type=Path, default=STS, help=f"STS 2015 as Parquet ({STS})")
    parser.add_argument("--against", type=Path, help="another checkout of the project")
    parser.add_argument("--output", type=Path, help="json file (results/compare-DEVICE.json)")
    options = parser.parse_args()
    if options.rounds < 1 or options.rows < 1:
        parser.error("--rounds and --rows must be positive")
    return options


def _measure(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    import dask_embed as de

    model = de.datasets.minilm()
    work = Work.of(model)
    contenders, models = _contenders(options, model, folder / "exported")
    running = [name for name, entry in contenders.items() if "not run" not in entry]
    corpora, left_out = _corpora(options, Source(model, options.sts), folder)
    start = matmul_rate(options.device, options.dtype)
    races = {
        name: _race(name, corpus, running, models, options) for name, corpus in corpora.items()
    }
    end = matmul_rate(options.device, options.dtype)
    return {
        **_circumstances(options),
        "matmul_gflops": {"start": round(start / 1e9, 1), "end": round(end / 1e9, 1)},
        "useful_flops": work.explained(),
        "contenders": contenders,
        "environments": {
            environment.name: environment.described()
            for environment in dict.fromkeys(environment_of(name) for name in running)
        },
        "corpora": {
            name: _summary(corpus, races[name], work, (start + end) / 2)
            for name, corpus in corpora.items()
        }
        | left_out,
    }


def _circumstances(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": describe(options.device) | {"load_at_start": options.load},
        "model": "sentence-transformers/all-MiniLM-L6-v2, at most 256 tokens",
        "device": options.device,
        "dtype": options.dtype,
        "rounds": options.rounds,
        "tolerance": TOLERANCES[options.dtype],
    }


def _contenders(
    options: argparse.Namespace, model: str, folder: Path
) -> tuple[dict[str, dict[str, str]], Models]:
    """Return what the result says of each contender, and the models that they run."""
    described: dict[str, dict[str, str]] = {}
    against = str(options.against.resolve()) if options.against else None
    models = Models(model, {}, against)
    for name, contender in CONTENDERS.items():
        entry = {"what": contender.what, "environment": environment_of(name).name}
        reason = _not_run(name, options)
        if reason is None and contender.exports:
            try:
                models.exported[name] = export(name, model, folder / name)
            except ContenderFailedError as error:
                reason = f"the model could not be exported: {error}"
        entry |= {"not run": reason} if reason else {}
        described[name] = entry
        print(f"{name}: {reason or 'ready'}", file=sys.stderr)
    if "not run" in described[REFERENCE]:
        raise SystemExit(f"{REFERENCE}, which all are compared with, cannot run")
    return described, models


def _not_run(name: str, options: argparse.Namespace) -> str | None:
    if name not in options.contenders and name != REFERENCE:
        return "not asked for"
    if name == "against" and options.against is None:
        return "no other checkout: give --against"
    plain = options.device == "cpu" and options.dtype == "float32"
    if CONTENDERS[name].exports and not plain:
        return "compared on a CPU in float32 only"
    if name == "daft" and options.dtype != "float32":
        return "embed_text has no option for the type"
    return environment_of(name).problem()


def _corpora(
    options: argparse.Namespace, source: Source, folder: Path
) -> tuple[dict[str, Corpus], dict[str, dict[str, str]]]:
    """Write the corpora; return them, and what the result says of those that cannot be."""
    corpora: dict[str, Corpus] = {}
    left_out: dict[str, dict[str, str]] = {}
    for name in options.corpora:
        try:
            corpora[name] = write_corpus(name, source, options.rows / ROWS, folder)
        except FileNotFoundError as error:
            left_out[name] = {"what": CORPORA[name][0], "left out": str(error)}
    return corpora, left_out


def _race(
    corpus_name: str,
    corpus: Corpus,
    names: list[str],
    models: Models,
    options: argparse.Namespace,
) -> Race:
    """Run all rounds of a corpus; return the runs, and why contenders failed."""
    runs: dict[str, list[Run]] = defaultdict(list)
    failed: dict[str, str] = {}
    for number in range(options.rounds):
        vectors: dict[str, np.ndarray] = {}
        first = number % len(names)
        for name in names[first:] + names[:first]:
            if name in failed:
                continue
            try:
                run, vectors[name] = run_once(name, models, corpus, options.device, options.dtype)
            except ContenderFailedError as error:
                failed[name] = str(error)
                continue
            runs[name].append(run)
            progress = f"{corpus_name}, round {number + 1}: {name} {run['seconds']:.2f} s"
            print(progress, file=sys.stderr, flush=True)
        if REFERENCE in failed:
            raise SystemExit(f"{REFERENCE} failed on {corpus_name}: {failed[REFERENCE]}")
        for name, own in vectors.items():
            runs[name][-1]["largest_difference"] = float(abs(own - vectors[REFERENCE]).max())
    return {name: runs[name] for name in names if name not in failed}, failed


def _summary(corpus: Corpus, race: Race, work: Work, peak: float) -> dict[str, Any]:
    runs, failed = race
    summary = summarize(runs, corpus, work.flops(corpus.lengths), peak)
    summary["results"] |= {name: {"failed": reason} for name, reason in failed.items()}
    return summary


def _problems(result: dict[str, Any]) -> list[str]:
    """Return a line for each contender that failed, or whose vectors are not the reference's."""
    problems = []
    for corpus, summary in result["corpora"].items():
        for name, row in summary.get("results", {}).items():
            if "failed" in row:
                problems.append(f"{corpus}: {name} failed: {row['failed']}")
            elif not row["largest_difference"] <= result["tolerance"]:
                problems.append(
                    f"{corpus}: the vectors of {name} differ from those of {REFERENCE} by "
                    f"{row['largest_difference']:.1e}, more than {result['tolerance']:.0e}"
                )
    return problems


if __name__ == "__main__":
    main()
