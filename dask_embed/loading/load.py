"""Weights and tokenizer of a checkpoint, on a device."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

import torch

from dask_embed.loading.adapters import adapter_weights, with_adapter
from dask_embed.loading.completeness import require_complete
from dask_embed.loading.copies import sharing_copy
from dask_embed.loading.custom import load_custom
from dask_embed.loading.devices import TORCH_DTYPES, resolve_device, resolve_dtype
from dask_embed.loading.layers import load_layer
from dask_embed.loading.placement import input_device, returns_to
from dask_embed.loading.pretrained import load_pretrained
from dask_embed.loading.quantize import quantize
from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.models.dual import run_text_side
from dask_embed.models.modules import Dense, LayerNorm
from dask_embed.models.options import WEIGHT_BITS
from dask_embed.models.parts import takes_texts, transformer_name
from dask_embed.models.requirements import require_packages, require_saved_method
from dask_embed.models.sources import adapter_folder
from dask_embed.models.spec import Model
from dask_embed.models.tokenizers import tokenizer_for
from dask_embed.models.vocabulary import guard_tables
from dask_embed.runtime.libraries import importing

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

M = TypeVar("M", bound=torch.nn.Module)

_COMPILERS = ("c++", "g++", "clang++")
# What adapters share while any of them, or the model without one, is loaded. Weights are read one
# model at a time: `from_pretrained` changes the default dtype and the initialization switches of
# torch while it runs.
_bases: WeakValueDictionary[tuple[Model, str], LoadedModel] = WeakValueDictionary()


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
    base : LoadedModel or None
        The model that gives its weights to this one and others, which differ in their adapter.
    runs_as_one : bool
        There is no telling the head from the transformer: encoder-decoders, say.
    """

    spec: Model
    checkpoint: Checkpoint
    transformer: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    layers: dict[str, torch.nn.Module]
    device: torch.device
    task: str = "embed"
    model: Any = None
    base: LoadedModel | None = None
    runs_as_one: bool = False
    _gaps: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        whole = (
            self.transformer is self.model
            or self.transformer.config.is_encoder_decoder
            or not takes_texts(self.transformer)
        )
        self.runs_as_one = self.runs_as_one or (self.task != "embed" and whole)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Type in which matrix products run."""
        return TORCH_DTYPES[self.spec.autocast] if self.spec.autocast else self.transformer.dtype


def load(spec: Model, task: str = "embed") -> LoadedModel:
    """Load the checkpoint of `spec` with the head of `task` onto its device, for inference.

    Raises
    ------
    ValueError
        If the checkpoint misses weights that the model needs, or there is no such device.
    """
    require_packages(spec)
    checkpoint = read_checkpoint(spec, weights=True)
    require_saved_method(spec, checkpoint)
    folder = None if spec.adapter is None else adapter_folder(spec, weights=True)[0]
    with importing():  # nothing waits behind a download
        if folder is not None:
            return _load_adapted(checkpoint, folder, spec, task)
        loaded = _load_base(checkpoint, spec, task)
        require_complete(checkpoint.folder, loaded._gaps)
        if spec.factory is None:
            _bases[_base_spec(spec), task] = loaded
        return loaded


def _base_spec(spec: Model) -> Model:
    """Return the specification of the weights that a model with an adapter shares."""
    bare = replace(spec, adapter=None, adapter_revision=None, merge_adapter=False)
    return replace(bare, tokenizer=None, tokenizer_revision=None)


def _load_adapted(checkpoint: Checkpoint, folder: Path, spec: Model, task: str) -> LoadedModel:
    wanted = _base_spec(spec)
    if spec.merge_adapter:
        base = _load_base(checkpoint, replace(wanted, quantization=None), task)
        model = with_adapter(base.model, folder, base.device, merge=True)
        if spec.quantization is not None:
            quantize(model, spec.quantization)
    else:
        base = _bases.get((wanted, task)) or _load_base(checkpoint, wanted, task)
        _bases[wanted, task] = base
        model = with_adapter(sharing_copy(base.model), folder, base.device)
    require_complete(base.checkpoint.folder, base._gaps, given=adapter_weights(folder))
    return replace(
        base,
        spec=spec,
        checkpoint=checkpoint,
        transformer=model if task == "embed" else _transformer_of(model),
        tokenizer=tokenizer_for(checkpoint, spec),
        model=model,
        base=None if spec.merge_adapter else base,
    )


def _load_base(checkpoint: Checkpoint, spec: Model, task: str) -> LoadedModel:
    """Load all but the adapter; gaps of the checkpoint are for the caller to judge."""
    device = resolve_device(spec.device)
    dtype = resolve_dtype(spec, device)
    gaps: dict[str, str] = {}
    if spec.factory is None:
        model, gaps = load_pretrained(checkpoint, spec, dtype, task)
    else:
        model = load_custom(checkpoint, spec, task).to(dtype)
    if spec.factory is not None or (_is_code_of_others(model) and not spec.compile):
        guard_tables(model)
    if spec.places_itself:
        device = input_device(model)
        returns_to(_transformer_of(model), model)
        model = model.eval().requires_grad_(False)
    else:
        model = _for_inference(model, device)
        if spec.quantization in WEIGHT_BITS:
            quantize(model, spec.quantization)
    # a factory's module runs as it is, be it one of transformers
    whole = task == "embed" or spec.factory is not None
    tokenizer = tokenizer_for(checkpoint, spec)
    if task == "embed" and spec.factory is None and checkpoint.has_text_side:
        run_text_side(model, tokenizer, checkpoint.default_limit)
    layers = {
        module.path: load_layer(module, checkpoint.root, allow_pickle=spec.allow_pickle)
        for module in checkpoint.modules
        if isinstance(module, Dense | LayerNorm)
    }
    return LoadedModel(
        spec=spec,
        checkpoint=checkpoint,
        transformer=model if whole else _transformer_of(model),
        tokenizer=tokenizer,
        layers={path: _for_inference(layer.to(dtype), device) for path, layer in layers.items()},
        device=device,
        task=task,
        model=model,
        _gaps=gaps,
    )


def _transformer_of(model: PreTrainedModel) -> PreTrainedModel:
    """Return the part below the head; the model itself where it is not told apart."""
    name = transformer_name(model)
    return model if name is None else getattr(model, name)


def _for_inference(module: M, device: torch.device) -> M:
    return torch.nn.Module.to(module, device).eval().requires_grad_(False)


def autocast(loaded: LoadedModel) -> torch.autocast:
    """Return the context in which the forward pass of `loaded` runs."""
    wanted = loaded.spec.autocast
    dtype = TORCH_DTYPES[wanted] if wanted else None
    return torch.autocast(loaded.device.type, dtype=dtype, enabled=wanted is not None)


def _is_code_of_others(model: Any) -> bool:
    """Return whether a model is of a checkpoint's own code."""
    return type(model).__module__.partition(".")[0] == "transformers_modules"


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
