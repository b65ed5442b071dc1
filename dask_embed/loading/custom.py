"""Models that transformers does not know: built by the user's callable, weights from safetensors.

The shape is that of NeMo Curator's classifiers: a `torch.nn.Module` around a transformer.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from dask_embed._validation import shown
from dask_embed.models.checkpoint import Checkpoint
from dask_embed.models.spec import Model
from dask_embed.models.weights import read_pickled

if TYPE_CHECKING:
    from transformers import PretrainedConfig


class CustomModel(torch.nn.Module):
    """A module of the user's with the face of a transformers model: a configuration, a type.

    Parameters
    ----------
    module : torch.nn.Module
    config : PretrainedConfig
    dimensions : int
        Of its logits: 2 for one result per text, 3 for one per token.
    """

    def __init__(self, module: torch.nn.Module, config: PretrainedConfig, dimensions: int) -> None:
        super().__init__()
        self.module = module
        self.config = copy.deepcopy(config)
        self._dimensions = dimensions
        parameters = inspect.signature(module.forward).parameters.values()
        self._takes_types = any(
            each.name == "token_type_ids" or each.kind is each.VAR_KEYWORD for each in parameters
        )

    @property
    def dtype(self) -> torch.dtype:
        return next(weights.dtype for weights in self.parameters() if weights.is_floating_point())

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        token_type_ids: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the logits by that name.

        Raises
        ------
        ValueError
            If the module gives anything else than logits for the labels of the configuration.
        """
        arguments = {"input_ids": input_ids, "attention_mask": attention_mask}
        if token_type_ids is not None and self._takes_types:
            arguments["token_type_ids"] = token_type_ids
        output = self.module(**arguments)
        logits = getattr(output, "logits", output)
        shape = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(output).__name__
        expected = (*input_ids.shape[: self._dimensions - 1], self.config.num_labels)
        if shape != expected:
            raise ValueError(
                f"{type(self.module).__name__}, which the factory built, must give logits of "
                f"shape {expected} for input_ids of shape {tuple(input_ids.shape)}, got {shape}; "
                "name the labels with dask_embed.Model(..., labels=) if there are others"
            )
        return {"logits": logits}


def load_custom(checkpoint: Checkpoint, spec: Model, task: str) -> CustomModel:
    """Build the module of `spec.factory` and give it the weights of the checkpoint, all of them.

    Raises
    ------
    TypeError
        If the factory does not return a module.
    ValueError
        If weights are missing, have another shape, or are not the module's.
    """
    assert spec.factory is not None
    module = spec.factory(copy.deepcopy(checkpoint.config))
    if not isinstance(module, torch.nn.Module):
        raise TypeError(f"factory must return a torch.nn.Module, got {shown(module)}")
    weights = _read_weights(checkpoint.weights(spec).files)
    _require_fit(module, weights, checkpoint.folder)
    # names of a tied weight that the file leaves out follow the name that it has
    module.load_state_dict(weights, strict=False)
    return CustomModel(module, checkpoint.config, 2 if task == "classify" else 3)


def _read_weights(files: Iterable[Path]) -> dict[str, torch.Tensor]:
    weights: dict[str, torch.Tensor] = {}
    for file in files:
        read = load_file(file) if file.suffix == ".safetensors" else read_pickled(file)
        twice = sorted(set(weights) & set(read))
        if twice:
            raise ValueError(
                f"several files of {str(file.parent)!r} hold {twice[0]!r}, {file.name!r} among "
                "them; call the one that is meant model.safetensors"
            )
        weights |= read
    return weights


def _require_fit(module: torch.nn.Module, weights: dict[str, torch.Tensor], folder: Path) -> None:
    own = module.state_dict(keep_vars=True)
    given = {id(own[name]) for name in weights if name in own}
    missing = sorted(name for name in own if name not in weights and id(own[name]) not in given)
    unexpected = sorted(set(weights) - set(own))
    shapes = sorted(
        f"{name} of shape {tuple(weights[name].shape)} for {tuple(own[name].shape)}"
        for name in weights
        if name in own and weights[name].shape != own[name].shape
    )
    if missing or unexpected or shapes:
        raise ValueError(
            f"the weights of {str(folder)!r} do not fit {type(module).__name__}, which the "
            f"factory built: missing {missing}, unexpected {unexpected}, other shapes {shapes}"
        )
