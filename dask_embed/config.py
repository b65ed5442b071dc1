"""Settings that do not change results: ``embed.*`` of Dask's configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dask_embed._validation import meant, plain_scalar, shown

# This module may be imported while Dask is: `dask_embed._registration` does so.
CHOICES = {
    "operators-rise": ("all", "blockwise", "none"),
    "product-device": ("auto", "cpu", "cuda"),
}
COUNTS = ("shuffle-partitions",)
DEFAULTS = yaml.safe_load((Path(__file__).parent / "embed.yaml").read_text("utf8"))


def get(name: str) -> Any:
    """Return the setting ``embed.<name>``: a size, a count, tokens by device, a folder or a choice.

    What the configuration does not hold is as packaged: `dask.config.set` drops the defaults when
    its block ends, if they were merged within it.

    Raises
    ------
    ValueError
        If the value cannot be used.
    """
    import dask.config  # noqa: PLC0415 - this module is imported while Dask is

    default = DEFAULTS["embed"][name]
    given = plain_scalar(dask.config.get(f"embed.{name}", default))
    if name in COUNTS:
        return _count(name, given)
    if default is None:
        return _folder(name, given)
    if name in CHOICES:
        return _choice(name, given)
    return _tokens(name, given, default) if isinstance(default, dict) else _bytes(name, given)


def check() -> None:
    """Raise ValueError unless all settings can be used."""
    for name in DEFAULTS["embed"]:
        get(name)


def _folder(name: str, given: Any) -> str | None:
    if given is None or (isinstance(given, str | Path) and str(given).strip()):
        return None if given is None else str(given)
    raise ValueError(
        f"embed.{name} must be the path or URL of a folder, or null; got {shown(given)}"
    )


def _count(name: str, given: Any) -> int | None:
    if given is None or (isinstance(given, int) and not isinstance(given, bool) and given >= 1):
        return given
    raise ValueError(f"embed.{name} must be a positive integer, or null; got {shown(given)}")


def _choice(name: str, given: Any) -> str:
    if given in CHOICES[name]:
        return str(given)
    raise ValueError(
        f"embed.{name} must be one of {', '.join(map(repr, CHOICES[name]))}; got {shown(given)}"
    )


def _bytes(name: str, given: Any) -> int:
    from dask.utils import parse_bytes  # noqa: PLC0415 - this module is imported while Dask is

    # "" and "MiB" are one byte and one MiB to Dask
    is_size = isinstance(given, str) and any(map(str.isdigit, given))
    if is_size or (isinstance(given, int | float) and not isinstance(given, bool)):
        try:
            parsed = parse_bytes(given)
        except (ValueError, OverflowError):
            parsed = -1
        if parsed >= 0:
            return parsed
    raise ValueError(
        f"embed.{name} must be a number of bytes, at least 0, such as 50331648 or '48MiB'; got "
        f"{shown(given)}"
    )


def _tokens(name: str, given: Any, default: dict[str, int]) -> dict[str, int]:
    if not isinstance(given, Mapping):
        raise ValueError(
            f"embed.{name} must map kinds of device ({', '.join(default)}) to positive integers; "
            f"got {shown(given)}"
        )
    for device, tokens in given.items():
        if device not in default:
            raise ValueError(
                f"embed.{name} must be of the kinds of device {', '.join(default)}; got "
                f"{shown(device)}{meant(device, list(default))}"
            )
        if isinstance(tokens, bool) or not isinstance(tokens, int) or tokens < 1:
            raise ValueError(
                f"embed.{name}.{device} must be a positive integer, got {shown(tokens)}"
            )
    return {**default, **given}
