"""Texts that go through a chat template give the vectors of ``SentenceTransformer.encode``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from support import tiny

import dask_embed as de

pytestmark = pytest.mark.usefixtures("one_torch_thread")

TEXTS = ["Return the LINES of a file.", tiny.corpus()[50], "x", "", tiny.corpus()[9]]
END = "and so it ends<|end|>"
TEMPLATES = {
    "flat": "{% for m in messages %}<{{ m.role }}>{{ m['content'] }}{% endfor %}" + END,
    "parts": (
        "{% for m in messages %}<{{ m.role }}>{% for part in m.content %}"
        "{% if part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}{% endfor %}" + END
    ),
    "asks": "<q>{{ messages[-1].content }}{% if add_generation_prompt %}<answer>{% endif %}",
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Plain checkpoints by their template, and what sentence-transformers saves of them."""
    root, found = tmp_path_factory.mktemp("chats"), {}
    found["none"] = tiny.save("qwen3", root / "none")
    for name, template in TEMPLATES.items():
        plain = Path(shutil.copytree(found["none"], root / name))
        (plain / "chat_template.jinja").write_text(template)
        pooling = Pooling(tiny.HIDDEN, "lasttoken", include_prompt=False)
        model = SentenceTransformer(modules=[Transformer(str(plain)), pooling], device="cpu")
        model.save(str(root / f"{name} saved"), create_model_card=False)
        found |= {name: plain, f"{name} saved": root / f"{name} saved"}
    return found


def encode(folder: Path, limit: int | None = None, **settings: Any) -> np.ndarray:
    model = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
    model.max_seq_length = limit or model.max_seq_length
    return model.encode(TEXTS, batch_size=2, show_progress_bar=False, **settings)


def embed(folder: Path, **settings: Any) -> np.ndarray:
    embedder = de.Embedder(de.Model(str(folder), device="cpu"), **settings)
    return de.to_array(embedder(pd.DataFrame({"text": TEXTS}))["embedding"])


def assert_close(given: np.ndarray, expected: np.ndarray) -> None:
    scale = max(1.0, float(np.abs(expected).max()))
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-5 * scale)


@pytest.mark.parametrize("kind", ["", " saved"])
@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.parametrize("settings", [{}, {"prompt": "Be kind: "}], ids=str)
def test_vectors_equal_encode(
    folders: dict[str, Path], name: str, kind: str, settings: dict[str, str]
) -> None:
    folder = folders[name + kind]
    expected = encode(folder, **settings)
    assert_close(embed(folder, **settings), expected)
    assert not np.allclose(embed(folder, chat=False, **settings), expected, atol=1e-3)


@pytest.mark.parametrize("limit", [2, 9, 30])
@pytest.mark.parametrize("name", ["flat saved", "parts saved", "flat"])
def test_the_end_of_a_template_outlives_truncation(
    folders: dict[str, Path], name: str, limit: int
) -> None:
    expected = encode(folders[name], limit)
    assert_close(embed(folders[name], max_length=limit), expected)
    frame = pd.DataFrame({"text": TEXTS})
    refused = de.Embedder(str(folders[name]), max_length=limit, on_long="error", on_error="null")
    if limit == 30:
        failed = refused(frame)["embedding"].isna()
        assert failed.any()
        assert not failed.all()


def test_chat_is_a_choice(folders: dict[str, Path]) -> None:
    """Without it texts are those of a tokenizer without a template; with it those of one."""
    assert_close(embed(folders["flat"], chat=False), encode(folders["none"]))
    assert_close(embed(folders["flat"], chat=True), encode(folders["flat"]))
    assert not np.allclose(encode(folders["flat"]), encode(folders["none"]), atol=1e-3)


def test_a_folder_saved_for_texts_alone(folders: dict[str, Path], tmp_path: Path) -> None:
    """The template that lies there is not asked, as before there were chats."""
    copy = Path(shutil.copytree(folders["flat"], tmp_path / "copy"))
    tiny.add_modules(copy)
    assert_close(embed(copy), encode(copy))
    assert_close(embed(copy, chat=True), encode(folders["flat"]))


def test_chat_without_a_template_is_an_error(folders: dict[str, Path]) -> None:
    with pytest.raises(ValueError, match="has no chat template; set chat=False"):
        de.Embedder(str(folders["none"]), chat=True).types()
    with pytest.raises(ValueError, match="chat must be"):
        de.Embedder(str(folders["none"]), chat="yes")


@pytest.mark.parametrize(
    "template",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}x{% endfor %}{% endfor %}",
        "{{ raise_exception('no chats') }}",
    ],
    ids=["endless", "refuses"],
)
def test_a_template_that_takes_no_text_is_told_on_the_client(
    folders: dict[str, Path], tmp_path: Path, template: str
) -> None:
    copy = Path(shutil.copytree(folders["flat"], tmp_path / "copy"))
    (copy / "chat_template.jinja").write_text(template)
    with pytest.raises(ValueError, match="no row can be used by Embedder"):
        de.Embedder(str(copy))(dd.from_pandas(pd.DataFrame({"text": TEXTS}), npartitions=1))
