"""One model of this process, ready for batches from any thread."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import threading
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

import torch

from dask_embed import config
from dask_embed.inference.forward import Forward
from dask_embed.inference.memory import Budget
from dask_embed.inference.probe import Verdict, judge, measure
from dask_embed.inference.repeats import VectorCache
from dask_embed.inference.task_head import TaskHead
from dask_embed.models.loading import (
    LoadedModel,
    autocast,
    dtype_name,
    load,
    resolve_device,
    resolve_dtype,
)
from dask_embed.models.process import prepare_process
from dask_embed.models.registry import get_or_build
from dask_embed.models.spec import Model
from dask_embed.models.vocabulary import Tables
from dask_embed.text.tokenization import TextTokenizer, TokenLists
from dask_embed.workers import warn_on_worker

T = TypeVar("T")

# Kinds of rotary embedding that transformers updates in place during the forward pass.
_LENGTH_DEPENDENT = ("dynamic", "longrope")


def runner_for(model: Model, task: str = "embed") -> Runner:
    """Return this process's runner of `model` with the head of `task`, loading it on first use."""
    device = resolve_device(model.device)
    resolved = dataclasses.replace(
        model, device=str(device), dtype=dtype_name(resolve_dtype(model, device))
    )
    prepare_process(device)
    return get_or_build((resolved, task), lambda: _build(resolved, task))


def _build(model: Model, task: str) -> Runner:
    warn_on_worker(model, task, model.device)
    return Runner(load(model, task))


class Runner:
    """Give the token vectors of batches, packed where that is right and padded otherwise.

    Notes
    -----
    All methods may be called from several threads, forward passes at a time where `shares`.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._forward = Forward(loaded)
        self._tokenizers: dict[Hashable, Any] = {}
        self._tokenizers_lock = threading.Lock()
        self.tables = Tables.of(loaded.model, loaded.task)
        self.head: TaskHead | None = None
        with self.session():
            if loaded.runs_as_one:
                reason = "its head cannot be told from its transformer"
                self.verdict = Verdict(False, pads=False, reason=reason)
            else:
                self.verdict = judge(self._forward, loaded)
            if loaded.task != "embed":
                self.head = TaskHead(loaded, self._forward)
                self.verdict = dataclasses.replace(
                    self.verdict, pads=self.verdict.pads or self.head.pads
                )
            usage = None
            if loaded.task != "seq2seq-lm":  # it needs two texts
                run = self.logits if loaded.runs_as_one else self.token_vectors
                usage = measure(run, loaded)
        self.budget = Budget(loaded.device, usage)
        self.vector_cache = VectorCache(config.get("cached-vectors-bytes"))

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
        with self.session():
            if self.runs_packed(int(tokens.lengths.max())):
                return self._forward.packed(tokens)
            if self.verdict.pads:
                return self._forward.padded(tokens, padding_side)
            return self._forward.equal_lengths(tokens)

    def logits(self, tokens: TokenLists, padding_side: str = "right") -> torch.Tensor:
        """Return what the model's head gives for a batch, float32.

        Parameters
        ----------
        tokens, padding_side
            As for `token_vectors`.

        Returns
        -------
        torch.Tensor
            Shape (texts, labels) of a classifier of texts, else (tokens, labels or words); of a
            head for answers (tokens, 2), start and end.
        """
        assert self.head is not None, "a model that embeds has no head"
        with self.session():
            if self.head.reads is None:
                run = self.head.padded if self.head.pads else self.head.whole
                return run(tokens).float()
            hidden = self.token_vectors(tokens, padding_side)
            return self.head(hidden, tokens).float()

    def computed_tokens(self, tokens: TokenLists) -> int:
        """Return how many tokens a batch computes, padding included."""
        longest = int(tokens.lengths.max())
        if self.runs_packed(longest) or not self.verdict.pads:
            return len(tokens.values)
        return len(tokens) * self._forward.padded_length(longest)

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Run without gradients and in the model's type, in this thread; may be nested."""
        with torch.inference_mode(), autocast(self.loaded):
            yield

    def padding(self) -> contextlib.AbstractContextManager[None]:
        """Give the context in which the loaded model has the attention that it came with."""
        return self._forward.padding()

    @property
    def shares(self) -> bool:
        """Whether several threads may run the model at a time.

        Not where the forward pass changes the model: rotary frequencies that follow the length
        of the batch, code that came with a checkpoint or a factory, code that `torch.compile`
        makes, or weights that are fetched when they are needed.
        """
        spec = self.loaded.spec
        others = spec.trust_remote_code or spec.factory is not None
        return not (spec.compile or others or spec.device_map is not None or self._follows_length)

    @property
    def _follows_length(self) -> bool:
        rope = getattr(self.loaded.checkpoint.text_config, "rope_parameters", None) or {}
        layers = rope.values() if all(isinstance(v, dict) for v in rope.values()) else [rope]
        return any(layer.get("rope_type") in _LENGTH_DEPENDENT for layer in layers)

    def tokenizer(self, max_length: int | None) -> TextTokenizer:
        """Return the tokenizer that cuts after `max_length` tokens."""
        return self.own_tokenizer(max_length, lambda own: TextTokenizer(own, max_length))

    def own_tokenizer(self, key: Hashable, build: Callable[[Any], T]) -> T:
        """Return what `build` gave for `key`, calling it at most once, with a copy of its own.

        Because limits are set on a tokenizer, users with different limits may not share one.
        """
        with self._tokenizers_lock:
            if key not in self._tokenizers:
                self._tokenizers[key] = build(copy.deepcopy(self.loaded.tokenizer))
            return self._tokenizers[key]
