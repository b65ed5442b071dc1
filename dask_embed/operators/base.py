"""What operators share that append columns to the rows of a frame."""

from __future__ import annotations

import abc
import dataclasses
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed.columns import (
    Result,
    TextColumn,
    append_columns,
    empty_columns,
    keeps_on_device,
    read_text,
)
from dask_embed.columns.frames import require_columns
from dask_embed.operators.frame import Frame, FrameOperator
from dask_embed.operators.rehearsal import require_some_row
from dask_embed.tokens.encoded import Row

if TYPE_CHECKING:
    from dask_embed.runtime.stats import Meter


@dataclasses.dataclass(frozen=True, kw_only=True)
class ColumnOperator(FrameOperator):
    """A function from a dataframe to the same dataframe with more columns.

    Calling it on a pandas or cuDF frame computes; calling it on a Dask DataFrame is lazy. Row
    order, index and the other columns stay as they are, nulls give nulls, and a frame without
    rows gets its columns without touching a model.

    Subclasses are frozen dataclasses of plain values. Two operators with equal values have the
    same Dask token in every process.

    Parameters
    ----------
    on_error : {"raise", "null"}
        What a row that cannot be used does: fail the partition with an error that names the row,
        or become null with its message in the column ``<output>_error``.
    """

    nulls_follow_inputs: ClassVar[bool] = False
    """Whether this gives null where an input is null and for no other row that it can use, so that
    what only asks for nulls need not run it."""

    run_encodes: ClassVar[bool] = False
    """Whether `run` makes tokens of all rows by `encode`, so that a text is tried by it alone."""

    most_columns: ClassVar[int | None] = None
    """How many columns `encode` makes a sequence of, None for any number."""

    spoken_of: ClassVar[Mapping[str, frozenset[str]]] = {
        "tokens_key": frozenset({"apply", "read", "encode"}),
        "forward_key": frozenset({"apply", "read", "encode", "run"}),
        "nulls_follow_inputs": frozenset({"apply", "read", "run", "postprocess"}),
        "run_encodes": frozenset({"run"}),
        "most_columns": frozenset({"encode"}),
    }
    """What each declaration is about: a class with another of these methods makes it anew."""

    def __init_subclass__(cls, **options: Any) -> None:
        """Take back what a class inherits of declarations about methods that it does not."""
        super().__init_subclass__(**options)
        for declaration, methods in cls.spoken_of.items():
            for kind in cls.__mro__:  # a method may come from a class that is no operator
                if declaration in vars(kind):
                    break
                if not methods.isdisjoint(vars(kind)):
                    setattr(cls, declaration, getattr(ColumnOperator, declaration))
                    break

    @property
    @abc.abstractmethod
    def result_columns(self) -> tuple[str, ...]:
        """Columns that are appended, errors not included; known without reading files."""

    @abc.abstractmethod
    def run(
        self, columns: list[Any], *, on_device: bool, meter: Meter
    ) -> tuple[dict[str, Result], dict[int, str]]:
        """Compute the results of a partition that has at least one row.

        Parameters
        ----------
        columns : list
            What `read` gave for each input column.
        on_device : bool
            Leave the results in GPU memory.
        meter : Meter
            Where to count what is done.

        Returns
        -------
        results : dict
            Column name to values.
        failures : dict
            Row number to message, for rows that could not be run; their results are null.
        """

    @abc.abstractmethod
    def plan(self) -> list[str]:
        """Return in a few lines what is computed, for `dask_embed.explain`."""

    def examples(self) -> Iterator[list[Any]]:
        """Yield columns of one row that should pass, for when all rows of a partition failed.

        Without any, which is the default, rows are to blame for their failures.
        """
        yield from ()

    def read(self, series: Any) -> Any:
        """Return what `run` needs of an input column, an object with `errors` by row."""
        return read_text(series)

    def tokens_key(self) -> Hashable:
        """Return what operators must have in common to share the tokens of a partition.

        These are the columns, the tokenizer, and all that decides which sequences are made of a
        row. None, which is the default, shares nothing.

        An inherited key does not speak of another `encode`: see `spoken_of`.
        """
        return None

    def forward_key(self) -> Hashable:
        """Return what operators must have in common for `run_together` to serve them all.

        None, which is the default, where one run serves this operator alone.
        """
        return None

    def run_together(
        self, others: Sequence[Any], columns: list[Any], *, on_device: bool, meter: Meter
    ) -> tuple[dict[str, Result], dict[int, str]]:
        """Compute what `run` does, of `others` that have an equal `forward_key` too."""
        raise TypeError(f"{type(self).__name__} has a forward_key and must define run_together")

    def keeping(self, wanted: Collection[str]) -> ColumnOperator:
        """Return an operator that may leave out columns that are not `wanted`: by default none."""
        return self

    @property
    def subject(self) -> str:
        """What statistics name beside the operator: the model."""
        return ""

    @property
    def statistics_name(self) -> str:
        """What statistics call it."""
        return type(self).__name__

    @property
    def output_columns(self) -> tuple[str, ...]:
        """All columns that are appended, known without reading files."""
        errors = (self.error_column,) if self.on_error == "null" else ()
        return (*self.result_columns, *errors)

    @property
    def error_column(self) -> str:
        return f"{self.result_columns[0]}_error"

    def meta(self, frame: Frame) -> Frame:
        return empty_columns(frame, self._all_types())

    def apply(self, partition: Any) -> Any:
        if not len(partition):
            return empty_columns(partition, self._all_types())
        if self.cache is None or keeps_on_device(partition):
            return self._computed(partition)
        from dask_embed.operators.cached import through_cache

        return through_cache((self,), partition, self._computed)

    def _computed(self, partition: Any) -> Any:
        self.prepare()
        from dask_embed.runtime.stats import metered

        with metered(type(self).__name__, self.subject, len(partition)) as meter:
            with meter.seconds("convert"):
                require_columns(partition, self.input_columns)
                columns = [self.read(partition[name]) for name in self.input_columns]
            errors = self._unusable(columns)
            meter.count(failed=len(errors))
            self._raise_if_wanted(errors, partition)
            on_device = keeps_on_device(partition)
            results, failures = self.run(columns, on_device=on_device, meter=meter)
            meter.count(failed=len(failures))
            self._raise_if_wanted(failures, partition)
            errors |= failures
            if self.on_error == "null":
                require_some_row(self, columns, failures, on_device=on_device)
                messages = [errors.get(row) for row in range(len(partition))]
                results[self.error_column] = pa.array(messages, pa.string())
            with meter.seconds("convert"):
                return append_columns(partition, results)

    def _all_types(self) -> dict[str, pa.DataType]:
        types = self.types()
        return {**types, self.error_column: pa.string()} if self.on_error == "null" else types

    def _unusable(self, columns: list[Any]) -> dict[int, str]:
        """Return the message of each row that does not hold text."""
        errors: dict[int, str] = {}
        for name, column in zip(self.input_columns, columns, strict=True):
            for row, message in column.errors.items():
                errors.setdefault(row, f"column {name!r}: {message}")
        return errors


def distinct_rows(columns: list[TextColumn]) -> tuple[list[Row], np.ndarray]:
    """Return the distinct rows of texts, and for each row its place among them, -1 for nulls."""
    places: dict[Row, int] = {}
    inverse = np.full(len(columns[0].values), -1)
    for row, texts in enumerate(zip(*(column.values for column in columns), strict=True)):
        if all(text is not None for text in texts):
            inverse[row] = places.setdefault(texts, len(places))
    return list(places), inverse
