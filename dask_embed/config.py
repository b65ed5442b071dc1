"""Settings that do not change results: ``embed.*`` of Dask's configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dask.config
import yaml

dask.config.update_defaults(
    yaml.safe_load((Path(__file__).parent / "embed.yaml").read_text("utf8"))
)


def get(name: str) -> Any:
    """Return the setting ``embed.<name>``."""
    return dask.config.get(f"embed.{name}")
