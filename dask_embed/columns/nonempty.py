"""The made-up rows by which Dask finds types, for cuDF frames with lists.

dask-cudf 26.10 makes lists a level deeper than they are and, where Arrow refuses these for the
type, takes another type (`_get_non_empty_data`). A merge or `concat` of frames with vectors would
promise lists of lists, which no operator takes. So here are functions in place of its own, which
they call for all other columns.
"""

from __future__ import annotations

from typing import Any

import cudf
import pyarrow as pa
from dask.dataframe.dispatch import meta_nonempty

_rows_of_frame = meta_nonempty.dispatch(cudf.DataFrame)
_rows_of_series = meta_nonempty.dispatch(cudf.Series)


@meta_nonempty.register(cudf.DataFrame)
def nonempty_frame(frame: cudf.DataFrame) -> cudf.DataFrame:
    """Return two rows of the types of `frame`."""
    lists = [name for name, dtype in frame.dtypes.items() if isinstance(dtype, cudf.ListDtype)]
    if not lists:
        return _rows_of_frame(frame)
    out = _rows_of_frame(frame.drop(columns=lists))
    for name in lists:
        out[name] = nonempty_series(frame[name], out.index)
    return out[list(frame.columns)]


@meta_nonempty.register(cudf.Series)
def nonempty_series(series: cudf.Series, idx: Any = None) -> cudf.Series:
    """Return two rows of the type of `series`."""
    if not isinstance(series.dtype, cudf.ListDtype):
        return _rows_of_series(series, idx)
    made = cudf.Series.from_arrow(pa.array([[], []], series.dtype.to_arrow()))
    made.index = meta_nonempty(series.index) if idx is None else idx
    made.name = series.name
    return made
