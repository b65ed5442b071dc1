"""One model, run on batches of token lists: packed where that is right, padded otherwise."""

from __future__ import annotations

import contextlib
import copy
import inspect
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from dask_embed.inference.attention import PACKED_ATTENTION, NotPackableError
from dask_embed.models.loading import LoadedModel, autocast, load
from dask_embed.models.registry import get_or_build
from dask_embed.models.spec import Model
from dask_embed.tokenization import TextTokenizer, TokenLists

# Packed and padded must agree to this, relative to the size of the vectors.
_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}
# Windows up to this are probed beyond their length; longer texts of wider windows run padded.
_WIDEST_PROBED_WINDOW = 512


@dataclass(frozen=True)
class Verdict:
    """Whether a model runs packed, up to which length, and why not."""

    packed: bool
    up_to: int | None = None
    reason: str = ""


def runner_for(model: Model) -> Runner:
    """Return this process's runner of `model`, loading it on first use."""
    return get_or_build(model, lambda: Runner(load(model)))


class Runner:
    """Give the token vectors of batches; the only place that calls a transformer.

    Notes
    -----
    `token_vectors` holds the model's lock, so it may be called from several threads.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._tokenizers: dict[int | None, TextTokenizer] = {}
        self._tokenizers_lock = threading.Lock()
        self._takes_positions = (
            "position_ids" in inspect.signature(loaded.transformer.forward).parameters
        )
        self._padded_attention = loaded.transformer.config._attn_implementation
        _use_worker_threads(loaded.device)
        self.verdict = self._probe()

    def runs_packed(self, longest: int) -> bool:
        """Return whether a batch whose longest text has so many tokens runs packed."""
        limit = self.verdict.up_to
        return self.verdict.packed and (limit is None or longest <= limit)

    def token_vectors(self, tokens: TokenLists, padding_side: str = "right") -> torch.Tensor:
        """Return the last hidden state of every token of a batch.

        Parameters
        ----------
        tokens : TokenLists
            The batch; every text has at least one token.
        padding_side : {"right", "left"}
            Where a padded batch is filled up. The vectors do not depend on it.

        Returns
        -------
        torch.Tensor
            Shape (tokens, hidden size), on the model's device, in the order of the batch.
        """
        packed = self.runs_packed(int(tokens.lengths.max()))
        with self.session():
            return self._packed(tokens) if packed else self._padded(tokens, padding_side)

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Hold the model, without gradients and in its type; may be nested."""
        with self.loaded.lock, torch.inference_mode(), autocast(self.loaded):
            yield

    def tokenizer(self, max_length: int | None) -> TextTokenizer:
        """Return the tokenizer that cuts after `max_length` tokens."""
        with self._tokenizers_lock:
            if max_length not in self._tokenizers:
                own = copy.deepcopy(self.loaded.tokenizer)
                self._tokenizers[max_length] = TextTokenizer(own, max_length)
            return self._tokenizers[max_length]

    def _packed(self, tokens: TokenLists) -> torch.Tensor:
        self._attend_with(PACKED_ATTENTION)
        lengths = tokens.lengths
        starts = np.repeat(tokens.offsets[:-1], lengths)
        positions = np.arange(len(tokens.values)) - starts
        output = self.loaded.transformer(
            input_ids=self._on_device(tokens.values.astype(np.int64)[None]),
            position_ids=self._on_device(positions[None] + self.loaded.checkpoint.position_offset),
            cu_seq_lens_q=self._on_device(tokens.offsets.astype(np.int32)),
            max_length_q=int(lengths.max()),
        )
        return output.last_hidden_state[0]

    def _padded(self, tokens: TokenLists, padding_side: str) -> torch.Tensor:
        self._attend_with(self._padded_attention)
        side = padding_side if self._takes_positions else "right"
        mask, positions = _padding(tokens.lengths, side)
        config = self.loaded.checkpoint.text_config
        offset = self.loaded.checkpoint.position_offset
        ids = np.full(mask.shape, getattr(config, "pad_token_id", None) or 0, np.int64)
        ids[mask] = tokens.values
        arguments = {"input_ids": ids, "attention_mask": mask.astype(np.int64)}
        if self._takes_positions:
            arguments["position_ids"] = np.where(mask, positions + offset, max(offset - 1, 0))
        output = self.loaded.transformer(
            **{name: self._on_device(array) for name, array in arguments.items()}
        )
        return output.last_hidden_state[self._on_device(mask)]

    def _attend_with(self, name: str) -> None:
        if self.loaded.transformer.config._attn_implementation != name:
            self.loaded.transformer.set_attn_implementation(name)

    def _on_device(self, array: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.loaded.device)

    def _probe(self) -> Verdict:
        """Compare packed with padded on sequences of random tokens."""
        if self.loaded.spec.attention != "auto":
            return Verdict(False, reason=f"attention={self.loaded.spec.attention!r} was asked for")
        if not self._takes_positions:
            return Verdict(False, reason="its forward takes no position_ids")
        lengths, up_to = _probe_lengths(self.loaded)
        tokens = _random_tokens(self.loaded, lengths)
        with self.session():
            expected = self._padded(tokens, "right").float()
            try:
                given = self._packed(tokens).float()
            except (NotPackableError, ValueError, TypeError) as error:
                return Verdict(False, reason=str(error).splitlines()[0])
        difference = float((given - expected).norm() / expected.norm().clamp_min(1e-12))
        if not difference <= _TOLERANCE[self.loaded.compute_dtype]:
            return Verdict(False, reason=f"packed differs from padded by {difference:.1e}")
        return Verdict(True, up_to)


