"""Long texts to rows of limited length."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed._validation import integer_from_zero, one_of, positive_integer
from dask_embed.columns import (
    Result,
    TextColumn,
    append_columns,
    empty_columns,
    keeps_on_device,
    read_text,
)
from dask_embed.models.tokenizers import (
    own_tokenizer,
    require_rust,
    tokenizer_checkpoint,
    tokenizer_of,
)
from dask_embed.operators.frame import Frame
from dask_embed.operators.of_model import OfTokenizer
from dask_embed.operators.rehearsal import EXAMPLES, nothing_passes
from dask_embed.operators.tokens.chunks import PIECES, Chunks, Cutter
from dask_embed.text.chunking import BOUNDARIES, Rules
from dask_embed.tokens.sequences import encoding_problem
from dask_embed.tokens.texts import Texts

if TYPE_CHECKING:
    from dask_embed.runtime.stats import Meter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chunker(OfTokenizer):
    """Cut each text into rows of at most `max_tokens` tokens; lazy on a Dask DataFrame.

    Every row becomes one row or more, in order, with the same index and the same other columns.
    A null stays one row with nulls, and a text without words one with an empty chunk.

    Parameters
    ----------
    model : str, Path or Model
        A checkpoint with a tokenizer in Rust; its weights are not read.
    column : str
        The text column. It is left out of the result unless `keep_text`.
    output : str
        The chunk, str: a slice of the text without white space around it. With it come
        ``<output>_index`` (int32, from 0), ``<output>_start`` and ``<output>_end`` (int64, the
        first character and the one after the last), and ``<output>_tokens`` (int32, of the
        chunk alone, special tokens included).
    max_tokens : int, optional
        Most tokens of a chunk that is tokenized alone, special tokens included; by default the
        checkpoint's limit.
    overlap : int
        Most tokens that neighbouring chunks share. Whole sentences (paragraphs, words) are
        shared, as many as fit.
    boundaries : {"tokens", "words", "sentences", "paragraphs"}
        Where chunks end. Where that would not fit, they end at the next smaller one.
    keep_text : bool
        Repeat the whole text in every row.
    on_error : {"raise", "null"}
        What a row that cannot be cut does: fail the partition, or become one row of nulls with
        its message in the column ``<output>_error``.

    Notes
    -----
    Every character other than white space is in at least one chunk. Sentences are found by
    rules, see `dask_embed.text.sentences.sentence_starts`. Where `max_tokens` is too few for a
    single character the row cannot be cut.
    """

    method: ClassVar[str] = "chunk"

    column: str = "text"
    output: str = "chunk"
    max_tokens: int | None = None
    overlap: int = 0
    boundaries: str = "sentences"
    keep_text: bool = False

    incidental: ClassVar[frozenset[str]] = frozenset({"column", "output", "keep_text"})

    def __post_init__(self) -> None:
        positive_integer("max_tokens", self.max_tokens)
        integer_from_zero("overlap", self.overlap)
        one_of("boundaries", self.boundaries, BOUNDARIES)
        super().__post_init__()

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def output_columns(self) -> tuple[str, ...]:
        """All columns that are appended, known without reading files."""
        return tuple(self._names())

    @property
    def result_columns(self) -> tuple[str, ...]:
        """Columns that are appended, errors not included; known without reading files."""
        return tuple(name for name in self.output_columns if name != self.error_column)

    @property
    def error_column(self) -> str | None:
        return f"{self.output}_error" if self.on_error == "null" else None

    def types(self) -> dict[str, pa.DataType]:
        """Return name and Arrow type of every column that is appended.

        Raises
        ------
        ValueError
            If the checkpoint's tokenizer is missing, or cannot do what is asked for.
        """
        self.rules()
        return self._names()

    def _names(self) -> dict[str, pa.DataType]:
        name = self.output
        types = {
            name: pa.string(),
            f"{name}_index": pa.int32(),
            f"{name}_start": pa.int64(),
            f"{name}_end": pa.int64(),
            f"{name}_tokens": pa.int32(),
        }
        return {**types, self.error_column: pa.string()} if self.error_column else types

    def rules(self) -> Rules:
        """Return how texts are cut."""
        require_rust(self.spec, "chunking")
        tokenizer = tokenizer_of(self.spec)
        limit = self._most_tokens()
        special = tokenizer.num_special_tokens_to_add(pair=False)
        if limit <= special + self.overlap:
            raise ValueError(
                f"max_tokens must be more than the {special} special tokens of every chunk and "
                f"overlap={self.overlap} together; got {limit}"
            )
        return Rules(limit, special, self.overlap, self.boundaries)

    def _most_tokens(self) -> int:
        checkpoint = tokenizer_checkpoint(self.spec)
        positions = checkpoint.position_limit
        limits = [positions, checkpoint.sentence.max_seq_length or checkpoint.tokenizer_limit]
        known = [limit for limit in limits if limit is not None]
        if self.max_tokens is None:
            if not known:
                raise ValueError(f"model {self.spec.name!r} has no limit; give max_tokens=")
            return min(known)
        if positions is not None and self.max_tokens > positions:
            raise ValueError(
                f"max_tokens must be at most {positions}, the positions that model "
                f"{self.spec.name!r} has; got {self.max_tokens}"
            )
        return self.max_tokens

    def trial(self, tokenizer: Any, text: str) -> str | None:
        """Return why no row with this text can be cut, None if one can."""
        try:
            made = Cutter.of(tokenizer).cut(Texts([(text,)]), self.rules())
        except BaseException as error:
            return encoding_problem(error)
        return made.failures.get(0)

    def keeping(self, wanted: set[str]) -> Chunker:
        """Return the operator that gives the same rows where only columns `wanted` are read."""
        if self.keep_text and self.column not in wanted:
            return dataclasses.replace(self, keep_text=False)
        return self

    def plan(self) -> list[str]:
        """Return in a few lines what is computed, for `dask_embed.explain`."""
        return [f"tokenizer of {self.spec.name} at revision {self.spec.revision}", self._cuts()]

    def _cuts(self) -> str:
        shared = f", at most {self.overlap} shared with the next" if self.overlap else ""
        return f"chunks of at most {self._most_tokens()} tokens{shared}, cut at {self.boundaries}"

    def resolved(self) -> dict[str, Any]:
        return {"max_tokens": self._most_tokens()}

    def meta(self, frame: Frame) -> Frame:
        """Return the result's empty frame, from the checkpoint's small files alone."""
        return empty_columns(self.kept(frame), self.types())

    def apply(self, partition: Any) -> Any:
        """Run on one pandas or cuDF partition; `__call__` without the checks."""
        if not len(partition):
            return self.meta(partition)
        if self.cache is not None and not keeps_on_device(partition):
            from dask_embed.operators.tokens.chunk_lists import chunks_through_cache

            return chunks_through_cache(self, partition)
        with self.metered(len(partition)) as meter:
            rows, results = self.chunked(partition, meter)
            with meter.seconds("convert"):
                return append_columns(self.kept(partition).iloc[rows], results)

    @contextlib.contextmanager
    def metered(self, size: int) -> Iterator[Meter]:
        """Give a meter for a partition of `size` rows that is cut."""
        self.prepare()
        from dask_embed.runtime.stats import metered

        with metered(type(self).__name__, self.spec.name, size) as meter:
            yield meter

    def chunked(self, partition: Any, meter: Meter) -> tuple[np.ndarray, dict[str, Result]]:
        """Return for each chunk of a partition the row that it is of, and the columns of chunks."""
        column = read_text(partition[self.column])
        errors = {row: f"column {self.column!r}: {m}" for row, m in column.errors.items()}
        pieces, failed = self.cut(column, meter)
        errors |= failed
        meter.count(failed=len(errors))
        self._raise_if_wanted(errors, partition)
        if failed and len(failed) == column.valid.sum():
            self._require_some_cut()
        chunks = Chunks.of(column.values, pieces, errors)
        return chunks.rows, self.results(chunks, meter, partition)

    def results(self, chunks: Chunks, meter: Meter, partition: Any) -> dict[str, Result]:
        """Return the columns to append to the rows of `chunks`."""
        return dict(zip(self.output_columns, chunks.columns(), strict=False))

    def cut(self, column: TextColumn, meter: Meter) -> tuple[pa.Array, dict[int, str]]:
        """Return the pieces of each text, and why others cannot be cut."""
        from dask_embed.inference.texts import ColumnSink, run_texts

        rules = self.rules()
        cutter = own_tokenizer(self.spec, "chunks", Cutter.of)
        sink = ColumnSink(len(column.values), [PIECES])
        kind = (self.spec, tokenizer_checkpoint(self.spec).revision, rules)
        failures = run_texts(
            [column], lambda texts: cutter.cut(texts, rules), sink, meter, kind=kind
        )
        return sink.columns()[0], failures

    def _require_some_cut(self) -> None:
        """Raise ValueError if no text could be cut, whatever it is."""
        from dask_embed.runtime.stats import Meter

        meter = Meter(type(self).__name__, self.spec.name)
        _, failed = self.cut(TextColumn(list(EXAMPLES)), meter)
        if len(failed) == len(EXAMPLES):
            raise ValueError(nothing_passes(type(self).__name__, self.spec.name, failed[0]))

    def kept(self, frame: Any) -> Any:
        return frame if self.keep_text else frame.drop(columns=[self.column])
