"""How a value is written in a message: short, and without its secrets."""

from __future__ import annotations

import reprlib
from collections.abc import ItemsView, Mapping
from typing import Any

from dask_embed._secrets import (
    HIDDEN,
    decoded,
    names_a_secret,
    sets_a_secret,
    without_named,
    without_secrets,
)

_NEAR = 8192  # characters in which a secret that is shown in part begins and ends


class Short(reprlib.Repr):
    """`repr` that is short whatever it gets, and without secrets.

    Of many values it has the first, and of arrays the shape.
    """

    def __init__(self) -> None:
        super().__init__()
        self.maxstring = self.maxother = 100
        self.maxlist = self.maxtuple = self.maxset = 12
        self.maxlevel = 3

    def repr_instance(self, x: Any, level: int) -> str:
        if hasattr(type(x), "shape") and getattr(x, "ndim", None) != 0:
            return _array(x)
        if isinstance(x, Mapping):
            return f"{type(x).__name__}({self.repr_dict(dict(x), level)})"
        if isinstance(x, ItemsView):
            return self.repr_list(list(x), level)
        try:
            text = without_secrets(repr(x))
        except Exception:  # whatever the method of an object raises
            return super().repr_instance(x, level)
        half = (self.maxother - 3) // 2
        return text if len(text) <= self.maxother else f"{text[:half]}...{text[-half:]}"

    def repr_str(self, x: str, level: int) -> str:
        # begin and end are shown
        near = x if len(x) <= 2 * _NEAR else x[:_NEAR] + x[-_NEAR:]
        return super().repr_str(without_secrets(near), level)

    def repr_list(self, x: list[Any], level: int) -> str:
        begin = x[: self.maxlist + 1]
        return super().repr_list(without_named(begin, alone=level == self.maxlevel), level)

    def repr_tuple(self, x: tuple[Any, ...], level: int) -> str:
        alone = level == self.maxlevel and len(x) != 2
        begin = without_named(x[: self.maxtuple + 1], alone=alone)
        return super().repr_tuple(tuple(begin), level)

    def repr_dict(self, x: dict[Any, Any], level: int) -> str:
        known = {key: HIDDEN if _is_secret(key, value) else value for key, value in x.items()}
        if holder := sets_a_secret(x):
            known[holder] = HIDDEN
        return super().repr_dict(known, level)

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write integers of many thousands of digits
        return super().repr_int(x, level) if x.bit_length() < 4096 else "an integer of many digits"


def _is_secret(key: Any, value: Any) -> bool:
    number = value is None or isinstance(value, bool | int | float)
    return isinstance(key, str | bytes) and not number and names_a_secret(decoded(key))


def _array(value: Any) -> str:
    kind = f"{type(value).__module__.partition('.')[0]}.{type(value).__qualname__}"
    if hasattr(value, "_meta"):
        return f"a lazy {kind}"
    dtype = getattr(value, "dtype", None)
    return f"{kind} of shape {tuple(value.shape)}" + ("" if dtype is None else f", type {dtype}")
