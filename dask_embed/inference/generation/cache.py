"""Texts under way, and the keys and values of those that began together.

These go into tensors that are allocated once, aligned to the right, so that the next token of
every row lies in the same column and a sliding window is a slice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch.nn.functional import scaled_dot_product_attention

from dask_embed.inference.attention import LayerSettings


@dataclass(eq=False)
class Row:
    """A text under way.

    Attributes
    ----------
    index : int
        Its place among the prompts of the call.
    ids : torch.Tensor
        Prompt and new tokens, int64, room for all that may come, on the host.
    prompt : int
        Tokens of the prompt.
    length : int
        Tokens of `ids` that are there.
    draws : torch.Tensor or None
        A number in [0, 1) for each new token, float64, where tokens are drawn.
    finish : str
        Why it ended; empty while it has not.
    hidden : list of torch.Tensor
        Hidden states from which the new tokens were chosen, where they are asked for.
    """

    index: int
    ids: torch.Tensor
    prompt: int
    length: int
    draws: torch.Tensor | None = None
    finish: str = ""
    hidden: list[torch.Tensor] = field(default_factory=list)

    @classmethod
    def of(cls, index: int, prompt: np.ndarray, room: int) -> Row:
        """Begin a text with room for so many new tokens."""
        ids = torch.empty(len(prompt) + room, dtype=torch.int64)
        ids[: len(prompt)] = torch.from_numpy(prompt.astype(np.int64))
        return cls(index, ids, len(prompt), len(prompt))

    @property
    def newest(self) -> int:
        """The last token that is there."""
        return int(self.ids[self.length - 1])

    def append(self, token: int) -> None:
        """Add a token."""
        self.ids[self.length] = token
        self.length += 1

    @property
    def made(self) -> int:
        """How many tokens are new."""
        return self.length - self.prompt

    @property
    def room(self) -> int:
        """How many more there may be."""
        return len(self.ids) - self.length


class Cohort:
    """Rows that began together: their keys and values, aligned to the right.

    Parameters
    ----------
    rows : sequence of Row
    room : int
        New tokens that each may get.
    """

    def __init__(self, rows: Sequence[Row], room: int) -> None:
        self.rows = list(rows)
        self.width = max(row.length for row in rows)
        self._capacity = self.width + room
        self._states: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self._skipped = torch.tensor([self.width - row.length for row in rows])
        self._mask: torch.Tensor | None = None
        self._places: tuple[torch.Tensor, torch.Tensor] | None = None

    @property
    def cost(self) -> int:
        """Tokens for which there is memory."""
        held = next(iter(self._states.values()))[0].shape[0] if self._states else len(self.rows)
        return held * self._capacity

    def put(self, layer: int, key: torch.Tensor, value: torch.Tensor) -> None:
        """Keep the states of packed prompts, both of shape (heads, tokens, head size)."""
        places, columns = self._cells(key.device)
        kept = []
        for new in (key, value):
            heads, _, size = new.shape
            states = new.new_zeros(len(self.rows), heads, self._capacity, size)
            states[places, :, columns] = new.transpose(0, 1)
            kept.append(states)
        self._states[layer] = (kept[0], kept[1])

    def _cells(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Return row and column of every token of the packed prompts."""
        if self._places is None:
            lengths = self.width - self._skipped
            ends = lengths.cumsum(0)
            places = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
            columns = torch.arange(int(ends[-1])) - (ends - self.width)[places]
            self._places = (places.to(device), columns.to(device))
        return self._places

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        settings: LayerSettings,
    ) -> torch.Tensor:
        """Let the newest token of every row see those before it; shapes (rows, heads, size)."""
        keys, values = self._states[layer]
        rows, column = len(self.rows), self.width - 1
        keys[:rows, :, column] = key
        values[:rows, :, column] = value
        first = 0 if settings.window is None else max(0, self.width - settings.window)
        seen = slice(first, self.width)
        # heads that share keys are queries of one head, so that keys are not repeated
        grouped = query.unflatten(1, (keys.shape[1], -1))
        mask = None if self._mask is None else self._mask[:rows, :, :, seen]
        if mask is not None and first:
            mask = mask.contiguous()  # kernels of a GPU take it to begin at 16 bytes
        output = scaled_dot_product_attention(
            grouped,
            keys[:rows, :, seen],
            values[:rows, :, seen],
            attn_mask=mask,
            scale=settings.scaling,
        )
        return output.flatten(1, 2)

    def begin(self, dtype: torch.dtype, device: torch.device) -> None:
        """Make the mask of what lies before the prompts, if anything does."""
        if bool(self._skipped.any()):
            hidden = torch.arange(self._capacity) < self._skipped[:, None]
            mask = torch.zeros(hidden.shape, dtype=dtype).masked_fill_(hidden, -torch.inf)
            self._mask = mask[:, None, None].to(device)

    def grow(self) -> None:
        """Count the token that every row got, and fill the gaps of those that ended."""
        self.width += 1
        place = 0
        while place < len(self.rows):
            last = len(self.rows) - 1
            if not self.rows[place].finish:
                place += 1
                continue
            if place < last:
                self._move(last, place)
            self.rows.pop()
        self._shrink()

    def _move(self, source: int, target: int) -> None:
        self.rows[target] = self.rows[source]
        for states in self._states.values():
            for each in states:
                each[target, :, : self.width] = each[source, :, : self.width]
        if self._mask is not None:
            self._mask[target] = self._mask[source]

    def _shrink(self) -> None:
        """Give memory back once half of the rows ended."""
        rows = len(self.rows)
        if rows and self.cost >= 2 * rows * self._capacity:
            for layer in self._states:  # one at a time, so that little is held twice
                keys, values = self._states[layer]
                self._states[layer] = (keys[:rows].clone(), values[:rows].clone())
