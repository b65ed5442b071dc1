"""The command line: options that are the classes', what it writes, its exit codes."""

from __future__ import annotations

import dataclasses
import errno
import importlib.metadata
import inspect
import json
import os
import subprocess
import sys
from collections import deque
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import click
import lance
import numpy as np
import pandas as pd
import pytest
from deltalake import DeltaTable
from support import tiny

import dask_embed as de
from dask_embed import operators
from dask_embed.jobs.cli import command, main
from dask_embed.jobs.command.job import Job
from dask_embed.jobs.command.listed import COMMANDS, LISTED, STEPS, about
from dask_embed.jobs.command.operators import OperatorCommand
from dask_embed.jobs.command.reading import _bytes
from dask_embed.jobs.demo import _closest_pairs
from dask_embed.jobs.run_log import RunLog
from dask_embed.runtime import stats

ROWS = pd.DataFrame(
    {
        "id": range(20),
        "text": [f"text number {row} of the lines" for row in range(20)],
        "lang": ["en", "de"] * 10,
    }
)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny.save("bert", tmp_path_factory.mktemp("bert") / "bert"))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in with the rows in it, of Parquet and of json in two files."""
    monkeypatch.chdir(tmp_path)
    ROWS.to_parquet("rows.parquet", row_group_size=5)
    for number, rows in enumerate((ROWS[:12], ROWS[12:])):
        rows.to_json(f"rows-{number}.jsonl", orient="records", lines=True)
    return tmp_path


def _run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    started = [sys.executable, "-m", "dask_embed.jobs.cli", *arguments]
    return subprocess.run(started, cwd=cwd, capture_output=True, text=True, timeout=240)


# ---------------------------------------------------------------------------------- options
def test_the_package_is_the_command() -> None:
    started = [sys.executable, "-m", "dask_embed", "--version"]
    done = subprocess.run(started, capture_output=True, text=True, timeout=240)
    assert (done.returncode, done.stdout) == (0, f"dask-embed, version {de.__version__}\n")


def test_every_operator_has_a_command() -> None:
    """Not those of arrays; vectors of chunks are a vector for each row of another command."""
    kinds = [getattr(operators, name) for name in operators.__all__]
    methods = {kind.method.replace("_", "-") for kind in kinds if getattr(kind, "method", "")}
    with_command = {name for name in methods if about(name) is not None}
    assert methods - with_command == {"linear-head", "similarity"}
    assert {each.operator for each in COMMANDS.values()} <= set(operators.__all__)


def test_an_operator_that_is_not_listed_has_its_command_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(LISTED, "embed-sparse")
    assert main(["embed-sparse", "--help"]) == 0
    assert "Append one sparse vector over the vocabulary" in capsys.readouterr().out


@pytest.mark.parametrize("name", STEPS)
def test_options_are_the_arguments_of_the_function(name: str) -> None:
    made = OperatorCommand(name)
    ours = [field.name for field in dataclasses.fields(Job)]
    _, *arguments = inspect.signature(STEPS[name][0].function).parameters
    ours = [each for each in (*ours, "config", "set") if each not in arguments]
    own = {each.name: each for each in made.params if each.name not in ours}
    assert list(own) == arguments
    assert [each for each, option in own.items() if not option.help] == []


@pytest.mark.parametrize("name", COMMANDS)
def test_options_are_the_arguments_of_the_operator_and_its_model(name: str) -> None:
    made = OperatorCommand(name)
    kind = getattr(operators, COMMANDS[name].operator)
    ours = [field.name for field in dataclasses.fields(Job)]
    own = [each.name for each in made.params if each.name not in (*ours, "config", "set")]
    arguments = inspect.signature(kind).parameters
    of_model = set(inspect.signature(de.Model).parameters) - {"name", "factory"}
    model = of_model if "model" in arguments else set()
    expected = [*arguments, *(f"model_{each}" if each in arguments else each for each in model)]
    assert sorted(own) == sorted(set(expected) - {"columns"})
    flags = [flag for each in made.params for flag in (*each.opts, *each.secondary_opts)]
    assert len(set(flags)) == len(flags)
    undocumented = [
        each.name for each in made.params if isinstance(each, click.Option) and not each.help
    ]
    assert undocumented == []


def test_values_are_told_by_the_docstring() -> None:
    options = {each.name: each for each in OperatorCommand("embed").params}
    assert options["on_error"].type.choices == ("raise", "null")
    assert options["padding_side"].type.choices == ("left", "right")
    assert options["normalize"].metavar == "[auto|true|false]"
    assert options["compile"].secondary_opts == ["--no-compile"]
    assert "[default: embedding]" in options["output"].help


def test_the_list_of_commands_imports_no_library(tmp_path: Path) -> None:
    code = (
        "import sys; from dask_embed.jobs.cli import main; main(['--help']);"
        "print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "tokenize" in done.stdout
    heavy = {"torch", "transformers", "dask", "pandas", "pyarrow", "numpy", "distributed"}
    assert heavy.intersection(done.stderr.split()) == set()


def test_help_has_an_example_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--help"]) == 0
    told = capsys.readouterr().out
    assert "dask-embed score docs.jsonl --to scored/" in told
    assert "5 interrupted and resumable" in told


def test_it_is_a_command_of_dask() -> None:
    from dask.cli import _register_command_ep

    setup = ConfigParser()
    setup.read(Path(__file__).parents[2] / "setup.cfg")
    name, _, place = setup["options.entry_points"]["dask_cli"].strip().partition(" = ")
    group = click.Group("dask")
    entry = importlib.metadata.EntryPoint(name, place, "dask_cli")
    _register_command_ep(group, entry)
    assert group.commands == {"embed": command}


def test_completes_commands_and_options(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("_DASK_EMBED_COMPLETE", "bash_complete")
    monkeypatch.setenv("COMP_WORDS", "dask-embed embed --pool")
    monkeypatch.setenv("COMP_CWORD", "2")
    assert main([]) == 0
    assert capsys.readouterr().out == "plain,--pooling\n"


# ------------------------------------------------------------------------------------ a run
def test_embeds_files_as_python_does(
    bert: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows that a condition takes, the columns that are named, and a line of json at the end."""
    arguments = ["embed", "*.jsonl", "--to", "vectors", "--model", bert, "--pooling", "cls"]
    arguments += ["--where", "lang == 'en' and id > 3", "--columns", "id,embedding", "--json"]
    assert main(arguments) == 0
    captured = capsys.readouterr()
    told = json.loads(captured.out)
    assert (told["rows"], told["exit_code"], told["to"]) == (8, 0, "vectors")
    assert captured.err.count("rows") >= 1  # of the progress
    found = de.read_parquet("vectors").compute()
    assert found.columns.tolist() == ["id", "embedding"]
    wanted = ROWS[(ROWS.lang == "en") & (ROWS.id > 3)]
    expected = wanted.ml.embed("text", model=bert, pooling="cls")
    assert found["id"].tolist() == expected["id"].tolist()
    difference = de.to_array(found["embedding"]) - de.to_array(expected["embedding"])
    assert np.abs(difference).max() < 1e-6


