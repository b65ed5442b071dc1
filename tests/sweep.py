"""Every architecture of transformers for which a tiny model can be built, against its own class.

``python tests/sweep.py RESULTS.jsonl`` walks the mappings of the installed transformers and writes
docs/architectures.md; what RESULTS.jsonl holds already is not done again.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import copy
import functools
import inspect
import json
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

import dask.dataframe as dd
import headed
import numpy as np
import pandas as pd
import shrunk
import tiny
import torch
import transformers
from transformers.models.auto import tokenization_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES

import dask_embed as de
from dask_embed.inference import lanes
from dask_embed.inference.runner import runner_for
from dask_embed.text.tokenization import TokenLists

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "architectures.md"
TOLERANCE = 1e-5
_MOST_WEIGHTS = 6_000_000
_SECONDS = 45  # of CPU time, for one architecture
_IN_ONE_PROCESS = 40
_LONGEST = 100  # tokens
_SCALES = (0.1, 0.03)  # of the random numbers in weights; smaller where vectors would be infinite


class NotBuiltError(Exception):
    """There is no tiny model of an architecture, or transformers itself gives no vectors of it."""


class _TooLongError(BaseException):
    pass


def texts() -> list[str]:
    """Short and long ones, with special tokens in letters."""
    words = tiny.corpus()
    return [
        words[40] + words[41],
        "[PAD] to fill up <pad> a [MASK] batch [SEP]",
        words[7],
        "Return the lines.",
        words[7][:40],
        words[100] + words[101],
    ]


def tokenizer(kind: str, config: Any, takes_types: bool) -> Any:
    """Return a tokenizer with the padding id of the architecture, and token types if it has any."""
    if kind == "canine":
        return transformers.CanineTokenizer(model_max_length=_LONGEST)
    after = getattr(config.get_text_config(), "pad_token_id", None) == 1
    made = tiny._roberta_tokenizer() if after else tiny.wordpiece()
    with contextlib.suppress(Exception):  # a tokenizer that is not installed
        name = tokenization_auto.TOKENIZER_MAPPING_NAMES.get(kind)
        own = getattr(transformers, name) if name else None
        takes_types = takes_types and "token_type_ids" in getattr(own, "model_input_names", ())
    made.model_input_names = ["input_ids", "attention_mask"]
    made.model_input_names += ["token_type_ids"] if takes_types else []
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    made.model_max_length = min(_LONGEST, positions if isinstance(positions, int) else _LONGEST)
    return made


# ------------------------------------------------------------------------------------ the models
def save(kind: str, model_class: Any, folder: Path) -> Any:
    """Save a tiny model of a class and its tokenizer; return the tokenizer."""
    config_class = transformers.CONFIG_MAPPING[kind]
    parameters = inspect.signature(model_class.forward).parameters
    if "input_ids" not in parameters:
        raise NotBuiltError("takes no text")
    problem = ""
    for attempt in shrunk.ATTEMPTS:
        try:
            default = config_class()
            tokens = tokenizer(kind, default, "token_type_ids" in parameters)
            config = shrunk.shrunk(config_class, tokens, attempt, default)
            config.architectures = [model_class.__name__]
            model = _built(model_class, config, tokens)
            model.save_pretrained(folder)
            tokens.save_pretrained(folder)
            return tokens
        except Exception as error:  # every architecture has its own way to refuse
            problem = problem or f"{type(error).__name__}: {_line(error)}"
    raise NotBuiltError(problem)


def _built(model_class: Any, config: Any, tokens: Any) -> Any:
    """Return a model whose weights are large enough that errors show."""
    with torch.device("meta"):
        weights = sum(each.numel() for each in model_class(config).parameters())
    if weights > _MOST_WEIGHTS:
        raise ValueError(f"{weights:,} weights are too many for a tiny model")
    for scale in _SCALES:
        torch.manual_seed(0)
        model = model_class(config).eval()
        tiny.enlarge(model, scale)
        with torch.inference_mode():
            given = _first_tensor(copy.deepcopy(_encoder(model))(**_inputs(tokens, texts()[0])))
        if torch.isfinite(given).all():
            return model
    raise ValueError("its results are no finite numbers")


def _encoder(model: Any) -> Any:
    """Return the encoder of one with a decoder, unless it has a head."""
    plain = model.config.is_encoder_decoder and hasattr(model, "get_encoder")
    bare = type(model).__name__.endswith("Model")
    return model.get_encoder() if plain and bare else model


def _inputs(tokens: Any, text: str) -> Any:
    return tokens(text, truncation=True, return_tensors="pt")


def _first_tensor(output: Any) -> torch.Tensor:
    for value in output.values() if hasattr(output, "values") else output:
        if isinstance(value, torch.Tensor):
            return value
    raise ValueError("its result has no tensor")


def _line(error: Any) -> str:
    return " ".join(str(error).split())[:200]


# ------------------------------------------------------------------------------------- embedding
def vectors(model_class: Any, folder: Path) -> np.ndarray:
    """The reference: mean of the token vectors, each text alone in a fresh model."""
    model, info = model_class.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    missing = [each for each in info["missing_keys"] if "pooler" not in each]
    if missing:
        raise NotBuiltError(f"transformers does not find its own weights again ({missing[0]})")
    model, tokens, given = _encoder(model.eval()), _tokens(folder), []
    with torch.inference_mode():
        for text in texts():
            output = copy.deepcopy(model)(**_inputs(tokens, text))
            hidden = getattr(output, "last_hidden_state", None)
            if hidden is None or hidden.ndim != 3:
                raise NotBuiltError("gives no vectors of tokens")
            given.append(hidden[0].mean(0).numpy())
    return np.stack(given)


@functools.lru_cache(maxsize=1)
def _tokens(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(folder)


def embedded(folder: Path, partitions: int = 1, attention: str = "auto", **settings: Any) -> Any:
    model = de.Model(str(folder), device="cpu", attention=attention)
    embedder = de.Embedder(model, column="text", pooling="mean", normalize=False, **settings)
    frame = pd.DataFrame({"text": texts()})
    if partitions > 1:
        lazy = embedder(dd.from_pandas(frame, npartitions=partitions))
        return de.to_array(lazy.compute(scheduler="sync")["embedding"])
    return de.to_array(embedder(frame)["embedding"])


def _in_two_threads(folder: Path) -> list[np.ndarray]:
    with mock.patch.object(lanes, "math_threads", return_value=4), ThreadPoolExecutor(2) as threads:
        return list(threads.map(lambda _: embedded(folder, batch_size=2), range(2)))


def embedding_paths(folder: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the vectors of every path, each with its name."""
    yield "default", embedded(folder)
    yield "one long batch", embedded(folder, tokens_per_batch=10_000)
    yield "three partitions", embedded(folder, partitions=3)
    for each in _in_two_threads(folder):
        yield "two threads", each
    left = folder.parent / f"{folder.name}-left"
    shutil.copytree(folder, left)
    file = left / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text("utf8")) | {"padding_side": "left"}))
    yield "padded left", embedded(left, attention="padded")
    yield "padded right", embedded(left, attention="padded", padding_side="right")


