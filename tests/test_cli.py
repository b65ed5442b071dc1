"""The command line: the demo end to end, and mistakes as one line without a stack trace."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

from dask_embed.jobs.cli import main
from dask_embed.jobs.demo import _closest_pairs


def _run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "dask_embed.jobs.cli", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=240)


def test_demo_embeds_searches_and_shows_progress(tmp_path: Path) -> None:
    question = "show a progress bar in the terminal"
    done = _run("demo", "--rows", "40", "--packages", "tqdm", "--query", question, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "rows/s" in done.stderr
    assert "40 docstrings in" in done.stdout
    answers = done.stdout.partition(f'"{question}"')[2]
    assert answers.count("tqdm.") >= 3
    assert "near-duplicates" in done.stdout
    assert len(pd.read_parquet(tmp_path / "demo-output")) == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["demo", "--packages", "nothing-like-it"], "are not installed"),
        (["demo", "--output", "taken"], "exists and was not written by this demo"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "precious.txt").write_text("keep")
    assert main(arguments) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert (tmp_path / "taken" / "precious.txt").read_text() == "keep"


@pytest.mark.parametrize("rows", ["0", "-3", "many"])
def test_rows_must_be_a_positive_number(rows: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["demo", "--rows", rows])
    assert stopped.value.code == 2
    assert f"a positive number of rows is needed, got '{rows}'" in capsys.readouterr().err


@pytest.mark.parametrize("block", [1, 3, 100])
def test_closest_pairs_are_those_of_the_whole_matrix(block: int) -> None:
    import numpy as np

    vectors = np.random.default_rng(0).normal(size=(20, 5)).astype("float32")
    similar = vectors @ vectors.T
    pairs = [(similar[i, j], i, j) for i in range(20) for j in range(i + 1, 20)]
    expected = sorted(pairs, reverse=True)[:4]
    found = _closest_pairs(vectors, 4, block=block)
    assert [pair[1:] for pair in found] == [pair[1:] for pair in expected]
