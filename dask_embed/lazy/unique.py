"""Whether the keys of a frame are known to be of one row each."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from typing import Any

import pandas as pd

from dask_embed.lazy._dask import (
    Assign,
    DropDuplicates,
    Expr,
    Filter,
    FromPandas,
    Projection,
    RenameFrame,
)

# What was found of frames in memory, which are looked at again with each plan.
_FOUND: OrderedDict[tuple[Any, ...], bool] = OrderedDict()
_MOST = 64


def is_unique(node: Expr, keys: Any, by_index: bool) -> bool:
    """Return whether no two rows have the same values of `keys`, or the same label."""
    names = [] if by_index else _listed(keys)
    while (below := _of_same_keys(node, names)) is not None:
        node, names = below
    if isinstance(node, DropDuplicates) and not by_index:
        return node.subset is not None and set(_listed(node.subset)) <= set(names)
    if not isinstance(node, FromPandas):
        return False
    key = (node.operand("frame")._token, by_index, *names)
    if key not in _FOUND:
        _FOUND[key] = _is_unique(node.frame._data, names)
        if len(_FOUND) > _MOST:
            _FOUND.popitem(last=False)
    return _FOUND[key]


def _of_same_keys(node: Any, names: list[Any]) -> tuple[Expr, list[Any]] | None:
    """Return what a node has the keys of, and their names there, None if it may have others."""
    if isinstance(node, RenameFrame):
        before = dict(zip(node.columns, node.frame.columns, strict=True))
        return (
            (node.frame, [before[name] for name in names]) if before.keys() >= set(names) else None
        )
    if isinstance(node, Assign):
        return None if set(names) & set(node.keys) else (node.frame, names)
    same = isinstance(node, Filter | Projection) and set(names) <= set(node.frame.columns)
    return (node.frame, names) if same else None


def _is_unique(data: Any, names: list[Any]) -> bool:
    if not isinstance(data, pd.DataFrame | pd.Series):
        return False
    if not names:
        return bool(data.index.is_unique)
    if not isinstance(data, pd.DataFrame) or not set(names) <= set(data.columns):
        return False
    return not data.duplicated(subset=names).any()


def _listed(names: Any) -> list[Any]:
    is_one = isinstance(names, str) or not isinstance(names, Iterable)
    return [names] if is_one else list(names)
