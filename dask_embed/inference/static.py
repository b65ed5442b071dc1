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
from dask_embed.inference.execution import NOT_FINITE
from dask_embed.inference.heads import apply_modules
from dask_embed.inference.precision import DTYPES, to_precision
from dask_embed.loading.layers import load_layer
from dask_embed.models.checkpoint import Checkpoint
from dask_embed.models.modules import Dense, LayerNorm, Pooling
from dask_embed.models.static import WEIGHTS, StaticTable, static_tokenizer
from dask_embed.models.tokenizers import tokenized
from dask_embed.runtime.registry import get_or_build
from dask_embed.runtime.stats import Meter
from dask_embed.tokens.encoded import Encoded
from dask_embed.tokens.lists import TokenLists
from dask_embed.tokens.sharing import tokenizing_for


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
    It runs on the CPU in the task's own thread, as fast as texts are tokenized.
    """
    model = get_or_build(
        ("static", checkpoint.root, checkpoint.revision), lambda: _load(checkpoint)
    )
    runner: Any = StaticRunner(checkpoint)
    valid = column.valid
    places = np.flatnonzero(valid)
    rows = [(column.values[place] or "",) for place in places.tolist()]
    outs = [_allocate(request, len(valid)) for request in requests]
    failed: dict[int, str] = {}
    meter.record.max_length = requests[0].limit

    def encode(some: np.ndarray) -> Encoded:
        with meter.seconds("tokenize"), tokenizing_for(meter):
            return requests[0].encode(runner, [rows[row] for row in some]).at(some)

    for _, encoded in tokenized(encode, [len(text) for (text,) in rows], failed):
        failed |= encoded.failures
        kept = encoded.rows
        with meter.seconds("forward"), torch.inference_mode():
            finite = _embed(requests, model, encoded, outs, places[kept])
        failed |= dict.fromkeys(kept[~finite].tolist(), NOT_FINITE)
        meter.count(rows=len(kept), unique_rows=len(kept), tokens=len(encoded.samples.values))
        meter.count(batches=1)
    failures = {int(places[place]): message for place, message in failed.items()}
    valid[list(failures)] = False
    return {
        request.output: Vectors(out.cuda() if on_device else out, valid)
        for request, out in zip(requests, outs, strict=True)
    }, failures


def _embed(
    requests: Sequence[EmbeddingRequest],
    model: StaticModel,
    encoded: Encoded,
    outs: Sequence[torch.Tensor],
    places: np.ndarray,
) -> np.ndarray:
    """Put the vectors of texts into their places, and return which are finite numbers."""
    ids = torch.from_numpy(encoded.samples.values)
    means = embedding_bag(
        ids, model.vectors, torch.from_numpy(encoded.samples.offsets[:-1].astype(np.int32))
    )
    finite = np.ones(len(places), bool)
    for request, out in zip(requests, outs, strict=True):
        after = [module for module in request.modules if not isinstance(module, Pooling)]
        vectors = apply_modules(after, model.layers, means, torch.empty(0))
        ranges = None if request.ranges is None else torch.tensor(request.ranges)
        stored = to_precision(vectors, request.precision, ranges)
        out[torch.from_numpy(places)] = stored.to(out.dtype)
        finite &= vectors.isfinite().all(1).numpy()
    return finite


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
