"""Candidates behind a prompt that is computed once, against each candidate whole.

``python benchmarks/score.py`` prints JSON: seconds of interleaved rounds, and their medians.
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
import numpy as np
import pandas as pd
from machine import describe

_WORDS = 8192
_PROMPT = 256
_CANDIDATES = (1, 1, 2, 3, 4, 6, 8, 12)  # tokens of each


def save_model(folder: Path, hidden: int) -> Path:
    """Write a seeded Llama of six layers whose words are numbers."""
    import tokenizers
    import torch
    import transformers

    vocabulary = {"<unk>": 0, **{f"w{number}": number for number in range(1, _WORDS)}}
    words = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = tokenizers.pre_tokenizers.WhitespaceSplit()
    transformers.PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>").save_pretrained(
        folder
    )
    config = transformers.LlamaConfig(
        vocab_size=_WORDS,
        hidden_size=hidden,
        intermediate_size=hidden * 8 // 3,
        num_hidden_layers=6,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 64,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=None,
    )
    torch.manual_seed(0)
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def words(count: int, seed: int) -> str:
    """Return a text of so many tokens."""
    drawn = np.random.default_rng(seed).integers(1, _WORDS, count)
    return " ".join(f"w{number}" for number in drawn)


def with_transformers(
    folder: Path, prompts: list[str], candidates: tuple[str, ...], batch: int
) -> Callable[[], np.ndarray]:
    """Score in padded batches of whole sequences, logits for the candidates' places only."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    given = tokenizer(prompts)["input_ids"]
    each = tokenizer(list(candidates))["input_ids"]
    pairs = [(row, place) for place in range(len(each)) for row in range(len(given))]

    def run() -> np.ndarray:
        scores = np.zeros((len(given), len(each)))
        for start in range(0, len(pairs), batch):
            part = pairs[start : start + batch]
            longest = max(len(each[place]) for _, place in part)
            ids = torch.tensor(
                [
                    given[row] + each[place] + [0] * (longest - len(each[place]))
                    for row, place in part
                ]
            )
            mask = torch.tensor(
                [
                    [1] * (_PROMPT + len(each[place])) + [0] * (longest - len(each[place]))
                    for _, place in part
                ]
            )
            with torch.inference_mode():
                output = model(
                    ids[:, :-1],
                    attention_mask=mask[:, :-1],
                    logits_to_keep=longest,
                    use_cache=False,
                )
                values = torch.log_softmax(output.logits, -1).gather(2, ids[:, -longest:, None])
            summed = (values[..., 0] * mask[:, -longest:]).sum(1)
            for (row, place), value in zip(part, summed.tolist(), strict=True):
                scores[row, place] = value
        return scores

    return run


def with_scorer(
    folder: Path, prompts: list[str], candidates: tuple[str, ...], *, shares: bool
) -> Callable[[], np.ndarray]:
    """Score a dataframe; without sharing, each candidate runs whole in packed batches."""
    from dask_embed.inference.scoring.loaded import scoring_of
    from dask_embed.operators import CandidateScorer

    scorer = CandidateScorer(folder, candidates=candidates, scores="scores").pinned()
    frame = pd.DataFrame({"text": prompts})
    scoring = scoring_of(scorer.runner())

    def run() -> np.ndarray:
        scoring.shares = shares
        out = scorer(frame)
        return np.array([list(row.values()) for row in out["scores"]])

    return run


def measure(
    runs: dict[str, Callable[[], Any]], rounds: int
) -> tuple[dict[str, list[float]], dict[str, list[float]]]:
    """Return seconds and processor seconds of each run in every round, the runs taking turns."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    busy: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
        for name, run in runs.items():
            start, used = time.perf_counter(), time.process_time()
            run()
            seconds[name].append(time.perf_counter() - start)
            busy[name].append(time.process_time() - used)
    return seconds, busy


def _summary(seconds: dict[str, list[float]]) -> dict[str, Any]:
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ours = medians["shared prompt"]
    times = {name: value / ours for name, value in medians.items()}
    return {"rounds": seconds, "median": medians, "times_as_much": times}


def main() -> None:
    dask.config.set({"embed.cached-vectors-bytes": 0})  # every round runs all texts
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--hidden", type=int, default=256)
    arguments = parser.parse_args()
    prompts = [words(_PROMPT, seed) for seed in range(arguments.rows)]
    candidates = tuple(words(count, 10_000 + at) for at, count in enumerate(_CANDIDATES))
    with tempfile.TemporaryDirectory() as temporary:
        folder = save_model(Path(temporary), arguments.hidden)
        runs = {
            "shared prompt": with_scorer(folder, prompts, candidates, shares=True),
            "whole, packed": with_scorer(folder, prompts, candidates, shares=False),
            **{
                f"whole, transformers, batches of {batch}": with_transformers(
                    folder, prompts, candidates, batch
                )
                for batch in (4, 16)
            },
        }
        results = {name: run() for name, run in runs.items()}  # warm, and all the same
        seconds, busy = measure(runs, arguments.rounds)
    expected = results["whole, transformers, batches of 4"]
    report = {
        "machine": describe("cpu"),
        "rows": arguments.rows,
        "prompt_tokens": _PROMPT,
        "candidate_tokens": _CANDIDATES,
        "hidden_size": arguments.hidden,
        "largest_difference": {
            name: float(np.abs(values - expected).max()) for name, values in results.items()
        },
        "seconds": _summary(seconds),
        "processor_seconds": _summary(busy),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
