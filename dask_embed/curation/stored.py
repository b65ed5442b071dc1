"""Signatures of a corpus as a frame, to be stored and held against later ones."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from dask_embed._docstrings import with_parameters_of
from dask_embed._options import named_options
from dask_embed.columns import to_host
from dask_embed.columns.frames import require_frame
from dask_embed.curation.fuzzy import mark_fuzzy_duplicates, signing_of
from dask_embed.curation.ranking import ranking_of
from dask_embed.curation.signing import STORED, Signing


@with_parameters_of(mark_fuzzy_duplicates)
@named_options
def fuzzy_signatures(
    frame: Any,
    column: Any,
    *,
    threshold: float = 0.8,
    ngram: int = 5,
    unit: str = "word",
    normalize: Any = None,
    num_perm: int = 128,
    bands: int | None = None,
    rows: int | None = None,
    id: Any = None,
) -> Any:
    """Return what a corpus has to be known by for fuzzy duplicates of a later one; lazy.

    `mark_fuzzy_duplicates` needs the same settings with these signatures as ``against=``.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
        pandas or cuDF backed.
    column, threshold, ngram, unit, normalize, num_perm, bands, rows
        See `mark_fuzzy_duplicates`.
    id : str, optional
        Column that knows a row.

    Returns
    -------
    dask.dataframe.DataFrame
        The id column, if one is named; ``fuzzy_bands``, a list of a hash for each band, empty for a
        text without n-grams; ``fuzzy_ngrams``, the set of hashed n-grams in ascending order; and
        ``fuzzy_made``, what made them. `.ml.to_parquet` stores it, `dask_embed.read_parquet`
        reads it.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit each other or the frame.

    Examples
    --------
    >>> import dask.dataframe as dd
    >>> import pandas as pd
    >>> import dask_embed
    >>> old = dd.from_pandas(pd.DataFrame({"text": ["to be or not to be"]}), npartitions=1)
    >>> signed = old.ml.fuzzy_signatures("text")
    >>> texts = ["to be or not to be", "the rest"]
    >>> new = dd.from_pandas(pd.DataFrame({"text": texts}), npartitions=1)
    >>> new.ml.mark_fuzzy_duplicates("text", against=signed).fuzzy_kept.compute().tolist()
    [False, True]
    """
    require_frame("fuzzy_signatures", frame, lazy=True)
    signing = signing_of(frame, column, threshold, ngram, unit, normalize, num_perm, bands, rows)
    known = ranking_of(frame, "lowest id", id=id).reads
    needed = frame[list(dict.fromkeys([*known, column]))]
    meta = _signed(needed._meta, signing, known)
    return needed.map_partitions(_signed, signing, known, meta=meta)


def _signed(partition: Any, signing: Signing, known: list[Any]) -> pd.DataFrame:
    host = to_host(partition)
    hashes, usable = signing.bands(host)
    ngrams = signing.compared(host)
    lengths = np.where(usable, hashes.shape[1], 0)
    columns = [
        _lists(hashes[usable].ravel(), lengths),
        _lists(ngrams.values, ngrams.lengths),
        pa.array([signing.made] * len(host), pa.string()),
    ]
    found = host[known].copy()
    for name, array in zip(STORED, columns, strict=True):
        dtype = pd.StringDtype(na_value=np.nan) if name == STORED[2] else None
        values = array.to_pylist() if dtype else pd.arrays.ArrowExtensionArray(array)
        found[name] = pd.Series(values, index=host.index, dtype=dtype)
    return found


def _lists(values: np.ndarray, lengths: np.ndarray) -> pa.Array:
    offsets = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values))
