"""Small tokenizers that reach over spaces, each with a text that shows it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers


@dataclass(frozen=True)
class Unsafe:
    """A tokenizer and a text of which it does not tokenize the beginning as it does alone."""

    backend: Any
    text: str
    beginning: str


def _bpe(*tokens: str, **settings: Any) -> Tokenizer:
    """Single characters and tokens of two parts, each the merge of the parts before and after |."""
    merges = [tuple(token.split("|")) for token in tokens if "|" in token]
    parts = [part for merge in merges for part in (*merge, "".join(merge))]
    plain = [token for token in tokens if "|" not in token]
    vocabulary = {token: index for index, token in enumerate(dict.fromkeys([*plain, *parts]))}
    return Tokenizer(models.BPE(vocab=vocabulary, merges=merges, **settings))


def _with(
    backend: Tokenizer, normalizer: Any = None, pre_tokenizer: Any = None, added: Any = ()
) -> Tokenizer:
    if normalizer is not None:
        backend.normalizer = normalizer
    if pre_tokenizer is not None:
        backend.pre_tokenizer = pre_tokenizer
    backend.add_tokens(list(added))
    return backend


def _pieces() -> Tokenizer:
    vocabulary = {"[UNK]": 0, "a": 1, "b": 2, "ab": 3}
    return Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))


def _marked(*, character: str = "▁") -> Any:
    return normalizers.Replace(" ", character)


def _trained_over_spaces() -> Unsafe:
    backend = Tokenizer(models.BPE())
    backend.normalizer = _marked()
    trainer = trainers.BpeTrainer(vocab_size=60, show_progress=False)
    backend.train_from_iterator(["of the in the on the at the "] * 9, trainer)
    return Unsafe(backend, "of the in the", "of")


def _deepseek_llm() -> Unsafe:
    """Its pattern names the letters of scripts that have capitals: Arabic runs on over spaces."""
    pattern = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺͰ-ͳͶͷΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-Ⴥ]+"
    splits = [r"[\r\n]", pattern, r"\s?[!-/:-~！-／：-～‘-‟　-。]+", r"\s+$", "[一-龥ࠀ-一가-퟿]+"]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *(pre_tokenizers.Split(Regex(each), "isolated") for each in splits),
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator(["في كل يوم في كل عام في كل بيت"] * 9, trainer)
    return Unsafe(backend, "في كل يوم", "في")


UNSAFE: dict[str, Callable[[], Unsafe]] = {
    "BPE trained over spaces": _trained_over_spaces,
    "BPE with a token over a space": lambda: Unsafe(
        _with(_bpe("▁", "b", "a|▁"), _marked()), "a b", "a"
    ),
    "BPE with a longer token over a space": lambda: Unsafe(
        _with(_bpe("▁|b", "a|▁b"), _marked()), "a b", "a"
    ),
    "another mark": lambda: Unsafe(
        _with(_bpe("~", "b", "a|~"), _marked(character="~")), "a b", "a"
    ),
    "Metaspace with another mark": lambda: Unsafe(
        _with(
            _bpe("~", "b", "a|~"),
            None,
            pre_tokenizers.Metaspace("~", prepend_scheme="never", split=False),
        ),
        "a b",
        "a",
    ),
    "Gemma with a token over a space": lambda: Unsafe(
        _with(_bpe("▁", "b", "a|▁"), _marked(), pre_tokenizers.Split(" ", "merged_with_previous")),
        "a b",
        "a",
    ),
    "a split at spaces that are gone": lambda: Unsafe(
        _with(_bpe("▁", "b", "a|▁"), _marked(), pre_tokenizers.Split(" ", "merged_with_next")),
        "a b",
        "a",
    ),
    "WhitespaceSplit of spaces that are gone": lambda: Unsafe(
        _with(_bpe("▁", "b", "a|▁"), _marked(), pre_tokenizers.WhitespaceSplit()), "a b", "a"
    ),
    "ByteLevel before Whitespace": lambda: Unsafe(
        _with(_bpe("Ġ", "b", "a|Ġ"), normalizers.ByteLevel(), pre_tokenizers.Whitespace()),
        "a b",
        "a",
    ),
    "ends of words marked, no words": lambda: Unsafe(
        _with(_bpe("a", "b", "▁", "a</w>", "b</w>", end_of_word_suffix="</w>"), _marked()),
        "a b",
        "a",
    ),
    "merges that are ignored, no words": lambda: Unsafe(
        _with(_bpe("a", "b", "▁", "bab", "b|a", ignore_merges=True), _marked()), "bab b", "bab"
    ),
    "spaces are dropped": lambda: Unsafe(
        _with(_pieces(), normalizers.Replace(" ", ""), pre_tokenizers.Whitespace()), "a b", "a"
    ),
    "an unknown pattern is replaced": lambda: Unsafe(
        _with(_pieces(), normalizers.Replace(Regex("a b"), "b"), pre_tokenizers.Whitespace()),
        "a b",
        "a",
    ),
    "a phrase is replaced": lambda: Unsafe(
        _with(_pieces(), normalizers.Replace("a b", "b"), pre_tokenizers.Whitespace()), "a b", "a"
    ),
    "an added phrase": lambda: Unsafe(
        _with(_pieces(), None, pre_tokenizers.Whitespace(), ["a b"]), "a b", "a"
    ),
    "an added token that ends in a space": lambda: Unsafe(
        _with(_pieces(), None, pre_tokenizers.Whitespace(), ["a "]), "a b", "a"
    ),
    "an added phrase once normalized": lambda: Unsafe(
        _with(
            _pieces(),
            normalizers.NFKC(),
            pre_tokenizers.Whitespace(),
            [AddedToken("a\u00a0b", normalized=True)],
        ),
        "a b",
        "a",
    ),
    "an added phrase of marks": lambda: Unsafe(
        _with(_bpe("a", "b", "▁"), _marked(), None, [AddedToken("a▁b", normalized=True)]),
        "a b",
        "a",
    ),
    "words not split": lambda: Unsafe(
        Tokenizer(models.WordLevel({"<unk>": 0, "a": 1, "a b": 2}, unk_token="<unk>")), "a b", "a"
    ),
    "WordPiece not split": lambda: Unsafe(
        Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "a b": 2}, unk_token="[UNK]")), "a b", "a"
    ),
    "Unigram with a piece over a space": lambda: Unsafe(
        Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0), ("b", -1.0), ("a b", -1.0)], 0)),
        "a b",
        "a",
    ),
    "a split that keeps a phrase": lambda: Unsafe(
        _with(
            _bpe("Ġ", "b", "a|Ġ"),
            None,
            pre_tokenizers.Sequence(
                [
                    pre_tokenizers.Split(Regex("a b|[^ ]+"), "isolated"),
                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
                ]
            ),
        ),
        "a b",
        "a",
    ),
    "DeepSeek LLM in Arabic": _deepseek_llm,
}
