"""Tiny checkpoints with random weights, made on the spot: no network, always the same.

Every weight is drawn large, so that each layer changes its input visibly: an error in the
attention, the positions or the biases of one layer shows in the result.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

HIDDEN = 32
POSITIONS = 64  # the longest sequence of every checkpoint, special tokens included
WINDOW = 8  # of the models with sliding-window attention
_VOCABULARY = 400
_SCALE = 0.25
_SIZES = {
    "hidden_size": HIDDEN,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "max_position_embeddings": POSITIONS,
}


# ---------------------------------------------------------------------------------- tokenizers
@functools.cache
def corpus() -> tuple[str, ...]:
    """Docstrings of the standard library, longest 400 characters."""
    import argparse
    import collections
    import decimal
    import logging
    import pathlib
    import statistics
    import subprocess
    import textwrap

    found = []
    for module in (
        argparse,
        collections,
        decimal,
        logging,
        pathlib,
        statistics,
        subprocess,
        textwrap,
    ):
        for value in vars(module).values():
            members = vars(value).values() if inspect.isclass(value) else ()
            found += [
                text[:400]
                for each in (value, *members)
                if callable(each) and isinstance(text := inspect.getdoc(each), str)
            ]
    return tuple(sorted(set(found)))


def mixed_texts() -> list[str]:
    """Short and long, empty, one letter, more than ASCII, and a repeat."""
    first = "Return the LINES of a file."
    odd = "Ünïcode, 日本語 and  two\n lines\tof it "
    return [first, corpus()[50], "", "x", odd, corpus()[9], first]


@functools.cache
def _train(kind: str, special: tuple[str, ...], lowercase: bool = True) -> str:
    """Return a trained tokenizer as json, the same in every process."""
    arguments = {
        "vocab_size": _VOCABULARY,
        "special_tokens": list(special),
        "show_progress": False,
    }
    if kind == "wordpiece":
        tokenizer = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        trainer = trainers.WordPieceTrainer(**arguments)
    elif kind == "byte-level bpe":
        tokenizer = tokenizers.Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(initial_alphabet=alphabet, **arguments)
    elif kind == "bpe":
        tokenizer = tokenizers.Tokenizer(models.BPE(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.BpeTrainer(**arguments)
    else:
        tokenizer = tokenizers.Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(unk_token="<unk>", **arguments)
    tokenizer.train_from_iterator(corpus(), trainer)
    return _ordered(tokenizer.to_str(), special)


def _ordered(trained: str, special: tuple[str, ...]) -> str:
    """Put the vocabulary in order: the trainers of WordPiece and Unigram leave it to chance."""
    tokenizer = json.loads(trained)
    kind, vocabulary = tokenizer["model"]["type"], tokenizer["model"]["vocab"]
    if kind == "WordPiece":
        pieces = [*special, *sorted(set(vocabulary) - set(special))]
        tokenizer["model"]["vocab"] = {piece: index for index, piece in enumerate(pieces)}
    elif kind == "Unigram":
        first = len(special)
        others = sorted([piece, round(score, 3)] for piece, score in vocabulary[first:])
        tokenizer["model"]["vocab"] = vocabulary[:first] + others
    return json.dumps(tokenizer)


def _wrap(trained: str, template: str, **special: Any) -> transformers.PreTrainedTokenizerFast:
    """Put `template` ("<s> $A </s>") around every text."""
    tokenizer = tokenizers.Tokenizer.from_str(trained)
    around = {piece for piece in template.split() if not piece.startswith("$")}
    if around:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=template,
            special_tokens=[(piece, tokenizer.token_to_id(piece)) for piece in sorted(around)],
        )
    return transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def wordpiece(lowercase: bool = True) -> transformers.PreTrainedTokenizerFast:
    """The kind of BERT: ``[CLS] text [SEP]``."""
    names = {f"{name}_token": f"[{name.upper()}]" for name in ("pad", "unk", "cls", "sep", "mask")}
    trained = _train("wordpiece", tuple(names.values()), lowercase)
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return _wrap(trained, "[CLS] $A [SEP]", model_input_names=inputs, **names)


def byte_level_bpe(
    special: tuple[str, ...] = (), template: str = "$A", **names: str
) -> transformers.PreTrainedTokenizerFast:
    """The kind of GPT-2, RoBERTa and Llama 3; by default without any special token."""
    return _wrap(_train("byte-level bpe", special), template, **names)


def bpe(template: str = "<s> $A", **names: str) -> transformers.PreTrainedTokenizerFast:
    """The kind of Llama 2 and Gemma: words marked by ``▁``."""
    trained = _train("bpe", ("<pad>", "<unk>", "<s>", "</s>"))
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", **names}
    return _wrap(trained, template, **names)


def unigram(
    special: tuple[str, ...] = ("<pad>", "</s>", "<unk>"),
    template: str = "$A </s>",
    **names: str,
) -> transformers.PreTrainedTokenizerFast:
    """The kind of T5, ALBERT and DeBERTa: by default ``text </s>``."""
    names = names or {"eos_token": "</s>"}
    names = {"pad_token": "<pad>", "unk_token": "<unk>", **names}
    return _wrap(_train("unigram", special), template, **names)


def _roberta_tokenizer() -> transformers.PreTrainedTokenizerFast:
    return byte_level_bpe(
        ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
        "<s> $A </s>",
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
    )


def _sentencepiece_tokenizer() -> transformers.PreTrainedTokenizerFast:
    return unigram(
        ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
        "[CLS] $A [SEP]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
    )


def _bos_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Begin with a token, as Llama 3; there is no padding token."""
    special = ("<|begin|>", "<|end|>")
    names = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
    return byte_level_bpe(special, "<|begin|> $A", **names)


