"""Which token vectors a model's own head reads, as was seen, and batches through it.

Where head and transformer cannot be told apart, the whole model runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import torch

from dask_embed.inference.agreement import TOLERANCE, difference
from dask_embed.inference.detached_head import logits_of, without_transformer
from dask_embed.inference.forward import Forward
from dask_embed.inference.memory import is_final
from dask_embed.inference.samples import probed_lengths, random_tokens
from dask_embed.inference.state import ModelState
from dask_embed.inference.verdict import Verdict
from dask_embed.loading.load import LoadedModel
from dask_embed.tokens.lists import TokenLists

# Which token vectors of a text its head reads, from the cheapest on.
_READS = ("first", "last", "all")
_PROBED_LENGTHS = [11, 3, 7, 7, 2]


class TaskHead:
    """Run the head of a loaded model.

    Parameters
    ----------
    loaded : LoadedModel
    forward : Forward
        Of its transformer.

    Attributes
    ----------
    reads : str or None
        Which token vectors of a text a head with one result per text reads: ``"first"``,
        ``"last"`` or ``"all"``. None where the head cannot be told from the transformer; then the
        whole model runs.
    per_token : bool
        The head has one result per token.
    by_length, pads : bool
        The whole model may run texts of one length together; of a factory, texts of several
        lengths, padded on the right.
    """

    def __init__(self, loaded: LoadedModel, forward: Forward, verdict: Verdict) -> None:
        self._loaded = loaded
        self._forward = forward
        self.per_token = loaded.task != "classify"
        self.reads: str | None = None
        self.pads = False
        self.by_length = False
        self._up_to: int | None = None
        if loaded.task == "seq2seq-lm":
            return  # it takes two texts, which scoring and generation give it
        shortest = verdict.shortest
        tokens, whole = self._truth([max(length, shortest) for length in _PROBED_LENGTHS])
        if not loaded.runs_as_one:
            self._head = without_transformer(loaded)
            self.reads = self._tried(tokens, whole)
        if self.reads is None and not verdict.keeps_state:
            lengths, self._up_to = probed_lengths(loaded)
            tokens, whole = self._truth([max(length, shortest) for length in lengths])
            stateless = not self._changes(tokens)
            self.by_length = stateless and self._agrees(self._by_length, tokens, whole)
            # where texts are told apart by a mask alone, as in modules of a factory
            own = loaded.spec.factory is not None
            self.pads = own and stateless and self._agrees(self.padded, tokens, whole)

    def _changes(self, tokens: TokenLists) -> list[str]:
        """Return what the whole model changes in itself, long after short and short after long."""
        long, short = int(np.argmax(tokens.lengths)), int(np.argmin(tokens.lengths))
        with self._forward.by_itself():
            state = ModelState(self._loaded.model)
            for text in (long, short, long):
                self._rows(tokens.take(np.array([text])))
            return state.changes()

    def _truth(self, lengths: list[int]) -> tuple[TokenLists, torch.Tensor]:
        """Return random texts that the model takes, and its own results for them.

        Some models want the tokens that end a text (T5), or those between two (Longformer).
        """
        texts = random_tokens(self._loaded, lengths)
        tried = (lambda: texts, lambda: self._encoded(texts), lambda: self._encoded(texts, 2))
        for number, made in enumerate(tried, 1):
            try:
                tokens = made()
                results = self._each_alone(tokens)
                break
            except Exception as error:  # every architecture has its own way to refuse
                if is_final(error) or number == len(tried):
                    raise
        if self.per_token and len(results) != len(tokens.values):  # Perceiver's for masked tokens
            raise ValueError(
                f"model {self._loaded.spec.name!r} ({self._loaded.checkpoint.config.model_type}) "
                f"gives {len(results)} results for {len(tokens.values)} tokens, and one for each "
                "is needed"
            )
        return tokens, results

    def _encoded(self, texts: TokenLists, parts: int = 1) -> TokenLists:
        """Return what the tokenizer makes of some texts, or of pairs of them."""
        tokenizer = self._loaded.tokenizer
        words = [
            tokenizer.decode(texts[text], skip_special_tokens=True) for text in range(len(texts))
        ]
        limit = self._loaded.checkpoint.position_limit
        cut = {} if limit is None else {"truncation": True, "max_length": limit}
        encoded = tokenizer(*(words, words[::-1])[:parts], **cut)
        return TokenLists.of(encoded["input_ids"], encoded.get("token_type_ids"))

    def _tried(self, tokens: TokenLists, whole: torch.Tensor) -> str | None:
        """Return which vectors the head was seen to read, None if it is not to be parted."""
        hidden = self._forward.alone(tokens)
        for reads in ("all",) if self.per_token else _READS:
            if self._agrees(partial(self, hidden, reads=reads), tokens, whole):
                return reads
        return None

    def _agrees(
        self, run: Callable[[TokenLists], torch.Tensor], tokens: TokenLists, whole: torch.Tensor
    ) -> bool:
        try:
            return difference(run(tokens), whole) <= TOLERANCE[self._loaded.compute_dtype]
        except Exception as error:  # every architecture has its own way to refuse
            if is_final(error):
                raise
            return False

    def __call__(
        self, hidden: torch.Tensor, tokens: TokenLists, reads: str | None = None
    ) -> torch.Tensor:
        """Return the results of a batch.

        Parameters
        ----------
        hidden : torch.Tensor
            Token vectors, shape (tokens, hidden size), the texts one after the other.
        tokens : TokenLists
            The batch; every text has at least one token.

        Returns
        -------
        torch.Tensor
            Shape (texts, results) or, of a head per token, (tokens, results).
        """
        if self.per_token:
            return self._run(hidden[None])[0]
        reads = reads or self.reads
        lengths = tokens.lengths
        if reads in ("first", "last"):
            rows = tokens.offsets[:-1] if reads == "first" else self._last(tokens)
            return self._run(hidden[torch.from_numpy(rows).to(hidden.device)][:, None])
        parts = hidden.split(lengths.tolist())
        return _by_length(lengths, lambda rows: self._run(torch.stack([parts[r] for r in rows])))

    def on_tokens(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the results of single token vectors, shape (tokens, results).

        Only for a head per token: so a vocabulary is computed where it is needed alone.
        """
        return self._run(hidden[None])[0]

    def whole(self, tokens: TokenLists) -> torch.Tensor:
        """Run the whole model, texts of one length together if they may; shapes as of `__call__`.

        Texts that the model does not take together, as T5 those with other numbers of end tokens,
        run alone.
        """
        if not self.by_length:
            return self._each_alone(tokens)
        try:
            return self._by_length(tokens)
        except Exception as error:
            if is_final(error) or len(tokens) == 1:
                raise
            return self._each_alone(tokens)

    def _each_alone(self, tokens: TokenLists) -> torch.Tensor:
        """Call the whole model on one text after the other, as its tokenizer says."""
        parts = []
        for text in range(len(tokens)):
            with self._forward.by_itself():
                parts.append(self._rows(tokens.take(np.array([text]))))
        return torch.cat(parts)

    def _by_length(self, tokens: TokenLists) -> torch.Tensor:
        parts: list[Any] = [None] * len(tokens)
        for rows in self._runs(tokens.lengths):
            with self._forward.beside_others():
                results = self._rows(tokens.take(rows))
            for row, result in zip(rows, results.split(len(results) // len(rows)), strict=True):
                parts[row] = result
        return torch.cat(parts)

    def _rows(self, tokens: TokenLists) -> torch.Tensor:
        """Run texts of one length as rows."""
        logits = self._called(tokens, tokens.mask())
        return logits.flatten(0, 1) if self.per_token else logits

    def padded(self, tokens: TokenLists) -> torch.Tensor:
        """Run the whole model on rows padded on the right; shapes as of `__call__`."""
        mask = tokens.mask()
        logits = self._called(tokens, mask)
        return logits[torch.from_numpy(mask).to(logits.device)] if self.per_token else logits

    def _called(self, tokens: TokenLists, mask: np.ndarray) -> torch.Tensor:
        """Return what the whole model gives rows in which tokens stand where `mask` says."""
        ids = tokens.in_rows(mask, self._loaded.checkpoint.padding_id or 0)
        arguments = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        if tokens.types is not None or self._forward.gives_types:
            arguments["token_type_ids"] = tokens.types_in_rows(mask)
        device = self._loaded.device
        inputs = {name: torch.from_numpy(each).to(device) for name, each in arguments.items()}
        return logits_of(self._loaded.model(**inputs))

    def _runs(self, lengths: np.ndarray) -> Iterator[np.ndarray]:
        """Yield rows of one length; single ones where the model would look for padding."""
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            alone = not self.per_token and self._padding_id is None
            alone = alone or (self._up_to is not None and int(length) > self._up_to)
            yield from np.split(rows, len(rows)) if alone else [rows]

    def _last(self, tokens: TokenLists) -> np.ndarray:
        """Return the position of the last token of each text, as transformers finds it.

        It takes the last one that is not the padding token, also where that closes a text.
        """
        last = tokens.offsets[1:] - 1
        if self._padding_id is None:
            return last
        positions = np.where(tokens.values != self._padding_id, np.arange(len(tokens.values)), -1)
        found = np.maximum.reduceat(positions, tokens.offsets[:-1])
        return np.where(found >= 0, found, tokens.offsets[:-1])

    @property
    def _padding_id(self) -> int | None:
        return getattr(self._loaded.checkpoint.text_config, "pad_token_id", None)

    def _run(self, vectors: torch.Tensor) -> torch.Tensor:
        """Return the results for vectors of shape (texts, tokens, hidden size)."""
        ids = torch.zeros(vectors.shape[:2], dtype=torch.int64, device=vectors.device)
        return logits_of(self._head(input_ids=ids, inputs_embeds=vectors))


def _by_length(lengths: np.ndarray, run: Any) -> torch.Tensor:
    """Run texts of one length together; return the results in the order of the texts."""
    order, results = [], []
    for length in np.unique(lengths):
        rows = np.flatnonzero(lengths == length)
        order.append(rows)
        results.append(run(rows))
    back = np.argsort(np.concatenate(order))
    return torch.cat(results)[torch.from_numpy(back).to(results[0].device)]
