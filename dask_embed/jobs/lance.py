"""Lance tables: fragments that workers write, and one transaction that makes them rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar

import pyarrow as pa

from dask_embed._docstrings import with_parameters_of
from dask_embed.columns.types import of_children
from dask_embed.jobs.parquet import to_parquet
from dask_embed.jobs.table import Commit, ConflictError, Table
from dask_embed.jobs.table_write import Given, columns, require_extra, told, write

_RUN = "dask_embed.run"
_SCHEMES = ("s3", "s3+ddb", "gs", "az", "abfss", "oss", "cos", "tos", "hf")
_FOLDERS = ("data", "_versions", "_transactions", "_deletions", "_indices", "_refs", "tree")
# Of what a transaction of Lance does.
_SAME_ROWS = ("Rewrite", "CreateIndex", "UpdateConfig", "Project")


@with_parameters_of(to_parquet)
def to_lance(
    frame: Any,
    uri: Any,
    *,
    mode: str = "create",
    run_id: str | None = None,
    write_index: bool | None = None,
    storage_options: dict[str, str] | None = None,
    compute: bool = True,
) -> Any:
    """Write a Dask DataFrame to a Lance table, in one commit.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
    uri : str or Path
        The folder of the table, also remote (``"s3://..."``).
    mode : {"create", "append", "overwrite"}
        What a table that is there is: an error, added to, or replaced. Where there is none, all
        make one.
    run_id : str, optional
        What the job is known by: a table that holds the rows of it stays as it is, and nothing
        runs. By default the rows of the frame decide it: input files, operators, models, the
        version of this library.
    write_index
        See `to_parquet`.
    storage_options : dict of str to str, optional
        What opens the store, as `lance.dataset` takes it.
    compute
        See `to_parquet`.

    Returns
    -------
    None, or with ``compute=False`` a Dask scalar as of `to_parquet`.

    Raises
    ------
    ImportError
        If ``lance`` is not installed: the extra ``lance`` brings it.
    FileExistsError
        If there is a table though `mode` is "create", and not from this very job.
    TypeError, ValueError
        If Lance has no such type; if for "append" the table has other columns or types, or says
        that another operator, model, revision or setting made one of them.

    Notes
    -----
    Vectors are fixed-size lists of float32, which Lance searches and indexes. What made each column
    is told by the schema's metadata, under ``dask_embed``, as in Parquet files. Files of a job
    that died are in no version of the table; ``cleanup_old_versions`` of Lance removes them.

    Runs are looked up in the versions of the table: what ``cleanup_old_versions`` removed is not
    known any more.
    """
    require_extra("lance", "to_lance", "lance")
    given = Given.of(
        frame,
        _SCHEMES,
        uri=uri,
        mode=mode,
        run_id=run_id,
        write_index=write_index,
        storage_options=storage_options,
    )

    def make(frame: Any, run: str, made: Any) -> LanceTable:
        partitions, schema = columns(frame, given, LanceTable.kind, _lance_type)
        schema = schema.with_metadata(told(made))
        return LanceTable(
            given.uri, given.mode, run, given.options, partitions, schema, given.index
        )

    return write(frame, given, make, compute)


def _lance_type(dtype: pa.DataType) -> pa.DataType:
    """Return the type of a column in the table.

    Raises
    ------
    TypeError, ValueError
        If Lance has none.
    """
    from lance.schema import LanceSchema

    if pa.types.is_null(dtype):
        raise TypeError("its values are not known to be of a type")
    if pa.types.is_dictionary(dtype):  # each partition has its own
        return _lance_type(dtype.value_type)
    changed = of_children(dtype, _lance_type)
    LanceSchema.from_pyarrow(pa.schema([("column", changed)]))
    return changed


@dataclasses.dataclass(frozen=True)
class _Version:
    """A version of a Lance table."""

    dataset: Any

    @property
    def version(self) -> int:
        return int(self.dataset.version)

    @property
    def schema(self) -> pa.Schema:
        schema: pa.Schema = self.dataset.schema
        return schema

    def ran(self, run: str) -> bool | None:
        return None

    def commits(self, after: int) -> Iterator[Commit]:
        """Yield versions until one that was cleaned up."""
        for version in range(self.version, after, -1):
            commit = self._commit(version)
            if commit is None:
                return
            yield commit

    def _commit(self, version: int) -> Commit | None:
        try:
            transaction = self.dataset.read_transaction(version)
        except OSError as error:
            if "not found" in str(error):
                return None
            raise
        if transaction is None:
            return Commit(version)
        kind = type(transaction.operation).__name__
        return Commit(
            version,
            (transaction.transaction_properties or {}).get(_RUN),
            replaces=kind == "Overwrite",
            changes=kind not in _SAME_ROWS,
            restores=transaction.operation.version if kind == "Restore" else None,
        )


class LanceTable(Table):
    """A Lance table; see `Table`."""

    kind: ClassVar[str] = "Lance"

    def look(self) -> _Version | None:
        import lance

        try:
            return _Version(lance.dataset(self.uri, storage_options=self.options))
        except ValueError as error:
            if "was not found" not in str(error):
                raise
        return None

    def owns(self, name: str) -> bool:
        return name in _FOLDERS

    def write(self, rows: pa.Table, place: int) -> list[Any]:
        from lance.fragment import LanceFragment, write_fragments

        if self.mode == "append" and self.seen is not None:
            return [*write_fragments(rows, self.uri, mode="append", storage_options=self.options)]
        # needs no table, and numbers its columns as a new one does
        return [LanceFragment.create(self.uri, rows, storage_options=self.options)]

    def add(self, found: _Version | None, parts: list[Any]) -> None:
        """Commit fragments, if nobody else did.

        Lance lets two transactions that append pass, be they of one run. One that says that it
        touched a fragment, which is here as it was, conflicts with all others that do. The indexes
        of a table stay, other than with one that replaces it.
        """
        from lance import LanceDataset, LanceOperation, Transaction
        from lance.commit import CommitConflictError

        version = 0 if found is None else found.version
        fragments = [] if found is None else found.dataset.get_fragments()
        operation: Any = LanceOperation.Overwrite(self.schema, parts)
        strict = self.mode == "overwrite" or not fragments
        if not strict:
            touched = min(fragments, key=lambda each: each.fragment_id).metadata
            operation = LanceOperation.Update(updated_fragments=[touched], new_fragments=parts)
        transaction = Transaction(version, operation, transaction_properties={_RUN: self.run})
        try:
            LanceDataset.commit(
                self.uri,
                transaction,
                storage_options=self.options,
                max_retries=0 if strict else 20,
            )
        except CommitConflictError as error:
            raise ConflictError from error
        except OSError as error:
            if found is None and self.look() is not None:
                raise ConflictError from error
            raise
