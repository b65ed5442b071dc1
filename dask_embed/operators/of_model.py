"""Operators with a model: its specification, and how one is that runs the tokenizer alone."""

from __future__ import annotations

import abc
import dataclasses
from pathlib import Path
from typing import Any

from dask_embed.models.spec import Model
from dask_embed.models.tokenizers import pinned_tokenizer, tokenizer_checkpoint
from dask_embed.operators.frame import FrameOperator
from dask_embed.operators.rehearsal import require_encodable


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfModel(FrameOperator):
    """An operator whose first argument names a checkpoint."""

    model: Model | str | Path = dataclasses.field(kw_only=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", Model.of(self.model))
        super().__post_init__()

    @property
    def spec(self) -> Model:
        """The model's full specification."""
        return Model.of(self.model)

    @property
    def subject(self) -> str:
        """What statistics name beside the operator."""
        return self.spec.name


@dataclasses.dataclass(frozen=True, kw_only=True)
class OfTokenizer(OfModel):
    """An operator of which a checkpoint's tokenizer is all that is read."""

    def pinned(self) -> OfTokenizer:
        """Return the operator with its model resolved to a folder or commit."""
        return dataclasses.replace(self, model=pinned_tokenizer(self.spec))

    @abc.abstractmethod
    def trial(self, tokenizer: Any, text: str) -> str | None:
        """Return why no row with this text can be used, None if one can."""

    def rehearse(self) -> None:
        require_encodable(self, self.spec, tokenizer_checkpoint(self.spec))