def _eos_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """End with a token, as the Qwen3 embedding models."""
    names = {"eos_token": "<|end|>", "pad_token": "<|end|>"}
    return byte_level_bpe(("<|end|>",), "$A <|end|>", **names)


# ------------------------------------------------------------------------------- architectures
@dataclasses.dataclass(frozen=True)
class Architecture:
    """How a tiny checkpoint is made, and what holds for it.

    Attributes
    ----------
    tokenizer : callable
    config : callable
        Vocabulary size to configuration.
    packed : bool
        The library is expected to run it without padding.
    whole : type
        The class of the saved model.
    """

    tokenizer: Callable[[], transformers.PreTrainedTokenizerFast]
    config: Callable[[int], transformers.PretrainedConfig]
    packed: bool
    whole: Any = transformers.AutoModel


def _bert(vocabulary: int) -> Any:
    return transformers.BertConfig(vocab_size=vocabulary, **_SIZES)


def _roberta(vocabulary: int) -> Any:
    sizes = {**_SIZES, "max_position_embeddings": POSITIONS + 2}
    return transformers.RobertaConfig(vocab_size=vocabulary, pad_token_id=1, **sizes)


def _distilbert(vocabulary: int) -> Any:
    return transformers.DistilBertConfig(
        vocab_size=vocabulary,
        dim=HIDDEN,
        hidden_dim=48,
        n_layers=3,
        n_heads=4,
        max_position_embeddings=POSITIONS,
    )


def _albert(vocabulary: int) -> Any:
    return transformers.AlbertConfig(vocab_size=vocabulary, embedding_size=16, **_SIZES)


def _mpnet(vocabulary: int) -> Any:
    sizes = {**_SIZES, "max_position_embeddings": POSITIONS + 2}
    return transformers.MPNetConfig(vocab_size=vocabulary, pad_token_id=1, **sizes)


def _deberta_v2(vocabulary: int) -> Any:
    return transformers.DebertaV2Config(
        vocab_size=vocabulary,
        relative_attention=True,
        position_buckets=8,
        norm_rel_ebd="layer_norm",
        share_att_key=True,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        **_SIZES,
    )


def _modernbert(vocabulary: int) -> Any:
    return transformers.ModernBertConfig(
        vocab_size=vocabulary,
        local_attention=2 * WINDOW,
        global_attn_every_n_layers=2,
        pad_token_id=0,
        cls_token_id=2,
        sep_token_id=3,
        bos_token_id=2,
        eos_token_id=3,
        **_SIZES,
    )


def _t5(vocabulary: int) -> Any:
    return transformers.T5Config(
        vocab_size=vocabulary,
        d_model=HIDDEN,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
    )


