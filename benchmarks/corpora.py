"""The texts: four corpora that differ in what they leave to win, as Parquet folders."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from setting import MAX_TOKENS

FILES = 4
WARM_UP_ROWS = 8
PACKAGES = ("dask", "distributed", "numpy", "pandas", "scikit-learn", "torch")
STS = Path(__file__).resolve().parents[2] / "shared" / "data" / "sts15.parquet"
_SEED = 0
_CUT_TOKENS = 300  # cut from a longer text, some words become fewer tokens


@dataclass(frozen=True)
class Corpus:
    """A folder of Parquet files with columns id and text, and what is in it.

    Attributes
    ----------
    source, warm_up : Path
        Folders: all texts in `FILES` files, and the first few in one.
    lengths : numpy.ndarray
        Tokens of each text as the model sees it, int64, shape (texts,).
    description : dict
        For the result.
    """

    source: Path
    warm_up: Path
    lengths: np.ndarray
    description: dict[str, Any]


class Source:
    """Texts to make corpora of; read on first use.

    Parameters
    ----------
    model : str
        Folder of the checkpoint, for its tokenizer.
    sts : Path
        Parquet file with columns sentence1 and sentence2.
    """

    def __init__(self, model: str, sts: Path) -> None:
        self.model = model
        self.sts = sts

    @cached_property
    def docstrings(self) -> pd.Series:
        """All docstrings of `PACKAGES`, in random order."""
        import dask_embed as de

        every = de.datasets.docstrings(list(PACKAGES)).compute(scheduler="synchronous")
        return every["text"].sample(frac=1, random_state=_SEED)

    @cached_property
    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.model, local_files_only=True)

    def lengths(self, texts: list[str]) -> np.ndarray:
        """Return how many tokens of each text the model sees."""
        ids = self.tokenizer(texts, truncation=True, max_length=MAX_TOKENS)["input_ids"]
        return np.array([len(row) for row in ids])


def _docstrings(source: Source, rows: int) -> list[str]:
    return source.docstrings.head(rows).tolist()


def _short(source: Source, rows: int) -> list[str]:
    pairs = pd.read_parquet(source.sts, columns=["sentence1", "sentence2"])
    sentences = pd.concat([pairs["sentence1"], pairs["sentence2"]])
    return sentences.sample(n=min(rows, len(sentences)), random_state=_SEED).tolist()


def _uniform(source: Source, rows: int) -> list[str]:
    texts: list[str] = []
    for start in range(0, len(source.docstrings), 1000):
        joined = "\n".join(source.docstrings.iloc[start : start + 1000])
        encoded = source.tokenizer(
            joined, add_special_tokens=False, return_offsets_mapping=True, verbose=False
        )
        begins = [begin for begin, _ in encoded["offset_mapping"][::_CUT_TOKENS]]
        cuts = itertools.pairwise(begins)
        texts += [joined[begin:end] for begin, end in cuts]
        if len(texts) >= rows:
            break
    texts = texts[:rows]
    if not (source.lengths(texts) == MAX_TOKENS).all():
        raise ValueError(f"a text cut at {_CUT_TOKENS} tokens has fewer than {MAX_TOKENS}")
    return texts


def _repeats(source: Source, rows: int) -> list[str]:
    distinct = source.docstrings.drop_duplicates().head(rows - rows // 2)
    copies = distinct.sample(n=rows // 2, replace=True, random_state=_SEED)
    return pd.concat([distinct, copies]).sample(frac=1, random_state=_SEED).tolist()


_Make = Callable[[Source, int], list[str]]
# Rows for which sentence-transformers takes about six seconds on two cores.
CORPORA: dict[str, tuple[str, int, _Make]] = {
    "docstrings": (
        f"a random sample of all docstrings of {', '.join(PACKAGES)}",
        400,
        _docstrings,
    ),
    "short": ("a random sample of the sentences of STS 2015", 2400, _short),
    "uniform": (f"{MAX_TOKENS} tokens each, cut from docstrings joined", 140, _uniform),
    "repeats": ("docstrings, half of the rows copies of others, shuffled", 400, _repeats),
}


def write_corpus(name: str, source: Source, factor: float, folder: Path) -> Corpus:
    """Write the corpus `name`, `factor` times its usual rows, under `folder`.

    Raises
    ------
    FileNotFoundError
        If its texts are not on this machine.
    """
    what, rows, make = CORPORA[name]
    texts = make(source, max(FILES, round(rows * factor)))
    frame = pd.DataFrame({"id": np.arange(len(texts)), "text": texts})
    corpus = Corpus(
        source=folder / name / "texts",
        warm_up=folder / name / "warm-up",
        lengths=source.lengths(texts),
        description={"what": what},
    )
    bounds = np.linspace(0, len(frame), FILES + 1).astype(int)
    parts = [frame.iloc[begin:end] for begin, end in itertools.pairwise(bounds)]
    _write(corpus.source, parts)
    # other texts than those that are timed, whose vectors a contender may keep
    warm_up = frame.head(WARM_UP_ROWS)
    _write(corpus.warm_up, [warm_up.assign(text="Warm up: " + warm_up["text"])])
    corpus.description.update(_describe(frame, corpus.lengths))
    return corpus


def _write(folder: Path, parts: list[pd.DataFrame]) -> None:
    folder.mkdir(parents=True)
    for number, part in enumerate(parts):
        part.to_parquet(folder / f"part.{number}.parquet", index=False)


def _describe(frame: pd.DataFrame, lengths: np.ndarray) -> dict[str, Any]:
    return {
        "files": FILES,
        "documents": len(frame),
        "distinct": int(frame["text"].nunique()),
        "tokens": int(lengths.sum()),
        "tokens per document": {
            "mean": round(float(lengths.mean()), 1),
            "median": int(statistics.median(lengths.tolist())),
            "longest": int(lengths.max()),
        },
    }
