"""Texts to whether the rules of a known corpus keep them."""

from __future__ import annotations

import dataclasses
import operator
from typing import ClassVar, NamedTuple

import numpy as np
import pyarrow as pa

from dask_embed._validation import one_of
from dask_embed.operators.filters.base import TextFilter
from dask_embed.operators.filters.measures import MEASURES
from dask_embed.operators.filters.pieces import Texts, blocks

_COMPARED = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}


class Rule(NamedTuple):
    """What takes a text out: a measure that compares so with a limit."""

    measure: str
    sign: str
    limit: float

    def __str__(self) -> str:
        return f"{self.measure} {self.sign} {self.limit:.15g}"

    def broken(self, texts: Texts) -> np.ndarray:
        """Return which texts it takes out; bool."""
        values = MEASURES[self.measure].take(texts)
        broken: np.ndarray = _COMPARED[self.sign](values, self.limit)
        return broken


PRESETS: dict[str, tuple[Rule, ...]] = {
    "gopher": (
        Rule("words", "<", 50),
        Rule("words", ">", 100_000),
        Rule("mean_word_length", "<", 3),
        Rule("mean_word_length", ">", 10),
        Rule("hashes_per_word", ">", 0.1),
        Rule("ellipses_per_word", ">", 0.1),
        Rule("bullet_lines", ">", 0.9),
        Rule("ellipsis_lines", ">", 0.3),
        Rule("alphabetic_words", "<", 0.8),
        Rule("stop_words", "<", 2),
        Rule("duplicate_lines", ">", 0.3),
        Rule("duplicate_paragraphs", ">", 0.3),
        Rule("duplicate_line_characters", ">", 0.2),
        Rule("duplicate_paragraph_characters", ">", 0.2),
        Rule("top_2_gram", ">", 0.2),
        Rule("top_3_gram", ">", 0.18),
        Rule("top_4_gram", ">", 0.16),
        Rule("duplicate_5_grams", ">", 0.15),
        Rule("duplicate_6_grams", ">", 0.14),
        Rule("duplicate_7_grams", ">", 0.13),
        Rule("duplicate_8_grams", ">", 0.12),
        Rule("duplicate_9_grams", ">", 0.11),
        Rule("duplicate_10_grams", ">", 0.1),
    ),
    "c4": (
        Rule("lorem_ipsum", ">", 0),
        Rule("curly_brackets", ">", 0),
        Rule("c4_sentences", "<", 5),
    ),
    "fineweb": (
        Rule("punctuated_lines", "<=", 0.12),
        Rule("short_lines", ">=", 0.67),
        Rule("duplicate_line_characters", ">=", 0.01),
        Rule("line_breaks_per_word", ">", 0.3),
    ),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextQuality(TextFilter):
    """Append whether the rules of a corpus keep a text, and if not why; lazy on a Dask DataFrame.

    Parameters
    ----------
    preset : {"gopher", "c4", "fineweb"}
        Whose rules, see the notes.
    column : str
        The text column.
    output : str
        The column that says whether the text is kept, bool. The first rule that takes it out goes
        into ``<output>_reason``, such as ``"words < 50"``: a measure of `TextStatistics`, and the
        limit; null where the text is kept.
    on_error
        See `ColumnOperator`.

    Examples
    --------
    >>> import pandas as pd
    >>> import dask_embed as de
    >>> out = de.TextQuality("gopher")(pd.DataFrame({"text": ["Too short."]}))
    >>> out[["quality", "quality_reason"]].iloc[0].tolist()
    [False, 'words < 50']

    Notes
    -----
    ``"gopher"``: quality and repetition rules of Rae et al. 2021, arXiv:2112.11446, appendix A.1.1
    and table A1. Stop words are of English; other languages need their own.

    ``"c4"``: rules for pages of Raffel et al. 2020, JMLR 21/140, section 2.2, with their 5
    sentences of lines of at least 3 words (the code of the data set has 3 and 5), and the lines
    that the code leaves out besides. The list of bad words is not in it, and texts stay as they
    are: lines that C4 would take away only do not count.

    ``"fineweb"``: what FineWeb (Penedo et al. 2024, arXiv:2406.17557, section 3.6) adds to the
    other two, with the limits of its code in datatrove: 0.01 for repeated lines, where the paper
    says 0.1, and the line breaks, which it does not mention. Its whole recipe is English with a
    score of 0.65 (`LanguageDetector`), Gopher, C4 without the rule on punctuation, then this.

    What is a word, a line, a sentence is said in ``docs/operators.md``, and is not quite what
    datatrove's tokenizers say.
    """

    method: ClassVar[str] = "text_quality"

    preset: str = dataclasses.field(kw_only=False)
    output: str = "quality"

    def __post_init__(self) -> None:
        super().__post_init__()
        one_of("preset", self.preset, tuple(PRESETS))

    @property
    def result_columns(self) -> tuple[str, ...]:
        return (self.output, f"{self.output}_reason")

    def types(self) -> dict[str, pa.DataType]:
        return dict(zip(self.result_columns, (pa.bool_(), pa.string()), strict=True))

    def plan(self) -> list[str]:
        rules = PRESETS[self.preset]
        return [f"rules of {self.preset}, taken out if", *(f"  {rule}" for rule in rules)]

    def measured(self, texts: list[str]) -> dict[str, pa.Array]:
        rules = PRESETS[self.preset]
        parts = [np.zeros(0, np.int64)]
        parts += [_first_broken(rules, block) for block in blocks(texts)]
        first = np.concatenate(parts)
        kept = first == len(rules)
        reasons = pa.array([*map(str, rules), None], pa.string()).take(pa.array(first))
        return dict(zip(self.result_columns, (pa.array(kept), reasons), strict=True))


def _first_broken(rules: tuple[Rule, ...], texts: Texts) -> np.ndarray:
    """Return the place of the first rule that takes each text out, the number of rules if none."""
    first = np.full(len(texts), len(rules))
    for place in reversed(range(len(rules))):
        first[rules[place].broken(texts)] = place
    return first
