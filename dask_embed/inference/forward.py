"""One forward pass of a transformer: each text alone, a batch packed, or padded."""

from __future__ import annotations

import contextlib
import functools
import inspect
import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from dask_embed.inference.attention import Layout, laid_out, laid_out_copy
from dask_embed.inference.branches import BranchedTokens
from dask_embed.inference.memory import is_final
from dask_embed.inference.packing import Row
from dask_embed.inference.positions import Positions
from dask_embed.inference.sequences import Sequences
from dask_embed.inference.state import ModelState
from dask_embed.inference.upload import upload
from dask_embed.loading.load import LoadedModel, compiled
from dask_embed.tokens.lists import TokenLists
from dask_embed.tokens.slices import fitting

# Rows of a compiled padded batch have a multiple of this length.
_COMPILED_LENGTHS = 64


class Forward:
    """Run batches through one loaded model.

    All methods take token lists that are not empty and give the last hidden states, shape
    (tokens, hidden size), in the order of the batch and on the model's device.

    Attributes
    ----------
    positions : Positions or None
        The position ids that the model was seen to give a text by itself. Without them nothing
        runs packed or padded on the left.
    row : Row
        Most tokens of a packed row.
    changes : list of str
        What texts alone were seen to change in the model.
    gives_types : bool
        The tokenizer gives token types, and the model takes them.

    Notes
    -----
    Packed batches run in a copy of the model that shares its weights, so the model itself is as it
    was loaded. `alone` runs while nothing else does, for the model may change meanwhile.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self._loaded = loaded
        self.model = self._model = loaded.transformer
        self._compiled: Any = compiled(self._model) if loaded.spec.compile else self._model
        self._running = 0
        self._changed = threading.Condition()
        self.positions: Positions | None = None
        self.row = Row()
        self.changes: list[str] = []
        parameters = inspect.signature(self._model.forward).parameters
        self.takes_positions = "position_ids" in parameters
        self._takes_types = "token_type_ids" in parameters
        # models may add an embedding of type 0, so it counts whether the tokenizer gives types
        named = loaded.tokenizer.model_input_names
        self.gives_types = self._takes_types and "token_type_ids" in named

    def alone(self, tokens: TokenLists) -> torch.Tensor:
        """Call the model on one text after the other, as its tokenizer says: the truth.

        Whatever a text changes in the model is put back before the next.
        """
        vectors = []
        for given in self.each_alone(tokens):
            if isinstance(given, Exception):
                raise given
            vectors.append(given)
        return torch.cat(vectors)

    def each_alone(self, tokens: TokenLists) -> list[torch.Tensor | Exception]:
        """Return the vectors of each text as `alone` makes them, or why the model refuses it."""
        vectors: list[torch.Tensor | Exception] = []
        with self._put_back_after() as put_back:
            for row in range(len(tokens)):
                try:
                    vectors.append(self._rows(tokens.take(np.array([row]))))
                except Exception as error:  # every architecture has its own way to refuse
                    if is_final(error):
                        raise
                    vectors.append(error)
                put_back()
        return vectors

    def at_positions(self, tokens: TokenLists, positions: np.ndarray) -> torch.Tensor:
        """Call the model on one text with position ids of shape (tokens,)."""
        with self.beside_others():
            return self._rows(tokens, position_ids=self._on_device(positions[None]))

    def packed(self, tokens: TokenLists) -> torch.Tensor:
        """Run the texts one after the other in one row, without padding.

        In several rows where one would be longer than the model takes.
        """
        if len(tokens) == 1 or self.row.allows(len(tokens.values)):
            return self.in_one_row(tokens)
        assert self.row.longest is not None, "without a limit every row is allowed"
        parts = fitting(tokens.lengths.tolist(), self.row.longest)
        return torch.cat([self.in_one_row(tokens.take(np.r_[part])) for part in parts])

    def in_one_row(self, tokens: TokenLists) -> torch.Tensor:
        """Run the texts one after the other in one row, however long it is."""
        assert self.positions is not None, "a packed batch needs the model's positions"
        layout: Layout
        if isinstance(tokens, BranchedTokens):
            layout, positions = tokens, tokens.positions + self.positions.first
        else:
            layout = Sequences(tokens.lengths, self._loaded.device)
            positions = self.positions.of(tokens)
        ids = self._on_device(tokens.values.astype(np.int64)[None])
        # a size of one would be compiled for itself
        model = self._packing if len(tokens.values) == 1 else self._compiled_packing
        with self.beside_others(), laid_out(layout):
            output = model(
                input_ids=ids,
                position_ids=self._on_device(positions[None]),
                **self._types(tokens, np.ones(ids.shape, bool)),
            )
        return output.last_hidden_state[0]

    def padded(
        self, tokens: TokenLists, side: str = "right", *, eager: bool = False
    ) -> torch.Tensor:
        """Run the texts as rows, filled up to the longest on the `side`; `eager` if told so.

        On the right the model numbers positions itself. On the left they are given, since it
        would count the padding.
        """
        longest = int(tokens.lengths.max())
        mask = tokens.mask(side, longest if eager else self.padded_length(longest))
        # any id does where the tokenizer has none: the mask hides it
        ids = tokens.in_rows(mask, self._loaded.checkpoint.padding_id or 0)
        arguments = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        if side == "left":
            assert self.positions is not None, "padding on the left needs the model's positions"
            arguments["position_ids"] = np.full(mask.shape, self.positions.padding, np.int64)
            arguments["position_ids"][mask] = self.positions.of(tokens)
        model = self._model if eager or len(tokens) == 1 else self._compiled
        types = self._types(tokens, mask)
        with self.beside_others():
            output = model(**{name: self._on_device(a) for name, a in arguments.items()}, **types)
        places = self._on_device(np.flatnonzero(mask))  # a mask would have the GPU count first
        return output.last_hidden_state.flatten(0, 1)[places]

    def equal_lengths(self, tokens: TokenLists) -> torch.Tensor:
        """Run only texts of one length together, so that there is no padding to mind."""
        lengths = tokens.lengths
        output = None
        for length in np.unique(lengths):
            rows = np.flatnonzero(lengths == length)
            with self.beside_others():
                vectors = self._rows(tokens.take(rows))
            if output is None:
                output = vectors.new_empty(len(tokens.values), vectors.shape[1])
            places = tokens.offsets[rows][:, None] + np.arange(length)
            output[self._on_device(places.ravel())] = vectors
        assert output is not None, "a batch has at least one text"
        return output

    def _rows(self, tokens: TokenLists, **more: torch.Tensor) -> torch.Tensor:
        """Run texts of one length as rows, with what the tokenizer gives and nothing else."""
        ids = tokens.values.astype(np.int64).reshape(len(tokens), -1)
        output = self._model(
            input_ids=self._on_device(ids),
            attention_mask=self._on_device(np.ones_like(ids)),
            **self._types(tokens, np.ones(ids.shape, bool)),
            **more,
        )
        return output.last_hidden_state.flatten(0, 1)

    def padded_length(self, longest: int) -> int:
        """Return the length of the rows of a padded batch; few of them where it is compiled."""
        if self._compiled is self._model:
            return longest
        bucket = -(-longest // _COMPILED_LENGTHS) * _COMPILED_LENGTHS
        return min(bucket, self._loaded.checkpoint.position_limit or bucket)

    def _types(self, tokens: TokenLists, mask: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the argument for the token types, of the shape of `mask`, if there are any.

        Texts without types of their own are of type 0 where the tokenizer gives types at all.
        """
        if not self._takes_types or (tokens.types is None and not self.gives_types):
            return {}
        return {"token_type_ids": self._on_device(tokens.types_in_rows(mask))}

    @functools.cached_property
    def _packing(self) -> Any:
        """The model that attends as layouts say: made once a text ran alone, whatever that did."""
        return laid_out_copy(self._model)

    @functools.cached_property
    def _compiled_packing(self) -> Any:
        return compiled(self._packing) if self._loaded.spec.compile else self._packing

    @contextlib.contextmanager
    def beside_others(self) -> Iterator[None]:
        """Give the context in which the model may be called while other threads do so, too."""
        with self._changed:
            self._running += 1
        try:
            yield
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()

    @contextlib.contextmanager
    def by_itself(self) -> Iterator[None]:
        """Give the context in which this thread alone runs the model, which is then put back."""
        with self._put_back_after():
            yield

    @contextlib.contextmanager
    def _put_back_after(self) -> Iterator[Callable[[], None]]:
        """Give the context of `by_itself`, and what puts the model back meanwhile."""
        with self._changed:
            self._changed.wait_for(lambda: not self._running)
            state = ModelState(self._loaded.model)
            put_back = functools.partial(self._put_back, state)
            try:
                yield put_back
            finally:
                put_back()

    def _put_back(self, state: ModelState) -> None:
        changes = state.changes()
        self.changes = self.changes or changes
        # weights in fewer bits, by libraries of their own, take their form with the first batch
        quantized = getattr(self._loaded.model, "hf_quantizer", None) is not None
        if changes and not quantized:
            state.restore()

    def _on_device(self, array: np.ndarray) -> torch.Tensor:
        return upload(array, self._loaded.device)
