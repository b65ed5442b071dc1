"""The heads that a checkpoint may have, and which transformers class loads each."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

from dask_embed._validation import shown
from dask_embed.models.checkpoint import Checkpoint
from dask_embed.models.classes import class_beside, encoder_class, plain_class
from dask_embed.models.requirements import check_parts
from dask_embed.models.sources import adapter_folder, brings_a_head, require_adapter
from dask_embed.models.spec import Model
from dask_embed.runtime.libraries import importing


@dataclass(frozen=True)
class Task:
    """What a model is loaded for.

    Attributes
    ----------
    auto_class : str
        Class of transformers that loads it.
    ending : str
        End of the architecture names that have the head, empty where there are many such names:
        of language models.
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

LABEL_TASKS = ("classify", "classify-tokens")
# A factory's modules give logits of labels.
FACTORY_TASKS = LABEL_TASKS

# What peft writes as the task that an adapter was trained for.
_ADAPTER_TASKS = {
    "SEQ_CLS": "classify",
    "TOKEN_CLS": "classify-tokens",
    "QUESTION_ANS": "answer",
    "SEQ_2_SEQ_LM": "seq2seq-lm",
    "CAUSAL_LM": "causal-lm",
    "FEATURE_EXTRACTION": "embed",
}
# Encoders with a decoder are among the models for masked tokens, too.
_SAVED_TASKS = ("classify", "classify-tokens", "answer", "seq2seq-lm", "causal-lm", "fill-mask")


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
    _require_labels_of_use(task, model)
    if task == "embed" or model.trust_remote_code:
        return
    needed = TASKS[task]
    config = checkpoint.config
    if type(config) not in _auto_class(task, config)._model_mapping:
        raise ValueError(
            f"model {model.name!r} is of type {config.model_type!r}, for which transformers has no "
            f"{needed.auto_class}"
        )
    saved = list(getattr(config, "architectures", None) or [])
    if not saved or brings_a_head(model):
        return
    _require_same_head(task, config, saved, model)
    if any(_has_head(task, config, name) for name in saved):
        return
    what = f"that ends with {needed.ending!r}" if needed.ending else f"of {needed.auto_class}"
    raise ValueError(
        f"model {model.name!r} was saved as {', '.join(saved)}; a checkpoint of a class "
        f"{what} is needed"
    )


def saved_tasks(checkpoint: Checkpoint, model: Model) -> tuple[str, ...]:
    """Return what a checkpoint was saved for, as its files and its specification say.

    Several where only loading tells: a factory's modules.
    """
    if model.factory is not None:
        return FACTORY_TASKS
    if model.adapter is not None:
        named = require_adapter(adapter_folder(model)[0]).get("task_type")
        if named in _ADAPTER_TASKS:
            return (_ADAPTER_TASKS[named],)
    if checkpoint.pooling is not None:  # sentence-transformers wrote it
        return ("embed",)
    saved = list(getattr(checkpoint.config, "architectures", None) or [])
    with importing():
        fitting = [task for task in _SAVED_TASKS if _is_class_of(task, checkpoint.config, saved)]
    return (fitting[0] if fitting else "embed",)


def _is_class_of(task: str, config: Any, saved: list[str]) -> bool:
    """Return whether weights were saved as the class that loads `task`."""
    classes = _classes(task, config)
    ending = TASKS[task].ending
    return any(
        name in [each.__name__ for each in classes] or (ending and name.endswith(ending))
        for name in saved
    )


def _require_same_head(task: str, config: Any, saved: list[str], model: Model) -> None:
    """Raise ValueError for a head of the task that is another than the one that is loaded.

    XLNet, XLM and Flaubert have two for answers, one of which searches with beams.
    """
    ending, loaded = TASKS[task].ending, _classes(task, config)
    known = [each.__name__ for each in loaded]
    for name in saved:
        another = ending and name.endswith(ending) and name not in known
        if another and any(class_beside(each, name) is not None for each in loaded):
            raise ValueError(
                f"model {model.name!r} was saved as {name}, whose head is another than that of "
                f"{known[0]}, the one that can be run; train a head of that class"
            )


