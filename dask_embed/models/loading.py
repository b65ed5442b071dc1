"""Weights and tokenizer of a checkpoint, on a device. Torch is imported here, on workers."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.models.layers import load_layer
from dask_embed.models.modules import Dense, LayerNorm
from dask_embed.models.spec import Model
from dask_embed.models.tasks import class_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

M = TypeVar("M", bound=torch.nn.Module)

_TORCH_DTYPES = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
_COMPILERS = ("c++", "g++", "clang++")
# Rows of a head that `embed` does not use; a checkpoint may leave them out.
_UNUSED_WEIGHTS = ("pooler.",)


@dataclass
class LoadedModel:
    """A model that is ready to run; shared by all operators and threads of a process.

    Attributes
    ----------
    spec : Model
    checkpoint : Checkpoint
    transformer : PreTrainedModel
        What turns tokens into token vectors.
    tokenizer : PreTrainedTokenizerBase
    layers : dict
        Dense and normalization layers of sentence-transformers, by path.
    device : torch.device
    task : str
        One of `dask_embed.models.tasks.TASKS`.
    model : PreTrainedModel
        The transformer with the head of the task; the transformer itself to embed.
    """

    spec: Model
    checkpoint: Checkpoint
    transformer: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layers: dict[str, torch.nn.Module]
    device: torch.device
    task: str = "embed"
    model: Any = None

    @property
    def runs_as_one(self) -> bool:
        """Whether there is no telling the head from the transformer: encoder-decoders, say."""
        if self.task == "embed":
            return False
        return self.transformer is self.model or self.transformer.config.is_encoder_decoder

    @property
    def compute_dtype(self) -> torch.dtype:
        """Type in which matrix products run."""
        return _TORCH_DTYPES[self.spec.autocast] if self.spec.autocast else self.transformer.dtype


def load(spec: Model, task: str = "embed") -> LoadedModel:
    """Load the checkpoint of `spec` with the head of `task` onto its device, for inference.

    Raises
    ------
    ValueError
        If the checkpoint misses weights that the model needs, or there is no such device.
    """
    checkpoint = read_checkpoint(spec, weights=True)
    device = resolve_device(spec.device)
    dtype = resolve_dtype(spec, device)
    layers = {
        module.path: load_layer(module, checkpoint.root, allow_pickle=spec.allow_pickle)
        for module in checkpoint.modules
        if isinstance(module, Dense | LayerNorm)
    }
    model = _for_inference(_load_model(checkpoint, spec, dtype, task), device)
    return LoadedModel(
        spec=spec,
        checkpoint=checkpoint,
        transformer=model if task == "embed" else _transformer_of(model),
        tokenizer=_load_tokenizer(checkpoint, spec),
        layers={path: _for_inference(layer.to(dtype), device) for path, layer in layers.items()},
        device=device,
        task=task,
        model=model,
    )


def _transformer_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the part below the head; the model itself where it is not told apart."""
    inner = getattr(model, model.base_model_prefix, None)
    return model if inner is None else inner


def _for_inference(module: M, device: torch.device) -> M:
    return torch.nn.Module.to(module, device).eval().requires_grad_(False)


def resolve_device(name: str) -> torch.device:
    """Return the device that `name` stands for on this worker."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device {name!r} was asked for, but this worker has no CUDA device")
    return device


def resolve_dtype(spec: Model, device: torch.device) -> torch.dtype:
    """Return the type of the weights: ``"auto"`` is float32, on a GPU bfloat16 if it can."""
    if spec.dtype != "auto":
        return _TORCH_DTYPES[spec.dtype]
    if device.type == "cuda" and spec.autocast is None and torch.cuda.is_bf16_supported():
        return torch.bfloat16
    return torch.float32


def dtype_name(dtype: torch.dtype) -> str:
    """Return the name under which a specification has `dtype`."""
    return next(name for name, known in _TORCH_DTYPES.items() if known == dtype)


def autocast(loaded: LoadedModel) -> torch.autocast:
    """Return the context in which the forward pass of `loaded` runs."""
    wanted = loaded.spec.autocast
    dtype = _TORCH_DTYPES[wanted] if wanted else None
    return torch.autocast(loaded.device.type, dtype=dtype, enabled=wanted is not None)


def _load_model(
    checkpoint: Checkpoint, spec: Model, dtype: torch.dtype, task: str
) -> PreTrainedModel:
    from transformers.utils import logging

    own_attention = spec.attention in ("auto", "padded")
    arguments: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": None if own_attention else spec.attention,
        "use_safetensors": None if spec.allow_pickle else True,
        "trust_remote_code": spec.trust_remote_code,
        "local_files_only": True,
        "ignore_mismatched_sizes": True,  # _require_complete names them
        **dict(spec.model_kwargs),
    }
    shows_progress = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        model, info = class_for(task, checkpoint).from_pretrained(
            checkpoint.folder, output_loading_info=True, **arguments
        )
    finally:
        if shows_progress:
            logging.enable_progress_bar()
    _require_complete(checkpoint, info, _UNUSED_WEIGHTS if task == "embed" else ())
    if task == "embed" and checkpoint.config.is_encoder_decoder and hasattr(model, "get_encoder"):
        model = model.get_encoder()
    model.config.use_cache = False
    return model


def _require_complete(checkpoint: Checkpoint, info: dict[str, Any], unused: Iterable[str]) -> None:
    missing = sorted(key for key in info["missing_keys"] if not any(part in key for part in unused))
    mismatched = sorted(str(key) for key in info["mismatched_keys"])
    if missing or mismatched:
        shown = ", ".join((missing + mismatched)[:3])
        raise ValueError(
            f"checkpoint {str(checkpoint.folder)!r} does not fit its config.json: "
            f"{len(missing)} weights are missing and {len(mismatched)} have another shape "
            f"({shown}); transformers would fill them with random numbers"
        )


def compiled(model: torch.nn.Module) -> Any:
    """Return `model` behind `torch.compile`, for any number of texts and tokens.

    Raises
    ------
    ValueError
        If compiling for a CPU is asked for where there is no C++ compiler.
    """
    device = next(model.parameters()).device
    if device.type == "cpu" and not any(map(shutil.which, _COMPILERS)):
        raise ValueError(
            f"compile=True needs a C++ compiler on the worker; none of {', '.join(_COMPILERS)} "
            "is on its PATH"
        )
    return torch.compile(model, dynamic=True)


def _load_tokenizer(checkpoint: Checkpoint, spec: Model) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(
        checkpoint.folder, trust_remote_code=spec.trust_remote_code, local_files_only=True
    )
    if checkpoint.do_lower_case:
        if not tokenizer.is_fast:
            name = type(tokenizer).__name__
            raise ValueError(f"do_lower_case is set, which tokenizer {name} cannot do")
        _lowercase_first(tokenizer.backend_tokenizer)
    return tokenizer


def _lowercase_first(tokenizer: Any) -> None:
    from tokenizers import normalizers

    present = [tokenizer.normalizer] if tokenizer.normalizer is not None else []
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), *present])
