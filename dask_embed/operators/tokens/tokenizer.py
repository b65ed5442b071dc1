"""Texts, or pairs of texts, to token ids."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from dask_embed._validation import (
    integer_from_zero,
    one_of,
    positive_integer,
    require_effect,
    shown,
)
from dask_embed.columns import Result, TextColumn
from dask_embed.models.tokenizer_files import tokenizer_fingerprint
from dask_embed.models.tokenizers import (
    own_tokenizer,
    require_rust,
    tokenizer_checkpoint,
    tokenizer_of,
)
from dask_embed.operators.base import ColumnOperator
from dask_embed.operators.of_model import OfTokenizer
from dask_embed.operators.rehearsal import EXAMPLES
from dask_embed.operators.tokens.columns import OFFSET, OneList, RowEncoder
from dask_embed.tokens.lists import TextTokenizer
from dask_embed.tokens.sequences import SequenceSettings, encoding_problem, tokens_kept
from dask_embed.tokens.texts import Made, Texts

if TYPE_CHECKING:
    from dask_embed.runtime.stats import Meter

TRUNCATIONS = ("longest_first", "only_first", "only_second")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tokenizer(OfTokenizer, ColumnOperator):
    """Append the token ids of each text and their number; lazy on a Dask DataFrame.

    No weights are read: a folder with ``config.json`` and the tokenizer's files will do.

    Parameters
    ----------
    model : str, Path or Model
        Hub id, local folder or specification of a checkpoint with a tokenizer.
    column : str
        The text column.
    pair : str, optional
        A second text column; text and pair become one sequence.
    output : str
        Column of the ids, list of int32; with `windows` a list of such lists.
    count : str, optional
        Column of the number of ids, int32, by default ``<output>_count``; with `windows` what
        they share counts in each.
    offsets : str, optional
        Column of where tokens come from, like `output` but of structs with the first character
        ``start``, the one after the last ``end``, and ``part``: 0 for the text, 1 for its pair
        and -1 for special tokens. Only tokenizers in Rust can tell.
    special_tokens : bool
        Add the checkpoint's special tokens.
    max_length : int, optional
        Most tokens, special tokens included; by default there is no limit.
    on_long : {"truncate", "error"}
        Whether a row of more tokens is cut, or cannot be used (see `on_error`).
    truncation : {"longest_first", "only_first", "only_second"}
        What is cut of a pair.
    windows : bool
        What does not fit into `max_length` tokens goes into further lists. Only tokenizers in
        Rust can; of a pair `truncation` must say which text is cut.
    stride : int
        Tokens that neighbouring windows share.
    on_error : {"raise", "null"}
        See `ColumnOperator`.

    Notes
    -----
    Source: the checkpoint's tokenizer when called, of transformers. A sentence-transformers
    checkpoint that lowercases its texts does so here.
    """

    method: ClassVar[str] = "tokenize"

    column: str = "text"
    pair: str | None = None
    output: str = "tokens"
    count: str | None = None
    offsets: str | None = None
    special_tokens: bool = True
    max_length: int | None = None
    on_long: str = "truncate"
    truncation: str = "longest_first"
    windows: bool = False
    stride: int = 0

    incidental: ClassVar[frozenset[str]] = frozenset(
        {"column", "pair", "output", "count", "offsets"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_integer("max_length", self.max_length)
        one_of("on_long", self.on_long, ("truncate", "error"))
        one_of("truncation", self.truncation, TRUNCATIONS)
        integer_from_zero("stride", self.stride)
        if self.pair is None or self.max_length is None:
            require_effect(self, ("truncation",), "both pair= and max_length=")
        if self.max_length is None:
            require_effect(self, ("on_long",), "max_length=")
        if self.windows and (self.max_length is None or self.on_long == "error"):
            raise ValueError("windows=True needs max_length=, and on_long='error' does not apply")
        if self.stride and not self.windows:
            raise ValueError(f"stride={shown(self.stride)} is for windows=True")
        if self.windows and self.pair is not None and self.truncation == "longest_first":
            raise ValueError(
                "windows of a pair need truncation='only_first' or 'only_second', the text that "
                f"is cut; got {shown(self.truncation)}"
            )

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.column,) if self.pair is None else (self.column, self.pair)

    @property
    def result_columns(self) -> tuple[str, ...]:
        count = f"{self.output}_count" if self.count is None else self.count
        names = (self.output, count)
        return names if self.offsets is None else (*names, self.offsets)

    def types(self) -> dict[str, pa.DataType]:
        self._check_tokenizer()
        ids, offsets = pa.list_(pa.int32()), pa.list_(OFFSET)
        if self.windows:
            ids, offsets = pa.list_(ids), pa.list_(offsets)
        types = [ids, pa.int32()] if self.offsets is None else [ids, pa.int32(), offsets]
        return dict(zip(self.result_columns, types, strict=True))

    def _check_tokenizer(self) -> None:
        """Raise ValueError if the checkpoint's tokenizer cannot do what is asked for."""
        tokenizer = tokenizer_of(self.spec)
        for name in ("windows", "offsets"):
            if getattr(self, name):
                require_rust(self.spec, name)
        if self.max_length is None:
            return
        pair = self.pair is not None
        special = tokenizer.num_special_tokens_to_add(pair=pair) if self.special_tokens else 0
        if self.max_length < special + self.windows:
            raise ValueError(
                f"max_length must be at least {special + self.windows}: every row has {special} "
                f"special tokens; got {self.max_length}"
            )
        if self.stride and self.stride >= self.max_length - special:
            raise ValueError(
                f"stride must be less than {self.max_length - special}, the tokens of a window "
                f"besides the {special} special ones; got {self.stride}"
            )

    def run(
        self, columns: list[TextColumn], *, on_device: bool, meter: Meter
    ) -> tuple[dict[str, Result], dict[int, str]]:
        from dask_embed.inference.texts import ColumnSink, run_texts

        key = (self._settings, self.on_long, self.pair is not None)
        encoder = own_tokenizer(self.spec, key, self._encoder)
        types = self.types()
        sink = ColumnSink(len(columns[0].values), list(types.values()))

        def tokenize(texts: Texts) -> Made:
            made = encoder(texts.rows)
            meter.count(tokens=int(made.columns[1].to_numpy().sum()))
            return made

        longest = None if self.windows else self.max_length
        kind = (self.spec, tokenizer_checkpoint(self.spec).revision, key)
        failures = run_texts(columns, tokenize, sink, meter, longest, kind)
        return dict(zip(types, sink.columns(), strict=True)), failures

    def plan(self) -> list[str]:
        special = "with" if self.special_tokens else "without"
        limit = f", at most {self.max_length} tokens" if self.max_length else ""
        return [
            f"tokenizer of {self.spec.name} at revision {self.spec.revision}",
            f"token ids {special} special tokens{limit}",
        ]

    def trial(self, tokenizer: Any, text: str) -> str | None:
        """Return why no row with this text can be tokenized, None if one can."""
        try:
            encoded = self._encoder(tokenizer)([(text,) * len(self.input_columns)])
        except BaseException as error:
            return encoding_problem(error)
        return encoded.failures.get(0)

    def examples(self) -> Iterator[list[TextColumn]]:
        for text in EXAMPLES:
            yield [TextColumn([text]) for _ in self.input_columns]

    def tokens_key(self) -> Hashable:
        checkpoint = tokenizer_checkpoint(self.spec)
        fingerprint = tokenizer_fingerprint(self.spec, checkpoint)
        return (self.input_columns, fingerprint, self._settings)

    @property
    def _settings(self) -> SequenceSettings:
        return SequenceSettings(
            tokens_kept(self.max_length, self.on_long),
            truncation="longest_first" if self.pair is None else self.truncation,
            stride=self.stride,
            windows=self.windows,
            offsets=self.offsets is not None,
            special=self.special_tokens,
        )

    def _encoder(self, tokenizer: Any) -> RowEncoder:
        settings = self._settings
        limit = self.max_length if self.on_long == "error" else None
        if self.pair is None and settings == SequenceSettings(settings.max_length):
            return RowEncoder(OneList(TextTokenizer(tokenizer, settings.max_length)), limit)
        return RowEncoder(settings.build(tokenizer), limit, windows=self.windows)
