"""Tiny configurations of any architecture of transformers, by the names of its fields alone."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import transformers

LAYERS = 3
# Name of a field, the most that its numbers may be, and what it keeps its ratio to where all are
# made smaller by one factor; the first that fits counts.
_MOST: tuple[tuple[str, int, str], ...] = (
    (r"(type|types|char|phoneme|lang).*(vocab|size)|num_(labels|channels)|n_langs", 8, ""),
    (r"tokenizer_chunk_size", 10**9, ""),  # a multiple of what strides make
    (r"filters", 2, ""),
    (r"image_size|img_size|input_size|crop_size", 32, ""),
    (r"patch_size|tubelet", 8, ""),
    (
        r"max_.*(position|seq|length|len|pos)|n_positions|n_ctx|seq_len|context_len|max_position",
        160,
        "",
    ),
    (r"chunk_size_feed_forward", 0, ""),
    (r"landmark|segment_means", 64, ""),
    (r"round_up|multiple_of", 8, ""),
    (r"kv_shared|offset", 1, ""),
    (r"hash_buckets", 160, ""),
    (r"bucket", 32, ""),
    (r"window|chunk|block_size|local_att|radius|sliding|stride|span|topk$", 8, ""),
    (r"num_random_blocks|n_group|expert_group|topk_group|num_nextn|first_k_dense", 1, ""),
    (r"num_dense_layers|mtp", 1, ""),
    (r"intermediate|ffn|d_ff|n_inner|inner|hidden_dim|feed_forward|mlp_dim", 48, "width"),
    (r"experts_per|top_?k|moe_k|num_selected", 2, ""),
    (r"experts|moe_num", 4, ""),
    (r"layer_idx|layer_indices|layer_freq|interval|period|every|step|attn_idxs", 2, ""),
    (r"layers?$|n_layer|blocks?$|per_block|depth|repeats|per_stack", LAYERS, ""),
    (r"mamba.*heads|ssm.*heads", 8, "heads"),
    (
        r"head_?dim|head_size|d_kv|d_head|dim_head|kv_channels|head_width|rotary_dim|d_state",
        8,
        "head",
    ),
    (r"key_value_heads|kv_heads|query_groups|n_kv|kv_n_heads|_groups$|ngroups", 2, "heads"),
    (r"heads?$|n_head|num_heads", 4, "heads"),
    (r"rank", 16, "width"),
    (r"kernel", 3, ""),
    (r"conv|dt_", 4, ""),
    (r"vocab", 64, ""),
    (r"d_ssm", 64, "width"),
    (r"embedding_size|bottleneck", 32, "width"),
    (
        r"size|d_model|n_embd|^dim$|dim$|dims?_|embd|width|channels|units|lru|hidden|latents",
        32,
        "width",
    ),
)
_HIDDEN = ("hidden_size", "d_model", "n_embd", "dim", "d_latents")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads")
_SMALL_HEADS = 4
_ID = re.compile(r"(token_id|token_index|(?<!per_)token|_id|(?<!layer)_ids)$")
_SPECIAL = ("pad", "bos", "eos", "cls", "sep", "mask", "unk")
_VOCABULARY = re.compile(r"(?<!type_)(?<!lang_)vocab_size")
# Fields that a default leaves to the model, which some models do not take.
_LEFT_OPEN = re.compile(r"head_dim$|key_value_heads$|layer_indices$|clip_qkv$")
# What some of those take instead, and a seed without which each call draws others.
_OPEN: dict[str, Any] = {
    "deepstack_layer_map": [[0, 0]],
    "downsample_rate": "1/2",
    "hash_seed": 0,
    "indexer_budget": 16,
    "indexer_compress_ratio": 4,
    "indexer_head_dim": 8,
    "indexer_kv_heads": 1,
    "indexer_n_heads": 2,
    "mlp_layer_types": ["dense", "sparse", "sparse"],
    "moe_intermediate_size": 16,
    "sliding_window": 8,
}
_LEFT = ("transformers_version", "model_type", "architectures", "dtype", "per_layer_config")
# Fields that only checkpoints have, by the error that tells of them.
_ABSENT = re.compile(r"'(\w+)' object has no attribute '(\w+)'")
_ABSENT_VALUES = {"rope_theta": 10_000.0, "dropout_rate": 0.0, "num_hidden_layers": LAYERS}


@dataclass(frozen=True)
class Attempt:
    """What a tiny configuration does otherwise than the names of fields say.

    Attributes
    ----------
    most : mapping
        The most that fields may be, by their whole names.
    listed : bool
        Keep lists of a value for each layer, shortened.
    ids : bool
        Give ids of special tokens that the default leaves open.
    rope : tuple of int, optional
        Sections of rotary positions in more than one dimension.
    scaled : bool
        Make widths and numbers of heads smaller by one factor each, whatever they are.
    filled : bool
        Give the sizes of heads that the default leaves open.
    types : tuple of str
        Kinds of layers besides those of the default.
    own : bool
        Leave out what a configuration makes of its other fields.
    more : mapping
        Fields that are not among those of the default.
    """

    most: Mapping[str, int] = field(default_factory=dict)
    listed: bool = True
    ids: bool = False
    rope: tuple[int, ...] = ()
    scaled: bool = False
    filled: bool = False
    types: tuple[str, ...] = ()
    own: bool = False
    more: Mapping[str, int] = field(default_factory=dict)


ATTEMPTS = (
    Attempt(),
    Attempt(listed=False),
    Attempt({"num_key_value_heads": 4}),
    Attempt({"num_key_value_heads": 4}, listed=False),
    Attempt(ids=True),
    Attempt(rope=(2, 1, 1)),
    Attempt(rope=(1, 1, 0)),
    Attempt({"num_hidden_layers": 4, "num_heads": 8}),
    Attempt({"head_dim": 16, "num_attention_heads": 2}, listed=False),
    Attempt(filled=True),
    Attempt(scaled=True),
    Attempt(scaled=True, listed=False),
    Attempt(scaled=True, filled=True, types=("full_attention",)),
    Attempt(filled=True, types=("full_attention", "conv")),
    Attempt(filled=True, types=("full_attention", "sliding_attention")),
    Attempt({"hidden_size": 64}, filled=True),
    Attempt(rope=(2, 1, 1), filled=True),
    # widths and depths that are products of other fields
    Attempt({"num_hidden_layers": 8, "attention_hidden_size": 64, "attention_head_dim": 16}),
    Attempt({"num_hidden_layers": 24, "num_layers_per_stack": 3}),
    Attempt({"hidden_size": 128, "embedding_dim": 128}),
    Attempt({"num_key_value_heads": 4, "index_kpool": 4}),
    Attempt({"hidden_size": 128}, filled=True),
    Attempt(rope=(1, 1, 2)),
    Attempt({"num_key_value_heads": 4}, own=True),
    Attempt({"num_key_value_heads": 4}, own=True, filled=True),
    Attempt(
        {"num_key_value_heads": 4, "num_attention_heads": 4},
        own=True,
        more={
            **dict.fromkeys(("swa_num_attention_heads", "swa_num_key_value_heads"), 4),
            **dict.fromkeys(("swa_q_lora_rank", "swa_kv_lora_rank", "swa_head_dim"), 16),
            **dict.fromkeys(("swa_qk_nope_head_dim", "swa_qk_rope_head_dim", "swa_v_head_dim"), 8),
        },
    ),
    Attempt({"num_channels": 9, "chunk_length": 16, "visual_prompt_size": 8}),
    Attempt({"encoder_layers": 2, "decoder_layers": 2}),
)


class Absent:
    """Fields that configurations have only in checkpoints, found by what a model misses."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, Any]] = {}

    def found(self, error: Exception) -> bool:
        """Return whether an error tells of one that was not known."""
        told = _ABSENT.search(str(error)) if isinstance(error, AttributeError) else None
        if told is None or told[2] in self.of(told[1]):
            return False
        value = 3 if _ID.search(told[2]) else _ABSENT_VALUES.get(told[2])
        if value is not None:
            self._values.setdefault(told[1], {})[told[2]] = value
        return value is not None

    def of(self, name: str) -> dict[str, Any]:
        """Return the fields of a class of configurations."""
        return self._values.get(name, {})


