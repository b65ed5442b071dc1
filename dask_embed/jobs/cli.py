"""The command ``dask-embed``, which is also ``dask embed``.

Its list of commands is written without importing what they need.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from dask_embed._secrets import without_secrets
from dask_embed._version import __version__
from dask_embed.jobs.command.ending import USAGE, ended, ends_soon, ends_with
from dask_embed.jobs.command.listed import LISTED, about
from dask_embed.jobs.command.operators import OperatorCommand
from dask_embed.jobs.command.settings import command_of

_SETTINGS = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
_EXAMPLES = """\b
Examples:
  dask-embed embed 'docs/*.parquet' --to vectors/ --model sentence-transformers/all-MiniLM-L6-v2
  dask-embed embed s3://bucket/docs/ --to s3://bucket/vectors/ --model BAAI/bge-m3 \\
      --cluster scheduler.json
  dask-embed explain classify news.jsonl --model owner/topics --where "lang == 'en'"
  dask-embed describe sentence-transformers/all-MiniLM-L6-v2
  dask-embed run nightly.yaml --set where="day == '2026-11-26'"

\b
Completion, for bash (zsh and fish alike):
  eval "$(_DASK_EMBED_COMPLETE=bash_source dask-embed)"
"""


class _Operators(click.Group):
    """A group of a command for each operator, each made when it is wanted."""

    explains = False

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*LISTED, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        found = super().get_command(ctx, name)
        if found is None and about(name) is not None:
            return OperatorCommand(name, explains=self.explains)
        return found

    def invoke(self, ctx: click.Context) -> Any:
        """Run a command, which a signal ends soon, also while it imports what it needs.

        What was typed in a wrong place may be a secret, which errors quote.
        """
        with ends_soon() as last_words:
            last_words.append(ended(KeyboardInterrupt()).show)
            try:
                return super().invoke(ctx)
            except click.ClickException as error:
                error.message = without_secrets(error.message)  # type: ignore[misc]
                raise

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands; click would make each for it."""
        rows = [(name, each.help) for name, each in LISTED.items()]
        rows += [(name, each.get_short_help_str(70)) for name, each in self.commands.items()]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class _Explained(_Operators):
    explains = True


@click.group("embed", cls=_Operators, context_settings=_SETTINGS, epilog=_EXAMPLES)
@click.version_option(__version__, prog_name="dask-embed")
def command() -> None:
    """Run transformer models on columns of files: Parquet, lines of JSON, CSV, text."""


@command.group("explain", cls=_Explained, context_settings=_SETTINGS)
def explain() -> None:
    """Print what a command would run; nothing is computed."""


@command.command("run", context_settings={**_SETTINGS, "ignore_unknown_options": True})
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("options", nargs=-1, type=click.UNPROCESSED)
@click.pass_context
def run(ctx: click.Context, file: Path, options: tuple[str, ...]) -> Any:
    """Run the command that a YAML file names, with its options.

    OPTIONS are those of the command, and go before the file's.
    """
    name = command_of(file)
    chosen = command.get_command(ctx, name) if about(name) is not None else None
    if chosen is None:
        raise click.UsageError(f"{file}: command must be one of {', '.join(LISTED)}; got {name!r}")
    with chosen.make_context(name, ["--config", str(file), *options], parent=ctx.parent) as made:
        return chosen.invoke(made)


@command.command("describe", context_settings=_SETTINGS)
@click.argument("model")
@click.option("--task", help="With which head, by default that of the checkpoint.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON.")
def describe(model: str, task: str | None, as_json: bool) -> None:
    """Load a model and say how it runs here: limit, batches, memory, traps."""
    from dask_embed.jobs.command.describe import describe as print_description

    print_description(model, task, as_json=as_json)


@command.command("demo", context_settings=_SETTINGS)
@click.option(
    "--rows", type=click.IntRange(1), default=2000, show_default=True, help="Docstrings to read."
)
@click.option(
    "--query", multiple=True, metavar="TEXT", help="A question; may be given several times."
)
@click.option(
    "--packages",
    multiple=True,
    metavar="NAME",
    help="An installed package to read, may be given several times (pandas, dask, distributed; "
    "all above 6,000 rows).",
)
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    default=Path("demo-output"),
    show_default=True,
    help="Folder of the Parquet files, replaced on every run.",
)
def demo(rows: int, query: tuple[str, ...], packages: tuple[str, ...], output: Path) -> None:
    """Embed the docstrings of installed packages and search them.

    They are embedded with all-MiniLM-L6-v2 and written to Parquet; then questions are answered and
    near-duplicates shown.
    """
    from dask_embed.jobs.demo import run_demo

    with ends_with(USAGE):
        run_demo(rows=rows, queries=query, packages=packages or None, output=output)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; mistakes are one line on stderr."""
    try:
        command.main(arguments, prog_name="dask-embed")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
