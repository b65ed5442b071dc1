"""The part of a model above its transformer, for token vectors from wherever they come.

The head of any architecture is the model itself with its transformer taken out: a copy that shares
the weights, in which a stand-in gives back the vectors that it is handed. So packed and padded
batches have one way through the head, which sees real tokens only.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import torch
from transformers.utils import ModelOutput

from dask_embed.loading.load import LoadedModel
from dask_embed.models.parts import transformer_name


@dataclass
class _Passed(ModelOutput):
    """What a transformer gives; heads name its parts."""

    last_hidden_state: torch.Tensor | None = None
    pooler_output: torch.Tensor | None = None
    past_key_values: None = None
    hidden_states: None = None
    attentions: None = None
    cross_attentions: None = None
    router_logits: None = None


class _StandIn(torch.nn.Module):
    """Give back the vectors that stand for embeddings, pooled if the transformer has a pooler."""

    def __init__(self, transformer: torch.nn.Module) -> None:
        super().__init__()
        self.pooler = getattr(transformer, "pooler", None)
        # of a bare linear pooler: ALBERT's, BigBird's
        named = ("pooler_activation", "activation")
        self.activation = next((a for n in named if (a := getattr(transformer, n, None))), None)

    def forward(self, *args: Any, inputs_embeds: torch.Tensor, **kwargs: Any) -> _Passed:
        return _Passed(last_hidden_state=inputs_embeds, pooler_output=self._pooled(inputs_embeds))

    def _pooled(self, vectors: torch.Tensor) -> torch.Tensor | None:
        if self.pooler is None:
            return None
        if isinstance(self.pooler, torch.nn.Linear):
            assert self.activation is not None, "a bare linear pooler comes with its activation"
            return self.activation(self.pooler(vectors[:, 0]))
        return self.pooler(vectors)


def without_transformer(loaded: LoadedModel) -> Any:
    """Return a copy of the model that shares all weights but has a stand-in below its head."""
    model = loaded.model
    head = copy.copy(model)
    # accelerate's hook on the whole model would run that instead of the copy
    head.__dict__.pop("forward", None)
    head._modules = dict(model._modules)
    name = transformer_name(model)
    assert name is not None, "a head that runs as one has no transformer to take out"
    head._modules[name] = _StandIn(loaded.transformer)
    head.config = copy.deepcopy(model.config)
    # heads that look for the last token tell padding by its id, and there is none
    head.config.get_text_config().pad_token_id = -1
    return head


def logits_of(output: Any) -> torch.Tensor:
    """Return the results of a model, the start and end of an answer as two columns."""
    if "start_logits" in output:
        return torch.stack([output["start_logits"], output["end_logits"]], dim=-1)
    return output["logits"]
