"""Which rows of a frame run: those that a folder does not have yet, by their ids and contents."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from dask_embed._validation import shown
from dask_embed.columns.frames import encoding_told, row_label
from dask_embed.jobs.folder import READERS
from dask_embed.jobs.row_expr import (
    DIGEST,
    AllRowKeys,
    Keyed,
    Keys,
    Part,
    RowKeys,
    Wanted,
    hashed_ids,
    packed,
)
from dask_embed.lazy._dask import Expr, new_collection

CHANGED, GONE = ("error", "keep", "replace"), ("keep", "drop")


@dataclasses.dataclass(frozen=True)
class RowOptions:
    """How rows are known, and what becomes of those that differ; see `to_parquet`."""

    id: str
    changed: str = "error"
    gone: str = "keep"


@dataclasses.dataclass(frozen=True)
class RowChanges:
    """How the rows of a frame differ from those of a folder, by their ids.

    Attributes
    ----------
    new : int
        Ids that the folder did not have.
    same : int
        Ids whose rows did not run.
    changed : int
        Ids whose content is another.
    gone : int
        Ids of the folder that the frame does not have.
    """

    new: int = 0
    same: int = 0
    changed: int = 0
    gone: int = 0


@dataclasses.dataclass(frozen=True)
class Rewrite:
    """A file of which some rows stay.

    Attributes
    ----------
    file : str
        Relative to the folder.
    rows : bytes
        A bit for each of its rows: whether it stays.
    """

    file: str
    rows: bytes


@dataclasses.dataclass(frozen=True)
class Decision:
    """What is to be done so that a folder has the rows of a frame.

    Attributes
    ----------
    wanted : Wanted
        Rows that run.
    rewrites : tuple of Rewrite
        Files that lose some of their rows.
    replaced : frozenset of str
        Files that are gone at the end: those, and those that lose all.
    changes : RowChanges
    token : str
        What tells the frame's rows and what is to be done from all others.
    """

    wanted: Wanted
    rewrites: tuple[Rewrite, ...]
    replaced: frozenset[str]
    changes: RowChanges
    token: str

    @property
    def nothing(self) -> bool:
        """Whether the folder has the rows already."""
        return not (self.replaced or any(part.wanted for part in self.wanted.parts))


@dataclasses.dataclass(frozen=True)
class Known:
    """The rows of a folder: their keys in each of its files."""

    files: dict[str, Keys]

    @classmethod
    def read(cls, fs: Any, folder: str, files: Sequence[str], id: str, kind: str) -> Known:
        """Read the ids and digests of files.

        Raises
        ------
        ValueError
            If a file has none, or ids of another kind.
        """

        def keys(file: str) -> Keys:
            with fs.open(f"{folder}/{file}", "rb") as opened:
                return _keys_in(pq.ParquetFile(opened), f"{folder}/{file}", id, kind)

        with ThreadPoolExecutor(READERS) as readers:
            return cls(dict(zip(files, readers.map(keys, files), strict=True)))

    def together(self) -> Keys:
        """Return the keys of all rows sorted by id; one of those that have the same, as chunks."""
        parts = [*self.files.values()]
        ids = np.concatenate([_no_ids(), *(part.ids for part in parts)])
        contents = np.concatenate([np.empty(0, np.int64), *(part.contents for part in parts)])
        order = np.argsort(ids, kind="stable")
        ids, contents = ids[order], contents[order]
        first = np.flatnonzero(np.r_[True, ids[1:] != ids[:-1]]) if len(ids) else order
        return Keys(ids[first], contents[first])


def _no_ids() -> np.ndarray:
    return np.empty(0, hashed_ids(pa.chunked_array([], pa.string())).dtype)


def _keys_in(file: pq.ParquetFile, path: str, id: str, kind: str) -> Keys:
    names = file.schema_arrow.names
    if DIGEST not in names or id not in names:
        raise ValueError(
            f"the file {path!r} does not tell the content of rows by {id!r}: it was not written "
            "with resume='rows' and this id; overwrite=True replaces what is there"
        )
    table = file.read(columns=[id, DIGEST])
    found = table[id].type
    if pa.types.is_dictionary(found):
        found = found.value_type
    if kind != ("integers" if pa.types.is_integer(found) else "texts"):
        raise ValueError(f"id={id!r} is of {kind} in the frame, and {found} in {path!r}")
    contents = table[DIGEST].combine_chunks().to_numpy(zero_copy_only=False)
    return Keys(hashed_ids(table[id]), contents.astype(np.int64))


def keys_of(source: Expr, keyed: Keyed, options: dict[str, Any]) -> list[Keys]:
    """Return the keys of the rows of each partition, which this computes.

    Raises
    ------
    ValueError
        If an id is null, or not of one row alone.
    """
    planned = new_collection(AllRowKeys(RowKeys(source, keyed)))
    with encoding_told("the rows cannot be computed"):
        parts: list[Keys] = planned.compute(**options)
    for number, part in enumerate(parts):
        if part.null:
            raise ValueError(
                f"id={keyed.id!r} must not be null, and {part.null} rows of partition {number} "
                "have none: drop them, or give them one"
            )
    ids = np.concatenate([_no_ids(), *(part.ids for part in parts)])
    if len(np.unique(ids)) < len(ids):
        values = new_collection(source)[keyed.id].compute(**options)
        twice = values[values.duplicated().to_numpy()]
        raise ValueError(
            f"id={keyed.id!r} must be of one row each, and {len(twice)} rows have that of another, "
            f"the first {shown(row_label(twice.array, 0))}: drop duplicates before"
        )
    return parts


def decide(
    parts: Sequence[Keys],
    known: Known,
    options: RowOptions,
    about: str,
    id_at: Callable[[int], Any],
) -> Decision:
    """Return what is to be done for rows whose keys are `parts`, in a folder with those `known`.

    Parameters
    ----------
    parts : sequence of Keys
        Of each partition.
    known : Known
    options : RowOptions
    about : str
        What else decides what is written.
    id_at : callable
        Gives the id of a row by its place in all partitions, for a message.

    Raises
    ------
    ValueError
        If rows have changed, and nothing says what becomes of them.
    """
    there = known.together()
    ids = np.concatenate([_no_ids(), *(part.ids for part in parts)])
    contents = np.concatenate([np.empty(0, np.int64), *(part.contents for part in parts)])
    places, is_known = _places(there.ids, ids)
    same = is_known.copy()
    same[is_known] = there.contents[places[is_known]] == contents[is_known]
    differs = is_known & ~same
    left = np.ones(len(there), bool)
    left[places[is_known]] = False
    counted = RowChanges(*(int(each.sum()) for each in (~is_known, same, differs, left)))
    if options.changed == "error" and counted.changed:
        first = shown(id_at(int(np.argmax(differs))))
        raise ValueError(
            f"{counted.changed} rows have another content than under their {options.id!r} in the "
            f"folder, the first {first}: changed='replace' runs them again and replaces them "
            "there, changed='keep' leaves the old ones"
        )
    replaces = options.changed == "replace"
    runs = ~is_known | differs if replaces else ~is_known
    drops = [ids[differs]] if replaces else []
    drops += [there.ids[left]] if options.gone == "drop" else []
    rewrites, replaced = _without(known, np.sort(np.concatenate([_no_ids(), *drops])))
    wanted = Wanted(tuple(_parts(parts, runs)))
    said = [wanted.__dask_tokenize__(), about, options.changed, options.gone]
    token = hashlib.blake2b("\0".join(said).encode(), digest_size=16).hexdigest()
    return Decision(wanted, rewrites, replaced, counted, token)


def _places(there: np.ndarray, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return where each id is among the sorted ones that are there, and which are."""
    if not len(there):
        return np.zeros(len(ids), int), np.zeros(len(ids), bool)
    places = np.minimum(np.searchsorted(there, ids), len(there) - 1)
    return places, there[places] == ids


def _parts(parts: Sequence[Keys], runs: np.ndarray) -> list[Part]:
    found, start = [], 0
    for part in parts:
        mask = runs[start : start + len(part)]
        start += len(part)
        rows = None if mask.all() else packed(mask)
        found.append(Part(rows, int(mask.sum()), part.token()))
    return found


def _without(known: Known, dropped: np.ndarray) -> tuple[tuple[Rewrite, ...], frozenset[str]]:
    """Return the files that lose some rows with what stays of them, and all that go."""
    rewrites, replaced = [], set()
    for file, keys in sorted(known.files.items()):
        stays = ~_places(dropped, keys.ids)[1]
        if stays.all():
            continue
        replaced.add(file)
        if stays.any():
            rewrites.append(Rewrite(file, packed(stays)))
    if replaced == known.files.keys() and not rewrites and replaced:
        # a folder without any file would be none
        last = max(replaced)
        rewrites.append(Rewrite(last, packed(np.zeros(len(known.files[last]), bool))))
    return tuple(rewrites), frozenset(replaced)
