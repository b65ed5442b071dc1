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
    from dask_embed.curation.clustering import FittedKMeans, KMeans
    from dask_embed.curation.report import curation_report
    from dask_embed.curation.thresholds import duplicates_by_threshold
    from dask_embed.jobs.cluster import cluster
    from dask_embed.jobs.inspection import describe_model, stats
    from dask_embed.jobs.parquet import read_parquet
    from dask_embed.jobs.plugins import ModelPlugin
    from dask_embed.jobs.progress import progress
    from dask_embed.jobs.unfinished import discard_unfinished
    from dask_embed.lazy.arrays import to_array
    from dask_embed.lazy.explain import explain
    from dask_embed.lazy.quantize import calibration_ranges, quantize
    from dask_embed.models.spec import Model
    from dask_embed.operators import (
        CandidateScorer,
        Chunker,
        Classifier,
        ColumnOperator,
        Embedder,
        Generator,
        LanguageDetector,
        LateChunkEmbedder,
        LinearHead,
        MaskFiller,
        ModelOperator,
        MultiVectorEmbedder,
        NextTokenScorer,
        PerplexityScorer,
        QuestionAnswerer,
        Reranker,
        Similarity,
        SparseEmbedder,
        TextQuality,
        TextStatistics,
        TokenClassifier,
        Tokenizer,
        ZeroShotClassifier,
    )
    from dask_embed.runtime.registry import unload

_HOMES = {
    "CandidateScorer": "dask_embed.operators",
    "Chunker": "dask_embed.operators",
    "Classifier": "dask_embed.operators",
    "ColumnOperator": "dask_embed.operators",
    "Embedder": "dask_embed.operators",
    "FittedKMeans": "dask_embed.curation.clustering",
    "Generator": "dask_embed.operators",
    "KMeans": "dask_embed.curation.clustering",
    "LanguageDetector": "dask_embed.operators",
    "LateChunkEmbedder": "dask_embed.operators",
    "LinearHead": "dask_embed.operators",
    "MaskFiller": "dask_embed.operators",
    "Model": "dask_embed.models.spec",
    "ModelOperator": "dask_embed.operators",
    "MultiVectorEmbedder": "dask_embed.operators",
    "ModelPlugin": "dask_embed.jobs.plugins",
    "NextTokenScorer": "dask_embed.operators",
    "PerplexityScorer": "dask_embed.operators",
    "QuestionAnswerer": "dask_embed.operators",
    "Reranker": "dask_embed.operators",
    "Similarity": "dask_embed.operators",
    "SparseEmbedder": "dask_embed.operators",
    "TextQuality": "dask_embed.operators",
    "TextStatistics": "dask_embed.operators",
    "TokenClassifier": "dask_embed.operators",
    "Tokenizer": "dask_embed.operators",
    "ZeroShotClassifier": "dask_embed.operators",
    "calibration_ranges": "dask_embed.lazy.quantize",
    "cluster": "dask_embed.jobs.cluster",
    "curation_report": "dask_embed.curation.report",
    "datasets": "dask_embed",
    "describe_model": "dask_embed.jobs.inspection",
    "discard_unfinished": "dask_embed.jobs.unfinished",
    "duplicates_by_threshold": "dask_embed.curation.thresholds",
    "explain": "dask_embed.lazy.explain",
    "plot": "dask_embed",
    "progress": "dask_embed.jobs.progress",
    "quantize": "dask_embed.lazy.quantize",
    "read_parquet": "dask_embed.jobs.parquet",
    "register_operator": "dask_embed.accessor",
    "stats": "dask_embed.jobs.inspection",
    "to_array": "dask_embed.lazy.arrays",
    "unload": "dask_embed.runtime.registry",
}

__all__ = [
    "CandidateScorer",
    "Chunker",
    "Classifier",
    "ColumnOperator",
    "Embedder",
    "FittedKMeans",
    "Generator",
    "KMeans",
    "LanguageDetector",
    "LateChunkEmbedder",
    "LinearHead",
    "MaskFiller",
    "Model",
    "ModelOperator",
    "ModelPlugin",
    "MultiVectorEmbedder",
    "NextTokenScorer",
    "PerplexityScorer",
    "QuestionAnswerer",
    "Reranker",
    "Similarity",
    "SparseEmbedder",
    "TextQuality",
    "TextStatistics",
    "TokenClassifier",
    "Tokenizer",
    "ZeroShotClassifier",
    "calibration_ranges",
    "cluster",
    "curation_report",
    "datasets",
    "describe_model",
    "discard_unfinished",
    "duplicates_by_threshold",
    "explain",
    "plot",
    "progress",
    "quantize",
    "read_parquet",
    "register_operator",
    "stats",
    "to_array",
    "unload",
]


def __getattr__(name: str) -> Any:
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = _HOMES[name]
    if home == __name__:
        return importlib.import_module(f"{home}.{name}")
    # Kept, because importing the module of the same name would put the module in its place.
    globals()[name] = value = getattr(importlib.import_module(home), name)
    return value


def __dir__() -> list[str]:
    return [*__all__, "__version__"]


_registration.register()
