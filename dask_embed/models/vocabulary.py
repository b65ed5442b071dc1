"""Which ids a tokenizer gives, against the embeddings that a model has for them."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dask_embed.models.modules import read_json
from dask_embed.models.sources import load_tokenizer, tokenizer_folder
from dask_embed.models.spec import Model
from dask_embed.tokens.encoded import Encoded
from dask_embed.tokens.lists import TokenLists

if TYPE_CHECKING:
    from dask_embed.models.checkpoint import Checkpoint
    from dask_embed.models.spec import Model

_TASKS_WITHOUT_TYPES = ("causal-lm", "seq2seq-lm")  # there the types of tokens are roles of ours


@dataclass(frozen=True)
class TokenIds:
    """The highest ids of a tokenizer, -1 where there are none.

    Attributes
    ----------
    learned : int
        Of its own vocabulary.
    added : int
        Of words that were added to it.
    around : int
        Of special tokens that it puts around texts.
    """

    learned: int
    added: int = -1
    around: int = -1


@dataclass(frozen=True)
class Tables:
    """How many rows the embeddings of a loaded model have, None where that is not known."""

    tokens: int | None
    types: int | None = None

    @classmethod
    def of(cls, model: Any, task: str) -> Tables:
        """Read them off a model that is loaded for `task`."""
        if task in _TASKS_WITHOUT_TYPES:
            return cls(_rows(_token_embedding(model)))
        named = (m for name, m in model.named_modules() if name.endswith("token_type_embeddings"))
        sizes = [rows for rows in map(_rows, named) if rows is not None]
        return cls(_rows(_token_embedding(model)), min(sizes, default=None))

    def within(self, encoded: Encoded[TokenLists]) -> Encoded[TokenLists]:
        """Return the rows whose tokens all have an embedding; the others are failures.

        On a GPU an id without one would end all that the process may still do there.
        """
        samples = encoded.samples
        failures = {
            **_beyond(encoded, samples.types, self.types, "token type"),
            **_beyond(encoded, samples.values, self.tokens, "token id"),
        }
        return encoded.without(failures)


def _beyond(
    encoded: Encoded[TokenLists], values: np.ndarray | None, table: int | None, what: str
) -> dict[int, str]:
    """Return the message of each row that has a value for which a table has no row."""
    if values is None or table is None or not len(values):
        return {}
    if int(values.max()) < table and int(values.min()) >= 0:
        return {}
    places = np.flatnonzero((values >= table) | (values < 0))
    sequences = np.searchsorted(encoded.samples.offsets, places, side="right") - 1
    return {
        int(encoded.rows[sequence]): f"it has the {what} {values[place]}, and the model has "
        f"embeddings up to {table - 1}"
        for place, sequence in zip(places[::-1], sequences[::-1], strict=True)
    }


def require_vocabulary(model: Model, checkpoint: Checkpoint) -> None:
    """Raise unless the model has an embedding for all that its tokenizer makes of common texts.

    Special tokens that only a text which names them gives, such as padding, may be without: where a
    text has one its row fails. So may words that were added to the checkpoint's own tokenizer, not
    those of a tokenizer that was asked for in its place.

    Raises
    ------
    ValueError
    """
    known = getattr(checkpoint.text_config, "vocab_size", None)
    if model.factory is not None or not isinstance(known, int):
        return
    own = model.tokenizer is None
    if own:
        folder, revision = checkpoint.folder, checkpoint.revision
    else:
        folder, revision = tokenizer_folder(model)
    ids = token_ids(folder, revision, model)
    highest = max(ids.learned, ids.around) if own else max(ids.learned, ids.around, ids.added)
    if highest >= known:
        whose = "its tokenizer" if own else f"tokenizer {model.tokenizer!r}"
        raise ValueError(
            f"{whose} gives tokens up to {highest}, but model {model.name!r} has embeddings up to "
            f"{known - 1}; use the tokenizer that it was trained with"
        )


def token_ids(folder: Path, revision: str, model: Model) -> TokenIds:
    """Return the highest ids of the tokenizer in a folder, from its files where they say it."""
    return _token_ids(folder, revision, model.trust_remote_code, model.name)


@functools.lru_cache(maxsize=64)
def _token_ids(folder: Path, revision: str, trusted: bool, name: str) -> TokenIds:
    file = folder / "tokenizer.json"
    if file.is_file():
        try:
            return _of_file(read_json(file))
        except (AttributeError, IndexError, KeyError, TypeError):
            pass  # written in another way, or damaged, which loading tells
    tokenizer = load_tokenizer(folder, Model(name, trust_remote_code=trusted))
    added = {place: each.special for place, each in tokenizer.added_tokens_decoder.items()}
    learned = set(tokenizer.get_vocab().values()) - added.keys()
    words = [place for place, special in added.items() if not special]
    return TokenIds(max(learned, default=-1), max(words, default=-1))


def _of_file(content: Any) -> TokenIds:
    """Return the highest ids that a tokenizer.json tells."""
    vocabulary = content["model"]["vocab"]
    by_id = {each["id"]: bool(each.get("special")) for each in content.get("added_tokens") or ()}
    ids: Iterable[int] = (
        vocabulary.values() if isinstance(vocabulary, dict) else range(len(vocabulary))
    )
    learned = max((place for place in ids if place not in by_id), default=-1)
    words = max((place for place, special in by_id.items() if not special), default=-1)
    return TokenIds(learned, words, max(_around(content.get("post_processor")), default=-1))


def _around(processor: Any) -> Iterator[int]:
    """Yield the ids of the special tokens that a post-processor puts around texts."""
    if not isinstance(processor, dict):
        return
    for part in processor.get("processors") or ():
        yield from _around(part)
    for name in ("sep", "cls"):  # of the processors that are named after BERT and RoBERTa
        if isinstance(processor.get(name), list):
            yield processor[name][1]
    for token in (processor.get("special_tokens") or {}).values():
        yield from token.get("ids", ())


def _token_embedding(model: Any) -> Any:
    """Return the module that has the embeddings of tokens, None where it is not told apart."""
    import torch
    from transformers import PreTrainedModel

    inner = [model, *model.modules()]
    known = next((each for each in inner if isinstance(each, PreTrainedModel)), None)
    if known is not None:
        try:
            return known.get_input_embeddings()
        except (NotImplementedError, AttributeError):  # CANINE's are of hashes
            return None
    found = [each for each in inner if isinstance(each, torch.nn.Embedding)]
    return found[0] if len(found) == 1 else None


def guard_tables(model: Any) -> None:
    """Let each table of a model refuse ids without a row, of which a GPU would make a crash.

    For code that is not of transformers, whose configuration need not tell how many positions there
    are.
    """
    import torch

    for name, part in model.named_modules():
        if isinstance(part, torch.nn.Embedding):
            part.register_forward_pre_hook(functools.partial(_require_rows, name))


def _require_rows(name: str, table: Any, given: tuple[Any, ...]) -> None:
    if not given or not given[0].numel():
        return
    least, most = (int(value) for value in given[0].aminmax())
    if least < 0 or most >= table.num_embeddings:
        raise ValueError(
            f"{name!r} of the model has rows up to {table.num_embeddings - 1}, and is asked for "
            f"{most if least >= 0 else least}: a text has more tokens than the model has "
            "positions (set max_length, and model_max_length in its tokenizer_config.json), or the "
            "tokenizer is not the one it was trained with"
        )


def _rows(embedding: Any) -> int | None:
    import torch

    return embedding.num_embeddings if isinstance(embedding, torch.nn.Embedding) else None