# ----------------------------------------------------------------------------------------- heads
def logits(model_class: Any, task: str, folder: Path) -> list[np.ndarray]:
    """The reference: what the head gives for each text alone in a fresh model."""
    model = model_class.from_pretrained(folder, dtype=torch.float32).eval()
    tokens, given = _tokens(folder), []
    with torch.inference_mode():
        for text in texts():
            output = copy.deepcopy(model)(**_inputs(tokens, text))
            if task == "answer":
                parts = [output["start_logits"][0], output["end_logits"][0]]
                given.append(torch.stack(parts, -1).numpy())
            else:
                given.append(output["logits"][0].numpy())
    return given


def given_logits(task: str, folder: Path) -> list[np.ndarray]:
    """Ours, in one batch."""
    spec = de.Model(str(folder), device="cpu")
    runner = runner_for(spec, task)
    encoded = [runner.loaded.tokenizer(t, truncation=True) for t in texts()]
    types = [each["token_type_ids"] for each in encoded if "token_type_ids" in each]
    tokens = TokenLists.of([each["input_ids"] for each in encoded], types or None)
    given = runner.logits(tokens).numpy()
    if len(given) == len(tokens):
        return list(given)
    return np.split(given, tokens.offsets[1:-1])


# ------------------------------------------------------------------------------------ one of them
def one(kind: str, tasks: tuple[str, ...] = ()) -> Iterator[dict[str, str]]:
    """Yield the rows of an architecture: embedding it, and each of its heads, or only some."""
    for task, mapping in _mappings().items():
        if tasks and task not in tasks:
            continue
        config_class = transformers.CONFIG_MAPPING[kind]
        if config_class not in mapping:
            continue
        found = mapping[config_class]
        model_class = found[0] if isinstance(found, tuple) else found
        row = {"kind": kind, "task": task, "class": model_class.__name__}
        with tempfile.TemporaryDirectory() as folder, _bounded():
            row |= _outcome(task, kind, model_class, Path(folder) / "model")
        de.unload()
        yield row


