"""Late chunking: the vectors of chunks from one forward pass over their whole text."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed._validation import integer_from_zero
from dask_embed.columns import Result, Vectors
from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.models.dual import require_token_vectors
from dask_embed.models.modules import Pooling
from dask_embed.operators.tokens.chunker import Chunker
from dask_embed.operators.tokens.chunks import Chunks
from dask_embed.operators.tokens.late_pooling import Distinct, Members, Sums, tokens_inside
from dask_embed.operators.vectors.embedder import Embedder
from dask_embed.runtime.libraries import import_libraries
from dask_embed.tokens.encoded import Encoded
from dask_embed.tokens.sequences import SequenceTokenizer
from dask_embed.tokens.texts import Texts

if TYPE_CHECKING:
    import torch

    from dask_embed.inference.footprint import Footprint
    from dask_embed.inference.runner import Runner
    from dask_embed.runtime.stats import Meter
    from dask_embed.tokens.sequences import Origins


_CHUNKER_FIELDS = dataclasses.fields(Chunker)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LateChunkEmbedder(Chunker):
    """Cut each text into rows, and append a vector to each that has seen the whole text.

    The model runs over the text, and the vector of a chunk is the mean of the vectors of its
    tokens, special tokens left out; what follows the pooling in the checkpoint (dense layers,
    normalization) is applied to it.

    Parameters
    ----------
    model : str, Path or Model
        A checkpoint as `Embedder` takes it, pooled by the mean or not at all.
    embedding : str
        Column of the vectors, float32.
    context : int, optional
        Of a text longer than the model allows, tokens that neighbouring windows share; the
        later window sees them again, but its vectors count only behind them. By default a
        quarter of a window.
    normalize, truncate_dim, prompt, prompt_name
        See `Embedder`, with ``chat=False``. A prompt is seen in the first window, and belongs to
        no chunk.
    max_length : int, optional
        Most tokens of a window, special tokens included, by default the checkpoint's limit.
    padding_side, batch_size, tokens_per_batch
        See `ModelOperator`.
    column, output, max_tokens, overlap, boundaries, keep_text, on_error
        See `Chunker`: the rows are those that it gives.

    Notes
    -----
    A chunk without a token of its own, as of an empty text, gets the mean of all tokens of the
    first window, special ones included.

    Source: Günther et al., Late Chunking, arXiv 2409.04701, sections 3.1 and 3.2.
    """

    method: ClassVar[str] = "chunk"

    uses_configured_cache: ClassVar[bool] = True

    embedding: str = "embedding"
    context: int | None = None
    normalize: str | bool = "auto"
    truncate_dim: int | None = None
    prompt: str | None = None
    prompt_name: str | None = None
    max_length: int | None = None
    padding_side: str | None = None
    batch_size: int | None = None
    tokens_per_batch: int | None = None

    incidental: ClassVar[frozenset[str]] = frozenset(
        {
            "embedding",
            "context",
            "normalize",
            "truncate_dim",
            "prompt",
            "prompt_name",
            "max_length",
            "padding_side",
            "batch_size",
            "tokens_per_batch",
        }
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        integer_from_zero("context", self.context, allow_none=True)
        assert self._embedder is not None, "its arguments are checked here"

    @property
    def output_columns(self) -> tuple[str, ...]:
        return (*super().output_columns, self.embedding)

    def types(self) -> dict[str, pa.DataType]:
        vectors = self._embedder.types()
        checkpoint = read_checkpoint(self.spec)
        require_token_vectors(self.spec.name, checkpoint.config, "late chunking")
        pooling = checkpoint.pooling
        if pooling is not None and pooling.modes != ("mean",):
            raise ValueError(
                f"late chunking is mean pooling, but model {self.spec.name!r} is pooled by "
                f"{'+'.join(pooling.modes)}"
            )
        self._shared(checkpoint)
        return {**super().types(), **vectors}

    def rehearse(self) -> None:
        super().rehearse()
        self._embedder.rehearse()

    def keeping(self, wanted: set[str]) -> Chunker:
        kept = super().keeping(wanted)
        # A text that the model fails on is among the errors; a subclass may cut in its own way.
        if wanted & {self.embedding, self.error_column} or type(self) is not LateChunkEmbedder:
            return kept
        return Chunker(**{each.name: getattr(kept, each.name) for each in _CHUNKER_FIELDS})

    def plan(self) -> list[str]:
        return [*self._embedder.plan(), self._cuts()]

    def provenance(self) -> dict[str, Any]:
        embedding = self._embedder.provenance()
        shared = self._shared(read_checkpoint(self.spec))
        return {**embedding, **super().provenance(), "context": shared}

    def prepare(self) -> None:
        import_libraries()

    def results(self, chunks: Chunks, meter: Meter, partition: Any) -> dict[str, Result]:
        runner = self._embedder.runner()
        vectors, failed = _Late(self, runner, chunks).run(meter)
        chunks.errors.update(failed)
        self._raise_if_wanted(chunks.errors, partition)
        valid = chunks.valid & ~np.isin(chunks.rows, list(failed))
        columns = super().results(chunks, meter, partition)
        return {**columns, self.embedding: Vectors(vectors, valid)}

    def footprint(self, threads: int, *, on_gpu: bool = False) -> Footprint | None:
        return self._embedder.footprint(threads, on_gpu=on_gpu)

    @property
    def _embedder(self) -> Embedder:
        """The operator that gives one vector for a whole text."""
        names = ("column", "normalize", "truncate_dim", "prompt", "prompt_name", "max_length")
        batching = ("padding_side", "batch_size", "tokens_per_batch")
        options = {name: getattr(self, name) for name in (*names, *batching)}
        return Embedder(self.spec, output=self.embedding, pooling="mean", chat=False, **options)

    def _shared(self, checkpoint: Checkpoint) -> int:
        """Return how many tokens neighbouring windows share."""
        limit = self._embedder.limit(checkpoint)
        room = None if limit is None else limit - self.rules().special
        if self.context is None:
            return 0 if room is None else max(0, room // 4)
        if room is not None and self.context >= room:
            raise ValueError(
                f"context must be less than {room}, the tokens of a window; got {self.context}"
            )
        return self.context


class _Late:
    """The chunks of a partition through the model."""

    def __init__(self, operator: LateChunkEmbedder, runner: Runner, chunks: Chunks) -> None:
        self._runner = runner
        self._operator = operator
        self._embedder = operator._embedder
        checkpoint = runner.loaded.checkpoint
        self._limit = self._embedder.limit(checkpoint)
        self._shared = operator._shared(checkpoint)
        self._prompt = self._embedder.prompt_text(checkpoint) or ""
        self._distinct = Distinct.of(chunks)
        self._rows = chunks.rows.tolist()

    def run(self, meter: Meter) -> tuple[torch.Tensor, dict[int, str]]:
        """Return a vector for each chunk, shape (chunks, dimension), and failed rows."""
        from dask_embed.inference.driver import Driver
        from dask_embed.inference.execution import NOT_FINITE
        from dask_embed.inference.kept_columns import KeptColumns
        from dask_embed.inference.stream import Stream

        runner, batching, texts = self._runner, self._embedder.batching, self._distinct.texts
        kept = KeptColumns.of(runner.kept, self._operator)
        digests = Texts([(text,) for text in texts]).digests() if kept else []
        known = self._known(kept.find(self._operator, digests)) if kept else {}
        sizes = [None if n in known else len(t) + len(self._prompt) for n, t in enumerate(texts)]
        stream = Stream(runner, self._encode, sizes, meter, batching, counts_rows=False)
        sums = Sums(self._distinct.chunks, runner.loaded.checkpoint.hidden_size)
        # equal windows of two texts need not have the same chunks
        Driver(stream, runner.token_vectors, sums, repeats=False).run()
        vectors = self._pooled(sums)
        failed = dict(stream.failures)
        new: dict[bytes, Any] = {}
        for number, pieces in enumerate(self._distinct.pieces):
            own = slice(pieces.first, pieces.first + len(pieces.starts))
            if number in known:
                vectors[own] = known[number].view(vectors[own].shape)
            elif number not in failed and not vectors[own].isfinite().all():
                failed[number] = NOT_FINITE
            elif number not in failed and kept:
                new[digests[number]] = vectors[own].flatten().numpy()
        if kept:
            column = pa.array(list(new.values()), pa.list_(pa.float32()))
            kept.keep(self._operator, list(new), [column])
        owners = zip(self._rows, self._distinct.text_of.tolist(), strict=True)
        lost = {row: failed[number] for row, number in owners if number in failed}
        return vectors[self._distinct.chunk_of], lost

    def _known(self, found: Iterator[tuple[np.ndarray, list[pa.Array]]]) -> dict[int, Any]:
        """Return the vectors of the chunks of texts that another partition ran, by number."""
        import torch

        return {
            place: torch.from_numpy(vectors.values.to_numpy().copy())
            for places, (column,) in found
            for place, vectors in zip(places.tolist(), column, strict=True)
        }

    def _pooled(self, sums: Sums) -> torch.Tensor:
        import torch

        from dask_embed.inference.heads import apply_modules

        loaded = self._runner.loaded
        modules = self._embedder.modules(loaded.checkpoint)
        after = [module for module in modules if not isinstance(module, Pooling)]
        means = sums.means().to(loaded.device, loaded.transformer.dtype)
        with self._runner.session():
            vectors = apply_modules(after, loaded.layers, means, torch.zeros(0))
        # a copy may be written to, which what inference mode made may not be
        return vectors.float().cpu().clone()

    def _encode(self, places: np.ndarray) -> Encoded:
        """Return the windows of the texts at `places`, and the chunks that each holds."""

        def build(tokenizer: Any) -> SequenceTokenizer:
            tokenizer.truncation_side = "right"
            tokenizer.model_max_length = int(1e30)
            return SequenceTokenizer(
                tokenizer, self._limit, stride=self._shared, windows=True, offsets=True
            )

        key = ("windows", self._limit, self._shared)
        windows = self._runner.own_tokenizer(key, build)
        texts = [self._prompt + self._distinct.texts[place] for place in places]
        owners, tokens, origins = windows(texts)
        assert origins is not None, "they were asked for"
        members: list[Members] = []
        for number, place in enumerate(places.tolist()):
            own = [origins[window] for window in np.flatnonzero(owners == number)]
            members += self._members(own, place)
        return Encoded(places[owners], tokens, context=members)

    def _members(self, windows: Sequence[Origins], place: int) -> list[Members]:
        """Return for each window of a text which of its tokens belong to which chunks."""
        pieces = self._distinct.pieces[place]
        found = [
            tokens_inside(
                origins, pieces, skipped=self._shared if number else 0, shift=len(self._prompt)
            )
            for number, origins in enumerate(windows)
        ]
        empty = np.ones(len(pieces.starts), bool)
        empty[np.concatenate([each.chunks for each in found])] = False
        length = len(windows[0].parts)
        lost = np.flatnonzero(empty)
        found[0] = Members(
            np.concatenate([found[0].tokens, np.tile(np.arange(length), len(lost))]),
            np.concatenate([found[0].chunks, np.repeat(lost, length)]),
        )
        return [Members(each.tokens, each.chunks + pieces.first) for each in found]
