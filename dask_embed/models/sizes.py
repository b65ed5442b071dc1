"""How many tokens a model takes, and how many values a token vector has, by its configuration."""

from __future__ import annotations

import functools
import sys
from typing import Any

from dask_embed.models.classes import plain_class

# Fields that say for how many tokens a model has positions, the first that is there.
_POSITION_LIMITS = (
    *("max_position_embeddings", "max_encoder_position_embeddings", "max_source_positions"),
    *("max_seq_len", "max_sequence_length"),
)
# Where the last hidden states have another size than `hidden_size`, the field that says which.
_PROJECTED = {"opt": "word_embed_proj_dim", "embedding_gemma2_text": "embedding_dim"}
# Last hidden states of these are those of two streams side by side.
_STREAMS = {"reformer": 2}
# Learned positions of models with this function start after the padding id, so the position table
# holds pad_token_id + 1 rows that no token uses.
_POSITIONS_AFTER_PADDING = "create_position_ids_from_input_ids"


def position_limit(config: Any, whole: Any = None) -> int | None:
    """Return the most tokens that a model has positions for, None where nothing limits them.

    Of a part, whose code is that of the `whole`.
    """
    given = (getattr(config, name, None) for name in _POSITION_LIMITS)
    limit = next((value for value in given if isinstance(value, int) and value > 0), None)
    padding = getattr(config, "pad_token_id", None)
    kinds: set[Any] = {type(config), type(whole or config)}
    if limit is None or padding is None or not any(map(_begins_after_padding, kinds)):
        return limit
    return limit - padding - 1


@functools.lru_cache(maxsize=64)
def _begins_after_padding(config: Any) -> bool:
    """Return whether models of this configuration number positions from the padding id on."""
    model = plain_class(config)
    if model is None:
        return False
    code = vars(sys.modules[model.__module__])
    # sinusoidal positions are computed and have no end
    parts = [
        vars(each) for name, each in code.items() if isinstance(each, type) and "Sinus" not in name
    ]
    return any(_POSITIONS_AFTER_PADDING in part for part in (code, *parts))


def vector_size(config: Any) -> int | None:
    """Return the number of values of a token vector, None where the configuration does not say."""
    # OPT projects its hidden states to the size of the embeddings, EmbeddingGemma 2 to its own
    projected = _PROJECTED.get(config.model_type)
    size = getattr(config, projected or "hidden_size", None)
    size = size or getattr(config, "hidden_size", None)
    if size is None:  # BLT, whose bytes are read by a part and written by another
        size = getattr(getattr(config, "decoder_config", None), "hidden_size", None)
    return size * _STREAMS.get(config.model_type, 1) if isinstance(size, int) else None
