"""The types of columns that name folders: files say them, since names of folders are texts."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pyarrow as pa
import pyarrow.dataset as pa_ds
from dask.dataframe.utils import UNKNOWN_CATEGORIES

from dask_embed.jobs.folder import METADATA_KEY

FOLDERS = "folders"
"""Where files say it, in what they say of their columns."""
_PLAIN = (
    *(pa.types.is_integer, pa.types.is_floating, pa.types.is_boolean),
    lambda dtype: pa.types.is_timestamp(dtype) and dtype.tz is None,
)


def folder_types(frame: Any, columns: list[str]) -> dict[str, str]:
    """Return the types of the `columns` of a frame that name folders, where files can say them.

    Columns of others are read as Arrow guesses from names.
    """
    told = {name: _type_of(frame[name].dtype) for name in columns}
    return {name: each for name, each in told.items() if each is not None}


def types_told(schema: pa.Schema) -> dict[str, str]:
    """Return the types of columns that name folders, as a file says them; {} if it does not."""
    said = json.loads((schema.metadata or {}).get(METADATA_KEY.encode(), b"{}"))
    return dict(said.get(FOLDERS, {}))


def partitioning(found: pa_ds.Dataset, schema: pa.Schema) -> pa_ds.Partitioning | None:
    """Return how to read names of folders, None where the first file does not say all types."""
    told = types_told(schema)
    names = found.partitioning.schema.names if found.partitioning else []
    if not names or not set(names) <= set(told):
        return None
    types = pa.schema([(name, pa.type_for_alias(told[name])) for name in names])
    return pa_ds.partitioning(types, flavor="hive")


def values_of(found: pa_ds.Dataset, name: str) -> pd.Series:
    """Return the values that the folders of a dataset have of a column, in order."""
    fragments = found.get_fragments()
    values = {
        pa_ds.get_partition_keys(fragment.partition_expression)[name] for fragment in fragments
    }
    return pd.Series(sorted(values))


def _type_of(dtype: Any) -> str | None:
    """Return the Arrow type that values of a column have, None where that is not known."""
    if isinstance(dtype, pd.CategoricalDtype):
        # unknown ones are those of each partition
        known = UNKNOWN_CATEGORIES not in dtype.categories
        return _type_of(dtype.categories.dtype) if known else None
    if isinstance(dtype, pd.StringDtype) or dtype.kind == "O":
        return "string"
    try:
        arrow = pa.array(pd.array([], dtype=dtype)).type
    except (pa.ArrowException, TypeError):
        return None
    if pa.types.is_string(arrow) or pa.types.is_large_string(arrow):
        return "string"
    return str(arrow) if any(is_kind(arrow) for is_kind in _PLAIN) else None
