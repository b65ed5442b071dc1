"""Dense and normalization layers of sentence-transformers checkpoints.

The attribute names are those under which the checkpoints store the weights.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file

from dask_embed._validation import shown_error
from dask_embed.models.modules import Dense, LayerNorm
from dask_embed.models.weights import read_pickled


class DenseLayer(torch.nn.Module):
    """A linear layer, an activation, and a residual connection where asked for."""

    def __init__(self, module: Dense) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(module.in_features, module.out_features, bias=module.bias)
        self.activation_function = _activation(module)
        self.adds_input = module.residual and module.in_features == module.out_features
        if module.residual and not self.adds_input:
            self.residual = torch.nn.Linear(module.in_features, module.out_features, bias=False)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        projected = self.activation_function(self.linear(vectors))
        if self.adds_input:
            return projected + vectors
        return projected + self.residual(vectors) if hasattr(self, "residual") else projected


class LayerNormLayer(torch.nn.Module):
    """Layer normalization."""

    def __init__(self, module: LayerNorm) -> None:
        super().__init__()
        self.norm = torch.nn.LayerNorm(module.dimension)

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return self.norm(vectors)


def load_layer(module: Dense | LayerNorm, root: Path, *, allow_pickle: bool) -> torch.nn.Module:
    """Return the layer with its weights, read from its folder below `root`.

    Raises
    ------
    ValueError
        If the weights are missing, are pickled without `allow_pickle`, or do not fit.
    """
    layer = DenseLayer(module) if isinstance(module, Dense) else LayerNormLayer(module)
    missing, unexpected = layer.load_state_dict(
        _read_weights(root / module.path, allow_pickle), strict=False
    )
    if missing or unexpected:
        raise ValueError(
            f"weights of module {module.path!r} do not fit its config.json: "
            f"missing {missing}, unexpected {unexpected}"
        )
    return layer


def _activation(module: Dense) -> torch.nn.Module:
    cls = getattr(torch.nn, module.activation.rpartition(".")[2], None)
    if not (isinstance(cls, type) and issubclass(cls, torch.nn.Module)):
        raise ValueError(
            f"Dense module {module.path!r} has the activation {module.activation!r}, "
            "which is not a class of torch.nn"
        )
    try:
        activation = cls()
        with torch.inference_mode():
            shape = activation.eval()(torch.zeros(2, module.out_features)).shape
    except (AttributeError, IndexError, RuntimeError, TypeError, ValueError) as error:
        raise ValueError(
            f"Dense module {module.path!r} has the activation {module.activation!r}, which cannot "
            f"be made without arguments: {shown_error(error)}"
        ) from error
    if shape != (2, module.out_features):
        raise ValueError(
            f"Dense module {module.path!r} has the activation {module.activation!r}, which makes "
            f"{shape[-1]} values of {module.out_features}; one that keeps them all is needed"
        )
    return activation


def _read_weights(folder: Path, allow_pickle: bool) -> dict[str, torch.Tensor]:
    safe, pickled = folder / "model.safetensors", folder / "pytorch_model.bin"
    if safe.is_file():
        return load_file(safe)
    if pickled.is_file() and allow_pickle:
        return read_pickled(pickled)
    raise ValueError(
        f"module folder {str(folder)!r} holds no model.safetensors"
        + ("; pickled weights need allow_pickle=True" if pickled.is_file() else "")
    )
