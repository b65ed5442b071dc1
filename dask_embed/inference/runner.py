"""One model of this process, ready for batches from any thread."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
from collections.abc import Callable, Hashable, Iterator
from typing import Any, TypeVar

import numpy as np
import torch

from dask_embed import config
from dask_embed.inference.batching import side_of_batch
from dask_embed.inference.forward import Forward
from dask_embed.inference.measured import measure
from dask_embed.inference.memory import Budget, is_out_of_memory
from dask_embed.inference.probe import judge
from dask_embed.inference.repeats import VectorCache
from dask_embed.inference.samples import random_tokens
from dask_embed.inference.state import ModelState
from dask_embed.inference.task_head import TaskHead
from dask_embed.inference.verdict import NotPerTokenError, Verdict
from dask_embed.inference.workers import make_room_on_worker
from dask_embed.loading.devices import dtype_name, resolve_device, resolve_dtype
from dask_embed.loading.load import LoadedModel, autocast, load
from dask_embed.models.spec import Model
from dask_embed.models.vocabulary import Tables
from dask_embed.runtime.process import prepare_process
from dask_embed.runtime.registry import Registry, evict, get_or_build, loaded
from dask_embed.tokens.encoded import Encoded
from dask_embed.tokens.lists import TextTokenizer, TokenLists
from dask_embed.tokens.sequences import types_single_texts

T = TypeVar("T")


def runner_for(model: Model, task: str = "embed") -> Runner:
    """Return this process's runner of `model` with the head of `task`, loading it on first use."""
    resolved, _ = key = runner_key(model, task)
    prepare_process(torch.device(resolved.device))
    return get_or_build(key, lambda: _build(resolved, task))


def runner_key(model: Model, task: str = "embed") -> tuple[Model, str]:
    """Return under which key this process keeps the runner of `model`."""
    device = resolve_device(model.device)
    dtype = dtype_name(resolve_dtype(model, device))
    return dataclasses.replace(model, device=str(device), dtype=dtype), task


def _build(model: Model, task: str) -> Runner:
    make_room_on_worker(model, task)
    try:
        return Runner(load(model, task))
    except Exception as error:
        if not is_out_of_memory(error) or not loaded():
            raise
    while evict():  # what this process ran before may be in the way
        pass
    return Runner(load(model, task))


