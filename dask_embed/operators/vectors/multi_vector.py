"""Texts to a vector for each token, for late interaction."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed._validation import one_of, require_one_prompt
from dask_embed.columns.types import token_vectors_array, token_vectors_type
from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.models.sentence import QueryExpansion
from dask_embed.models.tokenizers import tokenizer_of
from dask_embed.operators.model import ModelOperator
from dask_embed.operators.vectors.late_interaction import LateInteraction, expansion_id, skipped_ids
from dask_embed.tokens.encoded import Encoded, Row
from dask_embed.tokens.lists import TokenLists

if TYPE_CHECKING:
    from dask_embed.inference.rows import Chunk
    from dask_embed.inference.runner import Runner

SIDES = ("document", "query")


@dataclasses.dataclass(frozen=True, kw_only=True)
class MultiVectorEmbedder(ModelOperator):
    """Append the vectors that late interaction scores (ColBERT); lazy on a Dask DataFrame.

    Parameters
    ----------
    model : str, Path or Model
        Hub id, local folder or specification: a folder that sentence-transformers'
        `MultiVectorEncoder` saved.
    column : str
        The text column.
    output : str
        The column to append: for each text a list of float32 vectors of fixed size, as
        ``pooling="none"`` of `Embedder` gives them.
    side : {"document", "query"}
        What a text is: its prompt, how long it may be, which tokens are left out (punctuation of
        documents, say), and whether masks are added (queries).
    prompt : str, optional
        Text put before every input, by default the folder's for that side.
    prompt_name : str, optional
        Name of another prompt of the checkpoint.
    max_length : int, optional
        Cut after this many tokens, special tokens and prompt included; by default what the folder
        says for that side.
    on_long, padding_side, batch_size, tokens_per_batch, on_error
        See `ModelOperator`.

    Notes
    -----
    Source: `encode_document` and `encode_query` of sentence-transformers' `MultiVectorEncoder`;
    Khattab and Zaharia 2020, arXiv:2004.12832 (masks added to queries, dense layers on tokens).
    Added masks that a model does not attend to are run in rows of the folder's length. Not run,
    which is an error: folders of PyLate before 4 and of Stanford's ColBERT (save them with
    `MultiVectorEncoder.save_pretrained`), token pooling, images.
    """

    method: ClassVar[str] = "embed_multi_vector"

    column: str = "text"
    output: str = "token_embeddings"
    side: str = "document"
    prompt: str | None = None
    prompt_name: str | None = None

    incidental: ClassVar[frozenset[str]] = frozenset({"column", "prompt", "prompt_name"})

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("side", self.side, SIDES)
        require_one_prompt(self.prompt, self.prompt_name)

    @property
    def input_columns(self) -> tuple[str, ...]:
        return (self.column,)

    def output_types(self, checkpoint: Checkpoint) -> dict[str, pa.DataType]:
        if checkpoint.multi_vector is None:
            raise ValueError(
                f"model {self.spec.name!r} is no multi-vector model: it has no MultiVectorMask, as "
                "MultiVectorEncoder saves it; Embedder with pooling='none' gives token vectors"
            )
        self.prompt_text(checkpoint)
        expansion = self.expansion(checkpoint)
        if expansion is not None:
            expansion_id(tokenizer_of(self.spec), expansion, self.spec.name)
        return {self.output: token_vectors_type(self.dimension(checkpoint))}

    def dimension(self, checkpoint: Checkpoint) -> int:
        """Return the number of values of a vector."""
        dimension = checkpoint.hidden_size
        for module in checkpoint.modules:
            dimension = module.output_dimension(dimension)
        return dimension

    def prompt_text(self, checkpoint: Checkpoint) -> str:
        """Return the text put before every input."""
        sentence = checkpoint.sentence
        if self.prompt is not None:
            return self.prompt
        if self.prompt_name is not None:
            return sentence.prompt(self.prompt_name) or ""
        return sentence.prompts.get(self.side, "")  # whatever the default one is

    def expansion(self, checkpoint: Checkpoint) -> QueryExpansion | None:
        """Return how queries are filled up, None for documents and where they are not."""
        return checkpoint.sentence.query_expansion if self.side == "query" else None

    def limit(self, checkpoint: Checkpoint) -> int | None:
        expansion, sentence = self.expansion(checkpoint), checkpoint.sentence
        own = sentence.query_length if self.side == "query" else sentence.document_length
        if expansion is not None and expansion.strategy == "fixed":
            if self.max_length not in (None, expansion.length):
                raise ValueError(
                    f"model {self.spec.name!r} has queries of exactly {expansion.length} tokens; "
                    f"leave max_length out, got {self.max_length}"
                )
            own = expansion.length
        given = super().limit(checkpoint) if self.max_length is not None else own
        if given is not None and expansion is not None:
            given = max(given, expansion.length)
        most = checkpoint.default_limit if given is None else checkpoint.position_limit
        return min((limit for limit in (given, most) if limit is not None), default=None)

    def describe(self, checkpoint: Checkpoint) -> str:
        modules = [type(module).__name__.lower() for module in checkpoint.modules]
        expansion = self.expansion(checkpoint)
        filled = [] if expansion is None else [f"queries of {expansion.length} tokens at least"]
        dimension = f"{self.dimension(checkpoint)} x float32 for each token of a {self.side}"
        return ", ".join([dimension, *modules, *filled])

    def resolved(self) -> dict[str, Any]:
        checkpoint = read_checkpoint(self.spec)
        told = {"dimension": self.dimension(checkpoint), "prompt": self.prompt_text(checkpoint)}
        return {**super().resolved(), **told}

    def tokens_key(self) -> Hashable:
        key, prompt = super().tokens_key(), self.prompt_text(read_checkpoint(self.spec))
        return (key, prompt, None) if prompt else key  # as embedders with a prompt

    def load(self, runner: Runner) -> LateInteraction:
        checkpoint, tokenizer = runner.loaded.checkpoint, runner.loaded.tokenizer
        rules, expansion = checkpoint.multi_vector, self.expansion(checkpoint)
        assert rules is not None, "output_types has seen it"
        filler = -1
        if expansion is not None:
            filler = expansion_id(tokenizer, expansion, self.spec.name)
        skipped = skipped_ids(tokenizer, rules) if self.side in rules.skiplist_tasks else []
        kept = rules.keep_only_token_ids if self.side != "query" else ()
        return LateInteraction(
            runner, checkpoint.modules, expansion, filler, np.array(skipped), np.array(kept)
        )

    def encode(self, runner: Runner, rows: list[Row]) -> Encoded:
        checkpoint = runner.loaded.checkpoint
        prompt, expansion = self.prompt_text(checkpoint), self.expansion(checkpoint)
        encoded = super().encode(runner, [(prompt + text,) for (text,) in rows])
        if expansion is None:
            return encoded
        return dataclasses.replace(
            encoded, costs=np.maximum(encoded.samples.lengths, expansion.length)
        )

    def forward(self, model: LateInteraction, tokens: TokenLists) -> list[np.ndarray]:
        return model.vectors(tokens)

    def postprocess(self, model: LateInteraction, chunk: Chunk) -> Mapping[str, Any]:
        dimension = self.dimension(model.runner.loaded.checkpoint)
        none = np.zeros((0, dimension), np.float32)
        rows = [none if result is None else result for result in chunk.results]
        return {self.output: token_vectors_array(rows, dimension)}
