"""Random chains of steps behind operators, and what they give where nothing is optimized."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import random
import tempfile
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import dask
import dask.dataframe as dd
import numpy as np
import pandas as pd
from dask.dataframe.core import _concat as _concat_partitions

import dask_embed as de
from support import tiny
from support.counting import Length, LengthVector

Step = Callable[[Any, random.Random], Any]

LANGUAGES = ["en", "de", "fr", None]


def table(rows: int = 40) -> pd.DataFrame:
    """Nulls in each column that may have them, and labels that repeat."""
    number = np.arange(rows)
    return pd.DataFrame(
        {
            "id": number,
            "lang": [LANGUAGES[i % 4] for i in number],
            "text": [None if i % 11 == 5 else f"row {i} " + "of words " * (i % 5) for i in number],
            "num": number * 17 % 13,
            "part": np.where(number % 6 == 1, np.nan, number % 9),
        },
        index=pd.Index(number // 2 * 3, name="label"),
    ).astype({"lang": "string[pyarrow]", "text": "string[pyarrow]"})


def sources(folder: Any) -> dict[str, Any]:
    """The table in partitions, one of them empty, with and without divisions, and in files."""
    pdf = table()
    known = dd.from_pandas(pdf, npartitions=3)
    holes = known[(known.id < 10) | (known.id >= 30)]
    few = dd.from_pandas(pdf, npartitions=2)  # each partition takes as long as many rows
    few.to_parquet(folder)
    return {
        "pandas": known,
        "empty partition": holes,
        "unknown divisions": few.clear_divisions(),
        "parquet": dd.read_parquet(folder),
    }


def numbers(frame: Any) -> list[str]:
    return [name for name in frame.columns if frame[name]._meta.dtype.kind in "if"]


def texts(frame: Any) -> list[str]:
    return [name for name in ("lang", "tongue") if name in frame.columns]


def _filter(frame: Any, rng: random.Random) -> Any:
    if names := texts(frame):
        return frame[frame[names[0]] == rng.choice(["en", "de"])]
    return frame


def _filter_number(frame: Any, rng: random.Random) -> Any:
    names = numbers(frame)
    return frame[frame[rng.choice(names)] > rng.randrange(8)] if names else frame


def _filter_both(frame: Any, rng: random.Random) -> Any:
    names = numbers(frame)
    if not names:
        return frame
    one, other = (frame[rng.choice(names)] for _ in range(2))
    return frame[(one > rng.randrange(6)) & (other < 30)]


def _filter_cumsum(frame: Any, rng: random.Random) -> Any:
    return frame[frame.num.cumsum() < rng.randrange(50, 250)] if "num" in frame.columns else frame


def _filter_shift(frame: Any, rng: random.Random) -> Any:
    return frame[frame.num.shift() > rng.randrange(8)] if "num" in frame.columns else frame


def _filter_mean(frame: Any, rng: random.Random) -> Any:
    return frame[frame.num >= frame.num.mean()] if "num" in frame.columns else frame


def _query(frame: Any, rng: random.Random) -> Any:
    names = [name for name in numbers(frame) if str(name).isidentifier()]
    if not names:
        return frame
    one, other = rng.choice(names), rng.choice(names)
    word = rng.choice(["and", "or", "&"])
    parts = f"{one} > {rng.randrange(6)}", f"{other} < 30"
    if word == "&":
        return frame.query(f"({parts[0]}) & ({parts[1]})")
    return frame.query(f"{parts[0]} {word} {parts[1]}")


def _dropna(frame: Any, rng: random.Random) -> Any:
    if rng.random() < 0.2:
        return frame.dropna()
    names = [name for name in ("part", "lang", "text", "length", "vector") if name in frame.columns]
    return frame.dropna(subset=[rng.choice(names)]) if names else frame


def _assign(frame: Any, rng: random.Random) -> Any:
    names = numbers(frame)
    if not names:
        return frame
    name = rng.choice([f"new{len(frame.columns)}", "num", "part"])
    return frame.assign(**{name: frame[rng.choice(names)] * 2})


def _assign_of_results(frame: Any, rng: random.Random) -> Any:
    names = [name for name in frame.columns if str(name).startswith(("length", "size"))]
    if not names or "num" not in frame.columns:
        return frame
    value = frame[rng.choice(names)] + frame.num
    return frame.assign(**{rng.choice(["sum", "part", names[0]]): value, "half": frame.num / 2})


def _assign_text(frame: Any, rng: random.Random) -> Any:
    if "text" not in frame.columns:
        return frame
    return frame.assign(text=frame.text + "!")


def _rename(frame: Any, rng: random.Random) -> Any:
    names = {"length": "size", "text": "body", "lang": "tongue", "vector": "v", "num": "number"}
    chosen = [old for old in names if old in frame.columns and names[old] not in frame.columns]
    if not chosen:
        return frame
    return frame.rename(columns={old: names[old] for old in rng.sample(chosen, 1)})


def _back(frame: Any, rng: random.Random) -> Any:
    names = {"size": "length", "body": "text", "number": "num"}
    return frame.rename(
        columns={a: b for a, b in names.items() if a in frame.columns and b not in frame.columns}
    )


def _columns(frame: Any, rng: random.Random) -> Any:
    frame = frame.copy()
    frame.columns = [f"{name}" for name in frame.columns]
    return frame


def _prefix(frame: Any, rng: random.Random) -> Any:
    return frame.add_prefix("p_").rename(columns=lambda name: name[2:])


def _astype(frame: Any, rng: random.Random) -> Any:
    return frame.astype({"num": float}) if "num" in frame.columns else frame


def _fillna(frame: Any, rng: random.Random) -> Any:
    return frame.fillna({"part": 3.0}) if "part" in frame.columns else frame


def _drop(frame: Any, rng: random.Random) -> Any:
    names = [name for name in frame.columns if name != "id"]
    return frame.drop(columns=rng.choice(names)) if len(names) > 2 else frame


def _select(frame: Any, rng: random.Random) -> Any:
    names = [name for name in frame.columns if name != "id"]
    kept = rng.sample(names, max(1, len(names) - 2))
    return frame[["id", *kept]]


def _rename_axis(frame: Any, rng: random.Random) -> Any:
    return frame.rename_axis(index="other")


def _clear(frame: Any, rng: random.Random) -> Any:
    return frame.clear_divisions()


def _eval(frame: Any, rng: random.Random) -> Any:
    return frame.eval("num = num + id") if "num" in frame.columns else frame


def _loc(frame: Any, rng: random.Random) -> Any:
    start = rng.randrange(0, 40)
    return frame.loc[start : start + 20]


def _loc_mask(frame: Any, rng: random.Random) -> Any:
    return frame.loc[frame.id > rng.randrange(25)]


def _loc_label(frame: Any, rng: random.Random) -> Any:
    return frame.loc[12:12]


def _sample(frame: Any, rng: random.Random) -> Any:
    return frame.sample(frac=0.5, random_state=rng.randrange(9))


def _split(frame: Any, rng: random.Random) -> Any:
    return frame.random_split([0.4, 0.6], random_state=rng.randrange(9))[0]


def _partitions(frame: Any, rng: random.Random) -> Any:
    return frame.partitions[rng.randrange(frame.npartitions)]


def _head(frame: Any, rng: random.Random) -> Any:
    return frame.head(rng.randrange(1, 12), npartitions=-1, compute=False)


def _tail(frame: Any, rng: random.Random) -> Any:
    return frame.tail(rng.randrange(1, 12), compute=False)


def _copy(frame: Any, rng: random.Random) -> Any:
    return frame.copy()


def _select_dtypes(frame: Any, rng: random.Random) -> Any:
    chosen = frame.select_dtypes(exclude="float64")
    return chosen if "id" in chosen.columns else frame


def _reset(frame: Any, rng: random.Random) -> Any:
    return frame.reset_index(drop=True)


def _sort(frame: Any, rng: random.Random) -> Any:
    return frame.sort_values("id", ascending=rng.random() < 0.5)


def _sort_head(frame: Any, rng: random.Random) -> Any:
    return frame.sort_values("id").head(rng.randrange(1, 9), npartitions=-1, compute=False)


def _set_index(frame: Any, rng: random.Random) -> Any:
    return frame.set_index("id", drop=False).loc[5:28].rename_axis(index="of")


def _set_index_by(frame: Any, rng: random.Random) -> Any:
    """Dask counts no rows for the divisions that it is given."""
    chosen = frame.set_index("id", drop=False, divisions=[0, 12, 30, 39])
    return chosen.loc[rng.randrange(9) : 28].rename_axis(index="of")


def _repartition(frame: Any, rng: random.Random) -> Any:
    return frame.repartition(npartitions=rng.choice([1, 2, 3]))


def _shuffle(frame: Any, rng: random.Random) -> Any:
    return frame.shuffle("id")


def _unique(frame: Any, rng: random.Random) -> Any:
    return frame.drop_duplicates(subset=["num"]) if "num" in frame.columns else frame


def _largest(frame: Any, rng: random.Random) -> Any:
    kind = rng.choice(["nlargest", "nsmallest"])
    return getattr(frame, kind)(rng.randrange(1, 9), "id")


def _fill_result(frame: Any, rng: random.Random) -> Any:
    return frame.fillna({"length": 0}) if "length" in frame.columns else frame


def _where(frame: Any, rng: random.Random) -> Any:
    names = [name for name in ("id", "length", "lang") if name in frame.columns]
    return frame.assign(**{f"w_{names[-1]}": frame[names[-1]].where(frame.id > rng.randrange(20))})


def _without_result(frame: Any, rng: random.Random) -> Any:
    names = [name for name in frame.columns if str(name)[:6] in ("length", "vector", "neares")]
    if not names:
        return frame
    null = frame[rng.choice(names)].isna()
    return frame[null] if rng.random() < 0.2 else frame[~null]


def _concat(frame: Any, rng: random.Random) -> Any:
    other = frame if rng.random() < 0.5 else frame[frame.id > rng.randrange(30)]
    return dd.concat([frame, other])


def _others(rng: random.Random) -> Any:
    """Few rows to merge with: keys once or more than once, null, and of a name with a result's."""
    lang: list[Any] = rng.choice([["en", "de"], ["en", "en", "fr"], ["de", None], ["it"]])
    few = pd.DataFrame({"lang": lang, "num": [3, 5, 5][: len(lang)]})
    name = rng.choice(["extra", "extra", "length", "text", "num", "part"])
    few[name] = [f"{i}" if name == "text" else i + 1 for i in range(len(few))]
    few = few.astype({"lang": "string[pyarrow]"})
    if name == "text":
        few = few.astype({"text": "string[pyarrow]"})
    few.index = pd.Index([6, 6, 15][: len(few)] if rng.random() < 0.5 else few.num * 3)
    return dd.from_pandas(few.rename_axis("key"), npartitions=rng.choice([1, 1, 2]), sort=False)