def test_a_condition_on_a_result(bert: str, folder: Path) -> None:
    arguments = ["tokenize", "rows.parquet", "--to", "out", "--model", bert, "--count", "n"]
    assert main([*arguments, "--where", "n > 12", "--quiet"]) == 0
    counts = ROWS.ml.tokenize("text", model=bert, count="n").n
    assert pd.read_parquet("out").n.tolist() == counts[counts > 12].tolist()


def test_an_operator_without_a_model(folder: Path) -> None:
    """A column of truth values is a condition by itself."""
    arguments = ["text-quality", "rows.parquet", "--to", "out", "--preset", "gopher", "--quiet"]
    assert main([*arguments, "--where", "not quality", "--columns", "id,quality_reason"]) == 0
    found = pd.read_parquet("out")
    assert found["id"].tolist() == list(range(20))
    assert set(found["quality_reason"]) == {"words < 50"}


def test_duplicates_and_neighbours(bert: str, folder: Path) -> None:
    """Rows that are in an older file too are left out; a text is nearest to itself."""
    arguments = ["dedup", "rows.parquet", "--column", "text", "--quiet"]
    assert main([*arguments, "--against", "rows-0.jsonl", "--to", "new"]) == 0
    assert sorted(de.read_parquet("new").compute()["id"]) == list(range(12, 20))
    assert main([*arguments, "--keep", "worst", "--to", "other"]) == 2
    assert main(["embed", "rows.parquet", "--model", bert, "--to", "vectors", "--quiet"]) == 0
    asked = ["--queries", ROWS.text[7], "--k", "1", "--id", "id", "--quiet"]
    assert main(["nearest", "vectors", *asked, "--to", "found"]) == 0
    found = de.read_parquet("found").compute()
    assert found[["query", "neighbour"]].to_numpy().tolist() == [[ROWS.text[7], 7]]


