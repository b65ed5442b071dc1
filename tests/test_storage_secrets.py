"""What opens a store, or stands in a URL as a password, is in nothing that is kept or told."""

from __future__ import annotations

import contextlib
import io
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import fsspec
import pandas as pd
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

import dask_embed as de
from dask_embed._secrets import without_secrets
from dask_embed._validation import shown, shown_error

MARKER = "m4rk3r"


class Vault(MemoryFileSystem):
    """A store in memory that wants a key, a secret and a token."""

    protocol = "vault"
    store: dict[str, Any] = {}  # noqa: RUF012 - as fsspec has it
    pseudo_dirs = [""]  # noqa: RUF012

    def __init__(self, key: str, secret: str, token: dict[str, str], **options: Any) -> None:
        super().__init__(**options)
        if token["value"] != f"token-{MARKER}":
            raise ValueError(f"the store takes no token {token['value']}")

    @classmethod
    def _strip_protocol(cls, path: Any) -> Any:
        if isinstance(path, str):
            path = path.replace("vault://", "memory://")
        return MemoryFileSystem._strip_protocol(path)


STORE = {
    "key": f"key-{MARKER}",
    "secret": f"secret-{MARKER}",
    "token": {"value": f"token-{MARKER}"},
}
WRONG = {**STORE, "token": {"value": f"wrong-{MARKER}"}}
URL = f"vault://user:{MARKER}@bucket/out"


@pytest.fixture(autouse=True)
def _store() -> Iterator[None]:
    fsspec.register_implementation("vault", Vault, clobber=True)
    yield
    Vault.store.clear()
    Vault.pseudo_dirs[:] = [""]
    Vault.clear_instance_cache()


@pytest.fixture
def frame() -> dd.DataFrame:
    return dd.from_pandas(pd.DataFrame({"text": list("abcd")}), npartitions=2)


