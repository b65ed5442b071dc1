"""Transformer models as lazy columns of Dask dataframes.

Importing this package is cheap: torch, transformers, cudf and Dask's dataframes are imported
when they are first needed. The accessor ``.ml`` appears on pandas, cuDF and Dask DataFrames.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dask_embed import _registration
from dask_embed._version import __version__ as __version__

if TYPE_CHECKING:
    from dask_embed import datasets, plot
    from dask_embed.accessor import register_operator
    from dask_embed.columns.declared import declare_columns
    from dask_embed.curation.clustering import KMeans
    from dask_embed.curation.fitted_kmeans import FittedKMeans
    from dask_embed.curation.report import curation_report
    from dask_embed.curation.thresholds import duplicates_by_threshold
    from dask_embed.jobs.cluster import cluster
    from dask_embed.jobs.inspection import describe_model, stats
    from dask_embed.jobs.plugins import ModelPlugin
    from dask_embed.jobs.progress import progress
    from dask_embed.jobs.reading import read_parquet
    from dask_embed.jobs.unfinished import discard_unfinished
    from dask_embed.lazy.arrays import to_array
    from dask_embed.lazy.explain import explain
    from dask_embed.lazy.quantize import calibration_ranges, quantize
    from dask_embed.models.spec import Model
    from dask_embed.operators import *
    from dask_embed.runtime.registry import unload

# What is no operator: those are public by the table of `dask_embed.operators`.
_HOMES = {
    "FittedKMeans": "dask_embed.curation.fitted_kmeans",
    "KMeans": "dask_embed.curation.clustering",
    "Model": "dask_embed.models.spec",
    "ModelPlugin": "dask_embed.jobs.plugins",
    "calibration_ranges": "dask_embed.lazy.quantize",
    "cluster": "dask_embed.jobs.cluster",
    "curation_report": "dask_embed.curation.report",
    "datasets": "dask_embed",
    "declare_columns": "dask_embed.columns.declared",
    "describe_model": "dask_embed.jobs.inspection",
    "discard_unfinished": "dask_embed.jobs.unfinished",
    "duplicates_by_threshold": "dask_embed.curation.thresholds",
    "explain": "dask_embed.lazy.explain",
    "plot": "dask_embed",
    "progress": "dask_embed.jobs.progress",
    "quantize": "dask_embed.lazy.quantize",
    "read_parquet": "dask_embed.jobs.reading",
    "register_operator": "dask_embed.accessor",
    "stats": "dask_embed.jobs.inspection",
    "to_array": "dask_embed.lazy.arrays",
    "unload": "dask_embed.runtime.registry",
}


def __getattr__(name: str) -> Any:
    import importlib

    if name == "__all__":
        return sorted([*_HOMES, *importlib.import_module("dask_embed.operators").__all__])
    home = _HOMES.get(name)
    if home == __name__:
        return importlib.import_module(f"{home}.{name}")
    if home is None and name[:1].isupper():  # a class; else maybe a module that is asked for
        operators = importlib.import_module("dask_embed.operators")
        home = operators.__name__ if name in operators.__all__ else None
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Kept, because importing the module of the same name would put the module in its place.
    globals()[name] = value = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return [*__getattr__("__all__"), "__version__"]


_registration.register()
