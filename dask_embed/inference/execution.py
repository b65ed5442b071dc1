"""Batches through a model; one that does not fit in memory runs in halves."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch

from dask_embed.inference.memory import batch_cost, is_out_of_memory, release
from dask_embed.inference.sink import Sink
from dask_embed.inference.stream import Running
from dask_embed.runtime.stats import Meter
from dask_embed.tokens.encoded import Samples

NOT_FINITE = (
    "the model gives it a result that is no finite number (see the model's dtype and weights)"
)


class RefusedError(Exception):
    """A sample of a batch cannot be run, whatever else is in it: what `compute` may raise."""


class _Problem(NamedTuple):
    """Why a batch did not run: memory, or a sample in it that was refused."""

    text: str
    refused: bool = False


class Execution:
    """Run batches, from any thread.

    Parameters
    ----------
    runner : Running
    compute : callable
        ``(samples) -> results`` of a batch.
    sink : Sink
    meter : Meter
    counts_rows : bool
        Nobody else counts the rows that are run.

    Attributes
    ----------
    failures : dict
        Name to message, for samples that do not fit in memory even alone, that are refused, or
        whose result is no finite number.
    """

    def __init__(
        self,
        runner: Running,
        compute: Callable[[Any], Any],
        sink: Sink,
        meter: Meter,
        *,
        counts_rows: bool = True,
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
            names, finite = self._doubts.pop()
            for name in names[~finite.cpu().numpy()].tolist():
                self._failures[name] = NOT_FINITE
        return self._failures

    def _doubt(self, names: np.ndarray, results: Any, lengths: np.ndarray) -> None:
        """Note which results are finite; whether all are is asked later, a GPU need not wait."""
        finite = _finite(results)
        if finite is None:
            return
        owners = names if len(finite) == len(names) else np.repeat(names, lengths)
        if finite.device.type == "cuda" or not finite.all():
            self._doubts.append((owners, finite))

    def run(self, names: np.ndarray, samples: Samples, costs: np.ndarray, rows: int) -> None:
        """Run one batch, in halves where it does not fit in memory or one of it is refused.

        Parameters
        ----------
        names : numpy.ndarray
            Of the samples, for the sink.
        samples : Samples
        costs : numpy.ndarray
            What each sample takes while it runs.
        rows : int
            1 where every sample is a row of its own, to be counted as one; else 0.
        """
        pending = [np.arange(len(names))]
        while pending:
            part = pending.pop()
            halves = [part[len(part) // 2 :], part[: len(part) // 2]]
            cost = self._cost(costs[part])
            if len(part) > 1 and not self._runner.budget.allows(cost):
                pending += halves  # another batch of the same plan did not fit
                continue
            whole = len(part) == len(names)
            problem = self._attempt(names[part], samples if whole else samples.take(part), rows)
            if problem is None:
                self._runner.budget.did_fit(cost)
                continue
            if problem.refused:
                if len(part) > 1:
                    pending += halves
                else:
                    self._give_up(int(names[part[0]]), problem.text, rows)
                continue
            # here, not where it was caught: an error's traceback keeps activations alive
            release(self._runner.device)
            if len(part) > 1:
                self._meter.count(splits=1)
                self._runner.budget.did_not_fit(cost)
                pending += halves
            else:
                self._retry_alone(int(names[part[0]]), samples.take(part), rows)

    def _attempt(self, names: np.ndarray, samples: Samples, rows: int) -> _Problem | None:
        """Run a batch and return None, or why it does not run."""
        lengths = samples.lengths
        try:
            with self._meter.busy(self._runner.phase), self._runner.session():
                results = self._compute(samples)
                finite = self._sink.put(names, results, lengths)
                self._doubt(names, results, lengths)
                if finite is not None:
                    self._doubts.append((names, finite))
        except RefusedError as error:
            return _Problem(str(error), refused=True)
        except Exception as error:
            if isinstance(error, torch.AcceleratorError) and not is_out_of_memory(error):
                error.add_note(
                    f"this process cannot use {self._runner.device} any more: restart the worker"
                )
            if not is_out_of_memory(error):
                raise
            return _Problem(str(error) or type(error).__name__)
        self._meter.count(
            rows=rows * len(names),
            unique_rows=self._counts_rows * len(names),
            **self._runner.amounts(lengths),
        )
        return None

    def _retry_alone(self, name: int, sample: Samples, rows: int) -> None:
        """Try a single sample once more, now that memory was released; else give it up."""
        problem = self._attempt(np.array([name]), sample, rows)
        if problem is not None:
            release(self._runner.device)
            why = problem.text
            if not problem.refused:
                why = (
                    f"its {int(sample.lengths.sum())} {sample.unit} do not fit in the memory of "
                    f"{self._runner.device}, even alone: {why:.200}"
                )
            self._give_up(name, why, rows)

    def _give_up(self, name: int, why: str, rows: int) -> None:
        self._meter.count(rows=rows)
        self._failures[name] = why

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
