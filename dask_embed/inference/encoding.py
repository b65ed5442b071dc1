"""Texts, pairs of texts and chats to what a model reads, with the tokenizers of its runner."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from dask_embed.text.chats import ChatRules, ChatTokenizer
from dask_embed.tokens.encoded import Encoded, Row
from dask_embed.tokens.lists import TokenLists
from dask_embed.tokens.sequences import SequenceTokenizer, tokens_kept, too_long
from dask_embed.tokens.sharing import tokenize_once

if TYPE_CHECKING:
    from dask_embed.inference.runner import Runner


def encode_rows(
    runner: Runner, rows: Sequence[Row], max_length: int | None, *, on_long: str = "truncate"
) -> Encoded:
    """Return one sequence for each row, of its text or of its pair of texts.

    With ``on_long="error"`` rows of more than `max_length` tokens are failures.
    """

    cut = tokens_kept(max_length, on_long)
    if rows and len(rows[0]) == 2:
        tokenizer = runner.own_tokenizer(("pairs", cut), lambda own: SequenceTokenizer(own, cut))
        _, tokens, _ = tokenizer([row[0] for row in rows], [row[1] for row in rows])
    elif runner.types_single_texts:
        tokenizer = runner.own_tokenizer(("typed", cut), lambda own: SequenceTokenizer(own, cut))
        _, tokens, _ = tokenizer([row[0] for row in rows])
    else:
        tokens = tokenize_once(runner.tokenizer(cut), [row[0] for row in rows])
    failures = too_long(tokens, max_length) if on_long == "error" else {}
    return Encoded(np.arange(len(rows)), tokens).without(failures)


def encode_spans(
    tokenizer: SequenceTokenizer,
    texts: Sequence[str],
    pairs: Sequence[str] | None = None,
    *,
    most: int | None = None,
) -> Encoded:
    """Return the sequences of `texts`, each with its `Origins` as context.

    Parameters
    ----------
    tokenizer : SequenceTokenizer
        One that gives offsets.
    texts, pairs : sequence of str
    most : int, optional
        Rows of more tokens are failures; the tokenizer then has to keep one token more.
    """

    rows, tokens, origins = tokenizer(texts, pairs)
    assert origins is not None, "the tokenizer was asked for offsets"
    return Encoded(rows, tokens, origins).without(too_long(tokens, most))


def encode_chats(
    runner: Runner,
    rules: ChatRules,
    texts: Sequence[str],
    max_length: int | None,
    *,
    on_long: str,
) -> Encoded:
    """Return one sequence for each text; with ``on_long="error"`` longer ones are failures."""
    cuts = on_long == "truncate"
    kept = tokens_kept(max_length, on_long)
    tokenizer = runner.own_tokenizer(
        ("chats", rules, kept, cuts), lambda own: ChatTokenizer(own, rules, kept, restores=cuts)
    )
    tokens = tokenizer(texts)
    if tokens.types is not None and not runner.types_single_texts:
        tokens = TokenLists(tokens.values, tokens.offsets)
    failures = {} if cuts else too_long(tokens, max_length)
    return Encoded(np.arange(len(texts)), tokens).without(failures)