def test_semantic_duplicates_are_those_of_all_pairs(bert: str, folder: Path) -> None:
    """Of vectors in a folder; rows are kept in the order of their ids, and rows of an older one."""
    embed = ["embed", "--model", bert, "--quiet", "--to"]
    assert main([*embed, "vectors", "rows.parquet"]) == 0
    ROWS[:12].to_parquet("before.parquet")
    assert main([*embed, "older", "before.parquet"]) == 0
    frame = de.read_parquet("vectors").compute().sort_values("id")
    vectors: Any = de.to_array(frame["embedding"]).astype("float64")
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = vectors @ vectors.T
    across = np.sort(cosines[:12, 12:].max(axis=0))
    threshold = float(across[3:5].mean())  # which four of the last eight rows reach

    def greedy(rows: range, older: range) -> list[int]:
        kept: list[int] = []
        for row in rows:
            if not (cosines[row, [*older, *kept]] >= threshold).any():
                kept.append(row)
        return kept

    kept, new = greedy(range(20), range(0)), greedy(range(12, 20), range(12))
    assert 0 < len(new) < 8 < len({*kept, *new})
    arguments = ["dedup-semantic", "vectors", "--threshold", repr(threshold), "--quiet"]
    assert main([*arguments, "--id", "id", "--to", "kept"]) == 0
    assert sorted(de.read_parquet("kept").compute()["id"]) == kept
    assert main([*arguments, "--id", "id", "--against", "older", "--to", "new"]) == 0
    assert sorted(de.read_parquet("new").compute()["id"]) == new
    assert main(["dedup-semantic", "rows.parquet", "--column", "text", "--to", "other"]) == 2


