"""From the seconds of all runs to figures and tables."""

from __future__ import annotations

import statistics
from typing import Any

from corpora import Corpus

REFERENCE = "sentence-transformers"
Run = dict[str, float]  # seconds, start_up_seconds, peak_mib, largest_difference


def summarize(
    runs: dict[str, list[Run]], corpus: Corpus, flops: float, peak: float
) -> dict[str, Any]:
    """Return the figures of every contender on one corpus.

    Parameters
    ----------
    runs : dict
        By contender, one run per round.
    corpus : Corpus
    flops : float
        Operations that the corpus needs.
    peak : float
        Operations per second of a matrix product on this machine.
    """
    results = {name: _row(rounds, corpus, flops / peak) for name, rounds in runs.items()}
    for name, rounds in runs.items():
        ratios = _round_by_round(runs[REFERENCE], rounds)
        results[name]["times_sentence_transformers"] = spread(ratios, 3)
    summary = {**corpus.description, "useful_gflop": round(flops / 1e9, 1), "results": results}
    if "dask-embed" in runs and "engine" in runs:
        overhead = [ratio - 1 for ratio in _round_by_round(runs["dask-embed"], runs["engine"])]
        summary["dask_overhead"] = spread(overhead, 4)
    return summary


def _row(rounds: list[Run], corpus: Corpus, seconds_at_peak: float) -> dict[str, Any]:
    seconds = [run["seconds"] for run in rounds]
    median = statistics.median(seconds)
    return {
        "seconds": [round(value, 3) for value in seconds],
        "start_up_seconds": [round(run["start_up_seconds"], 3) for run in rounds],
        "documents_per_second": round(len(corpus.lengths) / median, 1),
        "tokens_per_second": round(int(corpus.lengths.sum()) / median),
        "peak_mib": round(statistics.median(run["peak_mib"] for run in rounds)),
        "share_of_matmul_peak": round(seconds_at_peak / median, 4),
        "largest_difference": max(run["largest_difference"] for run in rounds),
    }


def _round_by_round(numerators: list[Run], denominators: list[Run]) -> list[float]:
    pairs = zip(numerators, denominators, strict=True)
    return [over["seconds"] / under["seconds"] for over, under in pairs]


def spread(values: list[float], digits: int) -> dict[str, float]:
    """Return median, minimum and maximum, rounded."""
    return {
        "median": round(statistics.median(values), digits),
        "min": round(min(values), digits),
        "max": round(max(values), digits),
    }


def markdown(result: dict[str, Any]) -> str:
    """Return the whole result as Markdown: a heading, and a table per corpus."""
    machine, rates = result["machine"], result["matmul_gflops"]
    parts = [
        f"{machine.get('gpu', machine['processor'])}, {machine['cores']} cores, "
        f"{machine['memory_gib']} GiB; {result['dtype']}; medians of {result['rounds']} rounds; "
        f"matrix product {rates['start']} GFLOP/s at the start, {rates['end']} at the end"
    ]
    parts += [_table(name, corpus) for name, corpus in result["corpora"].items()]
    absent = {
        name: entry["not run"] for name, entry in result["contenders"].items() if "not run" in entry
    }
    parts += [f"{name}: not run ({reason})" for name, reason in absent.items()]
    return "\n\n".join(parts)


def _table(name: str, corpus: dict[str, Any]) -> str:
    if "left out" in corpus:
        return f"### {name}: left out ({corpus['left out']})"
    lines = [
        f"### {name}: {corpus['documents']} documents, {corpus['tokens']:,} tokens",
        "",
        "| | docs/s | tokens/s | peak MiB | times sentence-transformers (min to max) "
        "| share of matmul peak | largest difference |",
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_line(contender, row) for contender, row in corpus["results"].items()]
    if "dask_overhead" in corpus:
        overhead = corpus["dask_overhead"]
        lines += [
            "",
            f"Dask over the engine alone: {overhead['median']:+.1%} "
            f"({overhead['min']:+.1%} to {overhead['max']:+.1%})",
        ]
    return "\n".join(lines)


def _line(name: str, row: dict[str, Any]) -> str:
    if "failed" in row:
        return f"| {name} | failed: {row['failed']} | | | | | |"
    ratio = row["times_sentence_transformers"]
    return (
        f"| {name} | {row['documents_per_second']} | {row['tokens_per_second']:,} "
        f"| {row['peak_mib']:,} | {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}) "
        f"| {row['share_of_matmul_peak']:.1%} | {row['largest_difference']:.1e} |"
    )