def _classes(task: str, config: Any) -> list[Any]:
    """Return the classes that transformers has for a task and a configuration."""
    with importing():
        known = _auto_class(task, config)._model_mapping.get(type(config), ())
    return list(known) if isinstance(known, tuple) else [known]


def _has_head(task: str, config: Any, saved: str) -> bool:
    """Return whether weights that were saved as a class of this name may have the head of `task`.

    The head of a language model may be its embedding, which the bare transformer has too; models
    for masked tokens put a layer of their own before it.
    """
    from transformers import MODEL_FOR_MASKED_LM_MAPPING
    from transformers.models.auto.modeling_auto import MODEL_MAPPING_NAMES

    ending = TASKS[task].ending
    if ending:
        named = [each.__name__ for each in _classes(task, config)]
        return saved.endswith(ending) or saved in named
    plain = MODEL_MAPPING_NAMES.get(config.model_type, ())
    others = tuple(each.ending for each in TASKS.values() if each.ending)
    if saved not in ((plain,) if isinstance(plain, str) else plain) and not saved.endswith(others):
        return True
    if type(config) in MODEL_FOR_MASKED_LM_MAPPING and not config.is_encoder_decoder:
        return False
    return bool(getattr(config.get_text_config(), "tie_word_embeddings", True))


def _require_factory_task(task: str, model: Model) -> None:
    if task not in FACTORY_TASKS:
        raise ValueError(
            f"model {model.name!r} has a factory, whose modules give logits for "
            f"{' and '.join(map(repr, FACTORY_TASKS))}; the operator needs {task!r}"
        )


def _require_labels_of_use(task: str, model: Model) -> None:
    if model.labels is not None and task not in LABEL_TASKS:
        raise ValueError(
            f"labels={shown(model.labels)} of dask_embed.Model has no effect for an operator that "
            f"needs {task!r}; they name what {' and '.join(map(repr, LABEL_TASKS))} give: leave it "
            "out here"
        )


def _auto_class(task: str, config: Any) -> Any:
    """Return the class of transformers that loads `task` for a configuration.

    It has decoders behind encoders of sounds (Voxtral) among the encoders with a decoder.
    """
    import transformers

    given = getattr(transformers, TASKS[task].auto_class)
    if task == "causal-lm" and type(config) not in given._model_mapping:
        other = getattr(transformers, TASKS["seq2seq-lm"].auto_class)
        if not config.is_encoder_decoder and type(config) in other._model_mapping:
            return other
    return given


def class_for(task: str, checkpoint: Checkpoint) -> Any:
    """Return the class that loads `task`; to embed, for T5 and its kin, the encoder alone."""
    encoder = _encoder_for(checkpoint) if task == "embed" else None
    return encoder or _auto_class(task, checkpoint.config)


def encoder_fields(task: str, checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a configuration has to say where the encoder alone is loaded."""
    alone = checkpoint.config.is_encoder_decoder and task == "embed"
    return {"is_encoder_decoder": False} if alone and _encoder_for(checkpoint) else {}


def empty_model(task: str, checkpoint: Checkpoint) -> Any:
    """Return a model with the weights that torch's context gives it, none of the checkpoint's."""
    kind, config = class_for(task, checkpoint), copy.deepcopy(checkpoint.config)
    for name, value in encoder_fields(task, checkpoint).items():
        setattr(config, name, value)
    build = getattr(kind, "from_config", None) or kind._from_config
    return build(config)


def _encoder_for(checkpoint: Checkpoint) -> Any:
    """Return the class of the text encoder alone; None without one, or of a part of a composite."""
    from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING

    config = checkpoint.config
    kind: Any = type(config)
    plain = plain_class(kind)
    if plain is None or "AutoModel" in (getattr(config, "auto_map", None) or ()):
        return None
    saved = encoder_class(config, plain)
    if saved is not None or kind not in MODEL_FOR_TEXT_ENCODING_MAPPING:
        return saved
    encoder: Any = MODEL_FOR_TEXT_ENCODING_MAPPING[kind]
    return encoder if encoder.config_class is kind else None
