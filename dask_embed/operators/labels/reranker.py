"""Texts to how well they answer a query."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
from collections.abc import Hashable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa

from dask_embed._validation import one_of, require_one_prompt, shown, text_or_none
from dask_embed.columns.types import vector_type
from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.models.modules import read_json
from dask_embed.operators.labels.base import stacked
from dask_embed.operators.labels.classifier import labels_of
from dask_embed.operators.model import ModelOperator
from dask_embed.tokens.encoded import Encoded, Row

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dask_embed.inference.rows import Chunk
    from dask_embed.inference.runner import Runner
    from dask_embed.tokens.lists import TokenLists

ACTIVATIONS = {
    "identity": "torch.nn.Identity",
    "sigmoid": "torch.nn.Sigmoid",
    "softmax": "torch.nn.Softmax",
    "tanh": "torch.nn.Tanh",
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reranker(ModelOperator):
    """Append how well each text answers a query; lazy on a Dask DataFrame.

    Parameters
    ----------
    model : str, Path or Model
        A cross-encoder: a checkpoint with a head for sequence classification, such as the
        CrossEncoder models of sentence-transformers.
    column : str
        The text column: documents, passages, answers.
    query : str, optional
        One query for all rows.
    query_column : str, optional
        A text column with a query for each row; this or `query` must be given.
    output : str
        The column to append: float32. A model of several labels gives a vector of float32 (a
        fixed-size list), one value a label.
    activation : {"auto", "identity", "sigmoid", "softmax", "tanh"}
        From logits to scores. ``"auto"`` is what the checkpoint says, and where it says nothing
        sigmoid for one label, none for several.
    prompt : str, optional
        Text put before every query.
    prompt_name : str, optional
        Name of a prompt of the checkpoint; by default its `default_prompt_name`.
    max_length, on_long, padding_side, batch_size, tokens_per_batch, on_error
        See `ModelOperator`. Of a pair that is too long the longer text is cut first.

    Raises
    ------
    TypeError, ValueError
        When it is made or applied, before any work, if an argument, a column or the checkpoint
        does not fit: no or two queries, a model that answers in words or through a chat template.

    Examples
    --------
    The best ten of all rows; only scores and row numbers of each partition's best meet::

        scored = de.Reranker("owner/cross-encoder", query="How are partitions shuffled?")(ddf)
        scored.nlargest(10, "rerank_score").compute()

    Notes
    -----
    An activation of the checkpoint's own is imported only with ``trust_remote_code=True``;
    without it, classes of ``torch.nn`` alone. A pair without any token gets null.

    Source: sentence-transformers' ``CrossEncoder.predict``; Nogueira and Cho, "Passage Re-ranking
    with BERT", 2019.
    """

    method: ClassVar[str] = "rerank"

    column: str = "text"
    query: str | None = None
    query_column: str | None = None
    output: str = "rerank_score"
    activation: str = "auto"
    prompt: str | None = None
    prompt_name: str | None = None

    incidental: ClassVar[frozenset[str]] = frozenset({"column", "query_column", "prompt_name"})

    task: ClassVar[str] = "classify"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.query is None) == (self.query_column is None):
            raise ValueError(
                "give query, one text for all rows, or query_column, the name of a column; got "
                f"query={shown(self.query)} and query_column={shown(self.query_column)}"
            )
        one_of("activation", self.activation, ("auto", *ACTIVATIONS))
        text_or_none("query", self.query)
        require_one_prompt(self.prompt, self.prompt_name)

    def output_types(self, checkpoint: Checkpoint) -> dict[str, pa.DataType]:
        self._prompt(checkpoint)
        path = self._activation(checkpoint)
        if path.startswith("torch.nn."):  # others may be installed on workers alone
            _load_activation(path)
        _require_plain_pairs(checkpoint)
        count = len(labels_of(checkpoint))
        return {self.output: pa.float32() if count == 1 else vector_type(count)}

    def describe(self, checkpoint: Checkpoint) -> str:
        asked = f"column {self.query_column!r}" if self.query is None else repr(self.query)
        name = self._activation(checkpoint).rpartition(".")[2]
        return f"{name} of {len(labels_of(checkpoint))} logits, query {asked:.60}"

    def resolved(self) -> dict[str, Any]:
        checkpoint = read_checkpoint(self.spec)
        return {
            **super().resolved(),
            "prompt": self._prompt(checkpoint),
            "activation": self._activation(checkpoint),
        }

    def load(self, runner: Runner) -> Any:
        """Return the runner and the activation."""
        return runner, _load_activation(self._activation(runner.loaded.checkpoint))

    def encode(self, runner: Runner, rows: list[Row]) -> Encoded:
        prompt = self._prompt(runner.loaded.checkpoint)
        pairs: list[Row]
        if self.query is None:
            pairs = [(prompt + query, text) for text, query in rows]
        else:
            pairs = [(prompt + self.query, text) for (text,) in rows]
        return super().encode(runner, pairs)

    def tokens_key(self) -> Hashable:
        prompt = self._prompt(read_checkpoint(self.spec))
        return (super().tokens_key(), prompt, self.query)

    def forward(self, model: Any, tokens: TokenLists) -> Any:
        runner, activation = model
        logits = runner.logits(tokens)
        # a sigmoid would make a fair number of an infinite one
        return activation(logits).masked_fill(~logits.isfinite(), float("nan"))

    def postprocess(self, model: Any, chunk: Chunk) -> Mapping[str, Any]:
        runner, _ = model
        count = len(labels_of(runner.loaded.checkpoint))
        scores, valid = stacked(chunk.results, count)
        if count == 1:
            return {self.output: pa.array(scores[:, 0], mask=~valid)}
        flat = pa.array(scores.reshape(-1))
        mask = pa.array(~valid)
        return {self.output: pa.FixedSizeListArray.from_arrays(flat, count, mask=mask)}

    def special_tokens(self, tokenizer: PreTrainedTokenizerBase) -> int:
        return tokenizer.num_special_tokens_to_add(pair=True)

    def _activation(self, checkpoint: Checkpoint) -> str:
        """Return the path of the class that turns logits into scores."""
        if self.activation != "auto":
            return ACTIVATIONS[self.activation]
        path = _saved_activation(checkpoint)
        if path is None:
            single = len(labels_of(checkpoint)) == 1
            return ACTIVATIONS["sigmoid" if single else "identity"]
        if not path.startswith("torch.nn.") and not self.spec.trust_remote_code:
            raise ValueError(
                f"model {self.spec.name!r} has the activation {path!r}; without "
                "dask_embed.Model(..., trust_remote_code=True) only classes of torch.nn can be "
                f"run. Or say which one to apply: activation= one of {', '.join(ACTIVATIONS)}"
            )
        return path

    def _prompt(self, checkpoint: Checkpoint) -> str:
        """Return the text before every query."""
        if self.prompt is not None:
            return self.prompt
        return checkpoint.sentence.prompt(self.prompt_name) or ""


def _saved_activation(checkpoint: Checkpoint) -> str | None:
    """Return the path of the activation as sentence-transformers 6, 4 or older saved it."""
    path = _settings(checkpoint, "config_sentence_transformers.json").get("activation_fn")
    if path is None:
        saved = getattr(checkpoint.config, "sentence_transformers", None) or {}
        older = getattr(checkpoint.config, "sbert_ce_default_activation_function", None)
        path = saved.get("activation_fn") if "activation_fn" in saved else older
    if not isinstance(path, str | None):
        raise ValueError(
            f"the activation of {str(checkpoint.root)!r} must be the path of a class, got "
            f"{shown(path)}"
        )
    return path


def _require_plain_pairs(checkpoint: Checkpoint) -> None:
    """Raise where sentence-transformers would write a chat in place of a pair of texts."""
    kinds = _settings(checkpoint, "sentence_bert_config.json").get("modality_config")
    if kinds is None:
        written = _settings(checkpoint, "tokenizer_config.json").get("chat_template")
        templated = bool(written) or any(checkpoint.folder.glob("chat_template.j*"))
    else:
        templated = "message" in kinds
    if templated:
        raise ValueError(
            f"checkpoint {str(checkpoint.root)!r} puts query and text through a chat template, "
            "which a Reranker cannot do; it takes cross-encoders that read a pair of texts"
        )


def _settings(checkpoint: Checkpoint, name: str) -> dict[str, Any]:
    """Return a json file of the checkpoint, empty where there is none."""
    folder = checkpoint.root if name.startswith("config_") else checkpoint.folder
    return read_json(folder / name) if (folder / name).is_file() else {}


def _load_activation(path: str) -> Any:
    """Return an instance of the class at `path`, over the last axis where it has one.

    Raises
    ------
    ValueError
        If there is no such class.
    """
    import torch

    package, _, name = path.rpartition(".")
    module = torch.nn if path.startswith("torch.nn.") else importlib.import_module(package)
    cls = getattr(module, name, None)
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        raise ValueError(f"the activation must be a class of torch modules, got {shown(path)}")
    over_last = "dim" in inspect.signature(cls).parameters
    return cls(dim=-1) if over_last else cls()
