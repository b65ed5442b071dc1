"""Texts to a vector for each token, for late interaction."""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed._validation import one_of, require_one_prompt
from dask_embed.columns.types import token_vectors_type
from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.models.modules import MultiVector, VectorModule
from dask_embed.models.sentence import QueryExpansion
from dask_embed.models.tokenizers import tokenizer_of
from dask_embed.operators.model import ModelOperator
from dask_embed.tokens.encoded import Encoded, Row
from dask_embed.tokens.lists import TokenLists
from dask_embed.tokens.sharing import joined

if TYPE_CHECKING:
    import torch

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
            _expansion_id(tokenizer_of(self.spec), expansion, self.spec.name)
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

    def load(self, runner: Runner) -> _Interaction:
        checkpoint, tokenizer = runner.loaded.checkpoint, runner.loaded.tokenizer
        rules, expansion = checkpoint.multi_vector, self.expansion(checkpoint)
        assert rules is not None, "output_types has seen it"
        filler = -1
        if expansion is not None:
            filler = _expansion_id(tokenizer, expansion, self.spec.name)
        skipped = _skipped(tokenizer, rules) if self.side in rules.skiplist_tasks else []
        kept = rules.keep_only_token_ids if self.side != "query" else ()
        return _Interaction(
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

    def forward(self, model: _Interaction, tokens: TokenLists) -> list[np.ndarray]:
        return model.vectors(tokens)

    def postprocess(self, model: _Interaction, chunk: Chunk) -> Mapping[str, Any]:
        dtype = token_vectors_type(self.dimension(model.runner.loaded.checkpoint))
        size = dtype.value_type.list_size
        none = np.zeros((0, size), np.float32)
        rows = [none if result is None else result for result in chunk.results]
        offsets = np.cumsum([0, *map(len, rows)]).astype(np.int32)
        flat = pa.array(np.concatenate([none, *rows]).reshape(-1))
        vectors = pa.FixedSizeListArray.from_arrays(flat, size)
        return {self.output: pa.ListArray.from_arrays(offsets, vectors)}


@dataclasses.dataclass(frozen=True)
class _Interaction:
    """A loaded model, and what becomes of the vectors of its tokens.

    Attributes
    ----------
    runner : Runner
    modules : tuple of VectorModule
        What each vector goes through.
    expansion : QueryExpansion or None
    filler : int
        The token that queries are filled up with.
    skipped, kept : numpy.ndarray
        Ids whose vectors are left out; and if there are any, those that alone are not.
    """

    runner: Runner
    modules: Sequence[VectorModule]
    expansion: QueryExpansion | None
    filler: int
    skipped: np.ndarray
    kept: np.ndarray

    def vectors(self, tokens: TokenLists) -> list[np.ndarray]:
        """Return the vectors of each text that count, float32 of shape (tokens, dimension)."""
        import torch

        from dask_embed.inference.heads import apply_modules

        filled = self._filled(tokens)
        with self.runner.session():
            hidden = self._hidden(tokens, filled)
            layers = self.runner.loaded.layers
            found = apply_modules(self.modules, layers, hidden, torch.empty(0)).cpu().numpy()
        counts = ~np.isin(filled.values, self.skipped)
        if len(self.kept):
            counts &= np.isin(filled.values, self.kept)
        ends = filled.offsets[1:-1]
        parts = zip(np.split(found, ends), np.split(counts, ends), strict=True)
        return [np.ascontiguousarray(part[chosen]) for part, chosen in parts]

    def _filled(self, tokens: TokenLists) -> TokenLists:
        """Return texts with the tokens that queries are filled up with."""
        if self.expansion is None:
            return tokens
        missing = np.maximum(self.expansion.length - tokens.lengths, 0).tolist()
        return joined(
            [
                np.append(tokens[text], np.full(count, self.filler, np.int32))
                for text, count in enumerate(missing)
            ]
        )

    def _hidden(self, tokens: TokenLists, filled: TokenLists) -> torch.Tensor:
        """Return the transformer's vectors of all tokens, one text after the other."""
        if self.expansion is None or self.expansion.attend:
            return self.runner.token_vectors(filled)
        import torch

        short = tokens.lengths < self.expansion.length
        parts: dict[int, torch.Tensor] = {}
        for texts in (np.flatnonzero(short), np.flatnonzero(~short)):
            if not len(texts):
                continue
            if short[texts[0]]:
                vectors = self._unseen(tokens, filled, texts)
            else:
                vectors = self.runner.token_vectors(filled.take(texts))
            split = vectors.split(filled.lengths[texts].tolist())
            parts |= dict(zip(texts.tolist(), split, strict=True))
        return torch.cat([parts[text] for text in range(len(tokens))])

    def _unseen(self, tokens: TokenLists, filled: TokenLists, texts: np.ndarray) -> torch.Tensor:
        """Run queries in rows of one length, whose added tokens see the others and are not seen."""
        import torch

        ids = filled.take(texts).values.astype(np.int64).reshape(len(texts), -1)
        seen = np.arange(ids.shape[1])[None] < tokens.lengths[texts][:, None]
        device = self.runner.loaded.device
        with self.runner.beside_others():
            hidden: torch.Tensor = self.runner.loaded.transformer(
                input_ids=torch.from_numpy(ids).to(device),
                attention_mask=torch.from_numpy(seen.astype(np.int64)).to(device),
            ).last_hidden_state
        return hidden.flatten(0, 1)


def _expansion_id(tokenizer: Any, expansion: QueryExpansion, name: str) -> int:
    """Return the token that queries are filled up with.

    Raises
    ------
    ValueError
        If there is none, or it would stand before the query.
    """
    found = tokenizer.mask_token_id
    if expansion.token is not None:
        found = tokenizer.convert_tokens_to_ids(expansion.token)
        unknown = tokenizer.unk_token_id
        found = None if found == unknown and expansion.token != tokenizer.unk_token else found
    elif found is None:
        found = tokenizer.eos_token_id
    if found is None:
        raise ValueError(
            f"queries of model {name!r} are filled up with {expansion.token or 'masks'!r}, which "
            "its tokenizer does not have"
        )
    if tokenizer.padding_side != "right":
        raise ValueError(
            f"queries of model {name!r} are filled up, and its tokenizer does that on the left, "
            "which is not run here"
        )
    return int(found)


def _skipped(tokenizer: Any, rules: MultiVector) -> list[int]:
    """Return the ids of the words that are left out, as far as they are single tokens."""
    ids = {word: tokenizer.convert_tokens_to_ids(word) for word in rules.skiplist_words}
    unknown = tokenizer.unk_token_id
    return [
        found
        for word, found in ids.items()
        if found is not None and (found != unknown or word == tokenizer.unk_token)
    ]