def _merge(frame: Any, rng: random.Random) -> Any:
    other, how = _others(rng), rng.choice(["inner", "left", "left", "right", "outer", "leftsemi"])
    kind = rng.choice(["on", "on", "turned", "key", "index of other", "index", "indexes"])
    turned = kind == "turned" and how != "leftsemi"
    if kind in ("on", "turned"):
        name = rng.choice([each for each in ("lang", "num") if each in frame.columns] or [None])
        if name is None:
            return frame
        one, two = (other, frame) if turned else (frame, other)
        return one.merge(two, on=name, how=how)
    if how == "leftsemi":
        return frame
    if kind == "key" and "part" in frame.columns:
        return frame.merge(other, left_on="part", right_on="num", how=how)
    if kind == "index of other":
        return frame.merge(other, left_on="id", right_index=True, how=how)
    if kind == "index":
        return frame.merge(other, left_index=True, right_on="num", how=how)
    return frame.merge(other, left_index=True, right_index=True, how=how)


def _join(frame: Any, rng: random.Random) -> Any:
    other = _others(rng)[["num"]].rename(columns={"num": f"j{len(frame.columns)}"})
    return frame.join(other, how=rng.choice(["inner", "left", "right", "outer"]))


def _parity(part: Any) -> Any:
    return part.assign(parity=part["id"] % 2)


