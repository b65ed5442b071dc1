"""How a column becomes signatures and sets of n-grams: the same for all partitions."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import types
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dask_embed.columns.types import one_array
from dask_embed.curation.hashing import Normalize, normalized, texts_of
from dask_embed.curation.minhash import Banding, algorithm, band_hashes, signatures
from dask_embed.curation.ngrams import Lists, jaccard, ngrams, offsets_of, sets, token_ngrams

STORED = ["fuzzy_bands", "fuzzy_ngrams", "fuzzy_made"]
"""The columns of stored signatures."""
SEED = 1
"""Of the permutations: stored signatures of all corpora are comparable."""


@dataclasses.dataclass(frozen=True)
class Signing:
    """What of a column is compared.

    Attributes
    ----------
    column : str
    unit : {"word", "char", "token"}
    ngram : int
    normalize : tuple
    num_perm : int
    banding : Banding
    verify : bool
        Compare the n-grams of candidates, not their signatures.
    """

    column: Any
    unit: str
    ngram: int
    normalize: tuple[Normalize, ...]
    num_perm: int
    banding: Banding
    verify: bool

    @property
    def reads(self) -> list[Any]:
        """The columns that are read."""
        return [self.column]

    @property
    def made(self) -> str:
        """What makes signatures what they are: others are not comparable."""
        ways = [each if isinstance(each, str) else _name_of(each) for each in self.normalize]
        cut = f"{self.banding.bands} bands of {self.banding.rows} of {self.num_perm}"
        return f"{self.ngram}-grams of {self.unit}s {ways}, {cut}, {algorithm()}, seed {SEED}"

    def bands(self, partition: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return a hash for each band of each row, and which rows have an n-gram at all."""
        lists = self._ngrams(partition)
        signed = signatures(lists, self.num_perm, SEED)
        return band_hashes(signed, self.banding.bands, self.banding.rows), lists.lengths > 0

    def compared(self, partition: pd.DataFrame) -> Lists:
        """Return what of each row is compared: its set of n-grams, or its signature."""
        lists = self._ngrams(partition)
        if self.verify:
            return sets(lists)
        signed = signatures(lists, self.num_perm, SEED).astype(np.uint64)
        return Lists(signed.ravel(), offsets_of(np.full(len(signed), self.num_perm)))

    def similarity(self, left: Lists, right: Lists, pairs: tuple[Any, Any]) -> np.ndarray:
        """Return how alike pairs are: Jaccard of their n-grams, or its estimate."""
        if self.verify:
            return jaccard(left, right, pairs)
        ones, others = (
            each.values.reshape(-1, self.num_perm)[rows]
            for each, rows in zip((left, right), pairs, strict=True)
        )
        return (ones == others).mean(axis=1)

    def _ngrams(self, partition: pd.DataFrame) -> Lists:
        if self.unit == "token":
            return token_ngrams(lists_of(partition[self.column]), self.ngram)
        texts = texts_of(partition, self.column)
        if self.normalize:
            texts = [t if t is None else normalized(t, self.normalize) for t in texts]
        return ngrams(texts, self.ngram, self.unit)


@dataclasses.dataclass(frozen=True)
class StoredSigning:
    """Signatures that were stored by `fuzzy_signatures`, in place of the column.

    Attributes
    ----------
    made : str
        What they have to be made by.
    """

    made: str
    reads = STORED

    def bands(self, partition: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        """Return what `Signing.bands` gave.

        Raises
        ------
        ValueError
            If they were made in another way.
        """
        bands, _, made = STORED
        require_made(partition[made], self.made)
        lists = lists_of(partition[bands])
        usable = lists.lengths > 0
        width = int(lists.lengths.max(initial=0))
        hashes = np.zeros((len(partition), width), np.int64)
        hashes[usable] = lists.values.view(np.int64).reshape(usable.sum(), width)
        return hashes, usable

    def compared(self, partition: pd.DataFrame) -> Lists:
        """Return the stored sets of n-grams."""
        return lists_of(partition[STORED[1]])


def require_made(column: pd.Series, made: str) -> None:
    """Raise ValueError unless all rows of stored signatures were made in one way."""
    for each in column.unique():
        if each != made:
            raise ValueError(
                f"against has signatures that were made by {each!r}, and here they are made by "
                f"{made!r}: sign that corpus again with these settings"
            )


def _name_of(function: Any) -> str:
    """Return the name of a function, with a digest of its code where others may have that name."""
    named = function if hasattr(function, "__qualname__") else type(function)
    # methods of built-in types are in no module
    name = f"{getattr(named, '__module__', None) or 'builtins'}.{named.__qualname__}"
    if isinstance(function, types.FunctionType) and "<" not in function.__qualname__:
        return name
    return f"{name} {hashlib.blake2b(repr(_content(function)).encode(), digest_size=8).hexdigest()}"


def _content(value: Any) -> Any:
    """Return what a function does, the same in each process, whatever file and line it is in."""
    if isinstance(value, types.FunctionType):
        cells = [_content(cell.cell_contents) for cell in value.__closure__ or ()]
        kept = _content([value.__defaults__, value.__kwdefaults__])
        return _content(value.__code__), cells, kept
    if isinstance(value, types.CodeType):
        return value.co_code, value.co_names, [_content(each) for each in value.co_consts]
    if isinstance(value, functools.partial):
        return _content([value.func, value.args, value.keywords])
    if isinstance(value, list | tuple):
        return [_content(each) for each in value]
    if isinstance(value, dict):
        return [(name, _content(each)) for name, each in value.items()]
    if isinstance(value, types.MethodType | types.BuiltinMethodType):
        return value.__qualname__, repr(value.__self__)
    return getattr(value, "__qualname__", None) or repr(value)


def lists_of(series: pd.Series) -> Lists:
    """Return the lists of a column of integers, nulls as empty ones."""
    array = one_array(series.array)
    lengths = array.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    values = array.flatten().to_numpy(zero_copy_only=False)
    wide = np.uint64 if values.dtype == np.uint64 else np.int64
    return Lists(values.astype(wide, copy=False).view(np.uint64), offsets_of(lengths))


def is_token_column(series: Any) -> bool:
    """Return whether a column holds lists of token ids."""
    dtype = getattr(series.dtype, "pyarrow_dtype", pa.null())
    lists = pa.types.is_list(dtype) or pa.types.is_large_list(dtype)
    return lists and pa.types.is_integer(dtype.value_type)