class Runner:
    """Give the token vectors of batches, packed where that is right and padded otherwise.

    Notes
    -----
    All methods may be called from several threads, forward passes at a time where `shares`.
    """

    phase = "forward"
    smallest_share = 256

    def __init__(self, loaded: LoadedModel) -> None:
        self.loaded = loaded
        self._forward = Forward(loaded)
        self.kept = Registry()
        self.tables = Tables.of(loaded.model, loaded.task)
        self.head: TaskHead | None = None
        with self.session():
            self.verdict = self._judge(loaded)
            if loaded.task != "embed":
                self.head = TaskHead(loaded, self._forward, self.verdict)
                if loaded.runs_as_one:
                    self.verdict = dataclasses.replace(
                        self.verdict, pads=self.head.pads, by_length=self.head.by_length
                    )
            usage = None
            if loaded.task != "seq2seq-lm":  # it needs two texts
                run = self.logits if loaded.runs_as_one else self.token_vectors
                usage = measure(run, loaded)
        self.budget = Budget(loaded.device, usage)
        self.vector_cache = VectorCache(config.get("cached-vectors-bytes"))

    @property
    def device(self) -> torch.device:
        return self.loaded.device

    def usable(self, encoded: Encoded[TokenLists]) -> Encoded[TokenLists]:
        """Return the rows that the model takes; a text without tokens never reaches it."""
        encoded, least = self.tables.within(encoded), self.verdict.shortest
        if least == 1:
            return encoded
        lengths = encoded.samples.lengths
        return encoded.without(
            {
                int(encoded.rows[place]): f"of tokens it has {lengths[place]}, and the model takes "
                f"no fewer than {least}"
                for place in np.flatnonzero((lengths > 0) & (lengths < least))
            }
        )

    def _judge(self, loaded: LoadedModel) -> Verdict:
        """Return how the transformer runs, of one that is only run with its head what that is."""
        if not loaded.runs_as_one:
            try:
                return judge(self._forward, loaded)
            except NotPerTokenError:  # what Funnel has below the head of a classifier
                if loaded.task == "embed":
                    raise
                loaded.runs_as_one = True
        reason = "its head cannot be told from its transformer"
        return Verdict(False, pads=False, by_length=False, reason=reason)

    def runs_packed(self, longest: int) -> bool:
        """Return whether a batch whose longest text has so many tokens runs packed."""
        return self.verdict.packed and not self._runs_alone(longest)

    def _runs_alone(self, longest: int) -> bool:
        limit = self.verdict.up_to
        return limit is not None and longest > limit

    def token_vectors(self, tokens: TokenLists) -> torch.Tensor:
        """Return the last hidden state of every token of a batch.

        Parameters
        ----------
        tokens : TokenLists
            The batch; every text has at least one token. Where it is filled up, if it is padded,
            is `padded_on`'s to say, and no vector depends on it.

        Returns
        -------
        torch.Tensor
            Shape (tokens, hidden size), on the model's device, in the order of the batch.
        """
        with self.session():
            if self._runs_alone(int(tokens.lengths.max())):
                return self._with_long_ones(tokens)
            if self.verdict.packed:
                return self._forward.packed(tokens)
            if self.verdict.pads:
                side = side_of_batch() or self.loaded.tokenizer.padding_side
                left = side == "left" and self.verdict.pads_left
                return self._forward.padded(tokens, "left" if left else "right")
            if self.verdict.by_length:
                return self._forward.equal_lengths(tokens)
            return self._forward.alone(tokens)

    def _with_long_ones(self, tokens: TokenLists) -> torch.Tensor:
        """Run texts alone that are longer than those for which batches were tried."""
        long = tokens.lengths > self.verdict.up_to
        parts: list[Any] = [None] * len(tokens)
        for rows, run in (
            (np.flatnonzero(long), self._forward.alone),
            (np.flatnonzero(~long), self.token_vectors),
        ):
            if len(rows):
                chosen = tokens.take(rows)
                vectors = run(chosen).split(chosen.lengths.tolist())
                for row, each in zip(rows.tolist(), vectors, strict=True):
                    parts[row] = each
        return torch.cat(parts)

    def logits(self, tokens: TokenLists) -> torch.Tensor:
        """Return what the model's head gives for a batch, float32.

        Parameters
        ----------
        tokens : TokenLists
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
            hidden = self.token_vectors(tokens)
            return self.head(hidden, tokens).float()

    def amounts(self, lengths: np.ndarray) -> dict[str, int]:
        """Return tokens, and padding, of a batch of texts of so many tokens."""
        total, longest = int(lengths.sum()), int(lengths.max())
        computed = total
        if not self.verdict.packed and not self._runs_alone(longest) and self.verdict.pads:
            computed = len(lengths) * self._forward.padded_length(longest)
        return {"tokens": total, "padding": computed - total, "batches": 1}

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """Run without gradients and in the model's type, in this thread; may be nested."""
        with torch.inference_mode(), autocast(self.loaded):
            yield

    def beside_others(self) -> contextlib.AbstractContextManager[None]:
        """Give the context in which the loaded model may be called beside other threads."""
        return self._forward.beside_others()

    @property
    def shares(self) -> bool:
        """Whether several threads may run the model at a time.

        Not where the forward pass changes the model, where code runs that came with a checkpoint or
        a factory, code that `torch.compile` makes, or weights are fetched when they are needed.
        """
        spec = self.loaded.spec
        others = spec.trust_remote_code or spec.factory is not None
        alone = spec.compile or others or spec.device_map is not None
        return not (alone or self.verdict.keeps_state)

    def by_itself(self) -> contextlib.AbstractContextManager[None]:
        """Give the context in which this thread alone runs the model, which is then put back."""
        return self._forward.by_itself()

    @functools.cached_property
    def changes_itself(self) -> bool:
        """Whether a text changes the model for those after it: BigBird's encoder, say."""
        if self.loaded.task != "seq2seq-lm":
            return self.verdict.keeps_state
        if getattr(self.loaded.model, "hf_quantizer", None) is not None:
            return False  # weights in fewer bits take their form with the first text
        ids = torch.from_numpy(random_tokens(self.loaded, [3]).values.astype(np.int64))[None]
        ids = ids.to(self.loaded.device)
        with self.session(), self.by_itself():
            state = ModelState(self.loaded.model)
            self.loaded.model(input_ids=ids, decoder_input_ids=ids[:, :1], use_cache=False)
            return bool(state.changes())

    @functools.cached_property
    def types_single_texts(self) -> bool:
        """Whether the tokenizer gives tokens of a single text other types than 0 (XLNet's)."""
        if not self._forward.gives_types:
            return False
        return types_single_texts(copy.deepcopy(self.loaded.tokenizer))

    def tokenizer(self, max_length: int | None) -> TextTokenizer:
        """Return the tokenizer that cuts after `max_length` tokens."""
        return self.own_tokenizer(max_length, lambda own: TextTokenizer(own, max_length))

    def own_tokenizer(self, key: Hashable, build: Callable[[Any], T]) -> T:
        """Return what `build` gave for `key`, calling it at most once, with a copy of its own.

        Because limits are set on a tokenizer, users with different limits may not share one.
        """
        return self.kept.get_or_build(
            ("tokenizer", key), lambda: build(copy.deepcopy(self.loaded.tokenizer))
        )
