"""Texts to the same texts without e-mail addresses and public IP addresses."""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from typing import ClassVar

import numpy as np
import pyarrow as pa

from dask_embed._validation import non_empty_string
from dask_embed.operators.filters.base import TextFilter

# What HTML takes for an address, with a dot in its domain. It begins where a run of its characters
# does, else a long run of letters without an @ would be gone through from each of them.
_CHARACTER = r"[A-Za-z0-9.!#$%&'*+/=?^_`{|}~-]"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_EMAIL = re.compile(rf"(?<!{_CHARACTER}){_CHARACTER}++@(?:{_LABEL}\.)+[A-Za-z]{{2,63}}\b")
_IP = re.compile(r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\w|\.\w)")


@dataclasses.dataclass(frozen=True, kw_only=True)
class PersonalDataReplacer(TextFilter):
    """Append each text with other e-mail and public IP addresses in it; lazy on a Dask DataFrame.

    Parameters
    ----------
    column : str
        The text column.
    output : str
        The column of the texts; how many addresses were replaced in each is in
        ``<output>_count``, int32.
    email : str, optional
        What stands in place of each e-mail address, None to leave them.
    ip : str, optional
        What stands in place of each IPv4 address that is reached from everywhere (others, as
        ``192.168.0.1``, say nothing of anybody), None to leave them.
    on_error
        See `ColumnOperator`.

    Examples
    --------
    >>> import pandas as pd
    >>> import dask_embed as de
    >>> frame = pd.DataFrame({"text": ["Write to ada@lovelace.org (8.8.8.8)."]})
    >>> de.PersonalDataReplacer()(frame)[["replaced", "replaced_count"]].iloc[0].tolist()
    ['Write to email@example.com (192.0.2.1).', 2]

    Notes
    -----
    FineWeb replaces the same two kinds (Penedo et al. 2024, arXiv:2406.17557, section 3.6). The
    replacements are of names and numbers that belong to nobody (RFC 2606, RFC 5737). E-mail
    addresses are what HTML takes for them, with a dot in their domain. A version number of four
    parts looks like an IP address; names, telephone numbers and IPv6 addresses are left.
    """

    method: ClassVar[str] = "replace_personal_data"

    output: str = "replaced"
    email: str | None = "email@example.com"
    ip: str | None = "192.0.2.1"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("email", "ip"):
            non_empty_string(name, getattr(self, name), allow_none=True)
        if self.email is None and self.ip is None:
            raise ValueError("email and ip are both None: give what stands in place of either")

    @property
    def result_columns(self) -> tuple[str, ...]:
        return (self.output, f"{self.output}_count")

    def types(self) -> dict[str, pa.DataType]:
        return dict(zip(self.result_columns, (pa.string(), pa.int32()), strict=True))

    def plan(self) -> list[str]:
        given = {"e-mail addresses": self.email, "public IP addresses": self.ip}
        return [f"{kind} become {new}" for kind, new in given.items() if new is not None]

    def measured(self, texts: list[str]) -> dict[str, pa.Array]:
        counts = np.zeros(len(texts), np.int32)
        replaced = list(texts)
        for place, text in enumerate(texts):
            if self.email is not None:
                text, counts[place] = _EMAIL.subn(lambda _: str(self.email), text)
            if self.ip is not None:
                text, public = _other_ips(text, self.ip)
                counts[place] += public
            replaced[place] = text
        columns = pa.array(replaced, pa.string()), pa.array(counts)
        return dict(zip(self.result_columns, columns, strict=True))


def _other_ips(text: str, new: str) -> tuple[str, int]:
    """Return a text with another public address in place of each, and how many there were."""
    found = 0

    def other(match: re.Match[str]) -> str:
        nonlocal found
        if not _is_public(match[0]):
            return match[0]
        found += 1
        return new

    return _IP.sub(other, text), found


def _is_public(address: str) -> bool:
    try:
        return ipaddress.IPv4Address(address).is_global
    except ipaddress.AddressValueError:  # 300.1.1.1, or 08.1.1.1
        return False
