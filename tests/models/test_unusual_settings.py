"""Models whose configuration is legal and rare, against transformers on one text alone.

The values are none that the sweep over the architectures has, whose models are of one setting each.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sweep
import transformers
from safetensors.torch import load_file, save_file
from support import built, compared

import dask_embed as de

pytestmark = pytest.mark.usefixtures("one_torch_thread")

_QUICK = 6
_LONG_ROPE = {
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 2.5, 3.0, 3.5],
    "original_max_position_embeddings": 16,
}


def rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10_000.0, **values}}


def gives_types(tokens: Any) -> None:
    tokens.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]


def pads_left(tokens: Any) -> None:
    tokens.padding_side = "left"


def without_padding(tokens: Any) -> None:
    tokens.pad_token = None


def up_to(length: int) -> Callable[[Any], None]:
    return lambda tokens: setattr(tokens, "model_max_length", length)


Case = tuple[str, str, dict[str, Any], Callable[[Any], None] | None]
CASES: list[Case] = [
    # a field whose name begins with an underscore
    ("opt", "embed", {"_remove_final_layer_norm": True}, None),
    ("roberta", "embed", {"pad_token_id": 5}, None),
    ("bert", "embed", {"pad_token_id": 7}, pads_left),
    ("gpt2", "embed", {}, gives_types),
    ("gpt2", "causal-lm", {}, gives_types),
    ("llama", "embed", rope("longrope", **_LONG_ROPE) | {"max_position_embeddings": 160}, None),
    # the rest is slow
    ("openai-gpt", "causal-lm", {}, gives_types),
    ("xlnet", "causal-lm", {"attn_type": "uni"}, None),  # takes one text at a time
    ("bert", "embed", {"pad_token_id": None}, without_padding),
    ("bert", "embed", {"type_vocab_size": 1}, gives_types),
    ("bert", "embed", {"type_vocab_size": 3}, gives_types),
    ("bert", "embed", {"max_position_embeddings": 37}, up_to(37)),
    ("bert", "embed", {"layer_norm_eps": 1e-3, "hidden_act": "relu"}, None),
    ("bert", "embed", {"is_decoder": True}, None),
    ("bert", "fill-mask", {"tie_word_embeddings": False}, None),
    ("bert", "classify", {"num_labels": 1}, None),
    ("bert", "classify", {"num_labels": 7, "problem_type": "multi_label_classification"}, None),
    ("roberta", "embed", {"max_position_embeddings": 45}, up_to(43)),
    ("roberta", "embed", {"type_vocab_size": 2}, gives_types),
    ("mpnet", "embed", {"pad_token_id": 6}, None),
    ("distilbert", "embed", {"sinusoidal_pos_embds": True}, None),
    ("electra", "fill-mask", {"embedding_size": 16}, None),
    ("albert", "embed", {"num_hidden_groups": 2, "inner_group_num": 2}, None),
    (
        "deberta-v2",
        "embed",
        {"relative_attention": True, "pos_att_type": ["c2p"], "conv_kernel_size": 3},
        None,
    ),
    ("modernbert", "classify", {"classifier_pooling": "mean", "num_labels": 1}, None),
    ("modernbert", "embed", {"local_attention": 4, "global_attn_every_n_layers": 2}, None),
    ("longformer", "embed", {"attention_window": [4, 8, 4]}, None),
    ("big_bird", "embed", {"attention_type": "original_full"}, None),
    ("esm", "embed", {"token_dropout": True, "mask_token_id": 4}, None),
    ("xlnet", "embed", {"mem_len": 7, "use_mems_eval": True}, None),
    ("xlm", "embed", {"causal": True}, None),
    ("ibert", "embed", {"quant_mode": True}, None),
    ("llama", "causal-lm", {"tie_word_embeddings": True, "attention_bias": True}, None),
    ("llama", "classify", {"num_labels": 1, "pad_token_id": None}, without_padding),
    ("llama", "embed", rope("yarn", factor=4.0, original_max_position_embeddings=16), None),
    ("mistral", "causal-lm", {"sliding_window": 3}, None),
    ("gemma3_text", "embed", {"use_bidirectional_attention": True, "sliding_window": 6}, None),
    ("gpt2", "causal-lm", {"scale_attn_by_inverse_layer_idx": True}, None),
    ("falcon", "embed", {"alibi": True}, None),
    ("falcon", "embed", {"multi_query": False, "parallel_attn": False, "bias": True}, None),
    ("cohere2", "embed", {"sliding_window": 4}, None),
    ("qwen2_moe", "embed", {"decoder_sparse_step": 2, "mlp_only_layers": [0]}, None),
    ("t5", "seq2seq-lm", {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}, None),
    ("bart", "classify", {"scale_embedding": True, "max_position_embeddings": 33}, up_to(33)),
    ("longt5", "embed", {"encoder_attention_type": "transient-global", "local_radius": 3}, None),
    ("clip", "embed", {}, pads_left),
]


@pytest.fixture(autouse=True)
def _unload() -> Iterator[None]:
    yield
    de.unload()


def class_of(kind: str, task: str) -> Any:
    found = sweep._mappings()[task][transformers.CONFIG_MAPPING[kind]]
    return found[0] if isinstance(found, tuple) else found


@pytest.mark.parametrize(
    ("kind", "task", "fields", "change"),
    [
        pytest.param(*case, id=f"{case[0]} {case[1]} {[*case[2]]}", marks=marks)
        for place, case in enumerate(CASES)
        for marks in [[] if place < _QUICK else [pytest.mark.slow]]
    ],
)
def test_equal_to_transformers(
    kind: str,
    task: str,
    fields: dict[str, Any],
    change: Callable[[Any], None] | None,
    tmp_path: Path,
) -> None:
    model_class = class_of(kind, task)
    built.save(kind, model_class, folder := tmp_path / "model", fields, change)
    expected = sweep._expected(task, model_class, folder)
    row = sweep._compared(task, model_class, folder, *expected)
    assert row["outcome"] == "equal", row


@pytest.mark.parametrize("task", ["embed", "answer"])
def test_results_that_a_configuration_wants_as_tuples(tmp_path: Path, task: str) -> None:
    model_class = class_of("bert", task)
    built.save("bert", model_class, folder := tmp_path / "model")
    expected = sweep._expected(task, model_class, folder)
    written = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(written | {"return_dict": False}))
    row = sweep._compared(task, model_class, folder, *expected)
    assert row["outcome"] == "equal", row


@pytest.mark.parametrize("task", ["embed", pytest.param("classify", marks=pytest.mark.slow)])
def test_layers_that_run_in_pieces_take_texts_of_every_length(task: str, tmp_path: Path) -> None:
    """transformers refuses those that are no multiple of the piece, whose size changes no value."""
    model_class = class_of("bert", task)
    built.save("bert", model_class, folder := tmp_path / "model")
    expected = sweep._expected(task, model_class, folder)
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"chunk_size_feed_forward": 12}))
    row = sweep._compared(task, model_class, folder, *expected)
    assert row["outcome"] == "equal", row
    with pytest.raises(ValueError, match="'chunk_size_feed_forward', which changes no result"):
        de.Model(str(folder), model_kwargs={"chunk_size_feed_forward": 3})


# ------------------------------------------------------------------------ how weights are stored
def _renamed(old: str, new: str) -> Callable[[str], str]:
    return lambda name: name.replace(old, new)


STORED: dict[str, tuple[str, Callable[[str], str]]] = {
    "of a model with a head": ("embed", lambda name: f"bert.{name}"),
    "below no head": ("classify", lambda name: name.removeprefix("bert.")),
    "old names": ("embed", _renamed("LayerNorm.weight", "LayerNorm.gamma")),
}


@pytest.mark.parametrize("how", STORED)
def test_weights_under_other_names(how: str, tmp_path: Path) -> None:
    task, renamed = STORED[how]
    model_class = class_of("bert", task)
    built.save("bert", model_class, folder := tmp_path / "model")
    file = folder / "model.safetensors"
    weights = load_file(file)
    save_file({renamed(name): each for name, each in weights.items()}, file, {"format": "pt"})
    expected = sweep._expected(task, model_class, folder)
    assert sweep._compared(task, model_class, folder, *expected)["outcome"] == "equal"
    if task == "embed":
        left = compared.embedded(folder)
        save_file(weights, file, {"format": "pt"})
        de.unload()
        assert compared.apart(compared.embedded(folder), left) == 0
