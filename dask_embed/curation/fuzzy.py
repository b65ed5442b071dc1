"""Rows with nearly the same text: MinHash, then the true Jaccard similarity of candidates."""

from __future__ import annotations

from typing import Any

from dask_embed._docstrings import with_parameters_of
from dask_embed._options import named_options
from dask_embed._validation import boolean, one_of, positive_integer
from dask_embed.columns import check_text
from dask_embed.columns.frames import is_dask_frame, require_frame
from dask_embed.curation.banded import Fuzzy
from dask_embed.curation.exact import mark_exact_duplicates
from dask_embed.curation.hashing import normalizers
from dask_embed.curation.marks import dropping, marked, older_frame
from dask_embed.curation.minhash import Banding, algorithm, banding
from dask_embed.curation.ngrams import UNITS
from dask_embed.curation.ranking import ranking_of, require_column
from dask_embed.curation.signing import STORED, Signing, StoredSigning, is_token_column
from dask_embed.curation.thresholds import require_threshold


@with_parameters_of(mark_exact_duplicates)
@named_options
def mark_fuzzy_duplicates(
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
    verify: bool = True,
    bucket_limit: int = 100,
    components: str = "forest",
    id: Any = None,
    keep: Any = "lowest id",
    seed: int | None = None,
    against: Any = None,
    prefix: str = "fuzzy_",
) -> Any:
    """Append which rows have nearly the same text as another one; lazy.

    Parameters
    ----------
    frame : dask.dataframe.DataFrame
        pandas or cuDF backed.
    column : str
        Text, or with ``unit="token"`` lists of token ids, as `dask_embed.Tokenizer` makes.
    threshold : float
        Least Jaccard similarity of two duplicates: n-grams that both have, by those that either
        has. Above 0, at most 1.
    ngram : int
        Units of an n-gram. A text of fewer is one n-gram.
    unit : {"word", "char", "token"}
        Words are runs of letters, marks, digits and underscores.
    normalize
        See `mark_exact_duplicates`.
    num_perm : int
        Values of a signature.
    bands, rows : int, optional
        Bands of a signature, and values of each; rows with one equal band are candidates. By
        default, if candidates are verified, the bands that find 99 % of the pairs at the threshold
        with the fewest false candidates; if not, those of datasketch.
    verify : bool
        Compare the n-grams of candidates. If not, each candidate is a duplicate, and its
        similarity an estimate.
    bucket_limit : int
        Of a bucket of more rows (boilerplate makes such) not all pairs are compared: each row
        with the four best rows of it, and four others.
    components : {"forest", "stars"}
        How rows that pairs connect become groups: by forests that are merged in one place, 16 bytes
        for each row that is in a pair, or, for hundreds of millions of them, by large and small
        stars through 40 shuffles. The result is the same.
    id, keep, seed
        See `mark_exact_duplicates`.
    against : dask.dataframe.DataFrame, optional
        As in `mark_exact_duplicates`, or what `fuzzy_signatures` made of the older corpus with the
        same settings.
    prefix
        See `mark_exact_duplicates`.

    Returns
    -------
    dask.dataframe.DataFrame
        `frame` with the columns that `mark_exact_duplicates` describes, ``similarity`` being the
        Jaccard similarity to the row that it is a duplicate of.

    Raises
    ------
    TypeError, ValueError
        If the arguments do not fit each other or the frame.
    ModuleNotFoundError
        Without the extra ``curation``.

    Notes
    -----
    A row is a duplicate of a row that is kept: of all that are like it, one is. A higher threshold
    is a filter on ``similarity``. Hashes are shuffled, texts never; Parquet files are read four
    times, three times of them the column alone. Of a row all hashes of its n-grams are sent to the
    partitions that have candidates for it.

    Examples
    --------
    >>> import dask.dataframe as dd
    >>> import pandas as pd
    >>> import dask_embed
    >>> texts = ["to be or not to be, that is the question", "To be or not to be: that is it"]
    >>> ddf = dd.from_pandas(pd.DataFrame({"text": [*texts, "the rest is silence"]}), npartitions=2)
    >>> marked = ddf.ml.mark_fuzzy_duplicates("text", threshold=0.4, ngram=2, normalize="casefold")
    >>> marked.fuzzy_kept.compute().tolist()
    [True, False, True]
    """
    require_frame("mark_fuzzy_duplicates", frame, lazy=True)
    positive_integer("bucket_limit", bucket_limit, allow_none=False)
    one_of("components", components, ("forest", "stars"))
    signing = signing_of(
        frame, column, threshold, ngram, unit, normalize, num_perm, bands, rows, verify
    )
    ranking = ranking_of(frame, keep, id=id, seed=seed)
    stored = is_dask_frame(against) and set(STORED) <= set(against.columns)
    if stored and not verify:
        raise ValueError("verify=False does not go with stored signatures, which are of n-grams")
    older = older_frame(frame, against, [] if stored else [column], ranking)
    of_older = StoredSigning(signing.made) if stored else signing
    how = (float(threshold), bucket_limit, components)
    return marked(frame, Fuzzy(ranking, prefix, older, signing, of_older, *how))


drop_fuzzy_duplicates = dropping(
    mark_fuzzy_duplicates,
    "Leave out rows that have nearly the same text as another one",
)


def signing_of(
    frame: Any,
    column: Any,
    threshold: Any,
    ngram: Any,
    unit: Any,
    normalize: Any,
    num_perm: Any,
    bands: Any,
    rows: Any,
    verify: Any = True,
) -> Signing:
    """Return how a column is signed, by the arguments that say it."""
    _require_units(frame, column, unit)
    require_threshold(threshold)
    positive_integer("ngram", ngram, allow_none=False, most=1000)
    positive_integer("num_perm", num_perm, allow_none=False, most=4096)
    boolean("verify", verify)
    ways = normalizers(normalize)
    if ways and unit == "token":
        raise ValueError("normalize= has no effect on tokens, only on text")
    chosen = _banding(bands, rows, threshold, num_perm, verify)
    algorithm()  # tell that it is missing before any work
    return Signing(column, unit, ngram, ways, num_perm, chosen, verify)


def _require_units(frame: Any, column: Any, unit: Any) -> None:
    require_column(frame, "column", column)
    one_of("unit", unit, UNITS)
    if unit != "token":
        check_text(frame._meta[column])
    elif not is_token_column(frame._meta[column]):
        raise TypeError(
            f"unit='token' takes lists of token ids, as Tokenizer makes; column {column!r} is of "
            f"{frame._meta[column].dtype}"
        )


def _banding(
    bands: int | None, rows: int | None, threshold: float, num_perm: int, verify: bool
) -> Banding:
    positive_integer("bands", bands)
    positive_integer("rows", rows)
    if (bands is None) != (rows is None):
        raise ValueError(f"give both bands and rows, or neither; got {bands=}, {rows=}")
    if bands is None or rows is None:
        return banding(float(threshold), num_perm, verify)
    if bands * rows > num_perm:
        raise ValueError(f"bands * rows must be at most num_perm={num_perm}, got {bands} * {rows}")
    return Banding(bands, rows)
