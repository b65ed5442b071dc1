"""What every operator is: a function of a dataframe, checked before it runs."""

from __future__ import annotations

import abc
import dataclasses
import functools
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import pyarrow as pa
from dask.tokenize import normalize_token

from dask_embed import config
from dask_embed._options import NamedOptions
from dask_embed._reprs import ShortRepr
from dask_embed._validation import booleans, column_name, meant, non_empty_string, one_of, shown
from dask_embed.columns import check_text
from dask_embed.columns.frames import is_dask_frame, require_frame, row_label, row_number
from dask_embed.inference.workers import warn_of_small_workers
from dask_embed.operators.dispatch import lazily
from dask_embed.operators.identity import told_fields
from dask_embed.runtime.computations import follow
from dask_embed.runtime.remembered import looking_once, remembered

if TYPE_CHECKING:
    from dask_embed.inference.footprint import Footprint

Frame = TypeVar("Frame")

# Arguments that name one column, by what they are for.
_READ = ("column", "pair")
_WRITTEN = (
    *("output", "score", "scores", "probabilities", "count", "offsets", "embedding", "hidden"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameOperator(ShortRepr, NamedOptions, abc.ABC):
    """A function from a dataframe to another one with more columns: checks, errors, Dask token.

    Parameters
    ----------
    on_error : {"raise", "null"}
        What a row that cannot be used does: fail the partition with an error that names the row,
        or become null with its message in a column of errors.
    cache : str or Path, optional
        Folder or URL where results are kept: rows of which it has the results do not run, in this
        job and in others. By default ``dask.config`` ``embed.cache``, for operators that run a
        model. It never changes a result. Rows that stay in GPU memory are not looked up.
    """

    on_error: str = "raise"
    cache: str | Path | None = None

    used: ClassVar[str] = (
        "an operator is called with a dataframe, and appends columns to it: "
        "operator(pandas.DataFrame({'text': texts}))"
    )

    method: ClassVar[str] = ""
    """Its name on ``.ml``, of operators that are part of this package."""

    incidental: ClassVar[frozenset[str]] = frozenset({"on_error", "cache"})
    """Fields that cannot change a value, or that `input_columns` or `resolved` tell; those of
    bases are added. All others are part of what files say of a column, see `provenance`."""

    uses_configured_cache: ClassVar[bool] = False
    """Whether results cost enough to be kept where the configuration names a cache."""

    def __post_init__(self) -> None:
        if self.cache is not None:
            from dask_embed.operators.cached import cache_path

            object.__setattr__(self, "cache", cache_path(self.cache))
        booleans(self)
        one_of("on_error", self.on_error, ("raise", "null"))
        self._check_names()
        for name in self.output_columns:
            if not isinstance(name, str) or not name:
                raise TypeError(f"an output column must be a non-empty string, got {shown(name)}")
        if len(set(self.output_columns)) != len(self.output_columns):
            raise ValueError(f"output columns must differ, got {shown(list(self.output_columns))}")

    def _check_names(self) -> None:
        """Raise unless all arguments that name a column can do so."""
        for field in dataclasses.fields(self):
            if "str" not in str(field.type) and field.type != "Any":
                continue  # of an operator that means something else by the name
            value, optional = getattr(self, field.name), field.default is None
            if _is_read(field.name):
                column_name(field.name, value, allow_none=optional)
            elif field.name in _WRITTEN:
                non_empty_string(field.name, value, allow_none=optional)

    @property
    def input_columns(self) -> tuple[str, ...]:
        """Columns that are read: what is said of `column`, `pair` and fields with ``_column``."""
        named = (getattr(self, name) for name in _reading(type(self)))
        return tuple(name for name in named if name is not None)

    @property
    @abc.abstractmethod
    def output_columns(self) -> tuple[str, ...]:
        """All columns that are appended, known without reading files."""

    @abc.abstractmethod
    def types(self) -> dict[str, pa.DataType]:
        """Return name and Arrow type of the columns that are appended.

        Raises
        ------
        ValueError
            If the files that the operator needs are missing or unfit.
        """

    @abc.abstractmethod
    def meta(self, frame: Frame) -> Frame:
        """Return the result's empty frame, from small files alone.

        Parameters
        ----------
        frame : pandas.DataFrame or cudf.DataFrame
            A frame with the columns of the input, such as ``ddf._meta``.
        """

    @abc.abstractmethod
    def apply(self, partition: Any) -> Any:
        """Run on one pandas or cuDF partition; `__call__` without the checks."""

    def prepare(self) -> None:
        """Import what `apply` and `rehearse` take, before threads do: by default nothing."""

    def resolved(self) -> dict[str, Any]:
        """Return what the files that it reads make of the settings, as json values."""
        return {}

    def provenance(self) -> dict[str, Any]:
        """Return what a reader of the result has to know to compute it again, as json values.

        The operator's and its model's fields but for `incidental` ones, and what is `resolved`.
        """
        named = {"operator": type(self).__name__, "input": list(self.input_columns)}
        return {**named, **told_fields(self), **self.resolved()}

    def pinned(self) -> FrameOperator:
        """Return the operator with all that it reads resolved: files, revisions."""
        return self

    def footprint(self, threads: int, *, on_gpu: bool = False) -> Footprint | None:
        """Return the memory that a worker of so many threads needs, None where it is not known.

        Nothing is loaded for it.
        """
        return None

    def rehearse(self) -> None:
        """Raise ValueError where no row could be used, whatever it holds, if small files tell."""

    def check_column(self, series: Any) -> None:
        """Raise TypeError unless an input column may be of this type: text, by default."""
        check_text(series)

    def kept(self, frame: Any) -> Any:
        """Return `frame` with the columns that the result keeps: by default all."""
        return frame

    def __call__(self, frame: Frame) -> Frame:
        """Return the result for a pandas, cuDF or Dask DataFrame; lazy for Dask.

        Raises
        ------
        TypeError, ValueError
            If the frame does not fit: a missing column or one of another type, an output name
            that exists, a checkpoint that is missing or unfit. Nothing has been computed then.
        """
        follow()
        if is_dask_frame(frame):
            with looking_once():
                return self._lazily(frame)
        require_frame(type(self).__name__, frame)
        self.check(frame)
        return self.pinned().with_cache().apply(frame)

    def _lazily(self, frame: Any) -> Any:
        self.check(frame._meta)
        operator = self.pinned().with_cache()
        operator.prepare()
        operator.rehearse()
        warn_of_small_workers(operator.footprint)
        return lazily(operator, frame)

    def with_cache(self) -> FrameOperator:
        """Return the operator with the cache that the configuration names, if it takes it."""
        configured = config.get("cache") if self.uses_configured_cache else None
        if configured is None or self.cache is not None:
            return self
        return dataclasses.replace(self, cache=configured)

    def check(self, frame: Any) -> None:
        """Raise unless the settings, the columns of `frame` and the operator's files fit."""
        config.check()
        names = list(frame.columns)
        for column in self.input_columns:
            if names.count(column) != 1:
                near = meant(column, names)
                what = "stands more than once in the dataframe"
                what = what if column in names else f"is not in the dataframe{near}"
                raise ValueError(f"column {shown(column)} {what}; its columns are {shown(names)}")
            self.check_column(frame[column])
        self.types()
        kept = list(self.kept(frame).columns)
        taken = [name for name in self.output_columns if name in kept]
        if taken:
            raise ValueError(
                f"output column {taken[0]!r} already exists; drop it first or choose another "
                f"name with output=; the columns are {shown(names)}"
            )

    def _raise_if_wanted(self, errors: dict[int, str], partition: Any) -> None:
        """Raise ValueError naming the first of the rows unless ``on_error="null"``."""
        if not errors or self.on_error == "null":
            return
        row = min(errors)
        label = row_label(partition.index, row)
        raise ValueError(
            f"row {row_number(row)} of the partition (index {label!r}): {errors[row]} "
            f"({len(errors)} such rows); on_error='null' keeps the others"
        )

    def __dask_tokenize__(self) -> tuple[Any, ...]:
        return _token(self)


def _is_read(field: str) -> bool:
    return field in _READ or field.endswith("_column")


@functools.lru_cache(maxsize=256)
def _reading(operator: type[FrameOperator]) -> tuple[str, ...]:
    """Return the fields that name the columns which an operator reads."""
    names = tuple(each.name for each in dataclasses.fields(operator) if _is_read(each.name))
    if not names:
        raise TypeError(f"{operator.__name__} must define input_columns")
    return names


@remembered
def _token(operator: FrameOperator) -> tuple[Any, ...]:
    """Return what tells an operator from all others: each node of a plan asks for it anew."""
    cls = type(operator)
    # where a class of ours lies in the package is not for names of tasks to depend on
    home = "dask_embed" if cls.__module__.startswith("dask_embed.") else cls.__module__
    values = (getattr(operator, field.name) for field in dataclasses.fields(operator))
    # Dask takes what it is given here as it is shown, which may be short
    return (f"{home}.{cls.__qualname__}", *map(normalize_token, values))
