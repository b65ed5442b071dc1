"""How fuzzy duplicates are found: rows to bands, bands to candidates, candidates to pairs."""

from __future__ import annotations

import dataclasses
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pyarrow as pa

from dask_embed.curation.candidates import candidate_pairs, large_buckets
from dask_embed.curation.decisions import PAIRS, decisions_of_pairs, of_corpus
from dask_embed.curation.marks import Finding
from dask_embed.curation.moving import in_one, joined, moved, together
from dask_embed.curation.ngrams import Lists
from dask_embed.curation.ranking import PLACES, Ranking, places
from dask_embed.curation.signing import Signing, StoredSigning
from dask_embed.curation.source import Expanding, Source
from dask_embed.lazy._dask import Expr, new_collection
from dask_embed.lazy.nodes import PartByPart
from dask_embed.runtime.stats import metered

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

_LARGE = pd.DataFrame({"rows": np.zeros(0, np.int64), "example": pd.array([], dtype="str")})


@dataclasses.dataclass(frozen=True)
class Fuzzy(Finding):
    """Finds rows whose sets of n-grams are alike."""

    signing: Signing
    older_signing: Signing | StoredSigning
    threshold: float
    bucket_limit: int
    components: str

    @property
    def reads(self) -> list[Any]:
        return self.signing.reads

    def decisions(self, source: Source) -> Any:
        older = self._older()
        keys = tuple(self.ranking.keys)
        buckets = self._buckets(source, older)
        candidates = new_collection(Candidates(buckets.expr, keys, self.bucket_limit))
        pairs = self._compared(source, older, candidates)
        return decisions_of_pairs(
            source, joined(pairs), self.ranking, older=older, components=self.components
        )

    def large(self, frame: Expr) -> Any:
        """Return the lazy buckets of a frame of which not all pairs are compared."""
        return new_collection(LargeBuckets(frame, self))

    def large_of(self, source: Source) -> Any:
        """Return the same in one partition, once it is known how the frame is cut."""
        keys = tuple(self.ranking.keys)
        buckets = self._buckets(source, self._older())
        return in_one(new_collection(Large(buckets.expr, keys, self.bucket_limit)))

    def _older(self) -> Source | None:
        return None if self.older is None else Source(self.older.simplify().expr)

    def _buckets(self, source: Source, older: Source | None) -> Any:
        """Return a row for each band of each row, those of a bucket in one partition."""
        banded = self._banded(source)
        if older is not None:
            banded = dd.concat([banded, self._banded(older, older=True)])
        return together(banded, "bucket")

    def _banded(self, source: Source, older: bool = False) -> Any:
        ranking = self.ranking.of_ids() if older else self.ranking
        signing = self.older_signing if older else self.signing
        names = list(dict.fromkeys([*signing.reads, *ranking.reads]))
        given = (signing, self.ranking, older)
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
        mine = candidates.map_partitions(of_corpus, older, meta=candidates._meta)
        signing = self.older_signing if older else self.signing
        return source.each(_sent, signing.reads, _SENT, source.back(mine), signing, use="send")

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
    partition: pd.DataFrame,
    numbers: np.ndarray,
    signing: Signing | StoredSigning,
    ranking: Ranking,
    older: bool,
) -> pd.DataFrame:
    """Return a row for each band of each row that has an n-gram."""
    hashes, usable = signing.bands(partition)
    ranked = ranking.ranked(partition, numbers, older)
    ranked = ranked[usable].reset_index(drop=True)
    bands = hashes.shape[1]
    repeated = ranked.loc[np.repeat(np.arange(len(ranked)), bands)].reset_index(drop=True)
    return repeated.assign(bucket=hashes[usable].ravel())


class Candidates(PartByPart):
    """The pairs of rows that share a bucket; each partition holds whole buckets."""

    _parameters = ["frame", "keys", "limit"]  # noqa: RUF012 - the form of every Dask expression
    _meta = PAIRS[["row", "other"]]

    @staticmethod
    def operation(banded: pd.DataFrame, keys: tuple[str, ...], limit: int) -> pd.DataFrame:
        return candidate_pairs(banded, list(keys), limit)


class Large(Candidates):
    """The buckets over the limit; each partition holds whole buckets."""

    _meta = _LARGE

    @staticmethod
    def operation(banded: pd.DataFrame, keys: tuple[str, ...], limit: int) -> pd.DataFrame:
        return large_buckets(banded, list(keys), limit)


class LargeBuckets(Expanding):
    """The buckets of a frame over the limit, in one partition."""

    _funcname = "buckets"
    _parameters = ["frame", "finding"]  # noqa: RUF012 - the form of every Dask expression
    _meta = _LARGE

    def _divisions(self) -> tuple[None, None]:
        return (None, None)

    def expanded(self, use: str = "") -> Expr:
        return self.operand("finding").large_of(Source(self.frame)).expr


def _target(sent: pd.DataFrame) -> np.ndarray:
    return sent["target"].to_numpy()


def _sent(
    partition: pd.DataFrame,
    numbers: np.ndarray,
    pairs: pd.DataFrame,
    signing: Signing | StoredSigning,
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
    with metered("Fuzzy", str(signing.column), 0) as meter:
        with meter.seconds("convert"):
            here = signing.compared(partition.iloc[places(rows)])
            there = Lists.from_bytes(sent["compared"].tolist())
        with meter.seconds("forward"):
            similarity = signing.similarity(there, here, (left, right))
        alike = similarity >= threshold if signing.verify else np.ones(len(left), bool)
        meter.count(pairs=len(left), alike=int(alike.sum()))
    return pd.DataFrame(
        {
            "row": sent["row"].to_numpy()[left[alike]],
            "other": rows[right[alike]],
            "similarity": similarity[alike],
        }
    )
