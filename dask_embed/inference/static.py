"""Texts to vectors by a table of token vectors: no transformer, no batches, nothing to probe."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn.functional import embedding_bag

from dask_embed.columns import TextColumn, Vectors
from dask_embed.columns.types import vector_type
from dask_embed.inference.embedding import EmbeddingRequest, Outcome
from dask_embed.inference.heads import apply_modules
from dask_embed.inference.precision import DTYPES, to_precision
from dask_embed.inference.sink import Sink
from dask_embed.inference.texts import run_texts
from dask_embed.loading.layers import load_layer
from dask_embed.models.checkpoint import Checkpoint
from dask_embed.models.modules import Dense, LayerNorm, Pooling
from dask_embed.models.static import WEIGHTS, StaticTable, static_tokenizer
from dask_embed.runtime.registry import get_or_build
from dask_embed.runtime.stats import Meter
from dask_embed.tokens.encoded import Encoded
from dask_embed.tokens.lists import TokenLists


class StaticTokenizer:
    """Turn texts into token lists as `StaticEmbedding` does: no special tokens around them."""

    def __init__(self, table: StaticTable, revision: str, max_length: int | None) -> None:
        self._tokenizer = static_tokenizer(table, revision)
        self.max_length = max_length

    def __call__(self, texts: Sequence[str]) -> TokenLists:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        lists = [encoding.ids for encoding in encodings]
        tokens = TokenLists.of([ids[: self.max_length] for ids in lists])
        if self.max_length is None:
            return tokens
        longer = sum(len(ids) > self.max_length for ids in lists)
        return dataclasses.replace(tokens, truncated=longer)


class StaticRunner:
    """What an embedder's `encode` needs of a model: its checkpoint and its tokenizer."""

    types_single_texts = False

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.loaded = SimpleNamespace(checkpoint=checkpoint)

    def tokenizer(self, max_length: int | None) -> StaticTokenizer:
        checkpoint = self.loaded.checkpoint
        return StaticTokenizer(checkpoint.static, checkpoint.revision, max_length)


@dataclasses.dataclass(frozen=True)
class StaticModel:
    """What a process keeps: vectors, float32 of shape (tokens, dimension), and layers by path."""

    vectors: torch.Tensor
    layers: dict[str, torch.nn.Module]


def embed_static(
    requests: Sequence[EmbeddingRequest],
    checkpoint: Checkpoint,
    column: TextColumn,
    *,
    on_device: bool,
    meter: Meter,
) -> Outcome:
    """Return the vectors of each request: the mean over the tokens of a text, then its modules.

    Notes
    -----
    It runs on the CPU, batch by batch as texts are tokenized; its time counts as that.
    """
    model = get_or_build(
        ("static", checkpoint.root, checkpoint.revision), lambda: _load(checkpoint)
    )
    runner: Any = StaticRunner(checkpoint)
    outs = [_allocate(request, len(column.values)) for request in requests]
    failures = run_texts(
        [column],
        lambda texts: requests[0].encode(runner, list(texts.rows)),
        _Means(requests, model, outs, meter),
        meter,
        requests[0].limit,
    )
    valid = column.valid
    valid[list(failures)] = False
    return {
        request.output: Vectors(out.cuda() if on_device else out, valid)
        for request, out in zip(requests, outs, strict=True)
    }, failures


class _Means(Sink):
    """Put the vectors of texts into their places."""

    keeps = True

    def __init__(
        self,
        requests: Sequence[EmbeddingRequest],
        model: StaticModel,
        outs: Sequence[torch.Tensor],
        meter: Meter,
    ) -> None:
        self.failures: dict[int, str] = {}
        self._requests = requests
        self._model = model
        self._outs = outs
        self._meter = meter

    def put(self, names: np.ndarray, results: Encoded, lengths: np.ndarray) -> torch.Tensor:
        """Return which vectors are finite numbers."""
        self.failures.update(results.at(names).failures)
        samples, kept = results.samples, torch.from_numpy(results.rows)
        places = torch.from_numpy(names)[kept]
        offsets = torch.from_numpy(samples.offsets[:-1].astype(np.int32))
        finite = torch.ones(len(names), dtype=torch.bool)
        with torch.inference_mode():
            means = embedding_bag(torch.from_numpy(samples.values), self._model.vectors, offsets)
            for request, out in zip(self._requests, self._outs, strict=True):
                after = [module for module in request.modules if not isinstance(module, Pooling)]
                vectors = apply_modules(after, self._model.layers, means, torch.empty(0))
                ranges = None if request.ranges is None else torch.tensor(request.ranges)
                stored = to_precision(vectors, request.precision, ranges)
                out[places] = stored.to(out.dtype)
                finite[kept] &= vectors.isfinite().all(1)
        self._meter.count(tokens=len(samples.values), batches=1)
        return finite

    def copy(self, names: np.ndarray, sources: np.ndarray) -> None:
        for out in self._outs:
            out[torch.from_numpy(names)] = out[torch.from_numpy(sources)]


def _load(checkpoint: Checkpoint) -> StaticModel:
    """Read the table; model2vec's has one row for several tokens, and a weight for each."""
    table = checkpoint.static
    assert table is not None, "the checkpoint has a table"
    tensors = load_file(table.folder / WEIGHTS)
    vectors = tensors[table.table]
    if table.table == "embeddings":
        if "mapping" in tensors:
            vectors = vectors[tensors["mapping"].long()]
        if "weights" in tensors:
            weighted = vectors.to(torch.promote_types(vectors.dtype, torch.float32))
            vectors = (weighted * tensors["weights"][:, None]).to(vectors.dtype)
    layers = {
        module.path: load_layer(module, checkpoint.root, allow_pickle=False)
        for module in checkpoint.modules
        if isinstance(module, Dense | LayerNorm)
    }
    return StaticModel(vectors.float().contiguous(), layers)


def _allocate(request: EmbeddingRequest, rows: int) -> torch.Tensor:
    size = vector_type(request.dimension, request.precision).list_size
    return torch.zeros(rows, size, dtype=DTYPES[request.precision])
