"""All that is private to Dask and needed here: what a new version of it can break."""

from __future__ import annotations

from dask._task_spec import List, Task, TaskRef
from dask.dataframe._pyarrow import to_pyarrow_string
from dask.dataframe.dask_expr import new_collection
from dask.dataframe.dask_expr._concat import Concat
from dask.dataframe.dask_expr._expr import (
    AddPrefix,
    And,
    ArrowStringConversion,
    Assign,
    AssignIndex,
    AsType,
    Binop,
    Blockwise,
    Drop,
    DropnaFrame,
    Elemwise,
    Expr,
    Fillna,
    Filter,
    Fused,
    Head,
    Index,
    Isin,
    Lengths,
    MapPartitions,
    Projection,
    RenameFrame,
    RenameSeries,
    ResetIndex,
    Tail,
    ToFrame,
    Unaryop,
    _check_dependents_are_predicates,
    _DelayedExpr,
    are_co_aligned,
    determine_column_projection,
    is_filter_pushdown_available,
)
from dask.dataframe.dask_expr._groupby import GroupByBase
from dask.dataframe.dask_expr._merge import Merge
from dask.dataframe.dask_expr._reductions import Len, TreeReduce
from dask.dataframe.dask_expr._repartition import Repartition
from dask.dataframe.dask_expr._shuffle import SetIndexBlockwise, Shuffle
from dask.dataframe.dask_expr.io.io import IO, FromPandas, FusedIO
from dask.dataframe.dask_expr.io.parquet import (
    ReadParquet,
    ReadParquetFSSpec,
    ReadParquetPyarrowFS,
    ToParquet,
    ToParquetBarrier,
    ToParquetData,
)
from dask.dataframe.io.parquet.arrow import ArrowDatasetEngine
from dask.dataframe.io.utils import _is_local_fs

__all__ = [
    "IO",
    "AddPrefix",
    "And",
    "ArrowDatasetEngine",
    "ArrowStringConversion",
    "AsType",
    "Assign",
    "AssignIndex",
    "Binop",
    "Blockwise",
    "Concat",
    "Drop",
    "DropnaFrame",
    "Elemwise",
    "Expr",
    "Fillna",
    "Filter",
    "FromPandas",
    "Fused",
    "FusedIO",
    "GroupByBase",
    "Head",
    "Index",
    "Isin",
    "Len",
    "Lengths",
    "List",
    "MapPartitions",
    "Merge",
    "Projection",
    "ReadParquet",
    "ReadParquetFSSpec",
    "ReadParquetPyarrowFS",
    "RenameFrame",
    "RenameSeries",
    "Repartition",
    "ResetIndex",
    "SetIndexBlockwise",
    "Shuffle",
    "Tail",
    "Task",
    "TaskRef",
    "ToFrame",
    "ToParquet",
    "ToParquetBarrier",
    "ToParquetData",
    "TreeReduce",
    "Unaryop",
    "_DelayedExpr",
    "_check_dependents_are_predicates",
    "_is_local_fs",
    "are_co_aligned",
    "determine_column_projection",
    "is_filter_pushdown_available",
    "new_collection",
    "to_pyarrow_string",
]