def shrunk(
    kind: Any, tokenizer: Any, attempt: Attempt, default: Any = None, absent: Absent | None = None
) -> Any:
    """Return a tiny configuration of a class, made from its default one.

    Parameters
    ----------
    kind : type
        Class of the configuration.
    tokenizer : PreTrainedTokenizerBase
        What the vocabulary and the ids of special tokens have to fit.
    attempt : Attempt
    default : PretrainedConfig, optional
        What to shrink instead of ``kind()``.
    absent : Absent, optional
    """
    default = default or kind()
    absent = absent or Absent()
    fields = dict(_fields(default, tokenizer, attempt, absent))
    return kind(**{**attempt.more, **fields, **absent.of(kind.__name__)})


def _fields(
    default: Any, tokenizer: Any, attempt: Attempt, absent: Absent
) -> Iterator[tuple[str, Any]]:
    written = default.to_dict()
    smaller = _Smaller(attempt, written)
    layers = next((v for k, v in written.items() if re.search(r"layers$|n_layer$", k)), None)
    own = {each.name for each in dataclasses.fields(default)}
    spare = iter(range(len(tokenizer), len(tokenizer) + 24))
    if default.is_encoder_decoder:
        yield "decoder_start_token_id", 2
    for name, value in written.items():
        part = vars(default).get(name)  # attributes of heterogeneous ones raise
        if isinstance(part, transformers.PretrainedConfig):
            yield name, shrunk(type(part), tokenizer, attempt, part, absent)
        elif name in _LEFT or (attempt.own and name not in own):
            continue
        elif value is None and name in _OPEN and (attempt.filled or name == "hash_seed"):
            yield name, _OPEN[name]
        elif value is None and name == "vocabulary_map":
            yield name, {each: next(spare) for each in ("<image>", "<|extra_200|>")}
        elif _VOCABULARY.search(name) and isinstance(value, int | None):
            yield name, len(tokenizer) + 24
        elif _ID.search(name) and isinstance(value, int | list) and not isinstance(value, bool):
            yield name, _ids(name, value, tokenizer, spare)
        elif _ID.search(name) and value is None and attempt.ids:
            yield name, _ids(name, 0, tokenizer, spare)
        elif name == "layer_types" and attempt.types:
            yield name, _types(value, attempt)
        elif isinstance(value, list) and len(value) == layers and layers > LAYERS:
            if attempt.listed:
                yield name, _first_of_each(name, value, smaller)
        elif name == "rope_parameters" and attempt.rope:
            yield name, {**(value or {}), "mrope_section": list(attempt.rope)}
        elif name == "rope_parameters" and value == {} and attempt.types:
            rotary = {"rope_theta": 10_000.0, "rope_type": "default"}
            yield name, dict.fromkeys(_types(written.get("layer_types"), attempt), rotary)
        elif "experts" in name and value is None:
            yield name, 4
        elif attempt.filled and value is None and _LEFT_OPEN.search(name):
            yield name, [1] if name.endswith("indices") else 8 if "dim" in name else _SMALL_HEADS
        elif value is None and isinstance(written.get(f"{name[8:]}s"), list | tuple):
            yield name, written[f"{name[8:]}s"][0]  # default_language, of languages
        elif isinstance(value, dict):
            yield name, {k: smaller(str(k), v) for k, v in value.items()}
        else:
            yield name, smaller(name, value)


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