@functools.cache
def _mappings() -> dict[str, Any]:
    heads = {
        task: getattr(transformers, name)._model_mapping
        for task, name in headed.CLASSES.items()
        if task != "seq2seq-lm"
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
        if task == "embed":
            expected: Any = vectors(model_class, folder)
        else:
            expected = logits(model_class, task, folder)
    except NotBuiltError as error:
        return {"outcome": "not built", "why": str(error)}
    except _TooLongError:
        return {"outcome": "not built", "why": f"takes more than {_SECONDS} s"}
    except Exception as error:
        return {"outcome": "not built", "why": f"{type(error).__name__}: {_line(error)}"}
    try:
        return _compared(task, folder, expected)
    except _TooLongError:
        return {"outcome": "refused", "why": f"takes more than {_SECONDS} s"}
    except Exception as error:
        return {"outcome": "refused", "why": f"{type(error).__name__}: {_line(error)}"}


def _compared(task: str, folder: Path, expected: Any) -> dict[str, str]:
    furthest, where = 0.0, ""
    given = embedding_paths(folder) if task == "embed" else [("", given_logits(task, folder))]
    for path, values in given:
        apart = max(map(_apart, values, expected))
        if not apart <= furthest:
            furthest, where = apart, path
    runner = runner_for(de.Model(str(folder), device="cpu"), task)
    runs = runner.verdict.runs
    limit = runner.verdict.up_to
    if limit is not None and limit < _LONGEST:
        runs = f"{runs} up to {limit} tokens"
    if task != "embed":
        runs += ", head apart" if runner.head.reads else ", whole"
    equal = furthest <= TOLERANCE
    return {
        "outcome": "equal" if equal else "DIFFERS",
        "runs": runs,
        "apart": f"{furthest:.0e}",
        "why": "" if equal else where,
    }


def _apart(given: Any, expected: Any) -> float:
    if np.shape(given) != np.shape(expected):
        return float("inf")
    return float(np.abs(given - expected).max() / max(1.0, float(np.abs(expected).max())))


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
        f"padded left and right. Equal is at most {TOLERANCE:.0e} apart, beyond 1 of the value.",
        "Not built is what has no tiny model by this way, or gives transformers itself no",
        "vectors of a text alone: most need an image or sounds as well.",
        "",
        "`python tests/sweep.py RESULTS.jsonl` does the sweep, which takes many minutes and goes",
        "on where it was broken off, and writes this page.",
        "",
        "| architecture | task | class | result | runs, or why not | apart |",
        "|---|---|---|---|---|---|",
    ]
    for row in sorted(shown, key=lambda row: row["kind"]):
        told = row.get("runs") or _told(row["why"])
        cells = (row["kind"], row["task"], row["class"], row["outcome"], told)
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
        sweep(given.here, given.results)
        return
    walk(given.results, given.only)
    if not given.only:
        PAGE.write_text(page(rows_of(given.results)), "utf8")


if __name__ == "__main__":
    main()
