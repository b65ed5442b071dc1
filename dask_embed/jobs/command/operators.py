"""A command for each operator: its options, and those of reading, writing and running."""

from __future__ import annotations

from typing import Any

import click

from dask_embed.jobs.command.common import by_rows, reading, running, said, writing
from dask_embed.jobs.command.listed import STEPS, about, first_sentence
from dask_embed.jobs.command.options import model_names, operator_options, step_options
from dask_embed.jobs.command.settings import PLACES


class OperatorCommand(click.Command):
    """Reads files, runs an operator on them and writes a folder; or only says what would run."""

    def __init__(self, name: str, *, explains: bool = False) -> None:
        from dask_embed import operators

        told = about(name)
        assert told is not None
        if name in STEPS:
            self.operator: Any = STEPS[name][0]
            self.model_options: dict[str, str] = {}
            own = step_options(self.operator)
        else:
            self.operator = getattr(operators, told.operator)
            self.model_options = model_names(self.operator)
            own = operator_options(self.operator)
        self.explains = explains
        written = [] if explains else writing()
        if written and name not in STEPS:  # which take all rows together
            written += by_rows()
        self._of_operator = {option.name for option in own}
        example = told.example
        if explains:
            example = example.replace("embed ", "embed explain ", 1)
        super().__init__(
            name,
            params=[*reading(), *written, *own, *running(), *said()],
            callback=self._run,
            help=_EXPLAINS if explains else first_sentence(self.operator),
            short_help=told.help,
            epilog=f"\b\nExample:\n  {example}\n\nExit codes: {_CODES}",
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        )

    def _run(self, **params: Any) -> None:
        from dask_embed.jobs.command.run import run

        ctx = click.get_current_context()
        given = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in params.items()
            if name in self._of_operator
            and ctx.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
        }
        model = {
            field: given.pop(name) for field, name in self.model_options.items() if name in given
        }
        job = {name: value for name, value in params.items() if name not in self._of_operator}
        places = ctx.meta.get(PLACES, {})
        run(self.name or "", self.operator, given, model, job, places, explains=self.explains)

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the options in the order in which one thinks of them."""
        titles = {
            "Reading": reading(),
            "Writing": [*writing(), *([] if self.name in STEPS else by_rows())],
            "Running": running(),
            "This": said(),
        }
        groups = {title: {each.name for each in params} for title, params in titles.items()}
        of_model = set(self.model_options.values()) | {"model"}
        groups = {
            "Reading": groups["Reading"],
            "Writing": groups["Writing"],
            "Operator": self._of_operator - of_model,
            "Model": of_model,
            "Running": groups["Running"],
            "Other": groups["This"] | {"help"},
        }
        for title, names in groups.items():
            rows = [
                row
                for param in self.get_params(ctx)
                if param.name in names and (row := param.get_help_record(ctx)) is not None
            ]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)


_EXPLAINS = "Print what would run, first step first; nothing is computed or written."
_CODES = "0 done, 2 usage, 3 input, 4 model, 5 interrupted and resumable, 1 anything else."
