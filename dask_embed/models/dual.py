"""The text side of models that place texts beside images or sounds: CLIP, SigLIP and their kin.

Their `get_text_features` gives one vector of a text. Here that is the vector of each of its tokens,
so that a text is batched, judged and pooled as with any transformer.
"""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from pathlib import Path
from types import MethodType
from typing import TYPE_CHECKING, Any

from dask_embed.runtime.libraries import importing

if TYPE_CHECKING:
    import torch
    from transformers import PretrainedConfig, PreTrainedTokenizerBase

# They read a text from the last place of a row, be it padding, and so were trained on rows of one
# length (transformers' model cards: padding="max_length").
_LAST_PLACE = ("siglip_text_model", "siglip2_text_model")
# Fields that hold the size of the space that texts share with the others, the first that is there.
_WIDTHS = ("projection_dim", "projection_size", "hidden_size")
# What get_text_features calls the vector, the projected one of CLVP first.
_OUTPUTS = ("embeds", "pooler_output")


TABLE = "static-embedding"
"""What is told as the type of a table of vectors in place of a transformer."""


def has_text_side(config: PretrainedConfig) -> bool:
    """Return whether models of a configuration have vectors of texts beside others."""
    kind: Any = type(config)
    return getattr(config, "text_config", None) is not None and _gives_features(kind)


@functools.lru_cache(maxsize=64)
def _gives_features(kind: Any) -> bool:
    from transformers import MODEL_MAPPING

    if kind not in MODEL_MAPPING:
        return False
    with importing():  # the code of the model
        model: Any = MODEL_MAPPING[kind]
    return hasattr(model, "get_text_features")


def text_width(config: Any) -> int:
    """Return the number of values of a text's vector."""
    parts = (config, config.get_text_config())
    found = (getattr(part, name, None) for name in _WIDTHS for part in parts)
    return next(width for width in found if isinstance(width, int))


def require_token_vectors(name: str, config: PretrainedConfig, wanted: str) -> None:
    """Raise ValueError if a model has no vectors of tokens, which is `wanted`."""
    if has_text_side(config) or config.model_type == TABLE:
        raise ValueError(
            f"{wanted} needs token vectors, and model {name!r} ({config.model_type}) gives one "
            "vector of a text; use Embedder with pooling='auto'"
        )


def require_saved_text_side(root: Path, config: PretrainedConfig) -> None:
    """Raise ValueError unless a sentence-transformers folder says what the vector of a text is."""
    if not has_text_side(config):
        raise ValueError(
            f"the sentence-transformers configuration of {str(root)!r} takes vectors of texts from "
            f"the model's get_text_features, which {config.model_type!r} does not have"
        )
    if config.get_text_config().model_type in _LAST_PLACE:
        raise ValueError(
            f"{str(root)!r} was saved by sentence-transformers, where a text's vector of "
            f"{config.model_type!r} depends on the texts of its batch; take the plain checkpoint "
            "(its config.json, weights and tokenizer), whose texts are filled up to one length"
        )


@dataclass(frozen=True)
class _Rows:
    """How the rows are filled up that a model was trained on.

    Attributes
    ----------
    length : int or None
        Of every row; None where it does not matter.
    padding : int
        Id of the padding token.
    left, masked : bool
        Padding stands before the text; the tokenizer gives a mask that hides it.
    """

    length: int | None
    padding: int
    left: bool
    masked: bool

    def of(self, ids: torch.Tensor, mask: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what the model is given for rows of real tokens where `mask` is 1."""
        real = mask.bool()
        if self.length is not None:
            texts = [row[kept] for row, kept in zip(ids, real, strict=True)]
            ids = ids.new_full((len(texts), self.length), self.padding)
            mask = ids.new_zeros(ids.shape)
            for row, text in enumerate(texts):
                place = slice(self.length - len(text), None) if self.left else slice(len(text))
                ids[row, place], mask[row, place] = text, 1
        else:
            ids = ids.masked_fill(~real, self.padding)
        return {"input_ids": ids, "attention_mask": mask} if self.masked else {"input_ids": ids}


def run_text_side(model: Any, tokenizer: PreTrainedTokenizerBase, limit: int | None) -> None:
    """Let the forward pass of a dual encoder take texts alone.

    Parameters
    ----------
    model : PreTrainedModel
    tokenizer : PreTrainedTokenizerBase
        Its padding, side and mask are those of the rows.
    limit : int or None
        Most tokens of a text.
    """
    fixed = model.config.get_text_config().model_type in _LAST_PLACE
    padding = tokenizer.pad_token_id
    model.text_rows = _Rows(
        limit if fixed else None,
        0 if padding is None else padding,
        tokenizer.padding_side == "left",
        "attention_mask" in tokenizer.model_input_names,
    )
    types = "token_type_ids" in inspect.signature(model.get_text_features).parameters
    model.forward = MethodType(_forward_with_types if types else _forward, model)


def _forward(model: Any, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
    return _features(model, input_ids, attention_mask)


def _forward_with_types(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    token_type_ids: torch.Tensor | None = None,
) -> Any:
    given = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
    return _features(model, input_ids, attention_mask, **given)


def _features(model: Any, ids: torch.Tensor, mask: torch.Tensor, **given: torch.Tensor) -> Any:
    from transformers.modeling_outputs import BaseModelOutput

    vectors = model.get_text_features(**model.text_rows.of(ids, mask), **given)
    for name in _OUTPUTS:
        vectors = getattr(vectors, name, vectors)
    if getattr(vectors, "ndim", 0) not in (2, 3):  # BLIP-2
        raise ValueError(f"get_text_features of {type(model).__name__} gives no vector of a text")
    if vectors.ndim == 2:  # FLAVA has one for each token
        vectors = vectors[:, None].expand(-1, ids.shape[1], -1)
    return BaseModelOutput(last_hidden_state=vectors)