def _next(part: Any) -> Any:
    return part.assign(num=part["num"] + 1)


def _tripled(part: Any) -> Any:
    return part.assign(length=part["length"] * 3)


DECLARED = [
    de.declare_columns(_parity, reads=["id"], writes=["parity"]),
    de.declare_columns(_next, reads=["num"], writes=["num"]),
    de.declare_columns(_tripled, reads=["length"], writes=["length"]),
]


def _declared(frame: Any, rng: random.Random) -> Any:
    """A function of partitions that says which columns it reads and writes."""
    fitting = [each for each in DECLARED if {*each.reads} <= {*frame.columns}]
    if not fitting:
        return frame
    return frame.map_partitions(rng.choice(fitting))


BLOCKWISE: list[Step] = [
    *(
        _filter,
        _filter_number,
        _filter_both,
        _filter_mean,
        _query,
        _dropna,
        _assign,
        _assign_of_results,
        _fill_result,
        _where,
        _without_result,
    ),
    *(_assign_text, _rename, _back, _columns, _prefix, _astype, _fillna, _drop, _select),
    *(_rename_axis, _clear, _eval, _loc, _loc_mask, _loc_label, _copy, _select_dtypes),
    *(_concat, _declared),
]
# What they do depends on the order of rows, which Dask's own rules change behind a shuffle.
BY_PLACE: list[Step] = [_filter_cumsum, _filter_shift, _head]
# And on partitions, of which Dask makes fewer where few columns of files are read. After
# `drop_duplicates` it then takes rows for sorted: `set_index` and `loc` lose some, without us, too.
BY_PARTITION: list[Step] = [*BY_PLACE, _unique, _sample, _split, _partitions, _tail]
# Dask gives the random states of the first partitions to those that are chosen behind them.
RANDOM = (_sample, _split)
# Dask cannot take one column of what they leave, nor labels.
ENDING = (_largest, _sort_head)
CHOOSING = (_loc, _loc_label)
# Where several rows have one id, which of them is the largest depends on their order.
REPEATING: tuple[Step, ...] = (_merge, _join)
# Those for which Dask counts rows first, to tell divisions, take three times as long as others.
MOVING: list[Step] = [
    *(_sort, _sort_head, _set_index),
    *(_set_index_by, _repartition, _shuffle, _largest) * 2,
    *(_merge, _merge, _merge, _join),
]


