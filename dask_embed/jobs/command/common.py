"""The options that all commands of operators have."""

from __future__ import annotations

from typing import Any

import click

from dask_embed.jobs.command.inputs import FORMATS
from dask_embed.jobs.command.settings import load

# Of processes or threads; libraries take no more for a number.
_COUNT = click.IntRange(1, 2**15)
CHANGED, GONE = ("error", "keep", "replace"), ("keep", "drop")


def reading() -> list[click.Parameter]:
    return [
        click.Argument(["input"], nargs=-1),
        click.Option(
            ["--format"],
            type=click.Choice(["auto", *FORMATS]),
            default="auto",
            help="Of the files; json is an object a line, text a row a line.",
            show_default=True,
        ),
        click.Option(
            ["--where"],
            help="Rows that are wanted, as in \"lang == 'en' and len(text) > 9\"; "
            "results may be named, and what names none is decided before the model runs.",
        ),
        click.Option(
            ["--columns"],
            multiple=True,
            metavar="NAME,...",
            help="Columns to keep, results among them.",
        ),
        click.Option(
            ["--partition-size"], metavar="SIZE", help="Bytes of files in a partition, as in 64MiB."
        ),
        click.Option(
            ["--skip-bad-files"],
            is_flag=True,
            help="Read all files once before; leave out and list those that cannot be read.",
        ),
    ]


class Resume(click.ParamType):
    """Whether a job is gone on with, or that rows are known by an id."""

    name = "resume"

    def convert(self, value: Any, param: Any, ctx: Any) -> bool | str:
        if value == "rows":
            return "rows"
        return click.BOOL.convert(value, param, ctx)


def by_rows() -> list[click.Parameter]:
    """Return the options of ``--resume rows``."""
    return [
        click.Option(
            ["--id"],
            metavar="NAME",
            help="Of --resume rows: the column that each row has a value of its own in.",
        ),
        click.Option(
            ["--changed"],
            type=click.Choice(CHANGED),
            default="error",
            help="Of --resume rows: what becomes of rows whose id is there with another content. "
            "[default: error]",
        ),
        click.Option(
            ["--gone"],
            type=click.Choice(GONE),
            default="keep",
            help="Of --resume rows: what becomes of rows of the folder whose id is not in the "
            "input. [default: keep]",
        ),
    ]


def writing() -> list[click.Parameter]:
    return [
        click.Option(
            ["--to"],
            metavar="FOLDER",
            help="Folder of Parquet files, local or fsspec; a table where the name ends in .lance "
            "or .delta. (--output names the column.)",
        ),
        click.Option(["--overwrite"], is_flag=True, help="Replace the rows that the folder has."),
        click.Option(["--append"], is_flag=True, help="Add to the rows that the folder has."),
        click.Option(
            ["--resume"],
            type=Resume(),
            is_flag=False,
            flag_value="yes",
            default="yes",
            metavar="[yes|no|rows]",
            help="Started again, do only what is missing; a folder that is done stays as it is. "
            "With rows, only rows run whose id and content the folder does not have. "
            "[default: yes]",
        ),
        click.Option(["--no-resume"], is_flag=True, help="As --resume no."),
        click.Option(
            ["--array"],
            metavar="I/N",
            help="Run share I (0 to N-1) of the partitions, into a folder of its own below --to: "
            "for job arrays without a scheduler.",
        ),
        click.Option(["--dry-run"], is_flag=True, help="Check everything and say what would run."),
    ]


def running() -> list[click.Parameter]:
    return [
        click.Option(
            ["--cluster"],
            metavar="local|cuda|ADDRESS|FILE",
            help="Where to run, by default in this process on all its cores.",
        ),
        click.Option(
            ["--workers"],
            type=_COUNT,
            help="Of a local cluster; by default one for each NUMA node, or GPU.",
        ),
        click.Option(["--threads"], type=_COUNT, help="Of each worker, or of this process."),
        click.Option(
            ["--memory"], metavar="SIZE", help="Of each worker of a local cluster, as in 8GiB."
        ),
    ]


def said() -> list[click.Parameter]:
    return [
        click.Option(
            ["--config"],
            type=click.Path(dir_okay=False),
            is_eager=True,
            expose_value=False,
            callback=load,
            help="A YAML file of options, by their names without dashes.",
        ),
        click.Option(
            ["--set"],
            multiple=True,
            metavar="KEY=VALUE",
            is_eager=True,
            expose_value=False,
            callback=load,
            help="An option as the file has them; goes before the file's.",
        ),
        click.Option(
            ["--log"],
            metavar="FILE",
            help="Add lines of JSON: what ran where, how long, what failed.",
        ),
        click.Option(
            ["--json", "as_json"], is_flag=True, help="Print one line of JSON at the end."
        ),
        click.Option(["--quiet"], is_flag=True, help="No progress."),
    ]