def bart(vocabulary: int) -> Any:
    """Return the configuration of a BART whose ids are those of `unigram`."""
    return transformers.BartConfig(
        vocab_size=vocabulary,
        d_model=HIDDEN,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=POSITIONS,
        bos_token_id=2,
        eos_token_id=1,
        pad_token_id=0,
        decoder_start_token_id=0,
        forced_eos_token_id=None,
    )


def _decoder(cls: Any, **settings: Any) -> Callable[[int], Any]:
    def config(vocabulary: int) -> Any:
        ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": None}
        return cls(vocab_size=vocabulary, **{**_SIZES, **ids, **settings})

    return config


_PADDED = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
_GEMMA3 = {
    **_PADDED,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "sliding_window": WINDOW,
    "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
}
ARCHITECTURES = {
    "bert": Architecture(wordpiece, _bert, packed=True),
    "roberta": Architecture(_roberta_tokenizer, _roberta, packed=True),
    "distilbert": Architecture(wordpiece, _distilbert, packed=True),
    "albert": Architecture(_sentencepiece_tokenizer, _albert, packed=True),
    "mpnet": Architecture(_roberta_tokenizer, _mpnet, packed=False),
    "deberta-v2": Architecture(_sentencepiece_tokenizer, _deberta_v2, packed=False),
    "modernbert": Architecture(wordpiece, _modernbert, packed=True),
    "t5": Architecture(unigram, _t5, packed=False, whole=transformers.T5Model),
    "llama": Architecture(
        _bos_tokenizer, _decoder(transformers.LlamaConfig, num_key_value_heads=2), packed=True
    ),
    "nemotron": Architecture(
        _bos_tokenizer, _decoder(transformers.NemotronConfig, num_key_value_heads=4), packed=True
    ),
    "qwen3": Architecture(
        _eos_tokenizer,
        _decoder(
            transformers.Qwen3Config,
            num_key_value_heads=2,
            head_dim=8,
            bos_token_id=None,
            eos_token_id=0,
            pad_token_id=0,
        ),
        packed=True,
    ),
    "gpt2": Architecture(
        byte_level_bpe,
        _decoder(transformers.GPT2Config, bos_token_id=None, eos_token_id=None),
        packed=True,
    ),
    "mistral": Architecture(
        bpe,
        _decoder(
            transformers.MistralConfig,
            **{**_PADDED, "num_key_value_heads": 2, "sliding_window": WINDOW},
        ),
        packed=True,
    ),
    "gemma3": Architecture(
        functools.partial(bpe, pad_token="<pad>"),
        _decoder(transformers.Gemma3TextConfig, **_GEMMA3),
        packed=True,
    ),
    "gemma3-bidirectional": Architecture(
        functools.partial(bpe, "<s> $A </s>", pad_token="<pad>"),
        _decoder(transformers.Gemma3TextConfig, **_GEMMA3, use_bidirectional_attention=True),
        packed=True,
    ),
}