def _types(values: list[str] | None, attempt: Attempt) -> list[str]:
    """Return the kinds of layers that there are, and more, in turn."""
    kinds = list(dict.fromkeys([*(values or []), *attempt.types]))
    return (kinds * LAYERS)[:LAYERS]


def _first_of_each(name: str, values: list[Any], smaller: _Smaller) -> list[Any]:
    """Return as many values as there are layers now, each kind among them."""
    most = smaller.attempt.most.get("num_hidden_layers", LAYERS)
    kinds = [value for place, value in enumerate(values) if value not in values[:place]]
    return [smaller(name, value) for value in (kinds * most)[:most]]


class _Smaller:
    """Make the numbers of one configuration smaller."""

    def __init__(self, attempt: Attempt, written: Mapping[str, Any]) -> None:
        self.attempt = attempt
        hidden = next((written[name] for name in _HIDDEN if isinstance(written.get(name), int)), 32)
        heads = next((written[name] for name in _HEADS if isinstance(written.get(name), int)), 4)
        width = 2 ** max((hidden // 32).bit_length() - 1, 0)  # leaves 32 to 63
        by_heads = max(heads // _SMALL_HEADS, 1)
        self._factors = {"width": width, "heads": by_heads, "head": max(width // by_heads, 1)}

    def __call__(self, name: str, value: Any) -> Any:
        """Return a value of a field as small as it may be."""
        if isinstance(value, list | tuple):
            if "mrope_section" in name:
                return [2, 1, 1]
            return type(value)(self(name, each) for each in value)
        if not isinstance(value, int) or isinstance(value, bool):
            return value
        if name in self.attempt.most:
            return min(value, self.attempt.most[name])
        for pattern, most, ratio in _MOST:
            if re.search(pattern, name):
                if self.attempt.scaled and ratio and value > 0:
                    scaled = max(value // self._factors[ratio], 1)
                    return scaled if ratio == "heads" else -(-scaled // 4) * 4
                return min(value, most)
        return value
