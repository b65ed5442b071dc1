"""Batches through a model; one that does not fit in memory runs in halves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch

from dask_embed.inference.memory import batch_cost, is_out_of_memory, release
from dask_embed.inference.runner import Runner
from dask_embed.runtime.stats import Meter
from dask_embed.tokens.lists import TokenLists

NOT_FINITE = (
    "the model gives it a result that is no finite number (see the model's dtype and weights)"
)


class Sink(Protocol):
    """Where the results of batches go."""

    def put(self, places: np.ndarray, results: Any, lengths: np.ndarray) -> torch.Tensor | None:
        """Take the results of a batch whose sequences belong to `places`.

        Returns
        -------
        torch.Tensor or None
            Which of what is made of them are finite numbers, where that can differ.
        """


class Execution:
    """Run batches, from any thread.

    Parameters
    ----------
    runner : Runner
    compute : callable
        ``(TokenLists) -> results`` of a batch.
    sink : Sink
    meter : Meter
    counts_rows : bool
        Every sequence is a row of its own, to be counted as one.

    Attributes
    ----------
    failures : dict
        Place to message, for sequences that do not fit in memory even alone, or whose result is no
        finite number.
    """

    def __init__(
        self,
        runner: Runner,
        compute: Callable[[TokenLists], Any],
        sink: Sink,
        meter: Meter,
        *,
        counts_rows: bool = False,
    ) -> None:
        self._failures: dict[int, str] = {}
        self._doubts: list[tuple[np.ndarray, torch.Tensor]] = []
        self._runner = runner
        self._compute = compute
        self._sink = sink
        self._meter = meter
        self._counts_rows = counts_rows

    @property
    def failures(self) -> dict[int, str]:
        while self._doubts:
            places, finite = self._doubts.pop()
            for place in places[~finite.cpu().numpy()].tolist():
                self._failures[place] = NOT_FINITE
        return self._failures

    def _doubt(self, places: np.ndarray, results: Any, lengths: np.ndarray) -> None:
        """Note which results are finite; whether all are is asked later, a GPU need not wait."""
        finite = _finite(results)
        if finite is None:
            return
        owners = places if len(finite) == len(places) else np.repeat(places, lengths)
        if finite.device.type == "cuda" or not finite.all():
            self._doubts.append((owners, finite))

    def run(self, places: np.ndarray, tokens: TokenLists, costs: np.ndarray) -> None:
        """Run one batch, in halves where it does not fit in memory.

        Parameters
        ----------
        places : numpy.ndarray
            Names of the sequences for the sink.
        tokens : TokenLists
        costs : numpy.ndarray
            Tokens that each sequence takes while it runs.
        """
        pending = [np.arange(len(places))]
        while pending:
            part = pending.pop()
            halves = [part[len(part) // 2 :], part[: len(part) // 2]]
            cost = self._cost(costs[part])
            if len(part) > 1 and not self._runner.budget.allows(cost):
                pending += halves  # another batch of the same plan did not fit
                continue
            whole = len(part) == len(places)
            problem = self._attempt(places[part], tokens if whole else tokens.take(part))
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
                self._retry_alone(int(places[part[0]]), tokens.take(part))

    def _attempt(self, places: np.ndarray, tokens: TokenLists) -> str | None:
        """Run a batch and return None, or why it does not fit in memory."""
        try:
            with self._meter.busy("forward"), self._runner.session():
                results = self._compute(tokens)
                finite = self._sink.put(places, results, tokens.lengths)
                self._doubt(places, results, tokens.lengths)
                if finite is not None:
                    self._doubts.append((places, finite))
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            return str(error) or type(error).__name__
        padding = self._runner.computed_tokens(tokens) - len(tokens.values)
        self._meter.count(
            rows=len(places) if self._counts_rows else 0,
            unique_rows=len(places),
            tokens=len(tokens.values),
            padding=padding,
            batches=1,
        )
        return None

    def _retry_alone(self, place: int, tokens: TokenLists) -> None:
        """Try a single sequence once more, now that memory was released; else give it up."""
        problem = self._attempt(np.array([place]), tokens)
        if problem is not None:
            self._meter.count(rows=int(self._counts_rows))
            release(self._runner.loaded.device)
            self._failures[place] = (
                f"its {len(tokens.values)} tokens do not fit in the memory of "
                f"{self._runner.loaded.device}, even alone: {problem:.200}"
            )

    def _cost(self, costs: np.ndarray) -> float:
        packed = self._runner.runs_packed(int(costs.max()))
        quadratic = self._runner.budget.quadratic
        return batch_cost(costs, padded=not packed, quadratic=quadratic)


def _finite(results: Any) -> torch.Tensor | None:
    """Return which results of a batch are finite numbers, None where they are no numbers."""
    if isinstance(results, np.ndarray):
        results = torch.from_numpy(results) if results.dtype.kind == "f" else None
    if isinstance(results, torch.Tensor):
        if not results.is_floating_point():
            return None
        return results.isfinite().flatten(1).all(1) if results.ndim > 1 else results.isfinite()
    if isinstance(results, list | tuple):
        return torch.tensor([_is_finite(result) for result in results])
    return None


def _is_finite(result: Any) -> bool:
    """Return whether a result holds no number that is none; log-probabilities may be -inf."""
    if isinstance(result, list | tuple):
        return all(map(_is_finite, result))
    if isinstance(result, torch.Tensor):
        result = result.float().numpy(force=True) if result.is_floating_point() else None
    if isinstance(result, np.ndarray) and result.dtype.kind == "f":
        return bool((result < np.inf).all())
    return True
