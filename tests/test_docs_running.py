"""The pages on running jobs: their files, scripts and commands, as far as one machine can."""

from __future__ import annotations

import configparser
import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml
from support import tiny

import dask_embed as de
from dask_embed.jobs.cli import main

DOCS = Path(__file__).parent.parent / "docs"
BLOCK = re.compile(r"^<!-- ([\w ]+)(?:: (\S+))? -->\n```\w+\n(.*?)^```$", re.MULTILINE | re.DOTALL)
PAGES = [path.name for path in sorted(DOCS.glob("running_*.md"))]
MODEL = "sentence-transformers/all-MiniLM-L6-v2"
pytestmark = pytest.mark.slow


def blocks(page: str) -> list[tuple[str, str, str]]:
    """Return what each marked block of a page is, its name, and its text."""
    return BLOCK.findall((DOCS / page).read_text("utf8"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with input, where the commands are those of this interpreter."""
    for name, module in (("dask-embed", "dask_embed.jobs.cli"), ("dask", "dask")):
        command = tmp_path / "bin" / name
        command.parent.mkdir(exist_ok=True)
        command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m {module} "$@"\n')
        command.chmod(0o755)
    slurm = tmp_path / "bin" / "srun"  # without a Slurm: what it is told of cores is left out
    slurm.write_text('#!/bin/sh\nwhile [ "${1#--}" != "$1" ]; do shift; done\nexec "$@"\n')
    slurm.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("PYTHONPATH", str(DOCS.parent))
    monkeypatch.setenv("MODEL", str(tiny.save("bert", tmp_path / "bert")))
    rows = pd.DataFrame({"id": range(24), "lang": ["en", "de", "fr"] * 8})
    rows["text"] = [f"a text with the number {row}" for row in rows.id]
    parts = {"docs/a": rows[:15], "docs/b": rows[15:]}
    for number, day in enumerate(("2026-11-25", "2026-11-26")):
        parts[f"incoming/{day}/new"] = rows.assign(day=day)[number * 10 : number * 10 + 10]
    for name, part in parts.items():
        file = tmp_path / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        part.to_json(file, orient="records", lines=True)
    return tmp_path


def run_page(page: str, folder: Path) -> None:
    """Write the files and run the commands of a page."""
    for kind, name, text in blocks(page):
        text = text.replace(MODEL, os.environ["MODEL"])
        if kind == "file":
            (folder / name).write_text(text)
            if name.endswith(".py") and name != "morning.py":
                _shell(f'"{sys.executable}" {name}')
        elif kind == "run":
            with contextlib.ExitStack() as background:
                for line in text.splitlines():
                    _run_line(line.removeprefix("$ "), background)


def _run_line(line: str, background: contextlib.ExitStack) -> None:
    """Run a line as a shell does; our command in this process, which has its libraries already."""
    if line.endswith("&"):
        process = subprocess.Popen(["bash", "-c", f"exec {line.removesuffix('&')}"])
        background.callback(process.wait)
        background.callback(process.terminate)
    elif line.startswith("dask-embed "):
        assert main(shlex.split(line)[1:]) == 0, line
    else:
        _shell(line)


def _shell(script: str) -> str:
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, f"{script}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def ids(folder: Path) -> list[int]:
    return sorted(de.read_parquet(folder).compute()["id"])


@pytest.mark.slow
@pytest.mark.alone  # clusters of processes, of which each imports all libraries
@pytest.mark.timeout(900)
def test_the_ways_to_run_it(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for page in PAGES:
        run_page(page, folder)
    printed = capsys.readouterr().out
    english = list(range(0, 24, 3))
    assert ids(folder / "vectors") == ids(folder / "from-a-file") == english
    assert ids(folder / "on-a-cluster") == ids(folder / "array") == list(range(24))
    assert {path.name for path in (folder / "array").iterdir()} == {"0-of-2", "1-of-2"}
    assert len(de.read_parquet(folder / "local")) == 40
    assert "run Embedder on text -> embedding" in printed
    lines = [line for line in printed.splitlines() if line.startswith("{")]
    assert json.loads(lines[0])["rows"] == 8


def test_the_nightly_job(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Two nights, of which the second is started twice; then the morning after."""
    run_page("nightly_job.md", folder)
    printed = capsys.readouterr().out
    nights = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert [night["rows"] for night in nights] == [10, 10, 0]
    assert ids(folder / "vectors") == list(range(20))
    told = _shell(f'"{sys.executable}" morning.py')
    assert "forward_seconds" in told


@pytest.mark.parametrize("page", ["running_kubernetes.md", "nightly_job.md"])
def test_what_others_run_can_be_parsed(page: str) -> None:
    found = [text for kind, _, text in blocks(page) if kind == "parse"]
    assert found
    for text in found:
        assert all(isinstance(each, dict) for each in yaml.safe_load_all(text))


def test_the_units_of_systemd(tmp_path: Path) -> None:
    """As systemd reads them, where it is; and with the exit codes that the command has."""
    for kind, name, text in blocks("nightly_job.md"):
        if kind == "unit":
            (tmp_path / name).write_text(text.replace("User=embed\n", ""))
    service = configparser.ConfigParser(interpolation=None, strict=False)
    service.read(tmp_path / "embed.service")
    assert service["Service"]["RestartPreventExitStatus"].split() == ["1", "2", "3", "4"]
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze here")
    units = [
        str(tmp_path / name) for name in ("embed.timer", "embed.service", "embed-alarm.service")
    ]
    done = subprocess.run(["systemd-analyze", "verify", *units], capture_output=True, text=True)
    ours = [line for line in done.stderr.splitlines() if str(tmp_path) in line]
    assert ours == []


def test_the_line_of_cron(tmp_path: Path) -> None:
    """As cron hands it to a shell: it starts again after 5, and tells after another failure."""
    (line,) = (text for kind, _, text in blocks("nightly_job.md") if kind == "cron")
    _, command = line.strip().split(" * * * ", 1)
    command = command.replace(r"\%", "%").replace("/srv/embed", str(tmp_path))
    command = command.replace("/opt/embed/bin/", f"{tmp_path}/").replace("sleep 60", "sleep 0")
    (tmp_path / "nightly.log.jsonl").write_text("last line\n")
    for name, script in {
        "dask-embed": 'echo "$@" >>calls; exit "$(sed -n "$(wc -l <calls)p" codes)"',
        "mail": "cat >told",
    }.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{script}\n")
        (tmp_path / name).chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}
    for codes, calls, told in (("5\n5\n0\n", 3, False), ("5\n3\n", 2, True)):
        (tmp_path / "calls").unlink(missing_ok=True)
        (tmp_path / "codes").write_text(codes)
        subprocess.run(
            ["sh", "-c", command.split(" ", 1)[-1] if command[0].isdigit() else command],
            env=environment,
            check=True,
            timeout=60,
        )
        lines = (tmp_path / "calls").read_text().splitlines()
        assert len(lines) == calls
        assert re.fullmatch(r"run nightly\.yaml incoming/\d{4}-\d\d-\d\d --json", lines[0])
        assert (tmp_path / "told").exists() == told