def _printed(call: Callable[[], Any]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as out:
        call()
    return out.getvalue()


def test_a_store_that_needs_secrets_is_written_and_read(
    frame: dd.DataFrame, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG, logger="dask_embed"):
        late = frame.ml.to_parquet("vault://bucket/late", storage_options=STORE, compute=False)
        frame.ml.to_parquet("vault://bucket/out", storage_options=STORE)
        frame.ml.to_parquet("vault://bucket/out", storage_options=STORE, append=True, repeat=True)
        frame.ml.to_parquet("vault://bucket/out", storage_options=STORE, overwrite=True)
        frame.ml.to_parquet("vault://bucket/more", storage_options=STORE, resume=True)
        frame.ml.to_parquet("vault://bucket/more", storage_options=STORE, resume=True)
        read = de.read_parquet("vault://bucket/out", storage_options=STORE)
        assert read.compute()["text"].tolist() == list("abcd")
    shows = [repr(late), str(late), repr(read), str(read), str(list(read.dask)), caplog.text]
    shows += [_printed(late.expr.pprint), _printed(read.expr.pprint), str(list(late.dask))]
    shows += [str(de.explain(read)), str(list(read.optimize().dask)), *Vault.store]
    contents = b"".join(file.getvalue() for file in Vault.store.values())
    assert MARKER not in "".join(shows)
    assert MARKER.encode() not in contents
    # what a reader of the plan may know
    assert "'key': '***'" in _printed(read.expr.pprint)


USES = {
    "write": lambda frame, path, **options: frame.ml.to_parquet(path, **options),
    "read": lambda frame, path, **options: de.read_parquet(path, **options),
    "read-several": lambda frame, path, **options: de.read_parquet([path, path], **options),
    "discard": lambda frame, path, **options: de.discard_unfinished(path, **options),
}
REFUSED = {
    "url": (URL, {}, "path must not hold a user and password"),
    "chained-url": (f"simplecache::{URL}", {}, "path must not hold a user and password"),
    "text": ("vault://b/x", {"storage_options": MARKER}, "must be a dictionary, got one str"),
    "pairs": ("vault://b/x", {"storage_options": [("secret", MARKER)]}, "got one list"),
    "wrong": ("vault://b/x", {"storage_options": WRONG}, "there is no filesystem for"),
    "word": ("vault://b/x", {"filesystem": MARKER}, "and one str as filesystem="),
    "list": ("vault://b/x", {"filesystem": [MARKER]}, "and one list as filesystem="),
    "no-protocol": ("nosuch://b/x", {"storage_options": STORE}, "Protocol not known: nosuch"),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("use", USES)
def test_errors_tell_no_secret(frame: dd.DataFrame, use: str, case: str) -> None:
    path, options, told = REFUSED[case]
    with pytest.raises((TypeError, ValueError), match=told) as raised:
        USES[use](frame, path, **options)
    assert MARKER not in "".join(traceback.format_exception(raised.value))
    assert "\n" not in str(raised.value)


def test_options_that_nobody_knows_tell_no_secret(frame: dd.DataFrame, tmp_path: Path) -> None:
    for name in ("secret", "token", "api_key"):
        with pytest.raises(TypeError, match=name) as raised:
            frame.ml.to_parquet(tmp_path / "out", **{name: {"of": MARKER}})
        assert MARKER not in str(raised.value)
        with pytest.raises(TypeError, match=name) as raised:
            de.read_parquet(tmp_path / "out", **{name: MARKER})
        assert MARKER not in str(raised.value)


def test_signed_urls_are_read_and_not_told() -> None:
    with pytest.raises(FileNotFoundError, match=r"vault://b/x\?sig=\*\*\*&n=1") as raised:
        de.read_parquet(f"vault://b/x?sig={MARKER}&n=1", storage_options=STORE)
    assert MARKER not in "".join(traceback.format_exception(raised.value))
    for name in ("X-Amz-Signature", "X-Amz-Security-Token", "X-Goog-Credential", "api_key", "sig"):
        assert without_secrets(f"s3://b/x?a=1&{name}=q%2Fz&b=2") == f"s3://b/x?a=1&{name}=***&b=2"
    assert without_secrets("s3://b/x?versionId=3&max_tokens=4") == (
        "s3://b/x?versionId=3&max_tokens=4"
    )


def test_a_signed_url_that_is_read_is_shown_nowhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = pd.DataFrame({"text": list("abcd")})
    for name in (f"a.parquet?sig={MARKER}", f"b.parquet?X-Amz-Signature={MARKER}2"):
        texts.to_parquet(tmp_path / name)
    urls = [f"file://{file}" for file in sorted(tmp_path.iterdir())]
    both, first, second = map(de.read_parquet, (urls, *urls))
    assert len({read._name for read in (both, first, second)}) == 3
    assert first._name == de.read_parquet(urls[0])._name
    for read, rows in ((both, 8), (first, 4)):
        assert len(read.compute()) == rows
        for plan in (read, read.optimize(), read[read.text == "a"]):
            plan.expr.pprint()
            print(repr(plan), plan.expr, list(plan.dask), repr(dict(plan.dask)))
            de.explain(plan)
    first.ml.to_parquet(tmp_path / "out")
    assert not any(MARKER.encode() in file.read_bytes() for file in (tmp_path / "out").iterdir())
    for url in (f"{tmp_path}/x?sig={MARKER}", f"vault://b/x?X-Amz-Security-Token={MARKER}"):
        with pytest.raises(ValueError, match="path must not hold an access token") as raised:
            first.ml.to_parquet(url, storage_options=STORE if "vault" in url else None)
        print(raised.value)
    said = "".join(capsys.readouterr())
    assert "sig=***" in said
    assert MARKER not in said


def test_what_is_shown_holds_no_secret() -> None:
    for value in (URL, [URL], {"path": URL}, {"password": MARKER}, {"a": {"hf_token": MARKER}}):
        assert MARKER not in shown(value)
    assert MARKER not in shown("x" * 80 + URL + "x" * 80)
    assert MARKER not in shown_error(pa.ArrowInvalid(f"cannot open {URL}"))
    assert (
        shown({"max_tokens": 3, "pad_token": "[PAD]"}) == "{'max_tokens': 3, 'pad_token': '[PAD]'}"
    )
