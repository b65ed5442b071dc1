"""Texts of a partition to rows of results: tokenize, batch, run, put every row in its place.

A partition streams through in chunks, so that besides its results only one chunk of tokens is in
memory. It holds the device for all its batches: threads that took turns batch by batch would each
keep a team of math threads spinning, which cost a tenth on 2 cores.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from dask_embed import config
from dask_embed.batching import plan_batches
from dask_embed.inference.ahead import ahead
from dask_embed.inference.execution import Execution, Sink
from dask_embed.inference.memory import is_out_of_memory
from dask_embed.inference.runner import Runner
from dask_embed.inference.sinks import TokenVectorSink, VectorSink
from dask_embed.inference.stats import Meter
from dask_embed.tokenization import TextTokenizer, TokenLists

# A chunk holds the tokens of about so many batches: enough to sort by length, little memory.
_BATCHES_PER_CHUNK = 32
_CHARACTERS_PER_TOKEN = 4
Reduce = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Batching:
    """How batches are cut; none of it changes a result.

    Attributes
    ----------
    max_tokens : int or None
        Token budget of a batch, by default ``embed.tokens-per-batch`` for the model's device,
        less where memory asks for it.
    max_rows : int or None
        At most so many rows in a batch.
    padding_side : str or None
        Where padded batches are filled up, by default as the tokenizer says.
    """

    max_tokens: int | None = None
    max_rows: int | None = None
    padding_side: str | None = None


@dataclass(frozen=True)
class Outcome:
    """What became of the rows of a partition.

    Attributes
    ----------
    values : torch.Tensor
        One row per text, zeros where there is no result; or one row per token.
    failures : dict
        Row number to message, for rows that could not be run.
    lengths : numpy.ndarray
        Tokens of each row.
    """

    values: torch.Tensor
    failures: dict[int, str] = field(default_factory=dict)
    lengths: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass
class Partition:
    """The texts of one partition and what they run through.

    Attributes
    ----------
    runner : Runner
    tokenizer : TextTokenizer
    texts : sequence of str or None
        None rows have no result.
    meter : Meter
    batching : Batching
    on_device : bool
        Leave results on the model's device.
    prepare : callable
        Applied to each text before it is tokenized.
    """

    runner: Runner
    tokenizer: TextTokenizer
    texts: Sequence[str | None]
    meter: Meter
    batching: Batching = Batching()
    on_device: bool = False
    prepare: Callable[[str], str] = str
    failures: dict[int, str] = field(default_factory=dict)

    def vectors(self, reduce: Reduce, dimension: int, dtype: torch.dtype) -> Outcome:
        """Return one vector per text.

        Parameters
        ----------
        reduce : callable
            ``(token vectors, lengths) -> vectors`` of a batch, shape (texts, dimension).
        dimension : int
        dtype : torch.dtype
            Of the result.
        """
        out = self._allocate((len(self.texts), dimension), dtype)
        self._run(VectorSink(out, reduce), self._tokenized())
        return Outcome(out, self.failures)

    def token_vectors(self) -> Outcome:
        """Return the last hidden state of every token, float32, shape (tokens, hidden size)."""
        with self._tokenizing():
            chunks = list(self._tokenized())
        lengths = np.zeros(len(self.texts), np.int64)
        for rows, tokens in chunks:
            lengths[rows] = tokens.lengths
        ends = np.cumsum(lengths)
        size = (int(lengths.sum()), self.runner.loaded.checkpoint.hidden_size)
        out = self._allocate(size, torch.float32)
        self._run(TokenVectorSink(out, ends - lengths), iter(chunks))
        return Outcome(out, self.failures, lengths)

    def _run(self, sink: Sink, chunks: Iterator[tuple[np.ndarray, TokenLists]]) -> None:
        self.meter.record.device = str(self.runner.loaded.device)
        execution = Execution(self.runner, self.batching.padding_side, sink, self.meter)
        with contextlib.ExitStack() as stack:
            if self._overlaps:
                chunks = stack.enter_context(ahead(chunks, self.meter))
            with self.meter.seconds("waiting"):
                stack.enter_context(self.runner.session())
            for rows, tokens in chunks:
                fresh = execution.first_seen(rows, tokens)
                for batch in self._plan(tokens.lengths[fresh]):
                    chosen = fresh[batch]
                    execution.run(rows[chosen], tokens.take(chosen))
            execution.finish()
        self.failures.update(execution.failures)

    @property
    def _overlaps(self) -> bool:
        """On a CPU the forward pass has every core: tokenizing beside it would slow both."""
        return self.runner.loaded.device.type == "cuda"

    def _tokenizing(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext() if self._overlaps else self.runner.session()

    def _plan(self, lengths: np.ndarray) -> list[np.ndarray]:
        return plan_batches(
            lengths,
            max_tokens=self.runner.budget.tokens(self._tokens_per_batch),
            max_rows=self.batching.max_rows,
            padded=not self.runner.runs_packed(int(lengths.max(initial=0))),
            quadratic=self.runner.budget.quadratic,
        )

    @property
    def _tokens_per_batch(self) -> int:
        device = self.runner.loaded.device.type
        return self.batching.max_tokens or config.get("tokens-per-batch")[device]

    def _tokenized(self) -> Iterator[tuple[np.ndarray, TokenLists]]:
        """Yield row numbers and token lists, chunk by chunk."""
        for rows in self._chunks():
            pending = [rows]
            while pending:
                part = pending.pop()
                tokens = self._tokenize(part)
                if tokens is not None:
                    yield part, tokens
                elif len(part) > 1:
                    pending += [part[len(part) // 2 :], part[: len(part) // 2]]

    def _tokenize(self, rows: np.ndarray) -> TokenLists | None:
        """Return the token lists of `rows`, or None if one of them cannot be tokenized."""
        try:
            with self.meter.seconds("tokenize"):
                return self.tokenizer([self.prepare(self.texts[row]) for row in rows])
        except Exception as error:  # tokenizers raise bare exceptions; the row is named
            if len(rows) == 1:
                self.failures[int(rows[0])] = f"it cannot be tokenized: {error}"
                self.meter.count(rows=1)
            return None

    def _chunks(self) -> Iterator[np.ndarray]:
        most = _BATCHES_PER_CHUNK * self._tokens_per_batch * _CHARACTERS_PER_TOKEN
        longest = (self.tokenizer.max_length or most) * _CHARACTERS_PER_TOKEN
        rows: list[int] = []
        characters = 0
        for row, text in enumerate(self.texts):
            if text is None:
                continue
            rows.append(row)
            characters += min(len(text), longest) + _CHARACTERS_PER_TOKEN
            if characters >= most:
                yield np.array(rows)
                rows, characters = [], 0
        if rows:
            yield np.array(rows)

    def _allocate(self, shape: tuple[int, int], dtype: torch.dtype) -> torch.Tensor:
        device = self.runner.loaded.device if self.on_device else torch.device("cpu")
        try:
            return torch.zeros(shape, dtype=dtype, device=device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            size = shape[0] * shape[1] * dtype.itemsize / 2**30
            raise MemoryError(
                f"the results of a partition of {len(self.texts)} rows take {size:.1f} GiB of "
                f"{device} memory, which is not there; use smaller partitions "
                "(ddf.repartition(partition_size=...))"
            ) from error
