"""Tell other libraries of this package, as soon as they are imported: ``.ml``, settings."""

from __future__ import annotations

from typing import Any

import wrapt


def register() -> None:
    """Add accessor and settings to each library: now if it is imported, else when it is."""
    # not left to the first use, which may be in a block of dask.config.set that ends
    wrapt.register_post_import_hook(_settings, "dask.config")
    wrapt.register_post_import_hook(_pandas, "pandas")
    wrapt.register_post_import_hook(_cudf, "cudf")
    wrapt.register_post_import_hook(_dask, "dask.dataframe")
    wrapt.register_post_import_hook(_nodes_of, "dask_embed.operators.dispatch")
    wrapt.register_post_import_hook(_options, "dask_embed._options")


def _settings(module: Any) -> None:
    from dask_embed.config import DEFAULTS

    module.update_defaults(DEFAULTS)


def _pandas(module: Any) -> None:
    module.api.extensions.register_dataframe_accessor("ml")(_frame_accessor)
    module.api.extensions.register_series_accessor("ml")(_column_accessor)


def _cudf(module: Any) -> None:
    module.api.extensions.register_dataframe_accessor("ml")(_frame_accessor)
    module.api.extensions.register_series_accessor("ml")(_column_accessor)


def _dask(module: Any) -> None:
    from dask.dataframe.extensions import register_dataframe_accessor, register_series_accessor

    register_dataframe_accessor("ml")(_dask_accessor)
    register_series_accessor("ml")(_column_accessor)


def _nodes_of(module: Any) -> None:
    # looked for at the first Dask DataFrame, since Dask's dataframes take long to import
    module.lazily.register_lazy("dask_embed", _nodes)


def _options(module: Any) -> None:
    module.operators = _operators


def _operators() -> list[Any]:
    from dask_embed import operators

    return [getattr(operators, name) for name in operators.__all__]


def _nodes() -> None:
    import dask_embed.lazy.above_concat
    import dask_embed.lazy.append
    import dask_embed.lazy.chunks
    import dask_embed.lazy.concatenated
    import dask_embed.lazy.declared
    import dask_embed.lazy.each_row
    import dask_embed.lazy.quantize
    import dask_embed.lazy.reshaped  # noqa: F401 - each registers what it makes of operators


def _frame_accessor(frame: Any) -> Any:
    from dask_embed.accessor import FrameAccessor

    return FrameAccessor(frame)


def _dask_accessor(frame: Any) -> Any:
    from dask_embed.accessor import DaskAccessor

    return DaskAccessor(frame)


def _column_accessor(column: Any) -> Any:
    from dask_embed.accessor import ColumnAccessor

    return ColumnAccessor(column)
