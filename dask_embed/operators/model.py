"""Operators that run a model on texts by three hooks, which a new one gives."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from dask_embed.columns import Result, TextColumn
from dask_embed.operators.base import distinct_rows
from dask_embed.operators.checkpointed import CheckpointOperator
from dask_embed.tokens.texts import Texts

if TYPE_CHECKING:
    from dask_embed.inference.rows import Chunk
    from dask_embed.inference.runner import Runner
    from dask_embed.runtime.stats import Meter
    from dask_embed.tokens.lists import TokenLists


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelOperator(CheckpointOperator):
    """A transformer over text columns.

    A subclass says what it reads (`input_columns`), what it appends (`output` or
    `result_columns`, and `output_types`), which head its model has (`task`), and gives two or
    three hooks: `load` once per process, `forward` for each batch, `postprocess` for the rows of
    a chunk. Batches, repeats, nulls, memory errors and failed rows are taken care of.

    Parameters
    ----------
    model : str, Path or Model
        Hub id, local folder or a full specification.
    output : str
        The first column that is appended.
    max_length : int, optional
        Cut after this many tokens, special tokens included; by default the checkpoint's limit.
    on_long : {"truncate", "error"}
        Whether a row of more tokens is cut, or cannot be used (see `on_error`).
    padding_side : {None, "left", "right"}
        Where padded batches are filled up, by default as the tokenizer says. Results do not
        depend on it.
    batch_size : int, optional
        At most so many rows in a batch.
    tokens_per_batch : int, optional
        Token budget of a batch; by default ``dask.config`` ``embed.tokens-per-batch``, and on a
        GPU less where its free memory asks for it.
    on_error : {"raise", "null"}
        See `ColumnOperator`.
    """

    run_encodes: ClassVar[bool] = True

    def load(self, runner: Runner) -> Any:
        """Return what `forward` and `postprocess` get as `model`; called once per process.

        Parameters
        ----------
        runner : Runner
            The loaded model: `runner.loaded.model`, `.tokenizer`, `.checkpoint`, `.device`.
        """
        return runner

    def forward(self, model: Any, tokens: TokenLists) -> Any:
        """Return the results of a batch, one per sequence, which alone decides it.

        Parameters
        ----------
        model : object
            What `load` gave; by default the `Runner`, whose `logits` and `token_vectors` run a
            batch without padding where the model allows it.
        tokens : TokenLists
            Sequences of at least one token each.

        Returns
        -------
        torch.Tensor, numpy.ndarray or list
            As long as the batch. Keep it small: it is held for a chunk of many batches.
        """
        raise TypeError(f"{type(self).__name__} must define forward, or run")

    def postprocess(self, model: Any, chunk: Chunk) -> Mapping[str, Any]:
        """Return the values of every result column, one per row of the chunk.

        Parameters
        ----------
        model : object
            What `load` gave.
        chunk : Chunk
            Rows, their sequences, and what `forward` gave; None for a sequence without tokens.

        Returns
        -------
        dict
            Column name to a list, an array, or an Arrow array of its type.
        """
        raise TypeError(f"{type(self).__name__} must define postprocess, or run")

    def run(
        self, columns: list[TextColumn], *, on_device: bool, meter: Meter
    ) -> tuple[dict[str, Result], dict[int, str]]:
        from dask_embed.inference.driver import Driver
        from dask_embed.inference.kept_columns import KeptColumns
        from dask_embed.inference.rows import Rows
        from dask_embed.inference.stream import Stream

        distinct, inverse = distinct_rows(columns)
        runner = self.runner()
        model, checkpoint = self._loaded(runner), runner.loaded.checkpoint
        sink = Rows(
            distinct, lambda chunk: self.postprocess(model, chunk), self.output_types(checkpoint)
        )
        kept = KeptColumns.of(runner.kept, self)
        digests = Texts(distinct).digests() if kept else []
        known = sink.add(kept.find(self, digests)) if kept else set()
        valid = inverse >= 0
        meter.count(rows=int(valid.sum()) - len(distinct) + len(known))
        stream = Stream(
            runner,
            lambda rows: self.encode(runner, [distinct[row] for row in rows]).at(rows),
            [None if n in known else self.characters(row) for n, row in enumerate(distinct)],
            meter,
            self.batching,
            self.longest_row(checkpoint),
        )
        Driver(stream, lambda tokens: self.forward(model, tokens), sink).run()
        failed, made = stream.failures, sink.columns()
        if kept and distinct:
            new = [n for n in range(len(distinct)) if n not in known and n not in failed]
            row_bytes = sum(array.nbytes for array in made.values()) / len(distinct)
            new = new[: kept.room(row_bytes)]
            arrays = [array.take(pa.array(new, pa.int64())) for array in made.values()]
            kept.keep(self, [digests[n] for n in new], arrays)
        taken = pa.array(inverse, mask=~valid)
        failures = {
            row: failed[place] for row, place in enumerate(inverse.tolist()) if place in failed
        }
        return {name: array.take(taken) for name, array in made.items()}, failures

    def _loaded(self, runner: Runner) -> Any:
        return runner.kept.get_or_build(self, lambda: self.load(runner))
