"""Which way of scoring fits a loaded language model."""

from __future__ import annotations

from dask_embed.inference.runner import Runner
from dask_embed.inference.scoring.base import Scoring
from dask_embed.inference.scoring.causal import CausalScoring
from dask_embed.inference.scoring.seq2seq import Seq2SeqScoring


def scoring_of(runner: Runner) -> Scoring:
    """Return this process's scoring of a loaded language model, trying it out on first use."""

    def build() -> Scoring:
        if runner.loaded.task == "seq2seq-lm":
            return Seq2SeqScoring(runner)
        return CausalScoring(runner)

    return runner.kept.get_or_build("scoring", build)
