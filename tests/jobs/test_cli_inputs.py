"""What the command reads: formats, blocks of lines, conditions, a file of options."""

from __future__ import annotations

import bz2
import functools
import gzip
import json
import lzma
import zipfile
from pathlib import Path
from typing import Any

import click
import dask.dataframe as dd
import pandas as pd
import pyarrow.csv
import pytest

import dask_embed as de
from dask_embed.jobs.cli import main
from dask_embed.jobs.command import reading
from dask_embed.jobs.command.inputs import find_inputs
from dask_embed.jobs.command.operators import OperatorCommand
from dask_embed.jobs.command.reading import bad_files, open_inputs
from dask_embed.jobs.command.where import condition

ROWS: list[dict[str, Any]] = [
    {"id": 1, "text": "Ünïcode, 日本語", "date": "2026-11-26", "tags": ["a", "b"], "ok": True},
    {
        "id": None,
        "text": 'a "quoted" word, and\na second line',
        "date": None,
        "tags": [],
        "ok": None,
    },
    {"id": 2**60 + 1, "text": "", "date": "no date", "tags": None, "ok": False},
    {"id": 4, "text": "NA", "date": "2026-11-27", "tags": ["c"], "ok": True},
]


def _opened(*files: str, size: int | None = None, wanted: Any = None, kind: str = "auto") -> Any:
    return open_inputs(find_inputs(files, kind), size, wanted)


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


# ----------------------------------------------------------------------------- wrong options
@pytest.mark.parametrize(
    ("options", "told"),
    [
        *((["--threads", count], "'--threads': ") for count in ("0", "-1", "1.5", "9" * 30)),
        *((["--workers", count], "'--workers': ") for count in ("0", "-1", "1.5", "9" * 30)),
        (["--config", "s3://user:pa55@bucket/x"], "cannot be read: No such file"),
    ],
)
def test_wrong_options_are_a_usage_error(
    options: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["text-statistics", "rows.jsonl", "--to", "out", *options]) == 2
    error = capsys.readouterr().err
    assert told in error.splitlines()[-1]
    assert "pa55" not in error


# --------------------------------------------------------------------------------- reading
@pytest.mark.parametrize("size", [None, 10])
@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("a.txt", "first\nsecond\n"),
        ("a.jsonl", '{"text": "first"}\n{"text": "second"}\n'),
        ("a.csv", "text\nfirst\nsecond\n"),
    ],
)
def test_utf_8_marks_are_no_text(name: str, lines: str, size: int | None, tmp_path: Path) -> None:
    """Editors write U+FEFF first."""
    (tmp_path / name).write_text(lines, encoding="utf-8-sig")
    found = _opened(str(tmp_path / name), size=size).compute()
    assert found.to_dict("list") == {"text": ["first", "second"]}
    assert bad_files(find_inputs([str(tmp_path / name)], "auto")) == {}


