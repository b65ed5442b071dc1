"""Text generation: what is asked for in plain values, and the loops that do it, with torch.

Names are imported when they are first used, so that a client can say what is to be generated
without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dask_embed.inference.generation.settings import GenerationSettings
    from dask_embed.inference.generation.text import Generated, TextGeneration

_HOMES = {"GenerationSettings": "settings", "Generated": "text", "TextGeneration": "text"}

__all__ = ["Generated", "GenerationSettings", "TextGeneration"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