def _padding(lengths: np.ndarray, side: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the mask of real tokens and their positions, both of shape (texts, longest)."""
    longest = int(lengths.max())
    column = np.arange(longest)[None, :]
    if side == "left":
        skipped = (longest - lengths)[:, None]
        return column >= skipped, np.maximum(column - skipped, 0)
    return column < lengths[:, None], np.broadcast_to(column, (len(lengths), longest))


def _probe_lengths(loaded: LoadedModel) -> tuple[list[int], int | None]:
    """Return lengths to probe, longer than any window, and the length that they vouch for."""
    limit = loaded.checkpoint.position_limit or _WIDEST_PROBED_WINDOW * 2
    lengths = [min(length, limit) for length in (11, 3, 7, 7, 1)]
    window = _widest_window(loaded)
    if window is None or window >= limit:
        return lengths, None
    if window <= _WIDEST_PROBED_WINDOW:
        return [*lengths, min(window + 9, limit)], None
    return lengths, window


def _widest_window(loaded: LoadedModel) -> int | None:
    config = loaded.checkpoint.text_config
    names = ("sliding_window", "local_attention", "attention_window", "attention_chunk_size")
    windows = [getattr(config, name, None) for name in names]
    return max((window for window in windows if isinstance(window, int)), default=None)


def _random_tokens(loaded: LoadedModel, lengths: list[int]) -> TokenLists:
    draw = np.random.default_rng(0)
    vocabulary = loaded.checkpoint.text_config.vocab_size
    padding = getattr(loaded.checkpoint.text_config, "pad_token_id", None)
    allowed = np.setdiff1d(np.arange(vocabulary), [] if padding is None else [padding])
    return TokenLists.of([draw.choice(allowed, length).tolist() for length in lengths])


def _use_worker_threads(device: torch.device) -> None:
    """Let torch use the threads of this Dask worker, which it starts with only one."""
    from distributed.worker import get_worker

    if device.type != "cpu":
        return
    try:
        worker = get_worker()
    except ValueError:  # not on a distributed worker: torch's default is all cores
        return
    torch.set_num_threads(worker.state.nthreads)
