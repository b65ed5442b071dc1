"""Tiny configurations of any architecture of transformers, by the names of its fields alone."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import transformers

LAYERS = 3
# Name of a field and the most that its numbers may be; the first that fits counts.
_MOST: tuple[tuple[str, int], ...] = (
    (r"(type|types|char|phoneme|lang).*(vocab|size)|num_(labels|channels)|n_langs", 8),
    (r"image_size|img_size|input_size|crop_size", 32),
    (r"patch_size|tubelet", 8),
    (
        r"max_.*(position|seq|length|len|pos)|n_positions|n_ctx|seq_len|context_len|max_position",
        160,
    ),
    (r"chunk_size_feed_forward", 0),
    (r"landmark|segment_means", 64),
    (r"kv_shared", 1),
    (r"window|chunk|block_size|local_att|radius|sliding|stride|span|bucket|topk$", 8),
    (r"num_random_blocks|n_group|topk_group|num_nextn|first_k_dense|num_dense_layers|mtp", 1),
    (r"intermediate|ffn|d_ff|n_inner|inner|hidden_dim|feed_forward|mlp_dim", 48),
    (r"experts_per|top_?k|moe_k|num_selected", 2),
    (r"experts|moe_num", 4),
    (r"layer_idx|layer_indices|layer_freq|interval|period|every|step|attn_idxs", 2),
    (r"layers?$|n_layer|blocks?$|depth|repeats", LAYERS),
    (r"mamba.*heads|ssm.*heads", 8),
    (r"head_dim|head_size|d_kv|d_head|dim_head|kv_channels|head_width|rotary_dim|d_state", 8),
    (r"key_value_heads|kv_heads|query_groups|n_kv|kv_n_heads|_groups$|ngroups", 2),
    (r"heads?$|n_head|num_heads", 4),
    (r"rank", 16),
    (r"kernel", 3),
    (r"conv|dt_", 4),
    (r"vocab", 64),
    (r"d_ssm", 64),
    (r"embedding_size|bottleneck", 32),
    (r"size|d_model|n_embd|^dim$|dim$|dims?_|embd|width|channels|units|lru|hidden", 32),
)
_ID = re.compile(r"(token_id|token_index|token|_id|_ids)$")
_SPECIAL = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")
_VOCABULARY = re.compile(r"(?<!type_)(?<!lang_)vocab_size")
_LEFT = ("transformers_version", "model_type", "architectures", "dtype", "per_layer_config")
# What another attempt does otherwise.
ATTEMPTS: tuple[dict[str, Any], ...] = (
    {},
    {"listed": False},
    {"most": {"num_key_value_heads": 4}},
    {"most": {"num_key_value_heads": 4}, "listed": False},
    {"ids": True},
    {"rope": [2, 1, 1]},
    {"rope": [1, 1, 0]},
    {"most": {"num_hidden_layers": 4, "num_heads": 8}},
    {"most": {"head_dim": 16, "num_attention_heads": 2}, "listed": False},
)


def shrunk(kind: Any, tokenizer: Any, attempt: dict[str, Any], default: Any = None) -> Any:
    """Return a tiny configuration of a class, made from its default one.

    Parameters
    ----------
    kind : type
        Class of the configuration.
    tokenizer : PreTrainedTokenizerBase
        What the vocabulary and the ids of special tokens have to fit.
    attempt : dict
        One of `ATTEMPTS`.
    default : PretrainedConfig, optional
        What to shrink instead of ``kind()``.
    """
    default = default or kind()
    fields = dict(_fields(default, tokenizer, attempt))
    return kind(**fields)


def _fields(default: Any, tokenizer: Any, attempt: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    written = default.to_dict()
    layers = next((v for k, v in written.items() if re.search(r"layers$|n_layer$", k)), None)
    spare = iter(range(len(tokenizer), len(tokenizer) + 24))
    if default.is_encoder_decoder:
        yield "decoder_start_token_id", 2
    for name, value in written.items():
        part = vars(default).get(name)  # attributes of heterogeneous ones raise
        if isinstance(part, transformers.PretrainedConfig):
            yield name, shrunk(type(part), tokenizer, attempt, part)
        elif name in _LEFT:
            continue
        elif _VOCABULARY.search(name) and isinstance(value, int | None):
            yield name, len(tokenizer) + 24
        elif _ID.search(name) and isinstance(value, int | list) and not isinstance(value, bool):
            yield name, _ids(name, value, tokenizer, spare)
        elif _ID.search(name) and value is None and "ids" in attempt:
            yield name, _ids(name, 0, tokenizer, spare)
        elif isinstance(value, list) and len(value) == layers and layers > LAYERS:
            if attempt.get("listed", True):
                yield name, _first_of_each(name, value, attempt)
        elif name == "rope_parameters" and "rope" in attempt:
            yield name, {**(value or {}), "mrope_section": attempt["rope"]}
        elif "experts" in name and value is None:
            yield name, 4
        elif isinstance(value, dict):
            yield name, {k: _smaller(k, v, attempt) for k, v in value.items()}
        else:
            yield name, _smaller(name, value, attempt)


def _ids(name: str, value: Any, tokenizer: Any, spare: Iterator[int]) -> Any:
    """Return ids of tokens that there are; those of images and the like are no words."""
    for special in _SPECIAL:
        if name.startswith(special) or f"_{special}_" in name:
            given = getattr(tokenizer, f"{special}_token_id")
            return given if given is not None else 3 if special == "eos" else 2
    if name == "decoder_start_token_id":
        return 2
    if isinstance(value, list):
        return [next(spare) for _ in value]
    return next(spare) if isinstance(value, int) else value


def _first_of_each(name: str, values: list[Any], attempt: dict[str, Any]) -> list[Any]:
    """Return as many values as there are layers now, each kind among them."""
    most = attempt.get("most", {}).get("num_hidden_layers", LAYERS)
    kinds = [value for place, value in enumerate(values) if value not in values[:place]]
    cut = [_smaller(name, value, attempt) for value in [*kinds, *values]]
    return cut[:most]


def _smaller(name: str, value: Any, attempt: dict[str, Any]) -> Any:
    if isinstance(value, list | tuple):
        if "mrope_section" in name:
            return [2, 1, 1]
        return type(value)(_smaller(name, each, attempt) for each in value)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    most = attempt.get("most", {}).get(name)
    if most is None:
        most = next((most for pattern, most in _MOST if re.search(pattern, name)), value)
    return min(value, most)
