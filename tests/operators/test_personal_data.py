"""E-mail and IP addresses are replaced, and nothing else is."""

from __future__ import annotations

import time
from typing import Any

import pandas as pd
import pytest
from support.contract import DataframeContract

import dask_embed as de


def replaced(text: str, **options: Any) -> tuple[str, int]:
    frame = pd.DataFrame({"text": pd.Series([text], dtype="str")})
    return tuple(de.PersonalDataReplacer(**options)(frame).iloc[0, 1:3])


@pytest.mark.parametrize(
    "email",
    [
        "ada@lovelace.org",
        "a.b+c_d@sub-domain.example.co.uk",
        "o'neill@x.io",
        "1@2.museum",
        "ADA@EXAMPLE.ORG",
        f"{'l' * 64}@{'d' * 63}.org",
    ],
)
def test_emails(email: str) -> None:
    for before, after in (("", ""), ("<", ">"), ("mailto:", "."), ("漢字 ", ", or"), ("\n", "\n")):
        assert replaced(f"{before}{email}{after}", email="X") == (f"{before}X{after}", 1)
    assert replaced(f"{email} {email}", email=r"\1") == (r"\1 \1", 2)
    assert replaced(email, email=None) == (email, 0)


@pytest.mark.parametrize(
    "text",
    ["@decorator", "user@host", "a @ b.org", "a@b.c", "a@-b.org", "a@b-.org", "a@b..org", "", "@"],
)
def test_what_is_no_email(text: str) -> None:
    assert replaced(text) == (text, 0)


@pytest.mark.parametrize("ip", ["8.8.8.8", "1.0.0.1", "223.255.255.254"])
def test_public_ips(ip: str) -> None:
    for before, after in (("", ""), ("http://", ":80/x"), ("[", "]"), ("ip ", "."), ("=", ", ")):
        assert replaced(f"{before}{ip}{after}", ip="X") == (f"{before}X{after}", 1)
    assert replaced(ip, ip=None) == (ip, 0)


@pytest.mark.parametrize(
    "text",
    [
        *("10.0.0.1", "192.168.1.20", "127.0.0.1", "172.16.0.1", "169.254.1.1", "0.0.0.0"),
        *("203.0.113.5", "300.1.1.1", "8.8.8", "8.8.8.8.8", "v8.8.8.8", "8.8.8.8a", "08.8.8.8"),
    ],
)
def test_what_is_no_public_ip(text: str) -> None:
    assert replaced(text) == (text, 0)


def test_both_are_counted() -> None:
    expected = "email@example.com at 192.0.2.1 and email@example.com", 3
    assert replaced("a@b.org at 8.8.8.8 and c@d.org") == expected


@pytest.mark.alone
@pytest.mark.parametrize("text", ["a" * 1_000_000, "a." * 500_000, "a@" * 500_000, "1." * 500_000])
def test_long_texts_take_their_length(text: str) -> None:
    start = time.perf_counter()
    assert replaced(text) == (text, 0)
    assert time.perf_counter() - start < 5


def test_something_is_replaced() -> None:
    with pytest.raises(ValueError, match="email and ip are both None"):
        de.PersonalDataReplacer(email=None, ip=None)


class TestContract(DataframeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def operator(cls) -> de.PersonalDataReplacer:
        return de.PersonalDataReplacer()
