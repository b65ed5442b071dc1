"""Batches through a model: repeats once, and a batch that does not fit in halves."""

from __future__ import annotations

import hashlib
from typing import Protocol

import numpy as np
import torch

from dask_embed.inference.memory import batch_cost, is_out_of_memory, release
from dask_embed.inference.runner import Runner
from dask_embed.inference.stats import Meter
from dask_embed.tokenization import TokenLists

_DIGEST_BYTES = 16


class Sink(Protocol):
    """Where results go."""

    def put(self, rows: np.ndarray, hidden: torch.Tensor, lengths: np.ndarray) -> None:
        """Take the token vectors of a batch whose texts belong to `rows`."""

    def copy(self, rows: np.ndarray, sources: np.ndarray) -> None:
        """Give `rows` the results of `sources`, which are complete."""

    def flush(self) -> None:
        """Return when everything that was put is in its place."""


class Execution:
    """Run the token lists of one partition; `run` from any thread, the rest from one.

    Attributes
    ----------
    failures : dict
        Row number to message, for rows that do not fit in memory even alone.
    """

    def __init__(self, runner: Runner, padding_side: str | None, sink: Sink, meter: Meter) -> None:
        self.failures: dict[int, str] = {}
        self._runner = runner
        self._side = padding_side or runner.loaded.tokenizer.padding_side
        self._sink = sink
        self._meter = meter
        self._first: dict[bytes, int] = {}
        self._repeats: list[np.ndarray] = []

    def first_seen(self, rows: np.ndarray, tokens: TokenLists) -> np.ndarray:
        """Return the places in `tokens` that have to run; repeats are remembered for `finish`.

        A text without tokens has nothing to run.
        """
        fresh, repeats = [], []
        for place, row in enumerate(rows.tolist()):
            ids = tokens[place]
            if not len(ids):
                continue
            digest = hashlib.blake2b(ids.tobytes(), digest_size=_DIGEST_BYTES).digest()
            source = self._first.setdefault(digest, row)
            if source == row:
                fresh.append(place)
            else:
                repeats.append((row, source))
        if repeats:
            self._repeats.append(np.array(repeats))
        self._meter.count(rows=len(rows) - len(fresh))
        return np.array(fresh, np.int64)

    def run(self, rows: np.ndarray, tokens: TokenLists) -> None:
        """Run one batch, in halves where it does not fit in memory."""
        pending = [np.arange(len(rows))]
        while pending:
            part = pending.pop()
            halves = [part[len(part) // 2 :], part[: len(part) // 2]]
            cost = self._cost(tokens.lengths[part])
            if len(part) > 1 and not self._runner.budget.allows(cost):
                pending += halves  # another batch of the same plan did not fit
                continue
            whole = len(part) == len(rows)
            problem = self._attempt(rows[part], tokens if whole else tokens.take(part))
            if problem is None:
                self._runner.budget.did_fit(cost)
                continue
            # here, not where it was caught: an error's traceback keeps activations alive
            release(self._runner.loaded.device)
            if len(part) > 1:
                self._meter.count(splits=1)
                self._runner.budget.did_not_fit(cost)
                pending += halves
            else:
                self._retry_alone(int(rows[part[0]]), tokens.take(part))

    def finish(self) -> None:
        """Give repeats the results of what they repeat."""
        with self._meter.seconds("convert"):
            self._sink.flush()
            for pairs in self._repeats:
                self._sink.copy(pairs[:, 0], pairs[:, 1])
                for row, source in pairs.tolist():
                    if source in self.failures:
                        self.failures[row] = self.failures[source]

    def _attempt(self, rows: np.ndarray, tokens: TokenLists) -> str | None:
        """Run a batch and return None, or why it does not fit in memory."""
        try:
            with self._meter.busy("forward"), self._runner.session():
                hidden = self._runner.token_vectors(tokens, self._side)
                self._sink.put(rows, hidden, tokens.lengths)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return str(error) or type(error).__name__
        padding = self._runner.computed_tokens(tokens) - len(tokens.values)
        self._meter.count(
            rows=len(rows),
            unique_rows=len(rows),
            tokens=len(tokens.values),
            padding=padding,
            batches=1,
        )
        return None

    def _retry_alone(self, row: int, tokens: TokenLists) -> None:
        """Try a single text once more, now that memory was released; else give its row up."""
        problem = self._attempt(np.array([row]), tokens)
        if problem is not None:
            self._meter.count(rows=1)
            release(self._runner.loaded.device)
            self.failures[row] = (
                f"its {len(tokens.values)} tokens do not fit in the memory of "
                f"{self._runner.loaded.device}, even alone: {problem:.200}"
            )

    def _cost(self, lengths: np.ndarray) -> float:
        packed = self._runner.runs_packed(int(lengths.max()))
        quadratic = self._runner.budget.quadratic
        return batch_cost(lengths, padded=not packed, quadratic=quadratic)
