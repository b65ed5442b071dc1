"""Small tokenizers of every kind that texts can be cut for."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import transformers
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers

from support import tiny

_CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA_3 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{_REST}"
QWEN_2 = rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{_REST}"


def _load(trained: str) -> Tokenizer:
    return Tokenizer.from_str(trained)


def _llama_words() -> Tokenizer:
    """A vocabulary of words marked by ``▁``, none of which reaches over a space or a line."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<unk>", "<s>"], show_progress=False
    )
    backend.train_from_iterator((" ".join(text.split()) for text in tiny.corpus()), trainer)
    return backend


def _fast(backend: Tokenizer, template: str = "$A", **names: str) -> Any:
    return tiny._wrap(backend.to_str(), template, **names)


# ----------------------------------------------------------------------------- kinds that are cut
def _split(pattern: str, normalizer: Any = None, template: str = "$A") -> Any:
    special = ("<s>", "</s>")
    backend = _load(tiny._train("byte-level bpe", special))
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return _fast(backend, template)


def _llama_2() -> Any:
    backend = _llama_words()
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    written = json.loads(backend.to_str())
    written["pre_tokenizer"] = None
    return _fast(_load(json.dumps(written)), "<s> $A", bos_token="<s>")


def _gemma() -> Any:
    backend = _llama_words()
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")
    return _fast(backend, "<s> $A", bos_token="<s>")


def charsmap(replacements: dict[str, str]) -> bytes:
    """Return a map of characters in the format of SentencePiece: a double array and texts.

    Every node has a block of 256 units to itself, so the search for free places is trivial.
    """
    texts = bytearray()
    trie: dict[Any, Any] = {}
    for key, text in replacements.items():
        node = trie
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node["leaf"] = len(texts)
        texts += text.encode() + b"\0"
    units = [0] * 256
    pending = [(0, trie)]
    while pending:
        place, node = pending.pop()
        base = len(units)
        units += [0] * 256
        units[place] |= (place ^ base) << 10
        if "leaf" in node:
            units[place] |= 1 << 8
            units[base] = node["leaf"] | 1 << 31
        for byte, child in node.items():
            if byte != "leaf":
                units[base ^ byte] = byte
                pending.append((base ^ byte, child))
    return struct.pack("<I", 4 * len(units)) + struct.pack(f"<{len(units)}I", *units) + bytes(texts)


def precompiled() -> Any:
    """The better known part of SentencePiece's ``nmt_nfkc``."""
    letters = {"ﬁ": "fi", "①": "1", "Ａ": "A", "Ｂ": "B", "ﹰ": " \u064b", "½": "1\u20442"}
    spaces = dict.fromkeys(
        ("\t", "\n", "\r", "\u00a0", "\u2003", "\u3000", "\u202f", "\u200b"), " "
    )
    dropped = dict.fromkeys(("\x0b", "\u200d", "\u00ad"), "")
    return normalizers.Precompiled(charsmap({**letters, **spaces, **dropped}))


def _sentencepiece(*steps: Any) -> Any:
    backend = _load(tiny._train("unigram", ("<pad>", "</s>", "<unk>")))
    backend.normalizer = normalizers.Sequence(list(steps))
    return _fast(backend, "$A </s>", eos_token="</s>")


def _t5() -> Any:
    spaces = normalizers.Replace(Regex(" {2,}"), "▁")
    return _sentencepiece(precompiled(), normalizers.Strip(left=False, right=True), spaces)


def _xlnet() -> Any:
    return _sentencepiece(
        normalizers.Replace("``", '"'),
        normalizers.Replace("''", '"'),
        normalizers.NFKD(),
        normalizers.StripAccents(),
        normalizers.Lowercase(),
        precompiled(),
        normalizers.Replace(Regex(" {2,}"), " "),
    )


def _word_level() -> Any:
    backend = Tokenizer(models.WordLevel(unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>"], show_progress=False)
    backend.train_from_iterator(tiny.corpus(), trainer)
    return _fast(backend, unk_token="<unk>")


def _gpt() -> Any:
    """The kind of the first GPT: ends of words are marked."""
    backend = Tokenizer(models.BPE(unk_token="<unk>", end_of_word_suffix="</w>"))
    backend.normalizer = normalizers.BertNormalizer()
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=500,
        special_tokens=["<unk>"],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    backend.train_from_iterator(tiny.corpus(), trainer)
    return _fast(backend, unk_token="<unk>")


KINDS: dict[str, Callable[[], transformers.PreTrainedTokenizerFast]] = {
    "wordpiece": tiny.wordpiece,
    "wordpiece-cased": lambda: tiny.wordpiece(lowercase=False),
    "bpe": lambda: tiny.bpe("<s> $A </s>"),
    "bpe-plain": lambda: tiny.bpe("$A"),
    "byte-level": tiny.byte_level_bpe,
    "byte-level-both": tiny.ARCHITECTURES["roberta"].tokenizer,
    "llama-3": lambda: _split(LLAMA_3, template="<s> $A"),
    "qwen-2": lambda: _split(QWEN_2, normalizers.NFC(), "$A </s>"),
    "unigram": tiny.unigram,
    "unigram-both": tiny.ARCHITECTURES["albert"].tokenizer,
    "t5": _t5,
    "xlnet": _xlnet,
    "llama-2": _llama_2,
    "gemma": _gemma,
    "word-level": _word_level,
    "gpt": _gpt,
}
