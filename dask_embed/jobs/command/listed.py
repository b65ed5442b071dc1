"""The commands by their names, and what is said of each without importing what it runs."""

from __future__ import annotations

import dataclasses
from typing import Any

from dask_embed.jobs.command.steps import Step


@dataclasses.dataclass(frozen=True)
class About:
    """What the list of commands says of one, without importing anything for it."""

    operator: str
    help: str
    example: str


COMMANDS = {
    "embed": About(
        "Embedder",
        "Append a vector to each text.",
        "dask-embed embed 'docs/*.parquet' --to vectors/ --columns id,embedding \\\n"
        "    --model sentence-transformers/all-MiniLM-L6-v2 --where \"lang == 'en'\"",
    ),
    "embed-sparse": About(
        "SparseEmbedder",
        "Append a sparse vector over the vocabulary to each text.",
        "dask-embed embed-sparse docs.jsonl --to sparse/ --model owner/splade",
    ),
    "embed-multi-vector": About(
        "MultiVectorEmbedder",
        "Append the vectors of each text's tokens.",
        "dask-embed embed-multi-vector docs.jsonl --to colbert/ --model owner/colbert",
    ),
    "classify": About(
        "Classifier",
        "Append the label that a classifier gives each text.",
        "dask-embed classify news.jsonl --to labelled/ --model owner/topics --score confidence",
    ),
    "classify-zero-shot": About(
        "ZeroShotClassifier",
        "Append one of your own labels to each text.",
        "dask-embed classify-zero-shot news.jsonl --to labelled/ --model owner/nli \\\n"
        "    --labels sport --labels politics",
    ),
    "classify-tokens": About(
        "TokenClassifier",
        "Append what is named in each text, and where.",
        "dask-embed classify-tokens news.jsonl --to entities/ --model owner/ner "
        "--aggregation simple",
    ),
    "answer": About(
        "QuestionAnswerer",
        "Append the part of each text that answers a question.",
        "dask-embed answer letters.csv --to answers/ --model owner/qa --question 'Who writes?'",
    ),
    "rerank": About(
        "Reranker",
        "Append how well each text answers a query.",
        "dask-embed rerank found.parquet --to ranked/ --model owner/cross-encoder \\\n"
        "    --query-column question",
    ),
    "fill-mask": About(
        "MaskFiller",
        "Append the likeliest tokens for the mask of each text.",
        "dask-embed fill-mask gaps.txt --to filled/ --model google-bert/bert-base-uncased",
    ),
    "score": About(
        "PerplexityScorer",
        "Append how likely a language model finds each text.",
        "dask-embed score docs.jsonl --to scored/ --model owner/writer",
    ),
    "score-candidates": About(
        "CandidateScorer",
        "Append the likeliest of some texts behind each prompt.",
        "dask-embed score-candidates docs.jsonl --to scored/ --model owner/writer \\\n"
        "    --prompt 'Good or bad? {text}' --candidates good --candidates bad",
    ),
    "score-next": About(
        "NextTokenScorer",
        "Append the likeliest tokens behind each text.",
        "dask-embed score-next docs.jsonl --to scored/ --model owner/writer --top-k-next 5",
    ),
    "generate": About(
        "Generator",
        "Append what a language model writes behind a prompt.",
        "dask-embed generate docs.jsonl --to written/ --model owner/writer \\\n"
        "    --prompt 'Summarize: {text}' --max-new-tokens 60",
    ),
    "chunk": About(
        "Chunker",
        "Cut each text into rows of at most so many tokens.",
        "dask-embed chunk docs.jsonl --to chunks/ --model BAAI/bge-m3 --max-tokens 256 "
        "--overlap 32",
    ),
    "tokenize": About(
        "Tokenizer",
        "Append the token ids of each text.",
        "dask-embed tokenize docs.jsonl --to tokens/ --model BAAI/bge-m3 --count tokens_count",
    ),
    "detect-language": About(
        "LanguageDetector",
        "Append the language of each text.",
        "dask-embed detect-language docs.jsonl --to english/ --where \"language == 'en'\"",
    ),
    "text-quality": About(
        "TextQuality",
        "Append whether the rules of a corpus keep a text.",
        "dask-embed text-quality docs.jsonl --to kept/ --preset gopher --where quality",
    ),
    "text-statistics": About(
        "TextStatistics",
        "Append what texts are filtered by: words, repeated lines.",
        "dask-embed text-statistics docs.jsonl --to long/ --where 'text_words > 50'",
    ),
}


STEPS = {
    "dedup": (
        Step("dask_embed.curation.exact", "drop_exact_duplicates", "mark_exact_duplicates"),
        About(
            "",
            "Leave out rows that repeat the text of another one.",
            "dask-embed dedup docs.jsonl --to kept/ --column text --normalize whitespace",
        ),
    ),
    "dedup-fuzzy": (
        Step("dask_embed.curation.fuzzy", "drop_fuzzy_duplicates", "mark_fuzzy_duplicates"),
        About(
            "",
            "Leave out rows that have nearly the same text as another one.",
            "dask-embed dedup-fuzzy docs.jsonl --to kept/ --column text --threshold 0.8",
        ),
    ),
    "dedup-semantic": (
        Step(
            "dask_embed.curation.semantic", "drop_semantic_duplicates", "mark_semantic_duplicates"
        ),
        About(
            "",
            "Leave out rows that have nearly the same vector as another one.",
            "dask-embed dedup-semantic vectors/ --to kept/ --threshold 0.95",
        ),
    ),
    "nearest": (
        Step("dask_embed.curation.nearest", "nearest", "nearest"),
        About(
            "",
            "Write the nearest rows of questions, or of every row.",
            "dask-embed nearest vectors/ --to neighbours/ --queries 'fill in missing values' --k 5",
        ),
    ),
    "cluster": (
        Step("dask_embed.curation.clustering", "cluster", "KMeans"),
        About(
            "",
            "Append the k-means cluster of each vector.",
            "dask-embed cluster vectors/ --to clustered/ --n-clusters 100",
        ),
    ),
}
# Operators whose arguments are arrays.
_OF_ARRAYS = ("linear-head", "similarity")
LISTED = {**COMMANDS, **{name: about for name, (_, about) in STEPS.items()}}


def about(name: str) -> About | None:
    """Return what is said of a command, of an operator that is not listed by its own docstring."""
    if name in LISTED:
        return LISTED[name]
    from dask_embed import operators

    for kind in operators.__all__:
        operator = getattr(operators, kind)
        if name and getattr(operator, "method", "").replace("_", "-") == name not in _OF_ARRAYS:
            return About(kind, first_sentence(operator), f"dask-embed {name} --help")
    return None


def first_sentence(operator: Any) -> str:
    operator = operator.function if isinstance(operator, Step) else operator
    return (operator.__doc__ or "").strip().partition("\n\n")[0].partition(";")[0].rstrip(".") + "."
