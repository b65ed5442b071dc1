"""Memory of the keys and values of texts under way."""

from __future__ import annotations

from typing import Any

import torch

from dask_embed.inference.memory import Budget, Usage

# Names that configurations have for the size of a head and for heads that hold keys and values,
# some of them for a part of the layers: the largest is taken for all.
_SIZES = (
    *("head_dim", "d_kv", "d_head", "dim_head", "kv_channels", "attention_head_dim"),
    *("attention_head_size", "global_head_dim", "swa_head_dim", "qk_head_dim", "v_head_dim"),
)
_KEPT = ("num_key_value_heads", "num_global_key_value_heads", "swa_num_key_value_heads")
_ATTENDING = ("num_attention_heads", "num_decoder_attention_heads")
_LAYERS = ("num_hidden_layers", "num_decoder_layers")


def state_values(config: Any) -> int:
    """Return how many numbers a decoder keeps of a token: keys and values of all its layers.

    Never too few for models with attention alone: layers that keep a window of tokens, or share
    keys and values with others, count like those that keep all. States that do not grow with the
    text, as of recurrent layers, are not counted. Of an encoder-decoder it is what cross attention
    keeps of a token of the prompt, and as much what the decoder keeps of a new one.

    Parameters
    ----------
    config : PreTrainedConfig
        Of the whole model.
    """
    text = config.get_text_config(decoder=True)
    if getattr(text, "is_heterogeneous", False):
        return sum(_layer_values(layer) for layer in text.per_layer_config)
    # of an encoder-decoder the plain name may mean the encoder
    return max(_numbers(text, _LAYERS), default=1) * _layer_values(text)


def _layer_values(config: Any) -> int:
    """Return how many numbers a layer keeps of a token."""
    attending = max(_numbers(config, _ATTENDING), default=1)
    heads = max(_numbers(config, _KEPT), default=attending)
    own = getattr(config, "new_decoder_architecture", False)  # Falcon's has keys for every head
    if getattr(config, "multi_query", False) and not own:
        heads = 1
    if getattr(config, "kv_lora_rank", None):  # counted as every head sees them
        heads = max(heads, attending)
    rotated = sum(_numbers(config, ("qk_nope_head_dim", "qk_rope_head_dim")))
    hidden = getattr(config, "hidden_size", 1)
    size = max([*_numbers(config, _SIZES), rotated]) or -(-hidden // attending)
    return 2 * heads * size


def states_budget(model: Any, activations: float = 0.0) -> Budget:
    """Return the budget of tokens under way: what free memory allows, on a CPU any number.

    Parameters
    ----------
    model : PreTrainedModel
        On its device.
    activations : float
        Bytes that a token takes besides while its forward pass runs.
    """
    device: torch.device = model.device
    if device.type == "cpu":
        return Budget(device)
    kept = state_values(model.config) * model.dtype.itemsize
    return Budget(device, Usage(kept + activations))


def _numbers(config: Any, names: tuple[str, ...]) -> list[int]:
    found = [getattr(config, name, None) for name in names]
    return [value for value in found if isinstance(value, int) and value > 0]
