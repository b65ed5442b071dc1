"""Delta tables: Parquet files that workers write, and one transaction that makes them rows."""

from __future__ import annotations

import dataclasses
from typing import Any, ClassVar

import pyarrow as pa

from dask_embed._docstrings import with_parameters_of
from dask_embed._validation import shown
from dask_embed.columns.types import of_children
from dask_embed.jobs.arguments import partition_columns
from dask_embed.jobs.delta_files import FILE, by_values, write_file
from dask_embed.jobs.delta_version import RUN, Version, app_id, with_fields_that_tell
from dask_embed.jobs.lance import to_lance
from dask_embed.jobs.parquet import to_parquet
from dask_embed.jobs.table import ConflictError, Table
from dask_embed.jobs.table_write import Given, columns, require_extra, told, write

_SCHEMES = ("s3", "s3a", "gs", "az", "abfs", "abfss", "adl", "azure")


@with_parameters_of(to_lance)
@with_parameters_of(to_parquet)
def to_delta(
    frame: Any,
    uri: Any,
    *,
    mode: str = "create",
    run_id: str | None = None,
    partition_on: str | list[str] | None = None,
    write_index: bool | None = None,
    storage_options: dict[str, str] | None = None,
    compute: bool = True,
) -> Any:
    """Write a Dask DataFrame to a Delta table, in one commit.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
    uri, mode, run_id
        See `to_lance`.
    partition_on : str or list of str, optional
        Columns of texts, integers, booleans or dates that rows are partitioned by; those of a table
        that is there by default.
    write_index
        See `to_parquet`.
    storage_options : dict of str to str, optional
        What opens the store, as `deltalake.DeltaTable` takes it.
    compute
        See `to_parquet`.

    Returns
    -------
    None, or with ``compute=False`` a Dask scalar as of `to_parquet`.

    Raises
    ------
    ImportError
        If ``deltalake`` is not installed: the extra ``delta`` brings it.
    FileExistsError
        If there is a table though `mode` is "create", and not from this very job.
    TypeError, ValueError
        If Delta has no such type; if for "append" the table has other columns or types, or says
        that another operator, model, revision or setting made one of them; if it is partitioned by
        other columns.

    Notes
    -----
    Delta has no lists of a fixed size: vectors are lists of float32. What made each column is told
    by the metadata of its field, under ``dask_embed``. Files of a job that died are in no version
    of the table; ``vacuum(full=True)`` of deltalake removes them.

    The run is an application transaction of the table (``transaction_version``).
    """
    require_extra("deltalake", "to_delta", "delta")
    given = Given.of(
        frame,
        _SCHEMES,
        uri=uri,
        mode=mode,
        run_id=run_id,
        write_index=write_index,
        storage_options=storage_options,
    )
    by = None if partition_on is None else tuple(partition_columns(frame, partition_on))

    def make(frame: Any, run: str, made: Any) -> DeltaTable:
        partitions, schema = columns(frame, given, DeltaTable.kind, _delta_type)
        for name in by or ():
            _require_partition_type(schema.field(name))
        return DeltaTable(
            *(given.uri, given.mode, run, given.options, partitions),
            schema.with_metadata(told(made)),
            given.index,
            by=by,
        )

    return write(frame, given, make, compute)


def _delta_type(dtype: pa.DataType) -> pa.DataType:
    """Return the type of a column in the table.

    Raises
    ------
    TypeError, ValueError
        If Delta has none.
    """
    from deltalake import Schema

    if pa.types.is_null(dtype):
        raise TypeError("its values are not known to be of a type")
    if pa.types.is_unsigned_integer(dtype):
        raise TypeError("Delta's integers have signs")
    if pa.types.is_dictionary(dtype):
        return _delta_type(dtype.value_type)
    if pa.types.is_large_string(dtype) or pa.types.is_string_view(dtype):
        return pa.string()
    if pa.types.is_large_binary(dtype) or pa.types.is_fixed_size_binary(dtype):
        return pa.binary()
    if pa.types.is_fixed_size_list(dtype):
        return pa.list_(_delta_type(dtype.value_type))
    if pa.types.is_timestamp(dtype):
        return pa.timestamp("us", None if dtype.tz is None else "UTC")
    changed = of_children(dtype, _delta_type)
    try:
        Schema.from_arrow(pa.schema([("column", changed)]))
    except Exception:  # the library raises no other kind
        raise TypeError("Delta has no such type") from None
    return changed


