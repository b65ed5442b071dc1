"""An operator of one's own with a switch, at the top of a module as workers need it."""

from __future__ import annotations

import dataclasses

from dask_embed import ModelOperator


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shouter(ModelOperator):
    loudly: bool = False

    @property
    def input_columns(self) -> tuple[str, ...]:
        return ("text",)
