"""The command ``dask-embed``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit status; mistakes are one line on stderr."""
    options = _parser().parse_args(arguments)
    from dask_embed.jobs.demo import run_demo

    try:
        run_demo(
            rows=options.rows,
            queries=options.query,
            packages=options.packages,
            output=options.output,
        )
    except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
        print(f"dask-embed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("dask-embed: interrupted", file=sys.stderr)
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dask-embed", description="Transformer models as lazy columns of Dask dataframes."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    demo = commands.add_parser(
        "demo",
        help="embed the docstrings of the installed packages and search them",
        description=(
            "Read the docstrings of the packages installed here, embed them with "
            "all-MiniLM-L6-v2, write Parquet, answer questions and show near-duplicates."
        ),
    )
    demo.add_argument("--rows", type=_rows, default=2000, help="docstrings to read (2000)")
    demo.add_argument(
        "--query", action="append", metavar="TEXT", help="a question; may be given several times"
    )
    demo.add_argument(
        "--packages",
        nargs="+",
        metavar="NAME",
        help="installed packages to read (pandas dask distributed; all above 6,000 rows)",
    )
    demo.add_argument(
        "--output",
        type=Path,
        default=Path("demo-output"),
        help="folder of the Parquet files, replaced on every run (demo-output)",
    )
    return parser


def _rows(text: str) -> int:
    try:
        rows = int(text)
    except ValueError:
        rows = 0
    if rows < 1:
        raise argparse.ArgumentTypeError(f"a positive number of rows is needed, got {text!r}")
    return rows


if __name__ == "__main__":
    sys.exit(main())
