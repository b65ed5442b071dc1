"""One run of an operator from files to a folder: the steps, and what is said of them."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

import click

from dask_embed._validation import meant, shown
from dask_embed.jobs.command import ending
from dask_embed.jobs.command.ending import Ended, ends_soon, ends_with
from dask_embed.jobs.command.job import TABLES, Job
from dask_embed.jobs.command.steps import Bound
from dask_embed.jobs.command.writing import write


def run(
    command: str,
    operator: Any,
    given: Mapping[str, Any],
    model: Mapping[str, Any],
    options: Mapping[str, Any],
    places: Mapping[str, str],
    *,
    explains: bool,
) -> None:
    """Run a command with the options that it was given.

    Parameters
    ----------
    command : str
    operator : type
    given, model : mapping
        Arguments of the operator, and of the model that it runs.
    options : mapping
        Those of `Job`.
    places : mapping
        Where options stand that come from a file.
    explains : bool
        Only print the plan.

    Raises
    ------
    Ended
        If it does not get to its end; with the exit code.
    """
    with ends_soon() as last_words, _warnings_in_lines():
        with _usage(places):
            job = Job(**options)
            if not explains:
                job.folder()
                _require_other_files(job)
            made = _operator(operator, given, model)
        from dask_embed.jobs.run_log import RunLog

        explains = explains or job.dry_run
        # in the log, one that only looks would be a night without rows
        log = RunLog(None if explains else job.log, command, {**options, **given, **model})
        last_words.append(lambda: _failed(job, log, KeyboardInterrupt()))
        try:
            with ends_with(ending.USAGE):
                log.begin()
            with _scheduler(job) as client:
                try:
                    told = _run(job, made, log, client, explains=explains)
                except BaseException as error:
                    # before a cluster takes its time to close, and its workers complain
                    end = _failed(job, log, error)
                    last_words.leave()
                    raise end from error
                _tell(job, log.end(ending.DONE, told))
        except BaseException as error:
            if not log.done:
                raise _failed(job, log, error) from error
            last_words.leave(ending.DONE)


def _failed(job: Job, log: Any, error: BaseException) -> Ended:
    """Say, once, how a job failed."""
    end = ending.ended(error)
    if not log.ended:
        end.show()
        _tell(job, log.end(end.exit_code, {"error": end.message}))
    return end


def _operator(operator: Any, given: Mapping[str, Any], model: Mapping[str, Any]) -> Any:
    if not model:
        return operator(**given)
    from dask_embed.models.spec import Model

    return operator(**{**given, "model": Model(given["model"], **model)})


@contextlib.contextmanager
def _usage(places: Mapping[str, str]) -> Iterator[None]:
    """Give mistakes in options the exit code of usage, and the place of the option in its file."""
    try:
        yield
    except (ValueError, TypeError) as error:
        text = " ".join(str(error).split())
        first = re.match(r"\w+", text)
        place = places.get(first[0] if first else "", "")
        raise Ended(f"{place}: {text}" if place else text, ending.USAGE) from error


def _run(job: Job, operator: Any, log: Any, client: Any, *, explains: bool) -> dict[str, Any]:
    """Run, and return what the last line of json tells."""
    from dask_embed.jobs.overlap import Folder, require_apart_from_caches

    with ends_with(ending.INPUT):
        rows, bad = _rows(job, operator)
    for file, problem in bad.items():
        click.echo(f"dask-embed: left out {file}: {problem}", err=True)
        log.add("bad file", file=file, problem=problem)
    out = _results(job, operator, rows)
    if job.to:
        with ends_with(ending.USAGE):
            require_apart_from_caches(out, Folder.of(job.to))
    told: dict[str, Any] = {"partitions": out.npartitions, "bad_files": [*bad]}
    if explains:
        _explain(job, out)
        return told
    folder = job.folder()
    with log.watching(client):
        write(job, out, folder, client)
    counts = log.counts()
    if isinstance(operator, Bound):  # counts are of operators, and none took its rows
        del counts["rows"]
    return {**told, "to": folder, **counts}


def _require_other_files(job: Job) -> None:
    """Raise ValueError if the job would read its own rows, started again."""
    from dask_embed.jobs.overlap import require_not_read_again

    name = "data/0.lance" if job.table == "lance" else "part.0.parquet"
    require_not_read_again(job.input, job.to or "", name)


def _rows(job: Job, operator: Any) -> tuple[Any, dict[str, str]]:
    """Return the rows of the inputs, and the files that are left out."""
    from dask_embed.jobs.command.inputs import find_inputs
    from dask_embed.jobs.command.reading import bad_files, open_inputs

    inputs = find_inputs(job.input, job.format)
    if job.skip_bad_files:
        inputs = inputs.without(bad_files(inputs))
    wanted = None
    if job.columns and not job.where and hasattr(operator, "output_columns"):
        results = operator.output_columns
        wanted = [name for name in job.columns if name not in results]
        wanted += [name for name in operator.input_columns if name not in wanted]
    with ends_with(ending.USAGE):
        size = job.size_for(inputs.kind)
    return open_inputs(inputs, size, wanted), inputs.bad


def _results(job: Job, operator: Any, rows: Any) -> Any:
    """Return the rows that are wanted with their results, lazily."""
    from dask_embed.jobs.command.where import condition

    with ends_with(ending.MODEL):
        operator = operator.pinned()
        operator.types()
    known = set(getattr(operator, "input_columns", ())) <= set(rows.columns)
    with ends_with(ending.INPUT if known else ending.USAGE):
        operator.check(rows._meta)
    with ends_with(ending.USAGE if isinstance(operator, Bound) else ending.MODEL):
        out = operator(rows)
    with ends_with(ending.USAGE):
        if job.where:
            out = out[condition(job.where, out)]
        if job.columns:
            out = out[_named_columns(job.columns, list(out.columns))]
    share = job.share()
    if share is None:
        return out
    number, count = share
    if number >= out.npartitions:  # a folder of no rows says that this share is done
        whole = dataclasses.replace(job, array=None)
        return _results(
            whole, operator, rows.partitions[[0]].map_partitions(_none, meta=rows._meta)
        )
    return out.partitions[list(range(number, out.npartitions, count))]


def _none(rows: Any) -> Any:
    return rows.iloc[:0]


def _named_columns(names: tuple[str, ...], columns: list[str]) -> list[str]:
    for name in names:
        if name not in columns:
            raise ValueError(
                f"columns names {name!r}, which the rows have not{meant(name, columns)}; their "
                f"columns are {shown(columns)}"
            )
    return list(dict.fromkeys(names))


def _explain(job: Job, out: Any) -> None:
    from dask_embed.lazy.explain import explain

    explain(out, file=sys.stderr if job.as_json else None)
    if job.to:
        what = f"a {TABLES[job.table]} table" if job.table else "a file for each partition"
        click.echo(f"Into {job.folder()}, {what}", err=job.as_json)


@contextlib.contextmanager
def _scheduler(job: Job) -> Iterator[Any]:
    """Give the client of the cluster, None where the job runs in this process."""
    import dask

    if job.cluster is None:
        with dask.config.set(scheduler="threads", num_workers=job.threads or dask.system.CPU_COUNT):
            if job.threads:
                import torch

                torch.set_num_threads(job.threads)
            yield None
        return
    from dask_embed.jobs.cluster import cluster

    options: dict[str, Any] = {"workers": job.workers, "threads": job.threads, "memory": job.memory}
    with contextlib.ExitStack() as stack:
        try:
            client = stack.enter_context(
                cluster(job.cluster, **{name: each for name, each in options.items() if each})
            )
        except (ValueError, TypeError, ImportError) as error:
            raise Ended(" ".join(str(error).split()), ending.USAGE) from error
        except OSError as error:  # also a timeout: it may be there later
            text = f"no scheduler answers at {job.cluster!r}: {' '.join(str(error).split())}"
            raise Ended(text, ending.INTERRUPTED) from error
        yield client


@contextlib.contextmanager
def _warnings_in_lines() -> Iterator[None]:
    """Show warnings as lines of the command, without the place in code that they come from."""

    def show(message: Any, *rest: Any, **options: Any) -> None:
        with contextlib.suppress(OSError):
            click.echo(f"dask-embed: {' '.join(str(message).split())}", err=True)

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        yield


def _tell(job: Job, told: dict[str, Any]) -> None:
    """Print the last line; that nobody reads it any more is no failure of the job."""
    try:
        if job.as_json:
            print(json.dumps(told), flush=True)
        elif "to" in told:
            rows = f"{told['rows']:,} rows" if "rows" in told else "done"
            print(
                f"{rows} in {told['seconds']:,.1f} s, written to {told['to'].rstrip('/')}/",
                flush=True,
            )
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