def save(name: str, folder: Path, *, lowercase: bool = True) -> Path:
    """Save the checkpoint of an architecture: configuration, safetensors and tokenizer."""
    architecture = ARCHITECTURES[name]
    tokenizer = architecture.tokenizer() if lowercase else wordpiece(lowercase=False)
    if name == "t5":  # nothing in the model limits the length
        tokenizer.model_max_length = POSITIONS
    config = architecture.config(len(tokenizer))
    torch.manual_seed(sum(map(ord, name)))
    build = architecture.whole
    model = build.from_config(config) if build is transformers.AutoModel else build(config)
    enlarge(model)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def enlarge(module: torch.nn.Module, scale: float = _SCALE) -> None:
    """Add random numbers to every parameter, biases and layer norms included."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(torch.randn_like(parameter) * scale)


# ------------------------------------------------------------------- sentence-transformers
def _transformer(base: Path, **settings: Any) -> Any:
    from sentence_transformers.sentence_transformer.modules import Transformer

    return Transformer(str(base), **settings)


def _save_sentence(folder: Path, transformer: Any, *head: Any, **settings: Any) -> Path:
    """Save a SentenceTransformer of the given modules, the weights of its head redrawn."""
    from sentence_transformers import SentenceTransformer

    torch.manual_seed(len(folder.name))
    for module in head:
        enlarge(module)
    model = SentenceTransformer(modules=[transformer, *head], device="cpu", **settings)
    model.save(str(folder), create_model_card=False)
    return folder


def _pooling(*modes: str, **settings: Any) -> Any:
    from sentence_transformers.sentence_transformer.modules import Pooling

    return Pooling(HIDDEN, modes or "mean", **settings)


def _dense(in_features: int, out_features: int, **settings: Any) -> Any:
    from sentence_transformers.sentence_transformer.modules import Dense

    return Dense(in_features, out_features, **settings)


def _normalize() -> Any:
    from sentence_transformers.sentence_transformer.modules import Normalize

    return Normalize()


def _layer_norm(dimension: int) -> Any:
    from sentence_transformers.sentence_transformer.modules import LayerNorm

    return LayerNorm(dimension)


def _dropout() -> Any:
    from sentence_transformers.sentence_transformer.modules import Dropout

    return Dropout(0.5)


PROMPTS = {"query": "Search for: ", "document": "Document: ", "empty": ""}


def _plain(folder: Path, bases: dict[str, Path]) -> Path:
    return _save_sentence(folder, _transformer(bases["bert"]), _pooling())


def _mean_normalize(folder: Path, bases: dict[str, Path]) -> Path:
    return _save_sentence(folder, _transformer(bases["bert"]), _pooling(), _normalize())


def _dense_tanh(folder: Path, bases: dict[str, Path]) -> Path:
    # sentence-transformers takes the whole position table for the limit, the two rows that
    # RoBERTa never reaches included; folders on the Hub say their limit, as here.
    transformer = _transformer(bases["roberta"], max_seq_length=POSITIONS)
    return _save_sentence(folder, transformer, _pooling("cls"), _dense(HIDDEN, 20))


def _dense_identity(folder: Path, bases: dict[str, Path]) -> Path:
    """The shape of LaBSE and GTR: T5, two dense layers, one without a bias, normalized."""
    identity = torch.nn.Identity()
    return _save_sentence(
        folder,
        _transformer(bases["t5"]),
        _pooling(),
        _dense(HIDDEN, 48, bias=False, activation_function=identity),
        _dense(48, 24, activation_function=torch.nn.ReLU()),
        _normalize(),
    )


def _dense_residual(folder: Path, bases: dict[str, Path]) -> Path:
    return _save_sentence(
        folder,
        _transformer(bases["bert"]),
        _pooling("max"),
        _dense(HIDDEN, HIDDEN, use_residual=True),
        _dense(HIDDEN, 12, use_residual=True),
    )


def _layer_norm_dropout(folder: Path, bases: dict[str, Path]) -> Path:
    return _save_sentence(
        folder,
        _transformer(bases["distilbert"]),
        _pooling(),
        _dropout(),
        _layer_norm(HIDDEN),
        _normalize(),
    )


def _concatenated(folder: Path, bases: dict[str, Path]) -> Path:
    modes = ("weightedmean", "cls", "mean_sqrt_len_tokens", "max", "lasttoken", "mean")
    return _save_sentence(folder, _transformer(bases["modernbert"]), _pooling(*modes))


def _with_prompts(folder: Path, bases: dict[str, Path]) -> Path:
    return _save_sentence(
        folder, _transformer(bases["bert"]), _pooling(), _normalize(), prompts=PROMPTS
    )


def _default_prompt(folder: Path, bases: dict[str, Path]) -> Path:
    return _save_sentence(
        folder,
        _transformer(bases["qwen3"]),
        _pooling("lasttoken"),
        _normalize(),
        prompts=PROMPTS,
        default_prompt_name="query",
    )


def _prompt_left_out(folder: Path, bases: dict[str, Path]) -> Path:
    """The shape of INSTRUCTOR: the prompt is read but not pooled."""
    modes = ("mean", "cls", "weightedmean", "max", "lasttoken", "mean_sqrt_len_tokens")
    return _save_sentence(
        folder,
        _transformer(bases["bert"]),
        _pooling(*modes, include_prompt=False),
        prompts=PROMPTS,
        default_prompt_name="query",
    )


def _prompt_left_out_t5(folder: Path, bases: dict[str, Path]) -> Path:
    return _save_sentence(
        folder,
        _transformer(bases["t5"]),
        _pooling("mean", include_prompt=False),
        _normalize(),
        prompts=PROMPTS,
    )


def _short(folder: Path, bases: dict[str, Path]) -> Path:
    return _save_sentence(folder, _transformer(bases["bert"], max_seq_length=12), _pooling())


def _lower_case(folder: Path, bases: dict[str, Path]) -> Path:
    """A tokenizer that keeps capitals, told to lowercase by the sentence-transformers file."""
    transformer = _transformer(bases["bert-cased"])
    _save_sentence(folder, transformer, _pooling())
    settings = folder / "sentence_bert_config.json"
    written = json.loads(settings.read_text()) | {"do_lower_case": True}
    settings.write_text(json.dumps(written))
    return folder


def _truncated(folder: Path, bases: dict[str, Path]) -> Path:
    return _save_sentence(folder, _transformer(bases["bert"]), _pooling(), truncate_dim=10)


def _old_style(folder: Path, bases: dict[str, Path]) -> Path:
    """The layout of sentence-transformers 0 to 4, as most folders on the Hub have it."""
    shutil.copytree(bases["roberta"], folder / "0_Transformer")
    limits = {"max_seq_length": 20, "do_lower_case": False}
    _write_json(folder / "0_Transformer" / "sentence_roberta_config.json", limits)
    pooling = {
        "word_embedding_dimension": HIDDEN,
        "pooling_mode_cls_token": True,
        "pooling_mode_mean_tokens": True,
        "pooling_mode_max_tokens": False,
        "pooling_mode_mean_sqrt_len_tokens": True,
    }
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    modules = [
        {
            "idx": index,
            "name": str(index),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, (path, kind) in enumerate(
            [("0_Transformer", "Transformer"), ("1_Pooling", "Pooling"), ("2_Norm", "Normalize")]
        )
    ]
    _write_json(folder / "modules.json", modules)
    return folder


def add_modules(folder: Path, *modes: str) -> Path:
    """Make a plain checkpoint a sentence-transformers folder: the transformer and a pooling."""
    kinds = {"": "Transformer", "1_Pooling": "Pooling"}
    listing = [
        {
            "idx": index,
            "name": str(index),
            "path": path,
            "type": f"sentence_transformers.models.{kind}",
        }
        for index, (path, kind) in enumerate(kinds.items())
    ]
    _write_json(folder / "modules.json", listing)
    pooling = {"embedding_dimension": HIDDEN, "pooling_mode": list(modes) or "mean"}
    _write_json(folder / "1_Pooling" / "config.json", pooling)
    return folder


def add_mask(folder: Path) -> Path:
    """Make a plain checkpoint a multi-vector model: the transformer and its mask."""
    add_modules(folder)
    file = folder / "modules.json"
    first, last = json.loads(file.read_text())
    kind = "sentence_transformers.multi_vector_encoder.modules.MultiVectorMask"
    _write_json(file, [first, last | {"path": "1_MultiVectorMask", "type": kind}])
    shutil.rmtree(folder / "1_Pooling")
    _write_json(folder / "1_MultiVectorMask" / "config.json", {})
    return folder


def _write_json(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value))


# Each takes the folder to make and the folders of plain checkpoints by name.
SENTENCE_TRANSFORMERS: dict[str, Callable[[Path, dict[str, Path]], Path]] = {
    "plain": _plain,
    "mean-normalize": _mean_normalize,
    "dense-tanh": _dense_tanh,
    "dense-identity": _dense_identity,
    "dense-residual": _dense_residual,
    "layer-norm-dropout": _layer_norm_dropout,
    "concatenated": _concatenated,
    "prompts": _with_prompts,
    "default-prompt": _default_prompt,
    "prompt-left-out": _prompt_left_out,
    "prompt-left-out-t5": _prompt_left_out_t5,
    "short": _short,
    "lower-case": _lower_case,
    "truncated": _truncated,
    "old-style": _old_style,
}
SENTENCE_BASES = ("bert", "roberta", "distilbert", "modernbert", "t5", "qwen3")


def save_bases(folder: Path) -> dict[str, Path]:
    """Save the plain checkpoints that the sentence-transformers folders are made from."""
    bases = {name: save(name, folder / name) for name in SENTENCE_BASES}
    return {**bases, "bert-cased": save("bert", folder / "bert-cased", lowercase=False)}
