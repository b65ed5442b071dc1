"""Every architecture of transformers for which a tiny model can be built, against its own class.

``python tests/sweep.py RESULTS.jsonl`` walks the mappings of the installed transformers and writes
docs/architectures.md; what RESULTS.jsonl holds already is not done again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import functools
import gc
import inspect
import json
import re
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from support import compared, headed
from support.built import LONGEST, NotBuiltError, line, reason, save
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

import dask_embed as de
from dask_embed.inference.runner import runner_for
from dask_embed.inference.scoring.loaded import scoring_of

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architectures.md"
TOLERANCE = 1e-5
_WRITERS = ("causal-lm", "seq2seq-lm")
_SECONDS = 45  # of CPU time, for one architecture
_IN_ONE_PROCESS = 40


_NOT_READ = "transformers does not read the weights that it saved"
_LOADING = ("automatic conversion of the weights", "ignore_mismatched_sizes")
_NOT_WRITTEN = "transformers itself fails to write"
_WITHOUT_CACHE = "writes as without its cache, with which transformers writes another text"


class _TooLongError(BaseException):
    pass


# ------------------------------------------------------------------------------------ one of them
def one(kind: str, tasks: tuple[str, ...] = ()) -> Iterator[dict[str, str]]:
    """Yield the rows of an architecture: embedding it, and each of its heads, or only some."""
    for task, mapping in _mappings().items():
        if tasks and task not in tasks:
            continue
        config_class = transformers.CONFIG_MAPPING[kind]
        if config_class not in mapping:
            continue
        try:
            found = mapping[config_class]
        except ValueError:
            why = "transformers names a class that it does not have"
            yield {"kind": kind, "task": task, "class": "", "outcome": "not built", "why": why}
            continue
        model_class = found[0] if isinstance(found, tuple) else found
        row = {"kind": kind, "task": task, "class": model_class.__name__}
        if task == "seq2seq-lm" and "decoder_input_ids" not in _inputs_of(model_class):
            task = "causal-lm"  # a decoder behind an encoder of sounds (Voxtral)
        with tempfile.TemporaryDirectory() as folder, _bounded():
            row |= _outcome(task, kind, model_class, Path(folder) / "model")
        de.unload()
        yield row


def _inputs_of(model_class: Any) -> Any:
    return inspect.signature(model_class.forward).parameters


@functools.cache
def _mappings() -> dict[str, Any]:
    heads = {
        task: getattr(transformers, name)._model_mapping for task, name in headed.CLASSES.items()
    }
    return {"embed": transformers.MODEL_MAPPING, **heads}


@contextlib.contextmanager
def _bounded() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise _TooLongError

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, _SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def _outcome(task: str, kind: str, model_class: Any, folder: Path) -> dict[str, str]:
    try:
        save(kind, model_class, folder)
        expected = _expected(task, model_class, folder)
    except NotBuiltError as error:
        return {"outcome": "not built", "why": str(error)}
    except _TooLongError:
        return {"outcome": "not built", "why": f"takes more than {_SECONDS} s"}
    except Exception as error:
        why = reason(error, ())
        why = _NOT_READ if any(told in why for told in _LOADING) else why
        return {"outcome": "not built", "why": why}
    try:
        return _compared(task, model_class, folder, *expected)
    except _TooLongError:
        return {"outcome": "refused", "why": f"takes more than {_SECONDS} s"}
    except Exception as error:
        return {"outcome": "refused", "why": f"{type(error).__name__}: {line(error)}"}


def _expected(task: str, model_class: Any, folder: Path) -> tuple[Any, list[str] | None]:
    """Return what the class itself gives: numbers, and texts if it writes any, None if it fails."""
    if task == "embed":
        return compared.vectors(model_class, folder), []
    if task == "seq2seq-lm":
        numbers = compared.likelihoods(model_class, folder)
    else:
        numbers = compared.logits(model_class, task, folder)
    if task not in _WRITERS or not model_class.can_generate():
        return numbers, []
    try:
        return numbers, compared.written(model_class, folder)
    except Exception:  # Reformer with its cache
        return numbers, None


def _compared(
    task: str, model_class: Any, folder: Path, expected: Any, written: list[str] | None
) -> dict[str, str]:
    furthest, where = 0.0, ""
    for path, values in _given(task, folder):
        apart = max(map(compared.apart, values, expected))
        if not apart <= furthest:
            furthest, where = apart, path
    equal = furthest <= TOLERANCE
    where = ("" if written is not None else _NOT_WRITTEN) if equal else where
    if equal and written and (given := compared.given_texts(folder)) != written:
        equal = given == compared.written(model_class, folder, use_cache=False)
        where = _WITHOUT_CACHE if equal else "what it writes"
    return {
        "outcome": "equal" if equal else "DIFFERS",
        "runs": _runs(task, folder),
        "apart": f"{furthest:.0e}",
        "why": where,
    }


def _given(task: str, folder: Path) -> Iterator[tuple[str, Any]]:
    if task == "embed":
        yield from compared.embedding_paths(folder)
    elif task == "seq2seq-lm":
        yield "scores", compared.given_likelihoods(folder)
    else:
        yield "logits", compared.given_logits(task, folder)


def _runs(task: str, folder: Path) -> str:
    runner = runner_for(de.Model(str(folder), device="cpu"), task)
    if task == "seq2seq-lm":
        return "padded" if scoring_of(runner).shares else "alone"
    runs, limit = runner.verdict.runs, runner.verdict.up_to
    if limit is not None and limit < LONGEST:
        runs = f"{runs} up to {limit} tokens"
    if task != "embed":
        runs += ", head apart" if runner.head.reads else ", whole"
    return runs


# -------------------------------------------------------------------------------------- all of them
def sweep(kinds: list[str], results: Path) -> None:
    """Append the rows of some architectures to a file."""
    for kind in kinds:
        with results.open("a") as file:
            file.write(json.dumps({"kind": kind, "task": "begun"}) + "\n")
            for row in one(kind):
                file.write(json.dumps(row) + "\n")
                file.flush()


def rows_of(results: Path) -> list[dict[str, str]]:
    lines = results.read_text().splitlines() if results.is_file() else []
    return [json.loads(line) for line in lines]


def page(rows: list[dict[str, str]]) -> str:
    """Return docs/architectures.md; of rows of one name the last counts."""
    last = {(row["kind"], row["task"]): row for row in rows if row["task"] != "begun"}
    no_text = sorted({kind for (kind, _), row in last.items() if row["why"] == "takes no text"})
    shown = [row for row in last.values() if row["why"] != "takes no text"]
    counts = collections.Counter(row["outcome"] for row in shown)
    kinds = {row["kind"] for row in shown}
    swept = {row["kind"] for row in rows}
    left = [kind for kind in CONFIG_MAPPING_NAMES if kind not in swept]
    earlier = sum("earlier" in row for row in shown)
    lines = [
        "# Architectures",
        "",
        f"Tiny models of {len(kinds)} architectures of transformers {transformers.__version__}, "
        "built from its own mappings",
        "with random weights, and their heads, against the class of transformers called as its",
        "tokenizer says on one text alone: "
        + ", ".join(f"{count} {outcome}" for outcome, count in sorted(counts.items()))
        + ".",
        "",
        "Embeddings take every path: one batch, one long batch, three partitions, two threads,",
        f"padded left and right. Equal is at most {TOLERANCE:.0e} apart, beyond 1 of the value; of",
        "encoders with a decoder the scores of labels are compared, and of what writes text also",
        "the text, with that of `generate`; of dual encoders that of `get_text_features`. Not",
        "built is what has no tiny model by this way, or",
        "of which transformers itself gives no vectors of a text alone.",
        "",
        "`python tests/sweep.py RESULTS.jsonl` does the sweep, which takes many minutes and goes",
        "on where it was broken off, and writes this page.",
        "",
    ]
    if earlier:
        lines += [
            f"{earlier} rows, with a star, are from an earlier sweep: before later changes of the",
            "library, and without what models write.",
            "",
        ]
    lines += [
        "| architecture | task | class | result | runs, or why not | apart |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(shown, key=lambda row: row["kind"]):
        told = _told("; ".join(filter(None, (row.get("runs"), row["why"]))))
        outcome = row["outcome"] + " *" * ("earlier" in row)
        cells = (row["kind"], row["task"], row["class"], outcome, told)
        lines.append(f"| {' | '.join(cells)} | {row.get('apart', '')} |")
    lines += ["", f"Take no text: {', '.join(no_text)}.", ""]
    if left:
        lines += [f"Not swept yet: {', '.join(left)}.", ""]
    return "\n".join(lines)


def _told(why: str) -> str:
    """Return a reason as it may stand in a table, on every machine the same."""
    return re.sub(r"'[^']*/model[^']*'", "...", why).replace("|", "/")[:140]


def walk(results: Path, only: list[str]) -> None:
    """Sweep what is not in the results yet, in processes that end after some architectures."""
    while True:
        begun = {row["kind"] for row in rows_of(results)}
        left = [kind for kind in only or CONFIG_MAPPING_NAMES if kind not in begun]
        if not left:
            return
        command = [sys.executable, __file__, str(results), "--here", *left[:_IN_ONE_PROCESS]]
        subprocess.run(command, check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path)
    parser.add_argument("--here", nargs="+", default=[], help="only these, in this process")
    parser.add_argument("--only", nargs="+", default=[], help="only these")
    given = parser.parse_args()
    if given.here:
        warnings.simplefilter("ignore")
        transformers.utils.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        torch.set_num_threads(1)
        gc.freeze()  # what was imported is never looked through again
        sweep(given.here, given.results)
        return
    walk(given.results, given.only)
    if not given.only:
        PAGE.write_text(page(rows_of(given.results)), "utf8")


if __name__ == "__main__":
    main()
