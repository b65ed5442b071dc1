"""The code of the README runs as it stands, from the top, without a network.

Names of Hub repositories are found in a cache made here: all-MiniLM-L6-v2 is the packaged one, the
others are tiny checkpoints.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support import headed, tiny

import dask_embed as de

ROOT = Path(__file__).parent.parent
_COMMIT = "0" * 40
_BLOCK = re.compile(r"^(<!-- not run: [^>]+ -->\n)?```python\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks() -> list[str]:
    """Return the Python blocks that run."""
    found = _BLOCK.findall((ROOT / "README.md").read_text("utf8"))
    assert len(found) > 5
    return [code for reason, code in found if not reason]


def put_into_cache(cache: Path, repository: str, folder: Path) -> None:
    """Lay `folder` down as a snapshot of the repository."""
    target = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, target / "snapshots" / _COMMIT)
    (target / "refs").mkdir()
    (target / "refs" / "main").write_text(_COMMIT)


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Variables of a machine that has the models in its cache, and no network."""
    made, cache = tmp_path_factory.mktemp("models"), tmp_path_factory.mktemp("hub")
    encoder = tiny.save("roberta", made / "encoder")
    for repository in ("intfloat/e5-base-v2", "BAAI/bge-m3"):
        put_into_cache(cache, repository, encoder)
    topics = headed.save("bert", "classify", made / "topics", num_labels=3)
    put_into_cache(cache, "owner/topics", topics)
    writer = headed.save("llama", "causal-lm", made / "writer")
    put_into_cache(cache, "owner/writer", writer)
    put_into_cache(cache, "sentence-transformers/all-MiniLM-L6-v2", Path(de.datasets.minilm()))
    settings = {"HF_HUB_CACHE": str(cache), "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)}
    return os.environ | settings


def run(code: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a script in `folder` and return what it printed."""
    script = folder / "page.py"
    script.write_text(code)
    done = subprocess.run(
        [sys.executable, script.name],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_blocks_run_in_order(tmp_path: Path, environment: dict[str, str]) -> None:
    page = "\n".join(block for block in blocks() if "__main__" not in block)
    printed = run(page, tmp_path, environment)
    assert "embedding" in printed
    assert "Plan (" in printed
    assert "score" in printed  # of the answers to the question
    assert "packed" in printed  # how MiniLM runs
    assert list((tmp_path / "vectors").glob("*.parquet"))


@pytest.mark.slow
def test_the_script_runs_on_a_cluster(tmp_path: Path, environment: dict[str, str]) -> None:
    (script,) = [block for block in blocks() if "__main__" in block]
    run(script, tmp_path, environment)
    assert len(de.read_parquet(tmp_path / "from-a-cluster")) == 200


def test_every_page_that_is_named_is_there() -> None:
    named = re.findall(r"\]\(([^):#]+)\)", (ROOT / "README.md").read_text("utf8"))
    assert "docs/how_do_i.md" in named
    assert not [name for name in named if not (ROOT / name).exists()]
