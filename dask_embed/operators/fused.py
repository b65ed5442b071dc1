"""Several operators in one pass over a partition."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from dask_embed.columns import Result, append_columns, empty_columns, keeps_on_device
from dask_embed.operators.base import ColumnOperator
from dask_embed.operators.rehearsal import require_some_row
from dask_embed.operators.renamed import Renamed, all_types, renamed, unwrapped
from dask_embed.runtime.remembered import looking_once, remembered
from dask_embed.tokens.sharing import SharedTokens

if TYPE_CHECKING:
    from dask_embed.runtime.stats import Meter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Together(ColumnOperator):
    """Operators on the same text that share its tokens, and where they can the forward pass.

    The optimizer makes it; see `dask_embed.lazy.append.Settled`.

    Parameters
    ----------
    parts : tuple of ColumnOperator
        With an equal `tokens_key`. Columns are appended in their order, each with its own
        treatment of rows that cannot be used.

    Notes
    -----
    Besides what its parts hold one after the other, a worker holds the tokens of the partition's
    distinct texts; see `dask_embed.tokens.sharing.SharedTokens`.
    """

    parts: tuple[ColumnOperator, ...] = dataclasses.field(kw_only=False)

    @property
    def input_columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(name for part in self.parts for name in part.input_columns))

    @property
    def result_columns(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.result_columns)

    @property
    def output_columns(self) -> tuple[str, ...]:
        return tuple(name for part in self.parts for name in part.output_columns)

    def types(self) -> dict[str, pa.DataType]:
        return {name: dtype for part in self.parts for name, dtype in part.types().items()}

    def _all_types(self) -> dict[str, pa.DataType]:
        return {name: dtype for part in self.parts for name, dtype in all_types(part).items()}

    def plan(self) -> list[str]:
        return [line for part in self.parts for line in part.plan()]

    def passes(self) -> list[list[ColumnOperator]]:
        """Return the parts, those beside each other that one forward pass serves."""
        passes: dict[Hashable, list[ColumnOperator]] = {}
        for number, part in enumerate(self.parts):
            key = part.forward_key()
            passes.setdefault(number if key is None else key, []).append(part)
        return list(passes.values())

    def run(
        self, columns: list[Any], *, on_device: bool, meter: Meter
    ) -> tuple[dict[str, Result], dict[int, str]]:
        raise TypeError("the parts run with meters of their own: use apply")

    def prepare(self) -> None:
        for part in self.parts:
            part.prepare()

    def apply(self, partition: Any) -> Any:
        if not len(partition):
            return empty_columns(partition, self._all_types())
        if self.parts[0].cache is None or keeps_on_device(partition):
            return self._computed(partition)
        from dask_embed.operators.cached import through_cache

        return through_cache(self.parts, partition, self._computed)

    def _computed(self, partition: Any) -> Any:
        self.prepare()
        results = dict(self._results(partition))
        return append_columns(partition, {name: results[name] for name in self.output_columns})

    def _results(self, partition: Any) -> Iterator[tuple[str, Result]]:
        from dask_embed.runtime.stats import metered

        passes = self.passes()
        tokens = SharedTokens(users=len(passes))
        texts: dict[Hashable, Any] = {}
        for parts in passes:
            tokens.begin()
            first = parts[0]
            with metered(type(first).__name__, first.subject, len(partition), tokens) as meter:
                with meter.seconds("convert"):
                    for name in first.input_columns:
                        if name not in texts:
                            texts[name] = first.read(partition[name])
                columns = [texts[name] for name in first.input_columns]
                yield from _run(parts, columns, partition, meter).items()


def _run(
    parts: Sequence[ColumnOperator], columns: list[Any], partition: Any, meter: Meter
) -> dict[str, Result]:
    """Return the results of parts that one forward pass serves, error columns included."""
    unusable = parts[0]._unusable(columns)
    meter.count(failed=len(unusable))
    for part in parts:
        part._raise_if_wanted(unusable, partition)
    on_device = keeps_on_device(partition)
    first, *others = parts
    if others:
        results, failures = first.run_together(others, columns, on_device=on_device, meter=meter)
    else:
        results, failures = first.run(columns, on_device=on_device, meter=meter)
    meter.count(failed=len(failures))
    errors = unusable | failures
    for part in parts:
        part._raise_if_wanted(failures, partition)
        if part.on_error == "null":
            require_some_row(part, columns, failures, on_device=on_device)
            messages = [errors.get(row) for row in range(len(partition))]
            results[part.error_column] = pa.array(messages, pa.string())
    return results


def together(*operators: ColumnOperator) -> ColumnOperator | None:
    """Return operators, the first to run first, as one if they share tokens, else None."""
    first, *others = operators
    if not all(_share_tokens(first, other) for other in others):
        return None
    inner = [unwrapped(each) for each in operators]
    both = Together(tuple(part for operator, _ in inner for part in parts_of(operator)))
    return _named(both, operators) if any(names for _, names in inner) else both


def can_be_together(first: ColumnOperator, second: ColumnOperator) -> bool:
    """Return whether `together` has an operator for both, which it only makes if it must."""
    return _share_tokens(first, second) and names_agree(first, second)


def names_agree(*operators: ColumnOperator) -> bool:
    """Return whether operators that share tokens have a form for all of them together."""
    named = any(type(operator) is Renamed for operator in operators)
    return not named or together(*operators) is not None


def _share_tokens(first: ColumnOperator, second: ColumnOperator) -> bool:
    one, other = (parts_of(unwrapped(each)[0])[0] for each in (first, second))
    key = tokens_key(one)
    return key is not None and key == tokens_key(other) and one.cache == other.cache


def _named(both: Together, operators: Sequence[ColumnOperator]) -> ColumnOperator | None:
    """Return all for a frame with the columns of each, None if those of one name are two."""
    names: dict[Any, Any] = {}
    for operator in operators:
        inner, given = unwrapped(operator)
        for column in (*inner.input_columns, *inner.output_columns):
            if names.setdefault(column, given.get(column, column)) != given.get(column, column):
                return None
    written = both.output_columns
    return renamed(both, names) if len(set(written)) == len(written) else None


def keeping(operator: ColumnOperator, wanted: set[str]) -> ColumnOperator:
    """Return the operator without the parts, and what parts can leave out, that is not wanted."""
    inner, names = unwrapped(operator)
    own = {column for column in inner.output_columns if names.get(column, column) in wanted}
    some = (part for part in parts_of(inner) if own.intersection(part.output_columns))
    parts = tuple(part.keeping(own) for part in some)
    if parts == parts_of(inner):
        return operator
    kept = parts[0] if len(parts) == 1 else Together(parts)
    return renamed(kept, names) or operator


def parts_of(operator: ColumnOperator) -> tuple[ColumnOperator, ...]:
    """Return the operators that an operator stands for, each with its columns in the frame."""
    inner, names = unwrapped(operator)
    parts = inner.parts if isinstance(inner, Together) else (inner,)
    return tuple(renamed(part, names) or part for part in parts) if names else parts


@remembered
def tokens_key(operator: ColumnOperator) -> Hashable:
    """Return the `tokens_key` of an operator of a plan, whose files are pinned."""
    with looking_once():
        return operator.tokens_key()
