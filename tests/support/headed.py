"""Tiny seeded checkpoints of many architectures with the head of a task."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import tiny

CLASSES = {
    "classify": "AutoModelForSequenceClassification",
    "classify-tokens": "AutoModelForTokenClassification",
    "answer": "AutoModelForQuestionAnswering",
    "fill-mask": "AutoModelForMaskedLM",
    "causal-lm": "AutoModelForCausalLM",
    "seq2seq-lm": "AutoModelForSeq2SeqLM",
}


def has_head(name: str, task: str) -> bool:
    """Return whether transformers has the head of `task` for the architecture."""
    import transformers

    config = tiny.ARCHITECTURES[name].config(50)
    return type(config) in getattr(transformers, CLASSES[task])._model_mapping


def save(name: str, task: str, folder: Path, *, seed: int = 0, **settings: Any) -> Path:
    """Write an architecture of `tiny` with a head whose results differ visibly between texts.

    Parameters
    ----------
    name : str
        Key of `tiny.ARCHITECTURES`.
    task : str
        Key of `CLASSES`.
    folder : Path
    seed : int
    **settings
        Set on the configuration, such as ``num_labels=3``.
    """
    import torch
    import transformers

    base = tiny.save(name, folder.parent / f"{folder.name}-base")
    config = transformers.AutoConfig.from_pretrained(base)
    for key, value in settings.items():
        setattr(config, key, value)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = getattr(transformers, CLASSES[task]).from_config(config).eval()
        tiny.enlarge(model)
    model.save_pretrained(folder)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


def saver(root: Path) -> Callable[..., Path]:
    """Return a function from architecture and task to its checkpoint under `root`, saved once."""

    @functools.cache
    def saved(name: str, task: str = "embed") -> Path:
        folder = root / f"{name}-{task}"
        return (
            tiny.save(name, folder) if task == "embed" else save(name, task, folder, num_labels=3)
        )

    return saved
