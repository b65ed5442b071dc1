"""What a checkpoint must hold besides its configuration, and what may not lie beside it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dask_embed.models.hub import ADAPTER_CONFIG
from dask_embed.models.sources import TOKENIZER_FILES
from dask_embed.models.spec import Model
from dask_embed.models.weights import Weights


def require_named_adapter(folders: Iterable[Path], model: Model) -> None:
    """Raise ValueError if an adapter lies beside the model that nobody asked for."""
    if model.adapter is None and any((each / ADAPTER_CONFIG).is_file() for each in folders):
        raise ValueError(
            f"model {model.name!r} holds a PEFT adapter beside the model; to run it with the "
            f"adapter name it, dask_embed.Model(..., adapter={model.name!r}), and to "
            f"run it without take {ADAPTER_CONFIG} out of a copy of the folder"
        )


def require_tokenizer(folder: Path) -> None:
    """Raise ValueError unless a folder holds a tokenizer."""
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(
            f"checkpoint {str(folder)!r} holds no tokenizer; one of "
            f"{', '.join(TOKENIZER_FILES)} is needed"
        )


def require_safe(weights: Weights, folder: Path) -> None:
    """Raise ValueError if a folder holds no weights that may be read."""
    if weights.files:
        return
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickled:
        raise ValueError(
            f"checkpoint {str(folder)!r} holds only pickled weights ({pickled[0]}), which can run "
            "any code when loaded; convert them to safetensors, or allow them with "
            "dask_embed.Model(..., allow_pickle=True)"
        )
    raise ValueError(f"checkpoint {str(folder)!r} holds no weights (*.safetensors)")
