"""Operators of language models: which head they need, and prompts from columns."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, ClassVar

import pyarrow as pa

from dask_embed._validation import shown, text_or_none
from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.models.tasks import require_head
from dask_embed.operators.language.generation_file import generation_settings
from dask_embed.operators.model import ModelOperator
from dask_embed.text.prompts import PromptTemplate
from dask_embed.tokens.encoded import Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageModelOperator(ModelOperator):
    """A language model, with or without an encoder, over prompts.

    Parameters
    ----------
    column : str
        The column of prompts.
    prompt : str, optional
        A template of the prompt with names of columns in braces, instead of `column`.
    add_special_tokens : bool
        Put the tokenizer's special tokens around the prompt.

    Raises
    ------
    ValueError
        If the template is malformed or names no column.
    """

    column: str = "text"
    prompt: str | None = None
    add_special_tokens: bool = True

    incidental: ClassVar[frozenset[str]] = frozenset({"column"})

    def __post_init__(self) -> None:
        text_or_none("prompt", self.prompt)
        super().__post_init__()
        if self.prompt is not None and self.column not in ("text", *self.input_columns):
            raise ValueError(
                f"column={shown(self.column)} has no effect with prompt={shown(self.prompt)}, "
                "which names the columns that are read; leave out one of both"
            )
        if not self.input_columns:
            raise ValueError(
                f"prompt must name at least one column in braces ('{{text}}'); got "
                f"{shown(self.prompt)}"
            )

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.column,) if self.prompt is None else PromptTemplate(self.prompt).columns

    def prompts(self, rows: list[Row]) -> list[str]:
        """Return the prompt of each row."""
        if self.prompt is None:
            return [row[0] for row in rows]
        template = PromptTemplate(self.prompt)
        # rows may go on with other columns
        return [template.format(dict(zip(template.columns, row, strict=False))) for row in rows]

    def types(self) -> dict[str, pa.DataType]:
        checkpoint = read_checkpoint(self.spec)
        require_left_to_right(checkpoint, self.spec.name)
        require_head(language_task(checkpoint), checkpoint, self.spec)
        require_start(checkpoint, self.spec.name)
        self.limit(checkpoint)
        types = self.output_types(checkpoint)
        self._require_room(checkpoint)
        return types

    def special_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return tokenizer.num_special_tokens_to_add(pair=False) if self.add_special_tokens else 0

    @property
    def loaded_task(self) -> str:
        return language_task(read_checkpoint(self.spec))


LANGUAGE_TASKS = ("causal-lm", "seq2seq-lm")


def language_task(checkpoint: Checkpoint) -> str:
    """Return which head of `dask_embed.models.tasks` a language model of this type has."""
    return "seq2seq-lm" if checkpoint.config.is_encoder_decoder else "causal-lm"


def require_start(checkpoint: Checkpoint, name: str) -> None:
    """Raise ValueError unless the token that a decoder begins with has an embedding."""
    if not checkpoint.config.is_encoder_decoder:
        return
    _, settings = generation_settings(checkpoint)
    given = getattr(checkpoint.config, "decoder_start_token_id", None)
    start = settings.get("decoder_start_token_id", given)
    if isinstance(start, int) and not checkpoint.has_embedding(start):
        raise ValueError(
            f"model {name!r} begins its texts with token {start} (decoder_start_token_id), for "
            "which it has no embedding; mend its generation_config.json and config.json"
        )


def require_left_to_right(checkpoint: Checkpoint, name: str) -> None:
    """Raise ValueError for models such as BERT, which transformers would load as decoders."""
    from transformers import MODEL_FOR_MASKED_LM_MAPPING

    config = checkpoint.config
    if config.is_encoder_decoder or getattr(config, "is_decoder", False):
        return
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING:
        raise ValueError(
            f"model {name!r} ({config.model_type}) reads texts from both sides, so it predicts no "
            "next token; a causal language model, or an encoder with a decoder, is needed"
        )
