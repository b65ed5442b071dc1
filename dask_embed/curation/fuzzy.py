"""Rows with nearly the same text: MinHash, then the true Jaccard similarity of candidates."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa

from dask_embed._options import named_options
from dask_embed._validation import boolean, one_of, positive_integer, shown
from dask_embed.columns import check_text
from dask_embed.columns.frames import require_frame
from dask_embed.curation.candidates import candidate_pairs
from dask_embed.curation.decisions import PAIRS, decisions_of_pairs
from dask_embed.curation.hashing import normalizers
from dask_embed.curation.marks import Finding, dropping, marked, older_frame
from dask_embed.curation.minhash import Banding, algorithm, banding
from dask_embed.curation.ngrams import UNITS, Lists
from dask_embed.curation.ranking import PLACES, Ranking, places, ranking_of, require_column
from dask_embed.curation.signing import Signing, is_token_column
from dask_embed.curation.source import Source, moved, together
from dask_embed.lazy._dask import Blockwise, new_collection

_BYTES = pd.ArrowDtype(pa.large_binary())
_SENT = pd.DataFrame(
    {
        "row": pd.Series([], dtype="int64"),
        "target": pd.Series([], dtype="int64"),
        "others": pd.Series([], dtype=_BYTES),
        "compared": pd.Series([], dtype=_BYTES),
    }
)
"""A row on its way to the rows of a partition that it is compared with."""


@dataclasses.dataclass(frozen=True)
class Fuzzy(Finding):
    """Finds rows whose sets of n-grams are alike."""

    signing: Signing
    threshold: float
    bucket_limit: int

    @property
    def reads(self) -> list[Any]:
        return [self.signing.column]

    def decisions(self, source: Source) -> Any:
        older = None if self.older is None else Source(self.older.simplify().expr)
        banded = self._banded(source)
        if older is not None:
            banded = dd.concat([banded, self._banded(older, older=True)])
        buckets = together(banded, "bucket", banded.npartitions)
        keys = tuple(self.ranking.keys)
        candidates = new_collection(Candidates(buckets.expr, keys, self.bucket_limit))
        pairs = self._compared(source, older, candidates)
        return decisions_of_pairs(source, pairs, self.ranking, older=older)

    def _banded(self, source: Source, older: bool = False) -> Any:
        ranking = self.ranking.of_ids() if older else self.ranking
        names = list(dict.fromkeys([*self.reads, *ranking.reads]))
        given = (self.signing, self.ranking, older)
        meta = _banded(source.meta(names), np.zeros(0, np.int64), *given)
        return source.each(_banded, names, meta, *given, use="sign")

    def _compared(self, source: Source, older: Source | None, candidates: Any) -> Any:
        """Return the pairs that are alike: one row is sent to where the other one lies."""
        sent = self._sent(source, candidates, False)
        if older is not None:
            sent = dd.concat([sent, self._sent(older, candidates, True)])
        arrived = moved(sent, source.npartitions, _target)
        given = (arrived, self.signing, self.threshold)
        return source.each(_compared, self.reads, PAIRS, *given, use="compare")

    def _sent(self, source: Source, candidates: Any, older: bool) -> Any:
        mine = candidates.map_partitions(_of_corpus, older, meta=candidates._meta)
        return source.each(_sent, self.reads, _SENT, source.back(mine), self.signing, use="send")

    def told(self) -> str:
        signing, banding = self.signing, self.signing.banding
        found = float(banding.chance(self.threshold))
        wrong = banding.false_share(self.threshold)
        compared = "compared" if signing.verify else "taken as they are"
        return (
            f"fuzzy duplicates of {signing.column}: Jaccard of {signing.ngram}-grams of "
            f"{signing.unit}s at least {self.threshold}; {banding.bands} bands of {banding.rows} "
            f"find {found:.1%} of pairs at that threshold, {wrong:.0%} of candidates are below it "
            f"where all similarities are as frequent, candidates are {compared}"
        )


def _banded(
    partition: pd.DataFrame, numbers: np.ndarray, signing: Signing, ranking: Ranking, older: bool
) -> pd.DataFrame:
    """Return a row for each band of each row that has an n-gram."""
    hashes, usable = signing.bands(partition)
    ranked = (ranking.ranked_older if older else ranking.ranked)(partition, numbers)
    ranked = ranked[usable].reset_index(drop=True)
    bands = hashes.shape[1]
    repeated = ranked.loc[np.repeat(np.arange(len(ranked)), bands)].reset_index(drop=True)
    return repeated.assign(bucket=hashes[usable].ravel())


class Candidates(Blockwise):
    """The pairs of rows that share a bucket; each partition holds whole buckets."""

    _parameters = ["frame", "keys", "limit"]  # noqa: RUF012 - the form of every Dask expression

    @staticmethod
    def operation(banded: pd.DataFrame, keys: tuple[str, ...], limit: int) -> pd.DataFrame:
        return candidate_pairs(banded, list(keys), limit)

    @functools.cached_property
    def _meta(self) -> pd.DataFrame:
        return PAIRS[["row", "other"]]

    def _divisions(self) -> tuple[None, ...]:
        return (None,) * (self.frame.npartitions + 1)


def _of_corpus(pairs: pd.DataFrame, older: bool) -> pd.DataFrame:
    return pairs[(pairs["row"] < 0) == older]


def _target(sent: pd.DataFrame) -> np.ndarray:
    return sent["target"].to_numpy()


def _sent(
    partition: pd.DataFrame, numbers: np.ndarray, pairs: pd.DataFrame, signing: Signing
) -> pd.DataFrame:
    """Return what of rows of a partition is compared, for each partition that it goes to."""
    pairs = pairs.drop_duplicates()  # found in several bands
    pairs = pairs.assign(target=pairs["other"].to_numpy() >> PLACES)
    pairs = pairs.sort_values(["row", "target", "other"])
    rows, where = np.unique(pairs["row"].to_numpy(), return_inverse=True)
    own = places(np.where(rows < 0, -1 - rows, rows))
    compared = signing.compared(partition.iloc[own])
    starts = np.flatnonzero(~pairs.duplicated(["row", "target"]).to_numpy())
    lengths = np.diff(np.append(starts, len(pairs)))
    others = Lists(pairs["other"].to_numpy().view(np.uint64), np.append(starts, len(pairs)))
    return pd.DataFrame(
        {
            "row": pairs["row"].to_numpy()[starts],
            "target": pairs["target"].to_numpy()[starts],
            "others": others.to_bytes(np.arange(len(lengths))),
            "compared": compared.to_bytes(where[starts]),
        }
    )


def _compared(
    partition: pd.DataFrame,
    numbers: np.ndarray,
    sent: pd.DataFrame,
    signing: Signing,
    threshold: float,
) -> pd.DataFrame:
    """Return the pairs of rows that came and rows of a partition that are alike."""
    others = Lists.from_bytes(sent["others"].tolist())
    left = np.repeat(np.arange(len(sent)), others.lengths)
    rows, right = np.unique(others.values.view(np.int64), return_inverse=True)
    here = signing.compared(partition.iloc[places(rows)])
    there = Lists.from_bytes(sent["compared"].tolist())
    similarity = signing.similarity(there, here, (left, right))
    alike = similarity >= threshold if signing.verify else np.ones(len(left), bool)
    return pd.DataFrame(
        {
            "row": sent["row"].to_numpy()[left[alike]],
            "other": rows[right[alike]],
            "similarity": similarity[alike],
        }
    )


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
    normalize : {"whitespace", "casefold"}, callable, or a list of these, optional
        As in `mark_exact_duplicates`.
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
    id, keep, seed, against, prefix
        As in `mark_exact_duplicates`.

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
    _require_units(frame, column, unit)
    _require_threshold(threshold)
    positive_integer("ngram", ngram, allow_none=False, most=1000)
    positive_integer("num_perm", num_perm, allow_none=False, most=4096)
    positive_integer("bucket_limit", bucket_limit, allow_none=False)
    boolean("verify", verify)
    ways = normalizers(normalize)
    if ways and unit == "token":
        raise ValueError("normalize= has no effect on tokens, only on text")
    chosen = _banding(bands, rows, threshold, num_perm, verify)
    ranking = ranking_of(frame, keep, id=id, seed=seed)
    older = older_frame(frame, against, [column], ranking)
    algorithm()  # tell that it is missing before any work
    signing = Signing(column, unit, ngram, ways, num_perm, chosen, verify)
    return marked(frame, Fuzzy(ranking, prefix, older, signing, threshold, bucket_limit))


drop_fuzzy_duplicates = dropping(
    mark_fuzzy_duplicates,
    """Leave out rows that have nearly the same text as another one; lazy.

    The rows that `mark_fuzzy_duplicates` says are kept, whose parameters these are; asking for
    both runs it once.

    Returns
    -------
    dask.dataframe.DataFrame
        Some rows of `frame`, in their partitions.
    """,
)


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


def _require_threshold(threshold: Any) -> None:
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise TypeError(f"threshold must be a number above 0, at most 1; got {shown(threshold)}")
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be above 0, at most 1; got {shown(threshold)}")


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
