"""Tiny checkpoints whose tokenizers join two texts as real ones do, and texts to join."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support import headed

LONG = "a very long text about lazy tables, which has to be cut somewhere " * 20
# Unsorted lengths, a repeat, an empty string, a null, and characters outside of ASCII.
TEXTS = (
    "Return a lazy table of all rows.",
    "x",
    LONG,
    None,
    "  spaces around  ",
    "Arguments are parsed; errors are raised as ValueError. See also: logging, decimal.",
    "",
    "x",
    "ünïcode 漢字 😀\tand\nspace",
    "the mean of a sample of data",
)
OTHERS = (
    "the table",
    LONG + "the other",
    "short",
    "of a null",
    "",
    "é",
    "not empty",
    "x",
    None,
    "How are handlers and filters of a logger related to each other?",
)


def save(name: str, folder: Path, *, seed: int = 0, **settings: Any) -> str:
    """Save a classifier of the architecture `name` of `tiny`; its limit is 64 tokens."""
    labels = settings.pop("labels", None)
    if labels is not None:
        settings["id2label"] = dict(enumerate(labels))
        settings["label2id"] = {str(label): number for number, label in enumerate(labels)}
    headed.save(name, "classify", folder, seed=seed, **settings)
    join_pairs(folder)
    return str(folder)


def join_pairs(folder: Path) -> None:
    """Write around the second text of a pair what is written after the first, as type 1."""
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text("utf8"))
    template = tokenizer["post_processor"]
    if template is None or template["type"] != "TemplateProcessing":
        return
    single = template["single"]
    place = next(i for i, piece in enumerate(single) if "Sequence" in piece)
    closing = [{kind: {**piece, "type_id": 1} for kind, piece in p.items()} for p in single[place:]]
    closing[0]["Sequence"]["id"] = "B"
    template["pair"] = [*single, *closing]
    file.write_text(json.dumps(tokenizer), "utf8")


def edit_json(file: Path, **values: Any) -> None:
    """Set values of a json file; None removes one."""
    content = {**(json.loads(file.read_text()) if file.is_file() else {}), **values}
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
