"""Checkpoints with the shapes of real models and random weights, and texts for them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_VOCABULARY = 30_522  # BERT's
_POSITIONS = 512
_CAUSAL = "llama"
# hidden size, layers, heads, values between; key-value heads where they are fewer
_SHAPES = {
    "minilm": (384, 6, 12, 1536, 12),
    "bert-base": (768, 12, 12, 3072, 12),
    "bert-large": (1024, 24, 16, 4096, 16),
    "llama-1b": (2048, 16, 32, 8192, 8),
}
_TINY_SHAPE = (64, 2, 4, 128, 2)
NAMES = tuple(_SHAPES)


def is_causal(name: str) -> bool:
    """Return whether the tokens of the model `name` see only those before them."""
    return name.startswith(_CAUSAL)


def save_model(name: str, folder: Path, *, device: str, dtype: str, tiny: bool) -> dict[str, int]:
    """Write a checkpoint with random weights and a tokenizer; return its shapes.

    Parameters
    ----------
    name : str
        One of `NAMES`.
    folder : Path
        Where to write; plain transformers files, which are mean-pooled.
    device : str
        Where the random numbers are drawn; a GPU is faster.
    dtype : str
        Type of the saved weights.
    tiny : bool
        Take a small shape of the same kind.
    """
    import torch
    from transformers import AutoModel

    shape = _TINY_SHAPE if tiny else _SHAPES[name]
    config = _config(name, *shape)
    torch.manual_seed(0)
    with torch.device(device):
        model = AutoModel.from_config(config, dtype=getattr(torch, dtype))
    model.save_pretrained(folder)
    _save_tokenizer(folder)
    hidden, layers, heads, between, _ = shape
    return {
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "hidden": hidden,
        "layers": layers,
        "heads": heads,
        "intermediate": between,
    }


def _config(
    name: str, hidden: int, layers: int, heads: int, between: int, kv_heads: int
) -> PretrainedConfig:
    from transformers import BertConfig, LlamaConfig

    shape: dict[str, Any] = {
        "vocab_size": _VOCABULARY,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "intermediate_size": between,
        "max_position_embeddings": _POSITIONS,
        "pad_token_id": 0,
    }
    if is_causal(name):
        return LlamaConfig(num_key_value_heads=kv_heads, **shape)
    return BertConfig(**shape)


def _save_tokenizer(folder: Path) -> None:
    """Save a WordPiece tokenizer to whose vocabulary every word of `documents` belongs."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordPiece
    from tokenizers.pre_tokenizers import Whitespace
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = [_word(number) for number in range(_VOCABULARY - len(_SPECIAL))]
    vocabulary = {token: number for number, token in enumerate([*_SPECIAL, *words])}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()
    ends = [(token, vocabulary[token]) for token in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=_POSITIONS,
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)


def uniform_lengths(count: int) -> np.ndarray:
    """Return 128 for each document: there is no padding to save."""
    return np.full(count, 128)


def mixed_lengths(count: int) -> np.ndarray:
    """Return lengths as documentation has them: many short, a long tail up to what models take."""
    drawn = np.random.default_rng(1).lognormal(mean=4.3, sigma=1.0, size=count)
    return drawn.astype(int).clip(4, _POSITIONS)


def documents(lengths: np.ndarray) -> list[str]:
    """Return texts of random words, of so many tokens, the two special ones included."""
    random = np.random.default_rng(0)
    words = np.array([_word(number) for number in range(_VOCABULARY - len(_SPECIAL))])
    return [" ".join(words[random.integers(len(words), size=length - 2)]) for length in lengths]


def _word(number: int) -> str:
    return f"w{number}"
