"""The heads that a checkpoint may have, and which transformers class loads each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from dask_embed.models.checkpoint import Checkpoint
from dask_embed.models.sources import brings_a_head, check_parts
from dask_embed.models.spec import Model


@dataclass(frozen=True)
class Task:
    """What a model is loaded for.

    Attributes
    ----------
    auto_class : str
        Class of transformers that loads it.
    ending : str
        End of the architecture names that have the head, empty where weights of the bare
        transformer do (a language model whose head is its embedding).
    """

    auto_class: str
    ending: str = ""


TASKS = {
    "embed": Task("AutoModel"),
    "classify": Task("AutoModelForSequenceClassification", "ForSequenceClassification"),
    "classify-tokens": Task("AutoModelForTokenClassification", "ForTokenClassification"),
    "answer": Task("AutoModelForQuestionAnswering", "ForQuestionAnswering"),
    "fill-mask": Task("AutoModelForMaskedLM"),
    "causal-lm": Task("AutoModelForCausalLM"),
    "seq2seq-lm": Task("AutoModelForSeq2SeqLM"),
}

FACTORY_TASKS = ("classify", "classify-tokens")


def require_head(task: str, checkpoint: Checkpoint, model: Model) -> None:
    """Raise unless a checkpoint has the head of `task`, and whatever its specification names.

    The configuration is what tells; with an adapter the head may be the adapter's.

    Raises
    ------
    ValueError
        If transformers has no such head for the architecture, or the weights were saved
        without it; if the adapter or the tokenizer is missing or does not fit.
    ModuleNotFoundError
        If a package is missing.
    """
    check_parts(model, checkpoint)
    if model.factory is not None:
        _require_factory_task(task, model)
        return
    if task == "embed" or model.trust_remote_code:
        return
    needed = TASKS[task]
    config = checkpoint.config
    if type(config) not in _auto_class(task)._model_mapping:
        raise ValueError(
            f"model {model.name!r} is of type {config.model_type!r}, for which transformers has no "
            f"{needed.auto_class}"
        )
    saved = list(getattr(config, "architectures", None) or [])
    bare = saved and needed.ending and not any(name.endswith(needed.ending) for name in saved)
    if bare and not brings_a_head(model):
        raise ValueError(
            f"model {model.name!r} was saved as {', '.join(saved)}; a checkpoint of a class that "
            f"ends with {needed.ending!r} is needed"
        )


def _require_factory_task(task: str, model: Model) -> None:
    if task not in FACTORY_TASKS:
        raise ValueError(
            f"model {model.name!r} has a factory, whose modules give logits for "
            f"{' and '.join(map(repr, FACTORY_TASKS))}; the operator needs {task!r}"
        )


def _auto_class(task: str) -> Any:
    import transformers

    return getattr(transformers, TASKS[task].auto_class)


def class_for(task: str, checkpoint: Checkpoint) -> Any:
    """Return the class that loads `task`; to embed, for T5 and its kin, the encoder alone."""
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, AutoModelForTextEncoding

    if task == "embed" and type(checkpoint.config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        return AutoModelForTextEncoding
    return _auto_class(task)
