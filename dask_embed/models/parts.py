"""What of a loaded model turns tokens into token vectors."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import torch

from dask_embed.models.classes import gives_one_vector, gives_scores

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class PlainEncoder(torch.nn.Module):
    """An encoder that is a bare module, with the face of a transformers model.

    Parameters
    ----------
    module : torch.nn.Module
    config : PretrainedConfig
    """

    def __init__(self, module: torch.nn.Module, config: PretrainedConfig) -> None:
        super().__init__()
        self.module = module
        self.config = config

    @property
    def dtype(self) -> torch.dtype:
        return next(weights.dtype for weights in self.parameters() if weights.is_floating_point())

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        """Return what the module does."""
        return self.module(input_ids=input_ids, attention_mask=attention_mask)


def decodes_texts(model: Any) -> bool:
    """Return whether a model makes of a text what its decoder reads, as BART does."""
    tokens = torch.tensor([[1, 2]], device=next(model.parameters()).device)
    try:
        with torch.inference_mode():
            model(input_ids=tokens, attention_mask=torch.ones_like(tokens))
    except Exception:  # each says in its own way that it wants more
        return False
    return True


def token_part(model: Any, *, encoder: bool) -> Any:
    """Return the part of a loaded model that gives token vectors, the model itself if it does.

    Parameters
    ----------
    model : PreTrainedModel
    encoder : bool
        The encoder of one that has a decoder.

    Raises
    ------
    ValueError
        If the model does more to the first token vector than to choose it.
    """
    if encoder and hasattr(model, "get_encoder"):
        part = model.get_encoder()
        return part if hasattr(part, "config") else PlainEncoder(part, model.config)
    if gives_one_vector(type(model)):
        return _below_pooling(model)
    if gives_scores(type(model)):  # a composite that has no class without its head (Llama 4)
        name = transformer_name(model)
        part = model.get_decoder() if name is None else getattr(model, name)
        if part is model:
            raise ValueError(
                f"{type(model).__name__} gives the scores of its head, and no part of it gives "
                "the vectors of a text's tokens; take a model without such a head"
            )
        return token_part(part, encoder=False)
    return model


def _below_pooling(model: Any) -> Any:
    part = model
    while gives_one_vector(type(part)) or _gives_a_tuple(part):
        name = transformer_name(part)
        if name is None:
            return model
        part = getattr(part, name)
    ours = set(map(id, part.parameters()))
    others = [name for name, weights in model.named_parameters() if id(weights) not in ours]
    if others:
        raise ValueError(
            f"{type(model).__name__} projects the vectors of texts ({others[0]}), which is not "
            "done here; make a sentence-transformers folder with the projection as a Dense module"
        )
    return part


def _gives_a_tuple(model: Any) -> bool:
    asked = inspect.signature(model.forward).parameters.get("return_dict")
    return asked is not None and asked.default is False


def takes_texts(model: Any) -> bool:
    """Return whether the forward pass of a model takes ids of tokens (Perceiver's has no such)."""
    parameters = inspect.signature(model.forward).parameters
    if "input_ids" in parameters:
        return True
    named = [each for each in parameters.values() if each.kind is each.POSITIONAL_OR_KEYWORD]
    return all(each.default is not each.empty for each in named)


def transformer_name(model: torch.nn.Module) -> str | None:
    """Return the attribute of `model` that is the transformer below its head, None without one."""
    prefix = getattr(model, "base_model_prefix", "")
    if isinstance(getattr(model, prefix, None), torch.nn.Module):
        return str(prefix)
    found = [name for name, part in model.named_children() if hasattr(part, "base_model_prefix")]
    return found[0] if len(found) == 1 else None