_mapped: ContextVar[bool] = ContextVar("mapped", default=False)


@contextlib.contextmanager
def mapping() -> Iterator[None]:
    """Run operators as functions of `map_partitions` within the block, for Dask's own results."""
    token = _mapped.set(True)
    try:
        yield
    finally:
        _mapped.reset(token)


def _applied(operator: Any, frame: Any) -> Any:
    if _mapped.get():
        return frame.map_partitions(operator, meta=operator.meta(frame._meta))
    return operator(frame)


def _length(frame: Any, rng: random.Random) -> Any:
    names = (f"length{number or ''}" for number in range(99))
    name = next(name for name in names if name not in frame.columns)
    return _applied(Length(output=name), frame) if "text" in frame.columns else frame


def _vector(frame: Any, rng: random.Random) -> Any:
    fits = "text" in frame.columns and "vector" not in frame.columns
    return _applied(LengthVector(), frame) if fits else frame


def _nearest(frame: Any, rng: random.Random) -> Any:
    fits = "vector" in frame.columns and "nearest" not in frame.columns
    if not fits or "item: float>" not in str(frame.dtypes["vector"]):
        return frame
    directions = {"a": [1.0, 0.5], "b": [0.5, 1.0]}
    operator = de.Similarity(prototypes=directions, column="vector", output="nearest")
    return _applied(operator, frame)


