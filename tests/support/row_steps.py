"""What one does with a Dask DataFrame: steps behind an operator that appends `length`.

A step gets `table` in 4 partitions with that column. Beside it stands how many rows its result
needs, counted by hand; None where the operator gets others, too.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd

import dask_embed as de

ROWS = 100
LANGUAGES = ["en", "de", "fr", "it"]

Step = tuple[Callable[[Any], Any], int | None]


def table() -> pd.DataFrame:
    number = np.arange(ROWS)
    return pd.DataFrame(
        {
            "id": number,
            "lang": [LANGUAGES[i % 4] for i in number],
            "text": [f"row {i} " + "of words " * (i * 7 % 5) for i in number],
            "num": number * 37 % 101,
            "key": number % 7,
            "part": np.where(number % 10 == 3, np.nan, number % 9),
            "day": pd.Timestamp("2026-01-01") + pd.to_timedelta(number, "D"),
            "kind": pd.Categorical([LANGUAGES[i % 4] for i in number]),
            "tags": [f"{LANGUAGES[i % 4]} {LANGUAGES[i % 3]}" for i in number],
        },
        index=pd.Index(number, name="label"),
    ).astype({"lang": "string[pyarrow]", "text": "string[pyarrow]", "tags": "string[pyarrow]"})


def english(frame: Any) -> Any:
    return frame[frame.lang == "en"]


def small() -> Any:
    """Two of four languages."""
    return dd.from_pandas(pd.DataFrame({"lang": ["en", "de"], "name": ["E", "D"]}), npartitions=1)


def others() -> Any:
    """Rows with higher numbers, of which there are no results."""
    return dd.from_pandas(table().assign(id=lambda frame: frame.id + ROWS), npartitions=2)


def labelled() -> Any:
    """Three of a hundred labels."""
    few = pd.DataFrame({"extra": [1, 2, 3]}, index=pd.Index([5, 30, 77], name="label"))
    return dd.from_pandas(few, npartitions=1)


def beside() -> Any:
    """A frame of the same labels in other partitions."""
    return dd.from_pandas(pd.DataFrame({"low": np.arange(ROWS) < 10}), npartitions=3)


def declared(frame: Any) -> Any:
    """A function of partitions that says which columns it reads and writes."""
    twice = de.declare_columns(
        lambda part: part.assign(twice=part.num * 2), reads=["num"], writes={"twice": "int64"}
    )
    return frame.map_partitions(twice)


def without(frame: Any) -> Any:
    frame = frame.copy()
    del frame["length"]
    return frame


def exploded(frame: Any) -> Any:
    return frame.assign(tags=frame.tags.str.split(" ")).explode("tags")


def assigned(frame: Any, **columns: Any) -> Any:
    frame = frame.copy()
    for name, value in columns.items():
        frame[name] = value
    return frame


WHOLE: dict[str, Step] = {
    "everything": (lambda f: f, 100),
    "head": (lambda f: f.head(5), 5),
    "head of two partitions": (lambda f: f.head(5, npartitions=2), 5),
    "head across partitions": (lambda f: f.head(30, npartitions=2), 30),
    "head of all partitions": (lambda f: f.head(5, npartitions=-1), 5),
    "tail": (lambda f: f.tail(4), 4),
    "head then tail": (lambda f: f.head(5, compute=False).tail(2), 2),
    "len": (len, 0),
    "shape": (lambda f: f.shape[0], 0),
    "size": (lambda f: f.size, 0),
    "index": (lambda f: f.index, 0),
    "count of another": (lambda f: f.num.count(), 0),
    "count of result": (lambda f: f.length.count(), 0),
    "count": (lambda f: f.count(), 0),
    "unused": (lambda f: f[["id"]], 0),
    "unused, clear_divisions": (lambda f: f.clear_divisions()[["id"]], 0),
    "drop result": (lambda f: f.drop(columns="length"), 0),
    "drop other": (lambda f: f.drop(columns="num"), 100),
    "drop text": (lambda f: f.drop(columns="text"), 100),
    "del result": (without, 0),
    "iloc columns with result": (lambda f: f.iloc[:, [0, 9]], 100),
    "iloc columns without result": (lambda f: f.iloc[:, [0, 1]], 0),
    "partitions": (lambda f: f.partitions[1], 25),
    "get_partition": (lambda f: f.get_partition(2), 25),
    "partitions of filter": (lambda f: english(f).partitions[1], 6),
    "filter of partitions": (lambda f: english(f.partitions[1]), 6),
    "sample": (lambda f: f.sample(frac=0.2, random_state=1), 20),
    "sample then head": (lambda f: f.sample(frac=0.2, random_state=1).head(2), 2),
    "random_split": (lambda f: f.random_split([0.2, 0.8], random_state=1)[0], None),
    "series head": (lambda f: f.length.head(5), 5),
    "series filter by other": (lambda f: f.length[f.lang == "en"], 25),
    "series isin": (lambda f: f.length[f.id.isin([1, 2, 50])], 3),
    "to_frame head": (lambda f: f.length.to_frame().head(5), 5),
    "iterrows": (lambda f: next(iter(f.iterrows()))[0], None),
    "select_dtypes without result": (lambda f: f.select_dtypes("datetime"), 0),
    "memory_usage other": (lambda f: f[["num"]].memory_usage(), 0),
    "map_partitions": (lambda f: f.map_partitions(lambda d: d), 100),
    "map_partitions, head": (lambda f: f.map_partitions(lambda d: d).head(5), None),
    "map_partitions, unused": (lambda f: f.map_partitions(lambda d: d)[["id"]], None),
    "map_partitions, declared, head": (lambda f: declared(f).head(5), 5),
    "map_partitions, declared, unused": (lambda f: declared(f)[["id"]], 0),
    "map_overlap": (lambda f: f.map_overlap(lambda d: d, 1, 1), 100),
}

FILTERS: dict[str, Step] = {
    "==": (english, 25),
    "isin": (lambda f: f[f.lang.isin(["en", "de"])], 50),
    "between": (lambda f: f[f.id.between(10, 19)], 10),
    "str.startswith": (lambda f: f[f.lang.str.startswith("e")], 25),
    "str.contains of the text": (lambda f: f[f.text.str.contains("row 1[0-9]? ")], 11),
    "map of a dict": (lambda f: f[f.lang.map({"en": 1}, meta=("lang", float)) == 1], 25),
    "apply": (lambda f: f[f.id.apply(lambda i: i < 10, meta=("id", bool))], 10),
    "apply of rows": (
        lambda f: f[f[["id", "num"]].apply(lambda r: r.id < 10, axis=1, meta=(None, bool))],
        10,
    ),
    "dt": (lambda f: f[(f.day.dt.month == 1) & (f.day.dt.day <= 5)], 5),
    "notnull other": (lambda f: f[f.part.notnull()], 90),
    "isna other": (lambda f: f[f.part.isna()], 10),
    "and": (lambda f: f[(f.lang == "en") & (f.id < 50)], 13),
    "or": (lambda f: f[(f.lang == "en") | (f.id >= 89)], 34),
    "not": (lambda f: f[~(f.lang == "en")], 75),
    "xor": (lambda f: f[(f.lang == "en") ^ (f.id < 50)], 49),
    "index as series": (lambda f: f[f.index.to_series() < 10], 10),
    "index": (lambda f: f[f.index < 10], None),
    "result": (lambda f: f[f.length > 20], 100),
    "result and other": (lambda f: f[(f.length > 20) & (f.lang == "en")], 25),
    "result or other": (lambda f: f[(f.length > 20) | (f.lang == "en")], 100),
    "twice": (lambda f: (lambda g: g[g.id < 50])(english(f)), 13),
    "result, then other": (lambda f: english(f[f.length > 20]), 25),
    "mean": (lambda f: f[f.id > f.id.mean()], 50),
    "mean of result, and other": (
        lambda f: f[(f.length > f.length.mean()) & (f.lang == "en")],
        None,
    ),
    "cumsum": (lambda f: f[f.id.cumsum() < 100], 14),
    "cumsum and other": (lambda f: f[(f.id.cumsum() < 100) & (f.lang == "en")], 4),
    "shift": (lambda f: f[f.num.shift() > 37], 62),
    "isin with a lazy series": (lambda f: f[f.id.isin(labelled().extra)], None),
    "isin with a computed series": (lambda f: f[f.id.isin(labelled().extra.compute())], 3),
    "a frame beside": (lambda f: f[beside().low] if f.known_divisions else f, None),
}

# Each is followed by the filter `lang == "en"`.
FILTER_AFTER: dict[str, Step] = {
    "assign, of other": (lambda f: f.assign(twice=f.num * 2), 25),
    "assign, of result": (lambda f: f.assign(twice=f.length * 2), 25),
    "replace": (lambda f: f.assign(num=f.num.replace(37, 0)), 25),
    "replace of another": (lambda f: f.replace({"num": {37: 0}}), 25),
    "round of another": (lambda f: f.round({"part": 1}), 25),
    "rename result": (lambda f: f.rename(columns={"length": "characters"}), 25),
    "rename input": (lambda f: f.rename(columns={"text": "body"}), 25),
    "drop": (lambda f: f.drop(columns="num"), 25),
    "astype": (lambda f: f.astype({"num": float}), 25),
    "fillna of others": (lambda f: f.fillna({"part": 0}), 25),
    "fillna": (lambda f: f[["id", "lang", "part", "length"]].fillna({"id": 0}), 25),
    "where": (lambda f: f[["lang", "length"]].where(f.id < 50), None),
    "reset_index": (lambda f: f.reset_index(), 25),
    "reset_index, dropped": (lambda f: f.reset_index(drop=True), 25),
    "repartition": (lambda f: f.repartition(npartitions=2), 25),
    "sort_values": (lambda f: f.sort_values("num"), 25),
    "set_index": (lambda f: f.set_index("num"), 25),
    "shuffle": (lambda f: f.shuffle("num"), 25),
    "merge": (lambda f: f.merge(small(), on="lang"), 25),
    "dropna": (lambda f: f.dropna(subset=["part"]), 25),
    "drop_duplicates": (lambda f: f.drop_duplicates(subset=["lang"]), 1),
    "concat": (lambda f: dd.concat([f, f]), 25),
    "clear_divisions": (lambda f: f.clear_divisions(), 25),
    "persist": (lambda f: f.persist(), None),
    "rename_axis": (lambda f: f.rename_axis(index="other"), 25),
    "add_suffix": (lambda f: f.add_suffix("").rename(columns=str), 25),
    "select_dtypes": (lambda f: f.select_dtypes(exclude="datetime"), 25),
    "eval": (lambda f: f.eval("twice = num * 2"), 25),
    "map_partitions": (lambda f: f.map_partitions(lambda d: d), None),
    "map_partitions, declared": (lambda f: declared(f), 25),
    "repartition by divisions": (
        lambda f: f.repartition(divisions=[0, 50, 99]) if f.known_divisions else f,
        25,
    ),
    "explode": (exploded, 25),
}

LOCATE: dict[str, Step] = {
    "slice": (lambda f: f.loc[10:19], 10),
    "open slice": (lambda f: f.loc[90:], 10),
    "label": (lambda f: f.loc[7], 1),
    "list then head": (lambda f: f.loc[[1, 2]].head(2), None),
    "mask": (lambda f: f.loc[f.lang == "en"], 25),
    "mask, columns": (lambda f: f.loc[f.lang == "en", ["id", "length"]], 25),
    "mask, unused columns": (lambda f: f.loc[f.lang == "en", ["id"]], 0),
    "slice, unused columns": (lambda f: f.loc[10:19, ["id"]], 0),
    "series": (lambda f: f.length.loc[10:19], 10),
    "query other": (lambda f: f.query("lang == 'en'"), 25),
    "query result": (lambda f: f.query("length > 20"), 100),
    "query both": (lambda f: f.query("length > 20 and lang == 'en'"), 25),
    "len of query": (lambda f: len(f.query("lang == 'en'")), 0),
    "head of query": (lambda f: f.query("lang == 'en'").head(5), 5),
}

MISSING: dict[str, Step] = {
    "dropna of other": (lambda f: f.dropna(subset=["part"]), 90),
    "dropna of other, unused": (lambda f: f.dropna(subset=["part"])[["id"]], 0),
    "dropna of result": (lambda f: f.dropna(subset=["length"]), 100),
    "dropna": (lambda f: f.dropna(), 90),
    "len of dropna": (lambda f: len(f.dropna(subset=["part"])), 0),
    "head of dropna": (lambda f: f.dropna(subset=["part"]).head(5), 5),
    "fillna of other": (lambda f: f.fillna({"part": 0}), 100),
    "fillna of other, head": (lambda f: f.fillna({"part": 0}).head(5), 5),
    "fillna, unused": (lambda f: f.fillna({"part": 0})[["id"]], 0),
    "ffill of other": (lambda f: f.assign(part=f.part.ffill()), 100),
    "where": (lambda f: f[["num", "length"]].where(f.id > 50), 100),
    "mask, unused": (lambda f: f[["num", "length"]].mask(f.id > 50)[["num"]], 0),
    "isna of other": (lambda f: f.part.isna().sum(), 0),
    "isna": (lambda f: f.isna().sum(), 0),
    "combine_first of other": (lambda f: f.part.combine_first(f.num), 0),
    "drop_duplicates by other": (lambda f: f.drop_duplicates(subset=["lang"]), 4),
    "drop_duplicates, unused": (lambda f: f.drop_duplicates(subset=["lang"])[["id"]], 0),
    "drop_duplicates by result": (lambda f: f.drop_duplicates(subset=["length"]).length, 100),
}

ORDER: dict[str, Step] = {
    "nsmallest by other": (lambda f: f.nsmallest(5, "num"), 5),
    "nlargest by result": (lambda f: f[["id", "length"]].nlargest(5, "length"), 100),
    "sort_values": (lambda f: f.sort_values("num"), 100),
    "sort_values, head": (lambda f: f.sort_values("num").head(5), 5),
    "sort_values, tail": (lambda f: f.sort_values("num").tail(5), 5),
    "sort_values, unused": (lambda f: f.sort_values("num")[["id"]], 0),
    "sort_values, unused, head": (lambda f: f.sort_values("num")[["id"]].head(5), 0),
    "sort_values by result, head": (lambda f: f.sort_values(["length", "id"]).head(5), None),
    "len of sort_values": (lambda f: len(f.sort_values("num")), 0),
    "set_index": (lambda f: f.set_index("num"), 100),
    "set_index, unused": (lambda f: f.set_index("num")[["id"]], 0),
    "set_index, slice": (lambda f: f.set_index("num").loc[10:19], 10),
    "set_index sorted, slice": (lambda f: f.set_index("id", sorted=True).loc[10:19], 10),
    "set_index by divisions": (
        lambda f: f.set_index("num", divisions=[0, 50, 100]).partitions[0],
        50,
    ),
    "repartition to fewer, head": (lambda f: f.repartition(npartitions=2).head(5), 5),
    "repartition to more, head": (lambda f: f.repartition(npartitions=8).head(5), 5),
    "repartition, unused": (lambda f: f.repartition(npartitions=2)[["id"]], 0),
    "len of repartition": (lambda f: len(f.repartition(npartitions=2)), 0),
    "shuffle, unused": (lambda f: f.shuffle("num")[["id"]], 0),
    "len of shuffle": (lambda f: len(f.shuffle("num")), 0),
    "cumsum of other": (lambda f: f.num.cumsum(), 0),
    "cumsum of other, filtered": (lambda f: english(f).num.cumsum(), 0),
    "shift of other": (lambda f: f.num.shift(), 0),
    "rolling of other": (lambda f: f.num.rolling(3).sum(), 0),
    "rolling, unused": (lambda f: f[["num", "length"]].rolling(3).sum()[["num"]], 0),
    "quantile of other": (lambda f: f.num.quantile(0.5), 0),
    "quantile of result": (lambda f: f.length.quantile(0.5), 100),
    "idxmax of other": (lambda f: f.num.idxmax(), 0),
}

JOINED: dict[str, Step] = {
    "merge": (lambda f: f.merge(small(), on="lang"), 50),
    "merge by another name": (
        lambda f: f.merge(
            small().rename(columns={"lang": "tongue"}), left_on="lang", right_on="tongue"
        ),
        50,
    ),
    "merge left": (lambda f: f.merge(small(), on="lang", how="left"), 100),
    "merge leftsemi": (lambda f: f.merge(small(), on="lang", how="leftsemi"), 50),
    "merge, unused": (lambda f: f.merge(small(), on="lang")[["id", "name"]], 0),
    "merge right": (lambda f: small().merge(f, on="lang", how="left"), 50),
    "merge, head": (lambda f: f.merge(small(), on="lang").head(5), 5),
    "len of merge": (lambda f: len(f.merge(small(), on="lang")), 0),
    "join": (lambda f: f.join(labelled(), how="inner"), 3),
    "join left": (lambda f: f.join(labelled()), 100),
    "merge by index": (lambda f: f.merge(labelled(), left_index=True, right_index=True), 3),
    "merge with itself": (lambda f: f[["id", "length"]].merge(f[["id", "num"]], on="id"), 100),
    "merge of two results": (lambda f: f[["id", "length"]].merge(english(f), on="id"), 100),
    "concat of parts": (lambda f: dd.concat([english(f), f[f.lang == "de"]]), None),
    "concat with others, filter": (lambda f: english(dd.concat([f, others()])), 25),
    "concat with others, sort_values, head": (
        lambda f: dd.concat([f, others()]).sort_values("id").head(5),
        5,
    ),
    "concat with others, unused": (lambda f: dd.concat([f, others()])[["id"]], 0),
    "concat, unused": (lambda f: dd.concat([f, f])[["id"]], 0),
    "concat, head": (lambda f: dd.concat([f, f]).head(5), 5),
    "len of concat": (lambda f: len(dd.concat([f, f])), 0),
    "explode": (exploded, 100),
    "explode, unused": (lambda f: exploded(f)[["id"]], 0),
    "explode, head": (lambda f: exploded(f).head(5), 5),
    "explode of a filter": (lambda f: exploded(english(f)), 25),
}

REDUCED: dict[str, Step] = {
    "groupby size": (lambda f: f.groupby("lang").size(), 0),
    "groupby sum of other": (lambda f: f.groupby("lang").num.sum(), 0),
    "groupby mean of result": (lambda f: f.groupby("lang").length.mean(), 100),
    "groupby agg of other": (lambda f: f.groupby("lang").agg({"num": ["min", "max"]}), 0),
    "groupby first": (lambda f: f.groupby("lang").first(), None),
    "groupby of a filter": (lambda f: english(f).groupby("key").length.mean(), 25),
    "value_counts of other": (lambda f: f.lang.value_counts(), 0),
    "value_counts of result": (lambda f: f.length.value_counts(), 100),
    "nunique of other": (lambda f: f.num.nunique(), 0),
    "unique of other": (lambda f: f.num.unique(), 0),
    "nunique of result": (lambda f: f.length.nunique(), 100),
    "mode of other": (lambda f: f.key.mode(), 0),
    "min of other": (lambda f: f.num.min(), 0),
    "describe others": (lambda f: f[["id", "num"]].describe(), 0),
    "describe": (lambda f: f[["id", "length"]].describe(), 100),
    "melt of others": (lambda f: f.melt(id_vars=["id"], value_vars=["num"]), 0),
    "melt of result": (lambda f: f.melt(id_vars=["id"], value_vars=["length"]), 100),
    "pivot_table of others": (
        lambda f: f.pivot_table(index="key", columns="kind", values="num", aggfunc="sum"),
        0,
    ),
}

ASSIGNED: dict[str, Step] = {
    "unused": (lambda f: f.assign(twice=f.num * 2)[["id", "twice"]], 0),
    "head": (lambda f: f.assign(twice=f.num * 2).head(5), 5),
    "over result": (lambda f: f.assign(length=0), 0),
    "over result, selected": (lambda f: f.assign(length=0)[["id", "length"]], 0),
    "over input": (lambda f: f.assign(text="same"), 100),
    "item": (lambda f: assigned(f, twice=f.length * 2), 100),
    "rename result, unused": (lambda f: f.rename(columns={"length": "l"})[["id"]], 0),
    "rename result, head": (lambda f: f.rename(columns={"length": "l"}).head(5), 5),
    "astype of all, unused": (lambda f: f[["id", "length"]].astype(str)[["id"]], 0),
    "astype of result": (lambda f: f.astype({"length": float}), 100),
    "astype of other, head": (lambda f: f.astype({"num": float}).head(5), 5),
    "arithmetic of result": (lambda f: operator.add(f.length, f.num), 100),
}

STEPS: dict[str, Step] = {
    **WHOLE,
    **{f"filter {name}": step for name, step in FILTERS.items()},
    **{
        f"filter after {name}": ((lambda f, after=after: english(after(f))), rows)
        for name, (after, rows) in FILTER_AFTER.items()
    },
    **{f"loc {name}": step for name, step in LOCATE.items()},
    **MISSING,
    **ORDER,
    **JOINED,
    **REDUCED,
    **{f"assign {name}": step for name, step in ASSIGNED.items()},
}
