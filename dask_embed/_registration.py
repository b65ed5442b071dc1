"""Tell other libraries of this package, as soon as they are imported: ``.ml``, settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import wrapt


def register() -> None:
    """Add accessor and settings to each library: now if it is imported, else when it is."""
    # not left to the first use, which may be in a block of dask.config.set that ends
    wrapt.register_post_import_hook(_settings, "dask.config")
    wrapt.register_post_import_hook(_in_memory, "pandas")
    wrapt.register_post_import_hook(_in_memory, "cudf")
    wrapt.register_post_import_hook(_dask, "dask.dataframe")
    wrapt.register_post_import_hook(_of_dask_cudf, "dask_cudf.backends")
    wrapt.register_post_import_hook(_nodes_of, "dask_embed.operators.dispatch")
    wrapt.register_post_import_hook(_options, "dask_embed._options")


def _settings(module: Any) -> None:
    from dask_embed.config import DEFAULTS

    module.update_defaults(DEFAULTS)


def _in_memory(module: Any) -> None:
    module.api.extensions.register_dataframe_accessor("ml")(_accessor("FrameAccessor"))
    module.api.extensions.register_series_accessor("ml")(_accessor("ColumnAccessor"))


def _dask(module: Any) -> None:
    from dask.dataframe.extensions import register_dataframe_accessor, register_series_accessor

    register_dataframe_accessor("ml")(_accessor("DaskAccessor"))
    register_series_accessor("ml")(_accessor("ColumnAccessor"))


def _of_dask_cudf(module: Any) -> None:
    import dask_embed.columns.nonempty  # noqa: F401 - registers its functions after dask-cudf's


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


def _accessor(kind: str) -> Callable[[Any], Any]:
    def made(frame: Any) -> Any:
        from dask_embed import accessor

        return getattr(accessor, kind)(frame)

    return made
