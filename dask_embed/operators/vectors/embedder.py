"""Texts to vectors."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from dask_embed._validation import (
    one_of,
    positive_integer,
    require_one_prompt,
)
from dask_embed.columns import Result, TextColumn
from dask_embed.columns.frames import is_dask_frame
from dask_embed.columns.ranges import CALIBRATED, checked_ranges
from dask_embed.columns.types import PRECISIONS, token_vectors_type, vector_type
from dask_embed.inference.encoding import encode_chats
from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.models.modules import HeadModule, Normalize, Pooling
from dask_embed.models.static import static_tokenizer
from dask_embed.operators.checkpointed import CheckpointOperator
from dask_embed.operators.frame import Frame
from dask_embed.operators.rehearsal import EXAMPLES
from dask_embed.operators.vectors.head_modules import (
    dimension_of,
    head_modules,
    normalized_before_cut,
    pooling_modes,
)
from dask_embed.text.chats import ChatRules
from dask_embed.tokens.encoded import Encoded, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dask_embed.inference.embedding import EmbeddingRequest
    from dask_embed.inference.footprint import Footprint
    from dask_embed.inference.runner import Runner
    from dask_embed.runtime.stats import Meter


@dataclasses.dataclass(frozen=True, kw_only=True)
class Embedder(CheckpointOperator):
    """Append one embedding vector per text; lazy on a Dask DataFrame.

    Parameters
    ----------
    model : str, Path or Model
        Hub id, local folder or specification. A sentence-transformers checkpoint is honoured in
        full (pooling, dense layers, normalization, prompts, limits). Any other encoder, decoder
        or encoder half of an encoder-decoder gives the mean, one that was made for writing
        (``...ForCausalLM``) the vector of the last token, unless `pooling` says otherwise. A table
        of token vectors in place of a transformer (``StaticEmbedding``, model2vec) gives their mean
        without batches, on the CPU, as fast as texts are tokenized.
    column : str
        The text column.
    output : str
        The column to append: float32 vectors, `pandas.ArrowDtype` of a fixed-size list, or a
        cuDF list column.
    pooling : str or tuple of str
        ``"auto"`` follows the checkpoint. Otherwise ``"cls"``, ``"max"``, ``"mean"``,
        ``"mean_sqrt_len_tokens"``, ``"weightedmean"``, ``"lasttoken"``, ``"sum"``, a tuple of
        these to concatenate, or ``"none"`` for a list of token vectors per text.
    normalize : {"auto", True, False}
        Scale vectors to Euclidean length one; ``"auto"`` follows the checkpoint.
    truncate_dim : int, optional
        Keep the first values only (Matryoshka embeddings), by default as many as a folder says.
        As in sentence-transformers they are not normalized again, unless ``normalize=True``.
    prompt : str, optional
        Text put before every input; of a chat, what its system says.
    prompt_name : str, optional
        Name of a prompt of the checkpoint; by default its `default_prompt_name`.
    chat : {"auto", True, False}
        Whether the model reads a text as what a user says, written with the tokenizer's chat
        template. ``"auto"`` does as sentence-transformers does: where a folder was saved so, and
        with every plain checkpoint that has a template. Of a chat that is too long the text is
        cut, the end of the template stays.
    max_chars : int, optional
        Cut the text after this many characters before tokenizing it.
    precision : str
        How vectors are stored: ``"float32"``, ``"float16"``, ``"int8"``, ``"uint8"``, or packed
        signs as ``"binary"`` and ``"ubinary"``, all as sentence-transformers defines them. On a
        Dask DataFrame the integers are calibrated over the whole of it, lazily.
    ranges : array-like, optional
        Lowest and highest value of each dimension, shape (2, dimension), for ``"int8"`` and
        ``"uint8"``: see `dask_embed.calibration_ranges`.
    max_length, on_long, padding_side, batch_size, tokens_per_batch, on_error
        See `ModelOperator`.

    Examples
    --------
    >>> import pandas as pd
    >>> import dask_embed as de
    >>> embedder = de.Embedder(model=de.datasets.minilm())
    >>> frame = embedder(pd.DataFrame({"text": ["a lazy table", None]}))
    >>> frame["embedding"].isna().tolist()
    [False, True]
    >>> de.to_array(frame["embedding"]).shape
    (2, 384)

    Notes
    -----
    Memory on a worker: the model once per process, one batch of activations, a chunk of tokens
    and the partition's vectors. Texts with the same tokens run once. A text without any token (an
    empty string, where the tokenizer adds no special tokens) gets the zero vector.

    On one machine, float32 vectors do not depend on partitioning, the order of rows or repeats
    beyond 1e-6; in bfloat16 and float16 to a few rounding steps (2**-8 and 2**-11 of a value).
    """

    method: ClassVar[str] = "embed"

    nulls_follow_inputs: ClassVar[bool] = True  # a text without tokens has a vector of zeros
    run_encodes: ClassVar[bool] = True
    takes_tables: ClassVar[bool] = True

    column: str = "text"
    output: str = "embedding"
    pooling: str | tuple[str, ...] = "auto"
    normalize: str | bool = "auto"
    truncate_dim: int | None = None
    prompt: str | None = None
    prompt_name: str | None = None
    chat: str | bool = "auto"
    max_chars: int | None = None
    precision: str = "float32"
    ranges: Any = None

    incidental: ClassVar[frozenset[str]] = frozenset(
        {"column", "normalize", "truncate_dim", "prompt_name"}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("truncate_dim", "max_chars"):
            positive_integer(name, getattr(self, name))
        if not isinstance(self.normalize, bool):
            one_of("normalize", self.normalize, ("auto", True, False))
        if not isinstance(self.chat, bool):
            one_of("chat", self.chat, ("auto", True, False))
        require_one_prompt(self.prompt, self.prompt_name)
        if not isinstance(self.pooling, str) or self.pooling != "auto":
            object.__setattr__(self, "pooling", pooling_modes(self.pooling))
        one_of("precision", self.precision, tuple(PRECISIONS))
        object.__setattr__(self, "ranges", checked_ranges(self.precision, self.ranges))
        if self.pooling == ("none",) and self.precision != "float32":
            raise ValueError(
                f"pooling='none' gives float32 token vectors; precision={self.precision!r} does "
                "not apply"
            )

    def __call__(self, frame: Frame) -> Frame:
        if self.calibrates and not is_dask_frame(frame):
            raise ValueError(
                f"precision={self.precision!r} is calibrated over a whole Dask DataFrame; for a "
                "frame in memory embed in float32 and call dask_embed.quantize(frame, "
                f"{self.output!r}, {self.precision!r}), or give ranges="
            )
        return super().__call__(frame)

    @property
    def calibrates(self) -> bool:
        """Whether the vectors of all rows decide how each is stored."""
        return self.ranges is None and self.precision in CALIBRATED

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.column,)

    def output_types(self, checkpoint: Checkpoint) -> dict[str, pa.DataType]:
        self.prompt_text(checkpoint)
        self.chat_rules(checkpoint)
        dimension = self.dimension(checkpoint)
        gives_tokens = self.pooling == ("none",)
        if gives_tokens:
            return {self.output: token_vectors_type(dimension)}
        if self.ranges is not None and len(self.ranges[0]) != dimension:
            raise ValueError(
                f"ranges are of {len(self.ranges[0])} dimensions but the vectors have {dimension}"
            )
        return {self.output: vector_type(dimension, self.precision)}

    def dimension(self, checkpoint: Checkpoint) -> int:
        """Return the number of values of a vector."""
        return dimension_of(checkpoint, self.modules(checkpoint))

    def describe(self, checkpoint: Checkpoint) -> str:
        modules = self.modules(checkpoint)
        names = [
            "+".join(module.modes) + " pooling"
            if isinstance(module, Pooling)
            else type(module).__name__.lower()
            for module in modules
        ]
        shape = f"{self.dimension(checkpoint)} x {self.precision}" if modules else "token vectors"
        chats = ["texts as chats"] if self.chat_rules(checkpoint) else []
        return ", ".join([shape, *names, *chats])

    def resolved(self) -> dict[str, Any]:
        checkpoint = read_checkpoint(self.spec)
        modules = self.modules(checkpoint)
        pooling = [
            mode for module in modules if isinstance(module, Pooling) for mode in module.modes
        ]
        return {
            **super().resolved(),
            "dimension": self.dimension(checkpoint),
            "pooling": pooling or ["none"],
            "normalized": bool(modules) and isinstance(modules[-1], Normalize),
            **({"normalized_before_cut": True} if normalized_before_cut(modules) else {}),
            "prompt": self.prompt_text(checkpoint),
            "chats": self.chat_rules(checkpoint) is not None,
        }

    def run(
        self, columns: list[TextColumn], *, on_device: bool, meter: Meter
    ) -> tuple[dict[str, Result], dict[int, str]]:
        return self.run_together((), columns, on_device=on_device, meter=meter)

    def run_together(
        self,
        others: Sequence[Embedder],
        columns: list[TextColumn],
        *,
        on_device: bool,
        meter: Meter,
    ) -> tuple[dict[str, Result], dict[int, str]]:
        from dask_embed.inference.embedding import embed_tokens, embed_vectors

        column = columns[0]
        checkpoint = read_checkpoint(self.spec)
        if checkpoint.static is not None:
            from dask_embed.inference.static import embed_static

            asked = [each.request(checkpoint) for each in (self, *others)]
            return embed_static(asked, checkpoint, column, on_device=on_device, meter=meter)
        runner = self.runner()
        requests = [each.request(runner.loaded.checkpoint) for each in (self, *others)]
        if not requests[0].modules:
            return embed_tokens(requests[0], runner, column, on_device=on_device, meter=meter)
        return embed_vectors(requests, runner, column, on_device=on_device, meter=meter)

    def request(self, checkpoint: Checkpoint) -> EmbeddingRequest:
        """Return what is wanted of a pass over texts."""
        from dask_embed.inference.embedding import EmbeddingRequest

        return EmbeddingRequest(
            output=self.output,
            encode=self.encode,
            limit=self.limit(checkpoint),
            batching=self.batching,
            prompt=self.prompt_text(checkpoint) or "",
            leaves_out_prompt=self.chat_rules(checkpoint) is None,
            modules=self.modules(checkpoint),
            dimension=self.dimension(checkpoint),
            precision=self.precision,
            ranges=self.ranges,
        )

    def encode(self, runner: Runner, rows: list[Row]) -> Encoded:
        checkpoint = runner.loaded.checkpoint
        texts = [text[: self.max_chars] for (text,) in rows]
        rules = self.chat_rules(checkpoint)
        if rules is not None:
            return encode_chats(runner, rules, texts, self.limit(checkpoint), on_long=self.on_long)
        prompt = self.prompt_text(checkpoint) or ""
        return super().encode(runner, [(prompt + text,) for text in texts])

    def rehearse(self) -> None:
        checkpoint = read_checkpoint(self.spec)
        if checkpoint.static is None:
            super().rehearse()
        else:
            static_tokenizer(checkpoint.static, checkpoint.revision)

    def examples(self) -> Iterator[list[TextColumn]]:
        if read_checkpoint(self.spec).static is None:
            yield from super().examples()
        else:
            yield from ([TextColumn([text])] for text in EXAMPLES)

    def footprint(self, threads: int, *, on_gpu: bool = False) -> Footprint | None:
        if read_checkpoint(self.spec).static is not None:
            return None  # of a table: little, and no batches
        return super().footprint(threads, on_gpu=on_gpu)

    def _special_tokens(self) -> int:
        return 0 if read_checkpoint(self.spec).static is not None else super()._special_tokens()

    def special_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        chats = self.chat_rules(read_checkpoint(self.spec)) is not None
        return 0 if chats else super().special_tokens(tokenizer)  # a template writes its own

    def chat_rules(self, checkpoint: Checkpoint) -> ChatRules | None:
        """Return how a text becomes a chat, None where it is read as it is.

        Raises
        ------
        ValueError
            If the tokenizer has no chat template.
        """
        form = checkpoint.sentence.message_format
        plain = checkpoint.pooling is None and checkpoint.has_chat_template
        if self.chat is False or (self.chat == "auto" and form is None and not plain):
            return None
        if not checkpoint.has_chat_template:
            raise ValueError(
                f"the tokenizer of model {self.spec.name!r} has no chat template; set chat=False "
                "to embed texts as they are"
            )
        prompt = self.prompt_text(checkpoint) or ""
        return ChatRules(form or "auto", prompt, str(checkpoint.config.model_type))

    def tokens_key(self) -> Hashable:
        checkpoint = read_checkpoint(self.spec)
        if checkpoint.static is not None:
            return None
        key, rules = super().tokens_key(), self.chat_rules(checkpoint)
        if rules is not None:
            return (key, rules, checkpoint.revision, self.max_chars)
        prompt = self.prompt_text(checkpoint) or ""
        return key if not prompt and self.max_chars is None else (key, prompt, self.max_chars)

    def forward_key(self) -> Hashable:
        if self.pooling == ("none",):
            return None
        checkpoint = read_checkpoint(self.spec)
        prompt = self.prompt_text(checkpoint) or ""
        texts = (self.column, prompt, self.max_chars, self.chat_rules(checkpoint))
        return (self.spec, *texts, self.limit(checkpoint), self.on_long)

    def modules(self, checkpoint: Checkpoint) -> tuple[HeadModule, ...]:
        """Return what follows the transformer, with what this operator says in its place."""
        return head_modules(
            checkpoint,
            self.spec.name,
            pooling=self.pooling,
            normalize=self.normalize,
            truncate_dim=self.truncate_dim,
        )

    def prompt_text(self, checkpoint: Checkpoint) -> str | None:
        """Return the text put before every input, None where there is none."""
        if self.prompt is not None:
            return self.prompt
        return checkpoint.sentence.prompt(self.prompt_name)