@pytest.mark.parametrize("name", ["a.json", "a.csv"])
def test_more_than_arrow_reads_at_a_time(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its blocks are counted by 32 bits."""
    with pytest.raises(OverflowError):
        pyarrow.csv.ReadOptions(block_size=reading._LARGEST_BLOCK + 1)
    monkeypatch.setattr(reading, "_LARGEST_BLOCK", 64)
    rows = pd.DataFrame({"id": range(100), "text": [f"text\n{n}" for n in range(100)]})
    if name == "a.csv":
        rows.to_csv(tmp_path / name, index=False)
    else:
        rows.to_json(tmp_path / name, orient="records", lines=True)
    found = _opened(str(tmp_path / name)).compute()
    assert found.to_dict("list") == rows.to_dict("list")
    assert bad_files(find_inputs([str(tmp_path / name)], "auto")) == {}


@pytest.mark.parametrize("size", [None, 30, 70, 4000])
def test_lines_of_json_keep_every_value(size: int | None, tmp_path: Path) -> None:
    """In blocks of any size, of which most begin within a line; the last line has no end."""
    file = tmp_path / "rows.jsonl"
    file.write_bytes(_lines(ROWS).rstrip(b"\n"))
    frame = _opened(str(file), size=size)
    found = frame.compute()
    assert found["id"].dtype == "Int64"
    assert found["id"].tolist() == [1, pd.NA, 2**60 + 1, 4]
    assert found["text"].tolist() == [row["text"] for row in ROWS]
    assert [None if pd.isna(each) else each for each in found["date"]] == [
        row["date"] for row in ROWS
    ]
    assert found["ok"].tolist() == [True, pd.NA, False, True]
    tags = [None if each is pd.NA else list(each) for each in found["tags"]]
    assert tags == [row["tags"] for row in ROWS]
    types = {tuple(map(str, part.compute().dtypes)) for part in frame.partitions}
    assert types == {tuple(map(str, frame.dtypes))}


def test_csv_keeps_line_breaks_within_quotes(tmp_path: Path) -> None:
    columns = ["id", "text", "date"]
    pd.DataFrame(ROWS)[columns].to_csv(tmp_path / "rows.csv", index=False)
    pd.DataFrame(ROWS)[columns].to_csv(tmp_path / "rows.tsv", index=False, sep="\t")
    for name in ("rows.csv", "rows.tsv"):
        found = _opened(str(tmp_path / name)).compute()
        assert found["text"].tolist() == [row["text"] for row in ROWS]


@pytest.mark.parametrize("size", [None, 1, 3])
def test_text_is_a_row_a_line(size: int | None, tmp_path: Path) -> None:
    """A separator of Unicode (U+2028) or a lone \\r ends no line, an empty line is a row."""
    (tmp_path / "a.txt").write_bytes("one\r\n\ntwo\u2028still two\rtoo\nlast".encode())
    found = _opened(str(tmp_path / "a.txt"), size=size).compute()
    assert found["text"].tolist() == ["one", "", "two\u2028still two\rtoo", "last"]


def test_compressed_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/b.jsonl.gz").write_bytes(gzip.compress(_lines(ROWS[2:])))
    (tmp_path / "in/a.jsonl.bz2").write_bytes(bz2.compress(_lines(ROWS[:2])))
    (tmp_path / "in/_log").write_text("no rows")
    found = _opened(str(tmp_path / "in"), size=1).compute()
    assert found["text"].tolist() == [row["text"] for row in ROWS]
    assert found["id"].dtype == "Int64"


@pytest.mark.parametrize("ending", ["zip", "lzma", "gz"])
def test_compressed_files_are_read_to_their_end(ending: str, tmp_path: Path) -> None:
    """They hold many times the bytes that their size tells."""
    lines = b"".join(b'{"text": "%d %s"}\n' % (n, b"x" * 100) for n in range(2000))
    file = tmp_path / f"rows.jsonl.{ending}"
    if ending == "zip":
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("rows.jsonl", lines)
    else:
        compress = gzip.compress if ending == "gz" else functools.partial(lzma.compress, format=2)
        file.write_bytes(compress(lines))
    frame = open_inputs(find_inputs([str(file)], "json"), "10kB", None)
    assert len(frame.compute()) == 2000


def test_a_store_that_is_no_disk(tmp_path: Path) -> None:
    import fsspec

    with fsspec.open("memory://test-cli/a.jsonl", "wb") as file:
        file.write(_lines(ROWS))
    frame = _opened("memory://test-cli/*.jsonl", size=100)
    assert frame.npartitions > 1
    assert len(frame.compute()) == len(ROWS)


def test_plans_say_what_is_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.jsonl").write_bytes(_lines(ROWS))
    de.explain(_opened(str(tmp_path / "a.jsonl"))[["id"]])
    assert "read the results of json-files: columns" in capsys.readouterr().out


def test_a_file_that_changes_is_another_frame(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(_lines(ROWS))
    before = _opened(str(file)).expr._name
    assert _opened(str(file)).expr._name == before
    file.write_bytes(_lines(ROWS[:3]))
    assert _opened(str(file)).expr._name != before


def test_a_field_that_comes_late_is_an_error_unless_columns_are_named(tmp_path: Path) -> None:
    """The first rows tell the columns: nothing is dropped in silence."""
    file = tmp_path / "a.jsonl"
    padding = "x" * 2**20
    file.write_bytes(_lines([{"text": padding}, {"text": "b", "late": 1}]))
    with pytest.raises(ValueError, match=r"a\.jsonl.*late"):
        _opened(str(file)).compute()
    found = _opened(str(file), wanted=["text"]).compute()
    assert found["text"].tolist() == [padding, "b"]


def test_errors_name_the_file(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(_lines(ROWS[:1]))
    (tmp_path / "b.jsonl").write_bytes(b'{"id": "a word", "text": "t"}\n')
    with pytest.raises(ValueError, match="the files differ in their columns"):
        _opened(str(tmp_path / "*.jsonl"))
    (tmp_path / "latin.txt").write_bytes("Stra\xdfe\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.txt.*UnicodeDecodeError"):
        _opened(str(tmp_path / "latin.txt")).compute()


def test_finds_each_file_that_cannot_be_read_to_its_end(tmp_path: Path) -> None:
    good = gzip.compress(_lines(ROWS * 50))
    (tmp_path / "a.jsonl.gz").write_bytes(good)
    (tmp_path / "b.jsonl.gz").write_bytes(good[:-20])
    (tmp_path / "c.jsonl").write_bytes(_lines(ROWS) + b'{"id": ')
    (tmp_path / "d.jsonl").write_bytes(b"")
    inputs = find_inputs([str(tmp_path)])
    bad = bad_files(inputs)
    assert sorted(Path(file).name for file in bad) == ["b.jsonl.gz", "c.jsonl"]
    left = inputs.without(bad)
    assert len(open_inputs(left, None, None).compute()) == 200
    with pytest.raises(ValueError, match="none of 2 files can be read"):
        find_inputs([*bad]).without(bad)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["nothing.jsonl"], "there are no files at"),
        (["a.unknown"], "say --format"),
        (["a.jsonl", "b.csv"], "all files must be of one format"),
        (["nosuch://a.jsonl"], "there is no filesystem for 'nosuch://a.jsonl'"),
    ],
)
def test_inputs_that_are_none(
    names: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.unknown", "a.jsonl", "b.csv"):
        Path(name).write_text("text\n")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        find_inputs(names)


# ------------------------------------------------------------------------------ conditions
FRAME = pd.DataFrame(
    {
        "n": [1, 2, 3, 4, 5],
        "lang": ["en", "de", "en", None, "fr"],
        "a b": [0.5, 1.5, 2.5, None, 4.5],
    }
)
CONDITIONS = {
    "lang == 'en'": [1, 3],
    "lang != 'en' and n < 5": [2],  # a null is neither equal nor unequal, as in pandas and SQL
    "n > 1 and (lang == 'de' or lang == 'fr')": [2, 5],
    "1 < n <= 3": [2, 3],
    "not n == 2": [1, 3, 4, 5],
    "lang in ['de', 'fr']": [2, 5],
    "lang not in ('de', 'fr')": [1, 3, 4],
    "lang is None": [4],
    "lang is not None": [1, 2, 3, 5],
    "n % 2 == 0": [2, 4],
    "n + 1 > 2 * 2": [4, 5],
    "-n < -4": [5],
    "`a b` > 2": [3, 5],
    "len(lang) == 2 and n < 3": [1, 2],
}


@pytest.mark.parametrize("text", CONDITIONS)
def test_conditions(text: str) -> None:
    frame = dd.from_pandas(FRAME, npartitions=2)
    assert frame[condition(text, frame)].n.compute().tolist() == CONDITIONS[text]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lang == ", "no expression"),
        ("langs == 'en'", r"'langs', which the rows have not \(did you mean 'lang'\?\)"),
        ("n + 1", "true or false of each row"),
        ("True", "true or false of each row"),
        ("n.real > 1", r"cannot hold 'n.real' \(character 1\)"),
        ("lang.__class__ == 1", "cannot hold"),
        ("__import__('os').system('true')", "cannot hold"),
        ("(lambda: n)() == 1", "cannot hold"),
        ("[each for each in n] == 1", "cannot hold"),
        ("n[0] == 1", "cannot hold"),
        ("f'{n}' == 'a'", "cannot hold"),
        ("len(n, n) > 1", "cannot hold"),
        ("n ** 9 > 1", "cannot hold"),
        ("(n := 1) > 1", "cannot hold"),
        ("n in [lang]", "cannot hold"),
    ],
)
def test_nothing_else_is_a_condition(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        condition(text, dd.from_pandas(FRAME, npartitions=2))


# -------------------------------------------------------------------------- a file of options
FILE = """\
command: embed
input: [docs/a.jsonl, docs/b.jsonl]
to: vectors
model:
  name: owner/model
  dtype: bfloat16
  model_kwargs: {num_hidden_layers: 6}
pooling: [cls, mean]
on-error: null
max_length: 128
overwrite: yes
"""


def _parsed(text: str, *arguments: str, folder: Path, name: str = "embed") -> dict[str, Any]:
    """Return what a command is given: its options that do not have their defaults."""
    (folder / "job.yaml").write_text(text)
    made = OperatorCommand(name)
    with made.make_context(name, ["--config", str(folder / "job.yaml"), *arguments]) as ctx:
        unset = click.core.ParameterSource.DEFAULT
        return {
            name: value
            for name, value in ctx.params.items()
            if ctx.get_parameter_source(name) != unset
        }


def test_a_file_of_options(tmp_path: Path) -> None:
    assert _parsed(FILE, folder=tmp_path) == {
        "input": ("docs/a.jsonl", "docs/b.jsonl"),
        "to": "vectors",
        "model": "owner/model",
        "dtype": "bfloat16",
        "model_kwargs": {"num_hidden_layers": 6},
        "pooling": ["cls", "mean"],
        "on_error": "null",
        "max_length": 128,
        "overwrite": True,
    }


def test_set_goes_before_the_file_and_options_before_both(tmp_path: Path) -> None:
    given = ["--set", "max_length=64", "--set", "prompt=query: ", "--set", "columns=[id, text]"]
    found = _parsed(FILE, *given, "--to", "elsewhere", "other.jsonl", folder=tmp_path)
    assert found["max_length"] == 64
    assert found["prompt"] == "query: "
    assert found["columns"] == ("id", "text")
    assert found["to"] == "elsewhere"
    assert found["input"] == ("other.jsonl",)


WRONG = {
    "to: [\n": "job.yaml:2:1: this is no YAML",
    "- embed\n": "job.yaml:1:1: options must stand as 'name: value'",
    "to: a\nmax_lenght: 3\n": "job.yaml:2:1: there is no option 'max_lenght' (did you mean "
    "'max_length'?)",
    "to: a\n\nmax_length:   many\n": "job.yaml:3:1: max_length: 'many' is not a valid integer",
    "to: a\nto: b\n": "job.yaml:2:1: 'to' stands here a second time",
    "on_error: ignore\n": "job.yaml:1:1: on_error: 'ignore' is not one of 'raise', 'null'",
    "to: [a, b]\n": "job.yaml:1:1: to takes one value, got ['a', 'b']",
    "model:\n  name: a\n  dtyp: float32\n": "job.yaml:3:3: a model has no 'dtyp' (did you mean "
    "'dtype'?)",
    "command: classify\n": "job.yaml:1:10: the file is for the command 'classify', not for 'embed'",
    "compile: 3x\n": "job.yaml:1:1: compile: '3x' is not a valid boolean",
}


@pytest.mark.parametrize("text", WRONG)
def test_a_mistake_in_a_file_tells_its_place(text: str, tmp_path: Path) -> None:
    with pytest.raises(click.UsageError) as error:
        _parsed(text, folder=tmp_path)
    assert WRONG[text] in error.value.message


def test_what_only_the_operator_refuses_tells_its_place_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from dask_embed.jobs.cli import main

    file = tmp_path / "job.yaml"
    file.write_text("command: embed\ninput: a.jsonl\nmodel: owner/model\nto: b\nmax_length: -1\n")
    assert main(["run", str(file)]) == 2
    assert f"{file}:5:1: max_length must be a positive integer" in capsys.readouterr().err
    assert main(["run", str(file), "--set", "max_length=-2"]) == 2
    assert "--set max_length: max_length must be" in capsys.readouterr().err
    file.write_text("command: embd\n")
    assert main(["run", str(file)]) == 2
    assert "command must be one of embed, " in capsys.readouterr().err
