"""A command for each operator: its options, and those of reading, writing and running."""

from __future__ import annotations

import dataclasses
from typing import Any

import click

from dask_embed.jobs.command.inputs import FORMATS
from dask_embed.jobs.command.options import model_names, operator_options, step_options
from dask_embed.jobs.command.settings import PLACES, load
from dask_embed.jobs.command.steps import Step


@dataclasses.dataclass(frozen=True)
class About:
    """What the list of commands says of one, without importing anything for it."""

    operator: str
    help: str
    example: str


COMMANDS = {
    "embed": About(
        "Embedder",
        "Append a vector to each text.",
        "dask-embed embed 'docs/*.parquet' --to vectors/ --columns id,embedding \\\n"
        "    --model sentence-transformers/all-MiniLM-L6-v2 --where \"lang == 'en'\"",
    ),
    "embed-sparse": About(
        "SparseEmbedder",
        "Append a sparse vector over the vocabulary to each text.",
        "dask-embed embed-sparse docs.jsonl --to sparse/ --model owner/splade",
    ),
    "embed-multi-vector": About(
        "MultiVectorEmbedder",
        "Append the vectors of each text's tokens.",
        "dask-embed embed-multi-vector docs.jsonl --to colbert/ --model owner/colbert",
    ),
    "classify": About(
        "Classifier",
        "Append the label that a classifier gives each text.",
        "dask-embed classify news.jsonl --to labelled/ --model owner/topics --score confidence",
    ),
    "classify-zero-shot": About(
        "ZeroShotClassifier",
        "Append one of your own labels to each text.",
        "dask-embed classify-zero-shot news.jsonl --to labelled/ --model owner/nli \\\n"
        "    --labels sport --labels politics",
    ),
    "classify-tokens": About(
        "TokenClassifier",
        "Append what is named in each text, and where.",
        "dask-embed classify-tokens news.jsonl --to entities/ --model owner/ner "
        "--aggregation simple",
    ),
    "answer": About(
        "QuestionAnswerer",
        "Append the part of each text that answers a question.",
        "dask-embed answer letters.csv --to answers/ --model owner/qa --question 'Who writes?'",
    ),
    "rerank": About(
        "Reranker",
        "Append how well each text answers a query.",
        "dask-embed rerank found.parquet --to ranked/ --model owner/cross-encoder \\\n"
        "    --query-column question",
    ),
    "fill-mask": About(
        "MaskFiller",
        "Append the likeliest tokens for the mask of each text.",
        "dask-embed fill-mask gaps.txt --to filled/ --model google-bert/bert-base-uncased",
    ),
    "score": About(
        "PerplexityScorer",
        "Append how likely a language model finds each text.",
        "dask-embed score docs.jsonl --to scored/ --model owner/writer",
    ),
    "score-candidates": About(
        "CandidateScorer",
        "Append the likeliest of some texts behind each prompt.",
        "dask-embed score-candidates docs.jsonl --to scored/ --model owner/writer \\\n"
        "    --prompt 'Good or bad? {text}' --candidates good --candidates bad",
    ),
    "score-next": About(
        "NextTokenScorer",
        "Append the likeliest tokens behind each text.",
        "dask-embed score-next docs.jsonl --to scored/ --model owner/writer --top-k-next 5",
    ),
    "generate": About(
        "Generator",
        "Append what a language model writes behind a prompt.",
        "dask-embed generate docs.jsonl --to written/ --model owner/writer \\\n"
        "    --prompt 'Summarize: {text}' --max-new-tokens 60",
    ),
    "chunk": About(
        "Chunker",
        "Cut each text into rows of at most so many tokens.",
        "dask-embed chunk docs.jsonl --to chunks/ --model BAAI/bge-m3 --max-tokens 256 "
        "--overlap 32",
    ),
    "tokenize": About(
        "Tokenizer",
        "Append the token ids of each text.",
        "dask-embed tokenize docs.jsonl --to tokens/ --model BAAI/bge-m3 --count tokens_count",
    ),
    "detect-language": About(
        "LanguageDetector",
        "Append the language of each text.",
        "dask-embed detect-language docs.jsonl --to english/ --where \"language == 'en'\"",
    ),
    "text-quality": About(
        "TextQuality",
        "Append whether the rules of a corpus keep a text.",
        "dask-embed text-quality docs.jsonl --to kept/ --preset gopher --where quality",
    ),
    "text-statistics": About(
        "TextStatistics",
        "Append what texts are filtered by: words, repeated lines.",
        "dask-embed text-statistics docs.jsonl --to long/ --where 'text_words > 50'",
    ),
}


