"""One forward pass of a transformer: a batch packed, or padded."""

from __future__ import annotations

import contextlib
import inspect
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch

from dask_embed.inference.attention import PACKED_ATTENTION, packed_batch
from dask_embed.inference.scoring.branches import BranchedTokens
from dask_embed.models.loading import LoadedModel, compiled
from dask_embed.text.tokenization import TokenLists

# Rows of a compiled padded batch have a multiple of this length.
_COMPILED_LENGTHS = 64


class Forward:
    """Run batches through one loaded model.

    All methods take token lists that are not empty and give the last hidden states, shape
    (tokens, hidden size), in the order of the batch and on the model's device.

    Notes
    -----
    Switching between packed and padded changes the model's configuration, so threads that want
    the one wait until no thread runs the other.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self._model = loaded.transformer
        self._compiled: Any = compiled(self._model) if loaded.spec.compile else self._model
        self._padded_attention = self._model.config._attn_implementation
        self._running = 0
        self._changed = threading.Condition()
        parameters = inspect.signature(self._model.forward).parameters
        self.takes_positions = "position_ids" in parameters
        self._takes_types = "token_type_ids" in parameters

    def packed(self, tokens: TokenLists) -> torch.Tensor:
        """Run the texts one after the other in one row, without padding."""
        layout = tokens if isinstance(tokens, BranchedTokens) else None
        positions = _positions(tokens) if layout is None else layout.positions
        ids = self._on_device(tokens.values.astype(np.int64)[None])
        offsets = self._on_device(tokens.offsets.astype(np.int32))
        with (
            self._attending_with(PACKED_ATTENTION),
            packed_batch(offsets, int(tokens.lengths.max()), layout),
        ):
            # a size of one would be compiled for itself
            model = self._model if len(tokens.values) == 1 else self._compiled
            output = model(
                input_ids=ids,
                position_ids=self._on_device(positions[None] + self._position_offset),
                **self._types(tokens, np.ones(ids.shape, bool)),
            )
        return output.last_hidden_state[0]

    def padded(
        self, tokens: TokenLists, side: str = "right", *, eager: bool = False
    ) -> torch.Tensor:
        """Run the texts as rows, filled up to the longest on the `side`; `eager` if told so.

        A model that takes no position ids would shift learned positions behind padding on the
        left, so it is filled up on the right.
        """
        longest = int(tokens.lengths.max())
        mask, positions = _padding(
            tokens.lengths,
            longest if eager else self.padded_length(longest),
            side if self.takes_positions else "right",
        )
        ids = np.full(mask.shape, self._padding_id, np.int64)
        ids[mask] = tokens.values
        arguments = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        if self.takes_positions:
            offset = self._position_offset
            arguments["position_ids"] = np.where(mask, positions + offset, max(offset - 1, 0))
        model = self._model if eager or len(tokens) == 1 else self._compiled
        types = self._types(tokens, mask)
        with self._attending_with(self._padded_attention):
            output = model(**{name: self._on_device(a) for name, a in arguments.items()}, **types)
        return output.last_hidden_state[self._on_device(mask)]

    def equal_lengths(self, tokens: TokenLists) -> torch.Tensor:
        """Run only texts of one length together, so that there is no padding to mind."""
        lengths = tokens.lengths
        output = None
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            vectors = self.padded(tokens.take(rows), eager=True)
            if output is None:
                output = vectors.new_empty(len(tokens.values), vectors.shape[1])
            places = tokens.offsets[rows][:, None] + np.arange(length)
            output[self._on_device(places.ravel())] = vectors
        assert output is not None, "a batch has at least one text"
        return output

    def padded_length(self, longest: int) -> int:
        """Return the length of the rows of a padded batch; few of them where it is compiled."""
        if self._compiled is self._model:
            return longest
        bucket = -(-longest // _COMPILED_LENGTHS) * _COMPILED_LENGTHS
        return min(bucket, self._loaded.checkpoint.position_limit or bucket)

    def _types(self, tokens: TokenLists, mask: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the argument for the token types, of the shape of `mask`, if there are any."""
        if tokens.types is None or not self._takes_types:
            return {}
        types = np.zeros(mask.shape, np.int64)
        types[mask] = tokens.types
        return {"token_type_ids": self._on_device(types)}

    @property
    def _position_offset(self) -> int:
        return self._loaded.checkpoint.position_offset

    @property
    def _padding_id(self) -> int:
        """Any id does where the tokenizer has none: the mask hides it."""
        return self._loaded.checkpoint.padding_id or 0

    def padding(self) -> contextlib.AbstractContextManager[None]:
        """Give the context in which the model itself may be called, on rows of any mask."""
        return self._attending_with(self._padded_attention)

    @contextlib.contextmanager
    def _attending_with(self, name: str) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._running or self._attention == name)
            if self._attention != name:
                self._model.set_attn_implementation(name)
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @property
    def _attention(self) -> str:
        return self._model.config._attn_implementation

    def _on_device(self, array: np.ndarray) -> torch.Tensor:
        host = torch.from_numpy(np.ascontiguousarray(array))
        if self._loaded.device.type == "cuda":
            host = host.pin_memory()  # the copy does not wait for the passes before it
        return host.to(self._loaded.device, non_blocking=True)


def _positions(tokens: TokenLists) -> np.ndarray:
    """Return the position of every token in its text."""
    return np.arange(len(tokens.values)) - np.repeat(tokens.offsets[:-1], tokens.lengths)


def _padding(lengths: np.ndarray, longest: int, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask of real tokens and their positions, both of shape (texts, longest)."""
    column = np.arange(longest)[None, :]
    if side == "left":
        skipped = (longest - lengths)[:, None]
        return column >= skipped, np.maximum(column - skipped, 0)
    return column < lengths[:, None], np.broadcast_to(column, (len(lengths), longest))