def _require_partition_type(field: pa.Field) -> None:
    kinds = (pa.types.is_string, pa.types.is_integer, pa.types.is_boolean, pa.types.is_date)
    if not any(kind(field.type) for kind in kinds):
        raise TypeError(
            "partition_on must name columns of texts, integers, booleans or dates; "
            f"{field.name!r} is {field.type}"
        )


@dataclasses.dataclass(frozen=True)
class DeltaTable(Table):
    """A Delta table; see `Table`.

    Attributes
    ----------
    by : tuple of str, optional
        Columns that it is partitioned by; None for those that it has.
    """

    kind: ClassVar[str] = "Delta"
    by: tuple[str, ...] | None = None

    def __dask_tokenize__(self) -> Any:
        return (*super().__dask_tokenize__(), self.by)

    def look(self) -> Version | None:
        import deltalake

        if deltalake.DeltaTable.is_deltatable(self.uri, self.options):
            return Version(deltalake.DeltaTable(self.uri, storage_options=self.options))
        return None

    def owns(self, name: str) -> bool:
        return name == "_delta_log" or bool(FILE.fullmatch(name))

    def fitting(self, found: Any) -> DeltaTable:
        fitting = super().fitting(found)
        assert isinstance(fitting, DeltaTable)
        if found is None:
            return dataclasses.replace(fitting, by=self.by or ())
        if self.by is not None and self.by != found.by:
            raise ValueError(
                f"partition_on must be that of the Delta table at {shown(self.uri)}, "
                f"{list(found.by)}; got {list(self.by)}"
            )
        missing = [name for name in found.by if name not in fitting.schema.names]
        if missing:
            raise ValueError(
                f"the Delta table at {shown(self.uri)} is partitioned by {missing[0]!r}, which the "
                "frame has not"
            )
        return dataclasses.replace(fitting, by=found.by)

    def write(self, rows: pa.Table, place: int) -> list[Any]:
        """Write a file for each value of the columns that rows are partitioned by."""
        groups = by_values(rows.replace_schema_metadata(None), self.by or ())
        return [write_file(self.uri, self.options, part, values, place) for values, part in groups]

    def add(self, found: Version | None, parts: list[Any]) -> None:
        """Commit files, if nobody else did.

        Without retries the library makes the very next version or none: with them, two that
        create a table both succeed.
        """
        from deltalake import CommitProperties, Schema, Transaction
        from deltalake.exceptions import CommitFailedError, DeltaError
        from deltalake.transaction import AddAction, create_table_with_add_actions

        actions = [AddAction(**part) for part in parts]
        schema = Schema.from_arrow(with_fields_that_tell(self.schema))
        before = None if found is None else found.table.transaction_version(app_id(self.run))
        properties = CommitProperties(
            custom_metadata={RUN: self.run},
            max_commit_retries=0,
            app_transactions=[Transaction(app_id(self.run), (before or 0) + 1)],
        )
        by = list(self.by or ())
        try:
            if found is None:
                create_table_with_add_actions(
                    *(self.uri, schema, actions),
                    partition_by=by,
                    storage_options=self.options,
                    commit_properties=properties,
                )
            else:
                mode = "overwrite" if self.mode == "overwrite" else "append"
                found.table.create_write_transaction(
                    actions, mode, schema, by, commit_properties=properties
                )
        except CommitFailedError as error:
            raise ConflictError from error
        except DeltaError as error:
            if found is None and self.look() is not None:
                raise ConflictError from error
            raise