STEPS = {
    "dedup": (
        Step("dask_embed.curation.exact", "drop_exact_duplicates", "mark_exact_duplicates"),
        About(
            "",
            "Leave out rows that repeat the text of another one.",
            "dask-embed dedup docs.jsonl --to kept/ --column text --normalize whitespace",
        ),
    ),
    "dedup-fuzzy": (
        Step("dask_embed.curation.fuzzy", "drop_fuzzy_duplicates", "mark_fuzzy_duplicates"),
        About(
            "",
            "Leave out rows that have nearly the same text as another one.",
            "dask-embed dedup-fuzzy docs.jsonl --to kept/ --column text --threshold 0.8",
        ),
    ),
    "nearest": (
        Step("dask_embed.curation.nearest", "nearest", "nearest"),
        About(
            "",
            "Write the nearest rows of questions, or of every row.",
            "dask-embed nearest vectors/ --to neighbours/ --queries 'fill in missing values' --k 5",
        ),
    ),
    "cluster": (
        Step("dask_embed.curation.clustering", "cluster", "KMeans"),
        About(
            "",
            "Append the k-means cluster of each vector.",
            "dask-embed cluster vectors/ --to clustered/ --n-clusters 100",
        ),
    ),
}
# Operators whose arguments are arrays.
_OF_ARRAYS = ("linear-head", "similarity")
LISTED = {**COMMANDS, **{name: about for name, (_, about) in STEPS.items()}}


def about(name: str) -> About | None:
    """Return what is said of a command, of an operator that is not listed by its own docstring."""
    if name in LISTED:
        return LISTED[name]
    from dask_embed import operators

    for kind in operators.__all__:
        operator = getattr(operators, kind)
        if name and getattr(operator, "method", "").replace("_", "-") == name not in _OF_ARRAYS:
            return About(kind, _first_sentence(operator), f"dask-embed {name} --help")
    return None


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
        self._of_operator = {option.name for option in own}
        example = told.example
        if explains:
            example = example.replace("embed ", "embed explain ", 1)
        super().__init__(
            name,
            params=[*_reading(), *([] if explains else _writing()), *own, *_running(), *_said()],
            callback=self._run,
            help=_EXPLAINS if explains else _first_sentence(self.operator),
            short_help=told.help,
            epilog=f"\b\nExample:\n  {example}\n\nExit codes: {_CODES}",
            context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
        )

    def _run(self, **params: Any) -> None:
        from dask_embed.jobs.command.job import run

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
            "Reading": _reading(),
            "Writing": _writing(),
            "Running": _running(),
            "This": _said(),
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


def _first_sentence(operator: Any) -> str:
    operator = operator.function if isinstance(operator, Step) else operator
    return (operator.__doc__ or "").strip().partition("\n\n")[0].partition(";")[0].rstrip(".") + "."


def _reading() -> list[click.Parameter]:
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


def _writing() -> list[click.Parameter]:
    return [
        click.Option(
            ["--to"],
            metavar="FOLDER",
            help="Folder of Parquet files, local or fsspec. (--output names the column.)",
        ),
        click.Option(["--overwrite"], is_flag=True, help="Replace the rows that the folder has."),
        click.Option(["--append"], is_flag=True, help="Add to the rows that the folder has."),
        click.Option(
            ["--resume/--no-resume"],
            default=True,
            show_default="resume",
            help="Started again, do only what is missing; a folder that is done stays as it is.",
        ),
        click.Option(
            ["--array"],
            metavar="I/N",
            help="Run share I (0 to N-1) of the partitions, into a folder of its own below --to: "
            "for job arrays without a scheduler.",
        ),
        click.Option(["--dry-run"], is_flag=True, help="Check everything and say what would run."),
    ]


def _running() -> list[click.Parameter]:
    return [
        click.Option(
            ["--cluster"],
            metavar="local|cuda|ADDRESS|FILE",
            help="Where to run, by default in this process on all its cores.",
        ),
        click.Option(
            ["--workers"],
            type=click.INT,
            help="Of a local cluster; by default one for each NUMA node, or GPU.",
        ),
        click.Option(["--threads"], type=click.INT, help="Of each worker, or of this process."),
        click.Option(
            ["--memory"], metavar="SIZE", help="Of each worker of a local cluster, as in 8GiB."
        ),
    ]


def _said() -> list[click.Parameter]:
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
