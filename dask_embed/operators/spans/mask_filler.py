"""Texts with masked tokens to the tokens that fit in their place."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed._validation import one_of, positive_integer, shown, usable_text
from dask_embed.models.checkpoint import Checkpoint
from dask_embed.models.tokenizers import tokenizer_of
from dask_embed.operators.model import ModelOperator
from dask_embed.tokens.encoded import Encoded, Row

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase

    from dask_embed.inference.rows import Chunk
    from dask_embed.inference.runner import Runner
    from dask_embed.tokens.lists import TokenLists

FILL = pa.struct(
    [
        ("token", pa.int32()),
        ("token_str", pa.string()),
        ("score", pa.float32()),
        ("sequence", pa.string()),
    ]
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MaskFiller(ModelOperator):
    """Append the most likely tokens for the mask in each text; lazy on a Dask DataFrame.

    Parameters
    ----------
    model : str, Path or Model
        A checkpoint with a head for masked language modeling and a mask token.
    column : str
        The text column. Each text holds the checkpoint's mask token, such as ``[MASK]``.
    output : str
        Column to append: a list of structs, best first, with ``token`` (int32), ``token_str``,
        ``score`` (probability, float32) and ``sequence``, the text with the token in its place.
    top_k : int
        Tokens to give for a mask.
    targets : tuple of str, optional
        Choose among these only; each must be one token. As in transformers a score is the
        probability among all tokens, and a vocabulary that marks the space before a word tells
        ``"word"`` from ``" word"``.
    masks : {"one", "any"}
        ``"one"``: a text with several masks cannot be used (see `on_error`). ``"any"``: `output`
        becomes a list with such a list for each mask, also where there is but one.
    max_length, on_long, padding_side, batch_size, tokens_per_batch, on_error
        See `ModelOperator`.

    Notes
    -----
    A text without a mask in what truncation keeps of it cannot be used. Of several masks each is
    filled alone, the others stay masks. The vocabulary is computed at the masks only.

    Source: transformers' ``FillMaskPipeline``; targets that it would replace by their first
    token, with a warning, are errors here.
    """

    method: ClassVar[str] = "fill_mask"

    column: str = "text"
    output: str = "fills"
    top_k: int = 5
    targets: tuple[str, ...] | None = None
    masks: str = "one"

    incidental: ClassVar[frozenset[str]] = frozenset({"column"})

    task: ClassVar[str] = "fill-mask"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_integer("top_k", self.top_k, allow_none=False)
        one_of("masks", self.masks, ("one", "any"))
        if self.targets is None:
            return
        if not isinstance(self.targets, str | tuple | list):
            raise TypeError(f"targets must be one or more words, got {shown(self.targets)}")
        given = (self.targets,) if isinstance(self.targets, str) else tuple(self.targets)
        if not given or not all(isinstance(target, str) and target for target in given):
            raise ValueError(f"targets must be one or more words, got {shown(self.targets)}")
        for target in given:
            usable_text("targets", target)
        object.__setattr__(self, "targets", given)

    def output_types(self, checkpoint: Checkpoint) -> dict[str, pa.DataType]:
        tokenizer = tokenizer_of(self.spec)
        if tokenizer.mask_token_id is None:
            raise ValueError(f"the tokenizer of model {self.spec.name!r} has no mask token")
        words = checkpoint.text_config.vocab_size
        if self.top_k > words:
            raise ValueError(f"top_k must be at most {words}, the vocabulary; got {self.top_k}")
        if self.targets is not None:
            _target_ids(tokenizer, self.targets)
        fills = pa.list_(FILL)
        return {self.output: fills if self.masks == "one" else pa.list_(fills)}

    def needed_tokens(self, checkpoint: Checkpoint) -> dict[str, int]:
        return {"for the mask": 1}

    def describe(self, checkpoint: Checkpoint) -> str:
        if self.targets is not None:
            return f"best of {len(self.targets)} targets for the mask"
        return f"best {self.top_k} of {checkpoint.text_config.vocab_size} tokens for the mask"

    def load(self, runner: Runner) -> _Filler:
        import torch

        tokenizer = runner.loaded.tokenizer
        targets = None
        if self.targets is not None:
            ids = _target_ids(tokenizer, self.targets)
            targets = torch.tensor(ids, device=runner.loaded.device)
        return _Filler(runner, tokenizer, targets, self.top_k)

    def encode(self, runner: Runner, rows: list[Row]) -> Encoded:
        encoded = super().encode(runner, rows)
        tokenizer = runner.loaded.tokenizer
        failures: dict[int, str] = {}
        for place, row in enumerate(encoded.rows.tolist()):
            masks = int((encoded.samples[place] == tokenizer.mask_token_id).sum())
            if not masks:
                limit = self.limit(runner.loaded.checkpoint)
                where = "it" if limit is None else f"its first {limit} tokens"
                where += "" if self.max_length is None else " (max_length)"
                failures[row] = f"there is no mask token {tokenizer.mask_token!r} in {where}"
            elif masks > 1 and self.masks == "one":
                failures[row] = f"it has {masks} mask tokens; masks='any' fills several"
        return encoded.without(failures)

    def example(self, text: str, tokenizer: PreTrainedTokenizerBase) -> Row:
        masked = tokenizer.mask_token_id in tokenizer(text)["input_ids"]  # some add one to each
        return (text if masked else f"{text} {tokenizer.mask_token}",)

    def tokens_key(self) -> Hashable:
        return super().tokens_key()  # `encode` leaves out rows, and no tokens of a row

    def forward(self, model: _Filler, tokens: TokenLists) -> list[tuple[np.ndarray, np.ndarray]]:
        return model.best(tokens)

    def postprocess(self, model: _Filler, chunk: Chunk) -> Mapping[str, Any]:
        rows = [
            model.fills(chunk.tokens[place], *result) for place, result in enumerate(chunk.results)
        ]
        return {self.output: [row[0] for row in rows] if self.masks == "one" else rows}


@dataclasses.dataclass(frozen=True)
class _Filler:
    """A loaded model, and what it may answer."""

    runner: Runner
    tokenizer: Any
    targets: torch.Tensor | None
    top_k: int

    def best(self, tokens: TokenLists) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the ids and scores of each sequence, shapes (masks, answers)."""
        import torch

        masked = tokens.values == self.tokenizer.mask_token_id
        places = torch.from_numpy(np.flatnonzero(masked)).to(self.runner.loaded.device)
        head = self.runner.head
        assert head is not None, "the task has a head"
        if head.reads is None:
            logits = self.runner.logits(tokens)[places]
        else:
            hidden = self.runner.token_vectors(tokens)
            logits = head.on_tokens(hidden[places]).float()
        scores = logits.softmax(dim=-1)
        if self.targets is not None:
            scores = scores[:, self.targets]
        values, ids = scores.topk(min(self.top_k, scores.shape[1]))
        if self.targets is not None:
            ids = self.targets[ids]
        ends = np.cumsum(np.add.reduceat(masked, tokens.offsets[:-1]))[:-1]
        parts = (np.split(array.cpu().numpy(), ends) for array in (ids, values))
        return list(zip(*parts, strict=True))

    def fills(self, tokens: np.ndarray, ids: np.ndarray, scores: np.ndarray) -> list[list[Any]]:
        """Return the answers for each mask of a text."""
        masked = np.flatnonzero(tokens == self.tokenizer.mask_token_id)
        return [
            [
                {
                    "token": token,
                    "token_str": self.tokenizer.decode([token]),
                    "score": score,
                    "sequence": self._filled(tokens, place, token, alone=len(masked) == 1),
                }
                for token, score in zip(ids[number].tolist(), scores[number].tolist(), strict=True)
            ]
            for number, place in enumerate(masked.tolist())
        ]

    def _filled(self, tokens: np.ndarray, place: int, token: int, *, alone: bool) -> str:
        """Return the text with a token in place; special tokens show where masks stay."""
        filled = tokens.copy()
        filled[place] = token
        if self.tokenizer.pad_token_id is not None:
            filled = filled[filled != self.tokenizer.pad_token_id]
        return self.tokenizer.decode(filled.tolist(), skip_special_tokens=alone)


def _target_ids(tokenizer: Any, targets: tuple[str, ...]) -> list[int]:
    """Return the distinct ids of `targets`.

    Raises
    ------
    ValueError
        If one of them is not exactly one known token.
    """
    vocabulary = tokenizer.get_vocab()
    found = []
    for target in targets:
        ids = [vocabulary[target]] if target in vocabulary else _ids(tokenizer, target)
        if len(ids) != 1 or ids[0] == tokenizer.unk_token_id != vocabulary.get(target):
            pieces = tokenizer.convert_ids_to_tokens(ids)
            raise ValueError(
                f"targets must be single tokens of the vocabulary; {shown(target)} is "
                f"{len(pieces)} of them, such as {shown(pieces[:3])}"
            )
        found.append(ids[0])
    return sorted(set(found))


def _ids(tokenizer: Any, target: str) -> list[int]:
    return tokenizer(target, add_special_tokens=False)["input_ids"]
