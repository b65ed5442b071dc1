"""An operator whose columns have other names in the frame."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import Any

import pyarrow as pa

from dask_embed.columns import empty_columns
from dask_embed.columns.frames import require_columns
from dask_embed.operators.base import ColumnOperator
from dask_embed.operators.frame import Frame
from dask_embed.runtime.remembered import remembered


@dataclasses.dataclass(frozen=True, kw_only=True)
class Renamed(ColumnOperator):
    """What `operator` does, for a frame whose columns were renamed before instead of after it.

    The optimizer makes it; see `dask_embed.lazy.rising`.

    Parameters
    ----------
    operator : ColumnOperator
    names : tuple of (object, object)
        Pairs of a column of the operator and its name in the frame, of those that differ.
    """

    operator: ColumnOperator = dataclasses.field(kw_only=False)
    names: tuple[tuple[Hashable, Hashable], ...] = dataclasses.field(kw_only=False)

    def _named(self, columns: Any) -> tuple[Any, ...]:
        names = dict(self.names)
        return tuple(names.get(column, column) for column in columns)

    @property
    def input_columns(self) -> tuple[str, ...]:
        return self._named(self.operator.input_columns)

    @property
    def result_columns(self) -> tuple[str, ...]:
        return self._named(self.operator.result_columns)

    @property
    def output_columns(self) -> tuple[str, ...]:
        return self._named(self.operator.output_columns)

    def types(self) -> dict[str, pa.DataType]:
        types = self.operator.types()
        return dict(zip(self._named(types), types.values(), strict=True))

    def _all_types(self) -> dict[str, pa.DataType]:
        types = all_types(self.operator)
        return dict(zip(self._named(types), types.values(), strict=True))

    def plan(self) -> list[str]:
        return self.operator.plan()

    def provenance(self) -> dict[str, Any]:
        return self.operator.provenance()

    def run(self, columns: list[Any], *, on_device: bool, meter: Any) -> Any:
        raise TypeError("the operator runs on a frame of its own: use apply")

    def apply(self, partition: Frame) -> Frame:
        frame: Any = partition
        if not len(frame):
            return empty_columns(frame, self._all_types())
        require_columns(frame, self.input_columns)
        narrow = frame[list(dict.fromkeys(self.input_columns))]
        narrow = narrow.rename(columns={new: old for old, new in self.names})
        made = self.operator.apply(narrow)
        result = frame.copy(deep=False)
        for column in self.operator.output_columns:
            result[self._named([column])[0]] = made[column]
        return result


@remembered
def all_types(operator: ColumnOperator) -> dict[str, pa.DataType]:
    """Return the types of all columns of an operator of a plan, whose files are pinned."""
    return operator._all_types()


def renamed(operator: ColumnOperator, names: Mapping[Any, Any]) -> ColumnOperator | None:
    """Return the operator for a frame in which its columns have other names.

    None if a result would have a name that is no text.
    """
    inner, before = unwrapped(operator)
    now = {}
    for column in (*inner.input_columns, *inner.output_columns):
        name = before.get(column, column)
        now[column] = names.get(name, name)
    written = [now[column] for column in inner.output_columns]
    if not all(isinstance(name, str) and name for name in written):
        return None
    changed = tuple((old, new) for old, new in now.items() if old != new)
    return Renamed(inner, changed) if changed else inner


def unwrapped(operator: Any) -> tuple[Any, dict[Any, Any]]:
    """Return the operator that runs, and the names of its columns in the frame that differ."""
    if isinstance(operator, Renamed):
        return operator.operator, dict(operator.names)
    return operator, {}


def plain(operator: Any) -> Any:
    """Return the operator that runs, by its own names of columns."""
    return unwrapped(operator)[0]
