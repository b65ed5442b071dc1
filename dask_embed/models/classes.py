"""What the classes of transformers say of themselves, so that no list of names is needed."""

from __future__ import annotations

import dataclasses
import functools
import re
import sys
import typing
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from dask_embed.runtime.libraries import importing

if TYPE_CHECKING:
    from transformers import PretrainedConfig

_ENCODER = re.compile(r"Encoder(Model)?$")


@functools.lru_cache(maxsize=64)
def plain_class(config_class: Any) -> Any:
    """Return the class without a head that transformers has for a configuration, None without."""
    from transformers import MODEL_MAPPING

    try:
        with importing():  # the code of the model
            found: Any = MODEL_MAPPING[config_class]
    except (KeyError, ValueError):  # a checkpoint's own code, of which the client knows nothing
        return None
    return found[0] if isinstance(found, tuple) else found


def encoder_class(config: PretrainedConfig, model_class: Any) -> Any:
    """Return the class of an encoder alone that weights were saved as, None if it is another.

    Parameters
    ----------
    config : PretrainedConfig
        Its `architectures` name the class.
    model_class : type
        What transformers loads for the configuration; the encoder is defined beside it.
    """
    for name in getattr(config, "architectures", None) or ():
        found = class_beside(model_class, name) if _ENCODER.search(name) else None
        if found is not None:
            return found
    return None


def class_beside(model_class: Any, name: str) -> Any:
    """Return the model class of a name in the module of another, None without one."""
    from transformers import PreTrainedModel

    found = vars(sys.modules[model_class.__module__]).get(name)
    return found if isinstance(found, type) and issubclass(found, PreTrainedModel) else None


def computes(model_class: Any, config: PretrainedConfig, weight: str) -> bool:
    """Return whether a weight is one that the class which was saved computes when it is missing.

    Parameters
    ----------
    model_class : type
        What was loaded.
    config : PretrainedConfig
        Its `architectures` name the class that was saved, perhaps with a head.
    weight : str
        Its name in `model_class`.
    """
    for name in getattr(config, "architectures", None) or ():
        saved = class_beside(model_class, name)
        patterns = getattr(saved, "_keys_to_ignore_on_load_missing", None) or ()
        known = (weight, f"{getattr(saved, 'base_model_prefix', '')}.{weight}")
        if any(re.search(pattern, each) for pattern in patterns for each in known):
            return True
    return False


def gives_one_vector(model_class: Any) -> bool:
    """Return whether models of a class give a vector for a text and none for its tokens."""
    fields = output_fields(model_class)
    return "pooler_output" in fields and "last_hidden_state" not in fields


def gives_scores(model_class: Any) -> bool:
    """Return whether models of a class give the scores of a head and no vectors."""
    fields = output_fields(model_class)
    return "logits" in fields and "last_hidden_state" not in fields


@functools.lru_cache(maxsize=64)
def output_fields(model_class: Any) -> frozenset[str]:
    """Return what models of a class say that they give, nothing where they do not say it."""
    try:
        annotated = typing.get_type_hints(model_class.forward).get("return")
    except (AttributeError, NameError, TypeError):  # no class of transformers, or code of others
        return frozenset()
    return frozenset(
        field.name for kind in _outputs_in(annotated) for field in dataclasses.fields(kind)
    )


def _outputs_in(annotated: Any) -> Iterator[Any]:
    from transformers.utils import ModelOutput

    if isinstance(annotated, type) and issubclass(annotated, ModelOutput):
        yield annotated
    for part in typing.get_args(annotated):
        yield from _outputs_in(part)
