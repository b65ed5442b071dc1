"""Texts to sparse vectors over the vocabulary."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed._validation import one_of, positive_integer, require_one_prompt
from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.models.modules import SPLADE_ACTIVATIONS, SPLADE_STRATEGIES, SpladePooling
from dask_embed.operators.model import ModelOperator
from dask_embed.tokens.encoded import Encoded, Row
from dask_embed.tokens.slices import fitting

if TYPE_CHECKING:
    import torch

    from dask_embed.inference.rows import Chunk
    from dask_embed.inference.runner import Runner
    from dask_embed.tokens.lists import TokenLists

SPARSE = pa.struct([("indices", pa.list_(pa.int32())), ("values", pa.list_(pa.float32()))])
"""Type of a sparse vector: what is not zero, by ascending index."""
# Numbers of the vocabulary's width that are made at a time: 64 MiB.
_NUMBERS_AT_A_TIME = 1 << 24


@dataclasses.dataclass(frozen=True, kw_only=True)
class SparseEmbedder(ModelOperator):
    """Append one sparse vector over the vocabulary per text (SPLADE); lazy on a Dask DataFrame.

    Parameters
    ----------
    model : str, Path or Model
        Hub id, local folder or specification: a folder that sentence-transformers' `SparseEncoder`
        saved with ``SpladePooling``, or any checkpoint with a head for masked tokens.
    column : str
        The text column.
    output : str
        The column to append: a struct of ``indices``, list of int32, ascending, and ``values``,
        list of float32, none of them zero. An index is a token of the vocabulary.
    pooling : {"auto", "max", "sum"}
        How the weights of a text's tokens become one; ``"auto"`` is what the folder says, else
        the maximum.
    activation : {"auto", "relu", "log1p_relu"}
        What makes a weight of a score: ``log(1 + relu(x))``, or its logarithm once more. ``"auto"``
        is what the folder says, else the first.
    max_active_dims : int, optional
        Keep so many of the largest values of a text, by default as many as the folder says, else
        all of them.
    prompt : str, optional
        Text put before every input.
    prompt_name : str, optional
        Name of a prompt of the checkpoint; by default its `default_prompt_name`.
    max_length, on_long, padding_side, batch_size, tokens_per_batch, on_error
        See `ModelOperator`.

    Notes
    -----
    Source: `SparseEncoder` and `SpladePooling` of sentence-transformers; Formal et al. 2021,
    arXiv:2107.05720 (sum), arXiv:2109.10086 (max). The vocabulary's width times the tokens of a
    batch is never held: 64 MiB of it are made at a time. Routers to other modules for queries,
    static weights of tokens and sparse auto-encoders are not run, which is an error.
    """

    method: ClassVar[str] = "embed_sparse"

    column: str = "text"
    output: str = "sparse_embedding"
    pooling: str = "auto"
    activation: str = "auto"
    max_active_dims: int | None = None
    prompt: str | None = None
    prompt_name: str | None = None

    incidental: ClassVar[frozenset[str]] = frozenset(
        {"column", "pooling", "activation", "max_active_dims", "prompt", "prompt_name"}
    )

    task: ClassVar[str] = "fill-mask"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("pooling", self.pooling, ("auto", *SPLADE_STRATEGIES))
        one_of("activation", self.activation, ("auto", *SPLADE_ACTIVATIONS))
        positive_integer("max_active_dims", self.max_active_dims)
        require_one_prompt(self.prompt, self.prompt_name)

    def output_types(self, checkpoint: Checkpoint) -> dict[str, pa.DataType]:
        if checkpoint.pooling is not None or checkpoint.multi_vector is not None:
            raise ValueError(
                f"model {self.spec.name!r} gives dense vectors of texts; use Embedder, or a model "
                "with a head for masked tokens"
            )
        self.prompt_text(checkpoint)
        return {self.output: SPARSE}

    def splade(self, checkpoint: Checkpoint) -> SpladePooling:
        """Return how scores become weights, as the folder or this operator says."""
        pooling = checkpoint.splade or SpladePooling()
        given = {"strategy": self.pooling, "activation": self.activation}
        return dataclasses.replace(pooling, **{k: v for k, v in given.items() if v != "auto"})

    def most(self, checkpoint: Checkpoint) -> int | None:
        """Return how many values of a text are kept, None for all."""
        return self.max_active_dims or checkpoint.sentence.max_active_dims

    def prompt_text(self, checkpoint: Checkpoint) -> str:
        """Return the text put before every input."""
        named = checkpoint.sentence.prompt(self.prompt_name) if self.prompt is None else self.prompt
        return named or ""

    def describe(self, checkpoint: Checkpoint) -> str:
        splade, most = self.splade(checkpoint), self.most(checkpoint)
        kept = "" if most is None else f", the largest {most} values"
        words = checkpoint.text_config.vocab_size
        return f"sparse over {words} tokens, {splade.strategy} of {splade.activation}{kept}"

    def resolved(self) -> dict[str, Any]:
        checkpoint = read_checkpoint(self.spec)
        splade = self.splade(checkpoint)
        return {
            **super().resolved(),
            "pooling": splade.strategy,
            "activation": splade.activation,
            "max_active_dims": self.most(checkpoint),
            "prompt": self.prompt_text(checkpoint),
        }

    def encode(self, runner: Runner, rows: list[Row]) -> Encoded:
        prompt = self.prompt_text(runner.loaded.checkpoint)
        return super().encode(runner, [(prompt + text,) for (text,) in rows])

    def tokens_key(self) -> Hashable:
        key, prompt = super().tokens_key(), self.prompt_text(read_checkpoint(self.spec))
        return (key, prompt, None) if prompt else key  # as embedders with a prompt

    def forward(self, model: Runner, tokens: TokenLists) -> list[tuple[np.ndarray, np.ndarray]]:
        checkpoint = model.loaded.checkpoint
        splade, most = self.splade(checkpoint), self.most(checkpoint)
        width = int(checkpoint.text_config.vocab_size)
        return [
            _entries(splade_weights(splade, scores), most)
            for scores in _scores(model, tokens, max(1, _NUMBERS_AT_A_TIME // width))
        ]

    def postprocess(self, model: Runner, chunk: Chunk) -> Mapping[str, Any]:
        empty = np.zeros(0, np.int64), np.zeros(0, np.float32)
        rows = [result or empty for result in chunk.results]
        offsets = np.cumsum([0, *(len(indices) for indices, _ in rows)]).astype(np.int32)
        parts = [
            pa.ListArray.from_arrays(offsets, pa.array(np.concatenate(each)).cast(dtype))
            for each, dtype in zip(zip(*rows, strict=True), (pa.int32(), pa.float32()), strict=True)
        ]
        return {self.output: pa.StructArray.from_arrays(parts, names=["indices", "values"])}


def _scores(model: Runner, tokens: TokenLists, at_a_time: int) -> Iterator[torch.Tensor]:
    """Yield the scores of each text, shape (tokens, vocabulary), of few tokens at a time."""
    head = model.head
    assert head is not None, "the task has a head"
    hidden = None if head.reads is None else model.token_vectors(tokens)
    for texts in fitting(tokens.lengths.tolist(), at_a_time):
        part = tokens.take(np.r_[texts])
        start, stop = int(tokens.offsets[texts.start]), int(tokens.offsets[texts.stop])
        if hidden is None:
            scores = model.logits(part)
        else:
            scores = head.on_tokens(hidden[start:stop]).float()
        yield from scores.split(part.lengths.tolist())


def splade_weights(splade: SpladePooling, scores: torch.Tensor) -> torch.Tensor:
    """Return the weights of a text, shape (vocabulary,), of scores of its tokens."""
    if splade.strategy == "max":  # which commutes with what grows
        scores = scores.amax(0)
    weights = scores.relu().log1p()
    if splade.activation == "log1p_relu":
        weights = weights.log1p()
    return weights if splade.strategy == "max" else weights.sum(0)


def _entries(weights: torch.Tensor, most: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Return indices and values of what is not zero, by ascending index."""
    indices = weights.nonzero()[:, 0]
    if most is not None and len(indices) > most:
        indices = weights.topk(most).indices.sort().values
    return indices.cpu().numpy(), weights[indices].cpu().numpy()
