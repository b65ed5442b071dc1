"""What an operator does with a Dask DataFrame, told by the modules that know Dask's expressions."""

from __future__ import annotations

from dask.utils import Dispatch

lazily = Dispatch("dask_embed_lazily")
"""``(operator, frame)`` to the lazy result, nothing computed and nothing checked."""
