"""The vectors that late interaction scores: which tokens have one, and what fills up queries."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_embed.models.modules import MultiVector, VectorModule
from dask_embed.models.sentence import QueryExpansion
from dask_embed.tokens.lists import TokenLists
from dask_embed.tokens.sharing import joined

if TYPE_CHECKING:
    import torch

    from dask_embed.inference.runner import Runner


@dataclasses.dataclass(frozen=True)
class LateInteraction:
    """A loaded model, and what becomes of the vectors of its tokens.

    Attributes
    ----------
    runner : Runner
    modules : tuple of VectorModule
        What each vector goes through.
    expansion : QueryExpansion or None
    filler : int
        The token that queries are filled up with.
    skipped, kept : numpy.ndarray
        Ids whose vectors are left out; and if there are any, those that alone are not.
    """

    runner: Runner
    modules: Sequence[VectorModule]
    expansion: QueryExpansion | None
    filler: int
    skipped: np.ndarray
    kept: np.ndarray

    def vectors(self, tokens: TokenLists) -> list[np.ndarray]:
        """Return the vectors of each text that count, float32 of shape (tokens, dimension)."""
        import torch

        from dask_embed.inference.heads import apply_modules

        filled = self._filled(tokens)
        with self.runner.session():
            hidden = self._hidden(tokens, filled)
            layers = self.runner.loaded.layers
            found = apply_modules(self.modules, layers, hidden, torch.empty(0)).cpu().numpy()
        counts = ~np.isin(filled.values, self.skipped)
        if len(self.kept):
            counts &= np.isin(filled.values, self.kept)
        ends = filled.offsets[1:-1]
        parts = zip(np.split(found, ends), np.split(counts, ends), strict=True)
        return [np.ascontiguousarray(part[chosen]) for part, chosen in parts]

    def _filled(self, tokens: TokenLists) -> TokenLists:
        """Return texts with the tokens that queries are filled up with."""
        if self.expansion is None:
            return tokens
        missing = np.maximum(self.expansion.length - tokens.lengths, 0).tolist()
        return joined(
            [
                np.append(tokens[text], np.full(count, self.filler, np.int32))
                for text, count in enumerate(missing)
            ]
        )

    def _hidden(self, tokens: TokenLists, filled: TokenLists) -> torch.Tensor:
        """Return the transformer's vectors of all tokens, one text after the other."""
        if self.expansion is None or self.expansion.attend:
            return self.runner.token_vectors(filled)
        import torch

        short = tokens.lengths < self.expansion.length
        parts: dict[int, torch.Tensor] = {}
        for texts in (np.flatnonzero(short), np.flatnonzero(~short)):
            if not len(texts):
                continue
            if short[texts[0]]:
                vectors = self._unseen(tokens, filled, texts)
            else:
                vectors = self.runner.token_vectors(filled.take(texts))
            split = vectors.split(filled.lengths[texts].tolist())
            parts |= dict(zip(texts.tolist(), split, strict=True))
        return torch.cat([parts[text] for text in range(len(tokens))])

    def _unseen(self, tokens: TokenLists, filled: TokenLists, texts: np.ndarray) -> torch.Tensor:
        """Run queries in rows of one length, whose added tokens see the others and are not seen."""
        import torch

        ids = filled.take(texts).values.astype(np.int64).reshape(len(texts), -1)
        seen = np.arange(ids.shape[1])[None] < tokens.lengths[texts][:, None]
        device = self.runner.loaded.device
        with self.runner.beside_others():
            hidden: torch.Tensor = self.runner.loaded.transformer(
                input_ids=torch.from_numpy(ids).to(device),
                attention_mask=torch.from_numpy(seen.astype(np.int64)).to(device),
            ).last_hidden_state
        return hidden.flatten(0, 1)


def expansion_id(tokenizer: Any, expansion: QueryExpansion, name: str) -> int:
    """Return the token that queries are filled up with.

    Raises
    ------
    ValueError
        If there is none, or it would stand before the query.
    """
    found = tokenizer.mask_token_id
    if expansion.token is not None:
        found = tokenizer.convert_tokens_to_ids(expansion.token)
        unknown = tokenizer.unk_token_id
        found = None if found == unknown and expansion.token != tokenizer.unk_token else found
    elif found is None:
        found = tokenizer.eos_token_id
    if found is None:
        raise ValueError(
            f"queries of model {name!r} are filled up with {expansion.token or 'masks'!r}, which "
            "its tokenizer does not have"
        )
    if tokenizer.padding_side != "right":
        raise ValueError(
            f"queries of model {name!r} are filled up, and its tokenizer does that on the left, "
            "which is not run here"
        )
    return int(found)


def skipped_ids(tokenizer: Any, rules: MultiVector) -> list[int]:
    """Return the ids of the words that are left out, as far as they are single tokens."""
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in rules.skiplist_words}
    unknown = tokenizer.unk_token_id
    return [
        found
        for word, found in ids.items()
        if found is not None and (found != unknown or word == tokenizer.unk_token)
    ]
