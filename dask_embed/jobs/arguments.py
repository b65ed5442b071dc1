"""What `to_parquet` takes, checked before anything is read, computed or written."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
from dask.tokenize import tokenize

from dask_embed._secrets import refuse_secrets, texts_in
from dask_embed._validation import boolean, meant, one_of, shown, shown_error, usable_text
from dask_embed.jobs.row_expr import DIGEST
from dask_embed.jobs.rows import CHANGED, GONE, RowOptions

_WITHOUT_RESUME = {
    "repeat": "which leaves rows that are there as they are; leave one of them out",
    "name_function": "which names files by what they hold; leave one of them out",
    "write_metadata_file": "which does not hold what partitions of before wrote; leave one out",
}


@dataclasses.dataclass(frozen=True)
class Asked:
    """What `to_parquet` was given, checked.

    Attributes
    ----------
    overwrite, append, repeat, resume, write_index, compute
        As there.
    rows : RowOptions, optional
        How rows are known by ``resume="rows"``.
    name_function, custom_metadata
        As in `dask.dataframe.to_parquet`.
    compute_kwargs : dict
    options : dict
        What goes on to that. ``partition_on`` is a list.
    """

    overwrite: bool
    append: bool
    repeat: bool
    resume: bool | str
    write_index: bool | None
    compute: bool
    rows: RowOptions | None
    name_function: Any
    custom_metadata: dict[Any, Any] | None
    compute_kwargs: dict[str, Any]
    options: dict[str, Any]

    @classmethod
    def of(
        cls,
        frame: Any,
        options: Mapping[str, Any],
        resume: Any,
        write_index: Any,
        switches: dict[str, Any],
        by_rows: dict[str, Any],
    ) -> Asked:
        """Return arguments of `to_parquet`: its options, and those that are its own.

        Raises
        ------
        TypeError, ValueError
            If one of them cannot be used, or some do not go together.
        """
        if "engine" in options:
            raise TypeError("engine is no option: vectors are written by pyarrow; leave it out")
        options = dict(options)
        checked = {**switches, "write_index": write_index is None or write_index}
        _require_arguments(frame, checked, resume, options)
        rows = _row_options(frame, switches, resume, options, **by_rows)
        custom = options.pop("custom_metadata", None)
        refuse_secrets("custom_metadata", custom)
        if isinstance(frame._meta.index.name, str):
            usable_text("index", frame._meta.index.name)
        return cls(
            **switches,
            resume=resume,
            write_index=write_index,
            rows=rows,
            name_function=options.pop("name_function", None),
            custom_metadata=custom,
            compute_kwargs=options.pop("compute_kwargs", None) or {},
            options=options,
        )

    @property
    def partition_on(self) -> list[str]:
        return self.options.get("partition_on") or []


def _require_arguments(
    frame: Any, switches: dict[str, Any], resume: Any, options: dict[str, Any]
) -> None:
    """Raise TypeError or ValueError for options of Dask's writer that are of no use to it.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
    switches : dict
        Options that are True or False.
    resume : bool or "rows"
    options : dict
        What goes on to Dask. A single name in ``partition_on`` becomes a list.
    """
    ignores_order = options.get("ignore_divisions", False)
    for name, value in {**switches, "ignore_divisions": ignores_order}.items():
        boolean(name, value)
    if not isinstance(resume, bool) and not (isinstance(resume, str) and resume == "rows"):
        raise TypeError(f"resume must be True, False or 'rows', got {shown(resume)}")
    if options.get("write_metadata_file") is not None:
        boolean("write_metadata_file", options["write_metadata_file"])
    for name in ("compute_kwargs", "custom_metadata"):
        value = options.get(name)
        if value is not None and not isinstance(value, Mapping):
            refuse_secrets(name, value)  # before it is shown
            raise TypeError(f"{name} must be a dictionary, got {shown(value)}")
        for text in texts_in([*(value or ()), *(value or {}).values()]):
            usable_text(name, text)
    _require_effect({**switches, "resume": resume, **options})
    _require_schema(options.get("schema", "infer"))
    _require_plain(options)
    names = options.get("name_function")
    if names is not None and not callable(names):
        raise TypeError(
            "name_function must be a function from the number of a partition to the name of its "
            f"file, got {shown(names)}"
        )
    if options.get("partition_on") is not None:
        options["partition_on"] = partition_columns(frame, options["partition_on"])


def _row_options(
    frame: Any,
    switches: Mapping[str, Any],
    resume: Any,
    options: Mapping[str, Any],
    **given: Any,
) -> RowOptions | None:
    """Return how rows are known by ``resume="rows"``, None without it.

    Raises
    ------
    TypeError, ValueError
        If the options of `to_parquet` that speak of rows do not go together.
    """
    if resume != "rows":
        for name, default in (("id", None), ("changed", "error"), ("gone", "keep")):
            if given[name] != default:
                raise ValueError(f"{name}={shown(given[name])} has no effect without resume='rows'")
        return None
    one_of("changed", given["changed"], CHANGED)
    one_of("gone", given["gone"], GONE)
    name = given["id"]
    if not isinstance(name, str):
        raise TypeError(
            "resume='rows' needs id=, the name of a column that each row has a value of its own in;"
            f" got {shown(name)}"
        )
    if switches["append"]:
        raise ValueError("append=True does not go with resume='rows', which adds what is new")
    if not switches["compute"]:
        raise ValueError(
            "compute=False does not go with resume='rows', which reads rows to see which of them "
            "run"
        )
    if name in (options.get("partition_on") or ()):
        raise ValueError(f"partition_on must not name {name!r}, by which rows are known")
    if DIGEST in frame.columns:
        raise ValueError(f"the frame must not have a column {DIGEST!r}: it is written beside rows")
    return RowOptions(name, given["changed"], given["gone"])


def _require_plain(options: Mapping[str, Any]) -> None:
    """Raise TypeError for what Dask cannot name a task after."""
    for name, value in options.items():
        if name in ("name_function", "filesystem", "storage_options"):
            continue
        try:
            tokenize(value, ensure_deterministic=True)
        except Exception as error:  # whatever a value's own methods raise
            raise TypeError(
                f"{name} must hold plain values, got {shown(value)} ({shown_error(error)})"
            ) from None


def _require_effect(given: Mapping[str, Any]) -> None:
    """Raise ValueError for an option that nothing reads without another."""
    for name in ("repeat", "ignore_divisions"):
        if given.get(name) and not given["append"]:
            raise ValueError(f"{name}=True has no effect on what is not appended: add append=True")
    for name in _WITHOUT_RESUME if given["resume"] else ():
        if given.get(name) is not None and given[name] is not False:
            raise ValueError(
                f"{name} does not go with resume={given['resume']!r}, {_WITHOUT_RESUME[name]}"
            )
    if given.get("compute_kwargs") and not given["compute"]:
        raise ValueError(
            f"compute_kwargs={shown(given['compute_kwargs'])} has no effect with compute=False: "
            "give it to compute() of the result"
        )


def _require_schema(schema: Any) -> None:
    if schema is None or isinstance(schema, pa.Schema):
        return
    if isinstance(schema, Mapping):
        for column, dtype in schema.items():
            if not isinstance(column, str) or not isinstance(dtype, pa.DataType):
                raise TypeError(
                    "schema must map names of columns to types of pyarrow, got "
                    f"{shown({column: dtype})}"
                )
    elif not isinstance(schema, str) or schema != "infer":
        raise TypeError(
            "schema must be 'infer', a pyarrow.Schema, a dictionary from columns to types, or "
            f"None; got {shown(schema)}"
        )


def partition_columns(frame: Any, given: Any) -> list[str]:
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise TypeError(f"partition_on must be a column or a list of columns, got {shown(given)}")
    columns = list(frame.columns)
    for name in names:
        if name not in columns:
            raise ValueError(
                f"partition_on names the column {shown(name)}, which the frame has not"
                f"{meant(name, columns)}; its columns are {shown(columns)}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"partition_on must name each column once, got {shown(given)}")
    if len(names) == len(columns):
        raise ValueError(
            f"partition_on must leave a column to write, and {shown(names)} are all of the frame"
        )
    return list(names)