def test_shares_of_an_array_are_all_rows_once(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them dies and goes on; readers wait until all are there."""
    arguments = ["text-statistics", "*.jsonl", "--to", "out", "--quiet"]
    arguments += ["--partition-size", "300", "--threads", "1"]
    assert main([*arguments, "--array", "0/3"]) == 0
    with monkeypatch.context() as broken:
        broken.setattr("dask_embed.jobs.command.reading._bytes", _fails_after(1, _bytes))
        assert main([*arguments, "--array", "1/3"]) == 3
    assert main([*arguments, "--array", "2/3"]) == 0
    with pytest.raises(OSError, match=r"1-of-3' is not whole: a job that began"):
        de.read_parquet("out")
    done = {file.name for file in Path("out/1-of-3").glob("*.parquet")}
    assert main([*arguments, "--array", "1/3"]) == 0
    assert done < {file.name for file in Path("out/1-of-3").glob("*.parquet")}
    parts = [de.read_parquet(f"out/{share}-of-3").compute() for share in range(3)]
    assert all(len(part) > 0 for part in parts)
    assert sorted(pd.concat(parts).id) == list(range(20))
    assert sorted(de.read_parquet("out").compute().id) == list(range(20))
    capsys.readouterr()
    assert main([*arguments, "--array", "0/4"]) == 2
    assert "array='0/4' is of 4 jobs, but 'out' holds shares of 3" in capsys.readouterr().err


def test_more_shares_than_partitions(folder: Path) -> None:
    """A share without rows is done all the same; a folder is whole when the last one is."""
    arguments = ["text-statistics", "rows-*.jsonl", "--to", "out", "--quiet"]
    for share in (2, 0, 1):
        assert main([*arguments, "--array", f"{share}/4"]) == 0
    with pytest.raises(OSError, match="of 4 shares 1 are missing, such as '3-of-4'"):
        de.read_parquet("out")
    assert main([*arguments, "--array", "3/4"]) == 0
    assert sorted(de.read_parquet("out").compute().id) == list(range(20))


@pytest.mark.slow
def test_shares_that_run_at_the_same_time(folder: Path) -> None:
    """Processes, of which two run the same share."""
    command = [sys.executable, "-m", "dask_embed.jobs.cli", "text-statistics", "*.jsonl"]
    command += ["--to", "out", "--quiet", "--partition-size", "300", "--array"]
    running = [subprocess.Popen([*command, f"{share}/2"]) for share in (0, 1, 1)]
    codes = [process.wait(240) for process in running]
    assert codes[0] == 0
    assert 0 in codes[1:]
    assert sorted(de.read_parquet("out").compute().id) == list(range(20))


def test_says_what_would_run_and_runs_nothing(
    bert: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    common = ["rows.parquet", "--model", bert, "--where", "id in [1, 2]"]
    assert main(["explain", "embed", *common]) == 0
    plan = capsys.readouterr().out
    assert "keep rows where (id in [1, 2])" in plan
    assert "run Embedder on text -> embedding" in plan
    assert main(["embed", *common, "--to", "out", "--dry-run", "--log", "log.jsonl"]) == 0
    assert capsys.readouterr().out == f"{plan}Into out, a file for each partition\n"
    assert not Path("out").exists()
    assert not Path("log.jsonl").exists()  # which would tell of a night without rows


def test_appends_and_replaces(bert: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["tokenize", "--model", bert, "--to", "out", "--quiet"]
    assert main([*arguments, "rows-0.jsonl"]) == 0
    assert main([*arguments, "rows-1.jsonl"]) == 2
    assert "another job" in capsys.readouterr().err
    assert main([*arguments, "rows-1.jsonl", "--append"]) == 0
    assert sorted(pd.read_parquet("out").id) == list(range(20))
    assert main([*arguments, "rows-1.jsonl", "--overwrite"]) == 0
    assert sorted(pd.read_parquet("out").id) == list(range(12, 20))


def test_started_again_it_does_only_what_is_missing(
    bert: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an error midway, at which partitions were done; and nothing once all are there."""
    arguments = ["tokenize", "rows-*.jsonl", "--model", bert, "--to", "out", "--quiet", "--json"]
    arguments += ["--partition-size", "300", "--threads", "1"]
    with monkeypatch.context() as broken:
        broken.setattr("dask_embed.jobs.command.reading._bytes", _fails_after(2, _bytes))
        assert main(arguments) == 3
    assert json.loads(capsys.readouterr().out)["exit_code"] == 3
    done = {file.name for file in Path("out").glob("*.parquet")}
    assert done
    assert main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert 0 < first["rows"] < 20
    found = de.read_parquet("out").compute()
    assert sorted(found["id"]) == list(range(20))
    assert done < {file.name for file in Path("out").glob("*.parquet")}
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 0


FULL = {
    "os.fsync": errno.ENOSPC,
    "os.link": errno.EDQUOT,
    "os.replace": errno.EROFS,
}


@pytest.mark.parametrize("call", FULL)
def test_a_disk_that_takes_no_more_is_5_and_names_the_folder(
    call: str, folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is noticed; what was written before stays, and the same command goes on."""
    arguments = ["text-statistics", "rows.parquet", "--to", "out", "--quiet"]
    said = os.strerror(FULL[call])
    with monkeypatch.context() as broken:
        broken.setattr(call, _raises(OSError(FULL[call], said)))
        assert main(arguments) == 5
    told = capsys.readouterr().err
    assert told.endswith(f"{said}, while 'out' was written\n")
    assert told.count("\n") == 1
    assert main(arguments) == 0
    assert sorted(de.read_parquet("out").compute()["id"]) == list(range(20))


def _raises(error: Exception) -> Any:
    def failing(*arguments: Any, **options: Any) -> Any:
        raise error

    return failing


def _fails_after(count: int, function: Any) -> Any:
    """Return a function that works so many times, then the disk is gone."""
    left = iter(range(count))

    def failing(*arguments: Any) -> Any:
        if next(left, None) is None:
            raise OSError(5, "Input/output error")
        return function(*arguments)

    return failing


def test_logs_what_ran_in_lines_of_json(bert: str, folder: Path) -> None:
    arguments = ["tokenize", "rows-*.jsonl", "--model", bert, "--to", "out", "--quiet"]
    assert main([*arguments, "--log", "log.jsonl"]) == 0
    others = [*arguments, "--max-length", "9"]
    assert main([*others, "--log", "log.jsonl"]) == 2  # the folder is of another job
    lines = [json.loads(line) for line in Path("log.jsonl").read_text().splitlines()]
    first = [line["event"] for line in lines[:-2]]
    assert first == ["begin", "partition", "partition", "end"]
    assert sum(line["rows"] for line in lines if line["event"] == "partition") == 20
    assert lines[0]["options"]["to"] == "out"
    assert [line["event"] for line in lines[-2:]] == ["begin", "end"]
    assert lines[-1]["exit_code"] == 2
    assert "another job" in lines[-1]["error"]
    assert len({line["run"] for line in lines}) == 2


def test_counts_are_of_all_partitions_and_options_of_all_that_are_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process keeps no more than its latest records, and 0 is no option that is not set."""
    monkeypatch.setattr(stats, "_records", deque(maxlen=2))
    log = RunLog(str(tmp_path / "log"), "embed", {"seed": 0, "where": None, "resume": False})
    log.begin()
    with log.watching(None):
        for failed in range(5):
            with stats.metered("Embedder", "model", 10) as meter:
                meter.count(rows=10, failed=failed)
    assert (log.counts()["rows"], log.counts()["failed"]) == (50, 10)
    begin, *partitions = [json.loads(line) for line in (tmp_path / "log").read_text().splitlines()]
    assert begin["options"] == {"seed": 0}
    assert [each["failed"] for each in partitions] == [3, 4]


def test_bad_files_are_left_out_and_listed(
    bert: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = Path("rows.parquet").read_bytes()
    Path("many").mkdir()
    Path("many/good.parquet").write_bytes(whole)
    Path("many/cut.parquet").write_bytes(whole[:-100])
    Path("many/damaged.parquet").write_bytes(whole[:40] + b"\xff" * 200 + whole[240:])
    arguments = ["tokenize", "many", "--model", bert, "--to", "out", "--quiet"]
    assert main(arguments) == 3
    assert "many/" in capsys.readouterr().err
    assert main([*arguments, "--overwrite", "--skip-bad-files", "--json"]) == 0
    captured = capsys.readouterr()
    bad = sorted(Path(file).name for file in json.loads(captured.out)["bad_files"])
    assert bad == ["cut.parquet", "damaged.parquet"]
    assert captured.err.count("left out") == 2
    assert len(pd.read_parquet("out")) == 20


# ------------------------------------------------------------------------------- exit codes
MISTAKES: dict[str, tuple[list[str], int, str]] = {
    "no such command": (["embded", "rows.parquet"], 2, "No such command 'embded'"),
    "no such option": (["embed", "--poling", "x"], 2, "--poling"),
    "no model": (["embed", "rows.parquet", "--to", "out"], 2, "Missing option '--model'"),
    "no input": (["embed", "--model", "BERT", "--to", "out"], 2, "INPUT is missing"),
    "no folder": (["embed", "rows.parquet", "--model", "BERT"], 2, "--output names the column"),
    "a setting": (
        ["embed", "rows.parquet", "--model", "BERT", "--to", "out", "--max-length", "0"],
        2,
        "max_length must be a positive integer, got 0",
    ),
    "an array": (
        ["embed", "rows.parquet", "--model", "BERT", "--to", "out", "--array", "4/4"],
        2,
        "array must be I/N",
    ),
    "workers of none": (
        ["embed", "rows.parquet", "--model", "BERT", "--to", "out", "--workers", "2"],
        2,
        "add --cluster local",
    ),
    "a cluster": (
        ["embed", "rows.parquet", "--model", "BERT", "--to", "out", "--cluster", "nowhere"],
        2,
        "where must be 'local', 'cuda', the address",
    ),
    "a condition": (
        ["embed", "rows.parquet", "--model", "BERT", "--to", "out", "--where", "id == "],
        2,
        "where is no expression",
    ),
    "a column that is not there": (
        ["embed", "rows.parquet", "--model", "BERT", "--to", "out", "--column", "txt"],
        2,
        "column 'txt' is not in the dataframe (did you mean 'text'?)",
    ),
    "a column that no line has": (
        ["embed", "rows-0.jsonl", "--model", "BERT", "--to", "out", "--column", "txt"],
        2,
        "column 'txt' is not in the dataframe (did you mean 'text'?)",
    ),
    "columns that no line has": (
        ["embed", "rows-0.jsonl", "--model", "BERT", "--to", "out", "--columns", "id,txt"],
        2,
        "column 'txt' is not in the files (did you mean 'text'?)",
    ),
    "a column of a condition": (
        ["embed", "rows.parquet", "--model", "BERT", "--to", "out", "--where", "txt == 'a'"],
        2,
        "where names the column 'txt', which the rows have not (did you mean 'text'?)",
    ),
    "columns": (
        ["embed", "rows.parquet", "--model", "BERT", "--to", "out", "--columns", "id,embeding"],
        2,
        "columns names 'embeding', which the rows have not (did you mean 'embedding'?)",
    ),
    "no files": (
        ["embed", "nothing/*.parquet", "--model", "BERT", "--to", "out"],
        3,
        "there are no files at 'nothing/*.parquet'",
    ),
    **{
        f"a size of {given!r}": (
            ["embed", "rows.parquet", "--model", "BERT", "--to", "out", "--partition-size", given],
            2,
            f"partition_size must be a size such as '64MiB', got {given!r}",
        )
        for given in ("5XB", "0", "-1", "many", "0.1", "1e999", "nan")
    },
    "a size for a file that is read whole": (
        ["embed", "rows.csv", "--model", "BERT", "--to", "out", "--partition-size", "1MiB"],
        2,
        "partition_size is not for CSV, whose files are read whole",
    ),
    "a memory": (
        [
            *("embed", "rows.parquet", "--model", "BERT", "--to", "out"),
            *("--cluster", "local", "--memory", "5XB"),
        ],
        2,
        "memory must",
    ),
    "a share": (
        ["embed", "rows.parquet", "--model", "BERT", "--to", "out", "--array", "4/4"],
        2,
        "array must be I/N",
    ),
    "an option in YAML": (
        ["embed", "rows.parquet", "--model", "BERT", "--to", "out", "--model-kwargs", "{a: ["],
        2,
        "--model-kwargs",
    ),
    "a number of cores": (
        ["embed", "rows.parquet", "--model", "BERT", "--to", "out", "--threads", "two"],
        2,
        "--threads",
    ),
    "an expression": (
        ["embed", "rows.parquet", "--model", "BERT", "--to", "out", "--where", "id =="],
        2,
        "where is no expression",
    ),
    "whether to resume": (
        ["embed", "rows.parquet", "--model", "BERT", "--to", "out", "--resume", "perhaps"],
        2,
        "--resume",
    ),
    "several formats": (
        ["embed", "rows.parquet", "rows-0.jsonl", "--model", "BERT", "--to", "out"],
        3,
        "all files must be of one format",
    ),
    "a row that is no text": (
        ["embed", "numbers.jsonl", "--model", "BERT", "--to", "out"],
        3,
        "column 'text'",
    ),
    "a line that is no json": (
        ["embed", "broken.jsonl", "--model", "BERT", "--to", "out", "--partition-size", "1MiB"],
        3,
        "broken.jsonl",
    ),
    "no such model": (
        ["embed", "rows.parquet", "--model", "./nowhere", "--to", "out"],
        4,
        "nowhere",
    ),
    "a model of another kind": (
        ["generate", "rows.parquet", "--model", "BERT", "--to", "out", "--prompt", "{text}"],
        4,
        "BERT",
    ),
    "a folder that is a file": (
        ["embed", "rows.parquet", "--model", "BERT", "--to", "rows-0.jsonl/out"],
        2,
        "rows-0.jsonl' is a file",
    ),
    "a secret": (
        ["embed", "s3://me:hush-hush@host/x", "--model", "BERT", "--to", "out"],
        2,
        "must not hold an access token",
    ),
    "of the demo": (["demo", "--packages", "nothing-like-it"], 2, "are not installed"),
    "rows of the demo": (["demo", "--rows", "0"], 2, "'--rows'"),
}


@pytest.mark.parametrize("kind", MISTAKES)
def test_a_mistake_has_its_exit_code_and_one_line(
    kind: str, bert: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rows.csv").write_text("text\nx\n")
    Path("numbers.jsonl").write_text('{"text": 3}\n{"text": 4}\n')
    Path("broken.jsonl").write_text('{"text": "one"}\n{"text": "two"\n')
    arguments, code, message = MISTAKES[kind]
    assert main([bert if each == "BERT" else each for each in arguments]) == code
    error = capsys.readouterr().err.strip().splitlines()
    assert message.replace("BERT", bert) in error[-1]
    assert error[-1].startswith(("dask-embed: ", "Error: "))
    assert not Path("out").exists() or not list(Path("out").glob("*.parquet"))
    assert "hush" not in "".join(error)


@pytest.mark.parametrize(
    ("given", "to"),
    [
        ("inn", "inn/out"),
        ("inn", "inn/"),
        ("inn", "link/out.delta"),
        ("file:inn", "inn/out"),
        ("inn/*", "inn/out"),
        ("inn/**/*.parquet", "inn/out"),
        ("*/*.parquet", "out"),
        ("memory://inn", "memory://inn/out"),
    ],
)
def test_a_folder_that_would_be_read_again_is_refused(
    given: str, to: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("inn").mkdir()
    Path("link").symlink_to("inn")
    ROWS.to_parquet("inn/rows.parquet")
    given = given.replace("file:", f"file://{folder}/")
    assert main(["text-statistics", given, "--to", to, "--quiet"]) == 2
    error = capsys.readouterr().err
    assert f"to={to!r} would be read with the input {given!r}" in error
    assert [each.name for each in Path("inn").iterdir()] == ["rows.parquet"]


@pytest.mark.parametrize(("given", "to"), [("inn/*.parquet", "inn/out"), ("inn", "inn-out")])
def test_a_folder_beside_what_is_read(given: str, to: str, folder: Path) -> None:
    Path("inn").mkdir()
    ROWS.to_parquet("inn/rows.parquet")
    for _ in range(2):
        assert main(["text-statistics", given, "--to", to, "--quiet"]) == 0
    assert len(de.read_parquet(to)) == len(ROWS)


@pytest.mark.parametrize("more", [[], ["--dry-run"], ["--resume", "rows", "--id", "id"]])
def test_a_cache_in_the_folder_is_refused(
    more: list[str], folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["text-statistics", "rows.parquet", "--quiet", "--cache", "same", "--to", "same"]
    assert main([*arguments, *more]) == 2
    assert "must not be one" in capsys.readouterr().err
    assert not Path("same").exists()


def test_an_error_of_a_row_ends_the_job_with_that_of_input(
    bert: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    texts = [f"text {row}" for row in range(5)]
    pd.DataFrame({"text": [*texts, "one that is longer than it may be"]}).to_parquet("long.parquet")
    arguments = ["embed", "long.parquet", "--model", bert, "--to", "out", "--json", "--quiet"]
    arguments += ["--on-long", "error", "--max-length", "6"]
    assert main(arguments) == 3
    captured = capsys.readouterr()
    assert "row 5 of the partition" in captured.err
    assert json.loads(captured.out)["exit_code"] == 3
    assert main([*arguments, "--overwrite", "--on-error", "null"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["failed"] == 1
    assert captured.err.startswith("dask-embed: ")  # the warning that one row failed, in a line


def test_the_demo_keeps_what_it_did_not_write(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["demo", "--output", str(folder)]) == 2
    assert "exists and was not written by this demo" in capsys.readouterr().err
    assert Path("rows.parquet").exists()


# ------------------------------------------------------------------------- describe and demo
def test_describes_a_model(bert: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["describe", bert, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["dimension"], told["max_length"], told["runs"]) == (32, 64, "packed")
    assert told["pooling"] == ["mean"]
    assert main(["describe", bert]) == 0
    assert "tokens_per_batch" in capsys.readouterr().out
    assert main(["describe", "./nowhere"]) == 4


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


@pytest.mark.parametrize("block", [1, 3, 100])
def test_closest_pairs_are_those_of_the_whole_matrix(block: int) -> None:
    vectors = np.random.default_rng(0).normal(size=(20, 5)).astype("float32")
    similar = vectors @ vectors.T
    pairs = [(similar[i, j], i, j) for i in range(20) for j in range(i + 1, 20)]
    expected = sorted(pairs, reverse=True)[:4]
    found = _closest_pairs(vectors, 4, block=block)
    assert [pair[1:] for pair in found] == [pair[1:] for pair in expected]


@pytest.mark.parametrize("kind", ["lance", "delta"])
def test_writes_a_table_where_the_name_says_so(
    kind: str, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def ids() -> list[int]:
        if kind == "lance":
            found = lance.dataset(f"out.{kind}").to_table().to_pandas()
        else:
            found = DeltaTable(f"out.{kind}").to_pandas()
        return sorted(found["id"])

    arguments = ["text-statistics", "--to", f"out.{kind}", "--quiet"]
    assert main([*arguments, "rows-0.jsonl", "--dry-run"]) == 0
    assert capsys.readouterr().out.endswith(f"Into out.{kind}, a {kind.title()} table\n")
    for _ in range(2):
        assert main([*arguments, "rows-0.jsonl"]) == 0
        assert ids() == list(range(12))
    assert main([*arguments, "rows-1.jsonl"]) == 2
    assert "does not hold the rows of this job" in capsys.readouterr().err
    for _ in range(2):
        assert main([*arguments, "rows-1.jsonl", "--append"]) == 0
        assert ids() == list(range(20))
    assert main([*arguments, "rows-1.jsonl", "--overwrite"]) == 0
    assert ids() == list(range(12, 20))
    for more in (["--array", "0/2"], ["--resume", "rows", "--id", "id"], ["--no-resume"]):
        assert main([*arguments, "rows-0.jsonl", *more]) == 2
        assert "names a table, which is written in one commit" in capsys.readouterr().err