def _quantize(frame: Any, rng: random.Random) -> Any:
    """Of whole frames, the ranges of their values, or within given ones."""
    if _mapped.get() or "vector" not in frame.columns:
        return frame
    if str(frame.dtypes["vector"]) != "fixed_size_list<item: float>[2][pyarrow]":
        return frame
    precision = rng.choice(["float16", "int8", "uint8"])
    calibrated = precision in ("int8", "uint8") and rng.random() < 0.7
    ranges = [[0.0, 0.0], [60.0, 120.0]] if calibrated else None
    return de.quantize(frame, "vector", precision, ranges=ranges)


@functools.cache
def _model() -> str:
    folder = tempfile.TemporaryDirectory()
    _FOLDERS.append(folder)  # until the process ends
    return str(tiny.save("bert", Path(folder.name) / "bert"))


_FOLDERS: list[Any] = []


def _chunks(frame: Any, rng: random.Random) -> Any:
    if "text" not in frame.columns or any(str(name)[:5] == "chunk" for name in frame.columns):
        return frame
    return _applied(_chunker(), frame)


@functools.cache
def _chunker() -> Any:
    return de.Chunker(_model(), max_tokens=9, keep_text=True)


OPERATORS: list[Step] = [*(_length, _vector, _nearest, _quantize) * 2, _chunks]


@dataclasses.dataclass(frozen=True)
class Chain:
    """Steps on a frame, each with the seed of what it chooses.

    Attributes
    ----------
    steps : tuple of (callable, int)
    in_order : bool
        Whether rows keep their order.
    labelled : bool
        Whether they keep their labels: those of a merge by columns are numbers of its partitions.
    """

    steps: tuple[tuple[Step, int], ...]
    in_order: bool = True
    labelled: bool = True

    def __call__(self, frame: Any) -> Any:
        for step, number in self.steps:
            frame = step(frame, random.Random(number))
        return frame

    def __str__(self) -> str:
        return " ".join(f"{step.__name__}:{number}" for step, number in self.steps)


def chain(seed: int, by_place: list[Step] = BY_PARTITION) -> Chain:
    """Return a chain of 2 to 8 steps with operators among them.

    Of files, give it `BY_PLACE`.
    """
    rng = random.Random(seed)
    steps: list[tuple[Step, int]] = [(rng.choice([_length, _vector]), 0)]
    moved = drawn = ended = merged = repeated = False
    for _ in range(rng.randint(2, 8)):
        kinds = [BLOCKWISE, BLOCKWISE, BLOCKWISE, OPERATORS, OPERATORS]
        kinds += [] if drawn or ended else [MOVING] if moved or not by_place else [MOVING, by_place]
        kind = rng.choice(kinds)
        step = rng.choice(kind)
        if (drawn or ended or merged) and step in CHOOSING:
            continue
        if (repeated and step in ENDING) or ((drawn or ended) and step is _chunks):
            continue
        moved |= kind is MOVING or step is _unique
        drawn |= step in RANDOM
        ended |= step in ENDING
        merged |= step in REPEATING
        repeated |= merged or step is _chunks
        steps.append((step, rng.randrange(10**6)))
    return Chain(tuple(steps), not moved, not merged)


def as_written(frame: Any) -> pd.DataFrame:
    """Compute a Dask frame in the order in which it is written, nothing optimized."""
    plan = frame.expr.lower_completely()
    partitions = dask.get(plan.__dask_graph__(), plan.__dask_keys__())
    return _concat_partitions(partitions)
