"""The specification of a model: which checkpoint, and how to run it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from dask_embed._options import NamedOptions
from dask_embed._reprs import ShortRepr
from dask_embed._secrets import refuse_secrets
from dask_embed._validation import booleans, non_empty_string, one_of, shown
from dask_embed.models.options import (
    STRATEGIES,
    WEIGHT_BITS,
    configuration_fields,
    hashable_items,
    importable,
    label_names,
    location,
    quantization_text,
)

DTYPES = ("auto", "float32", "bfloat16", "float16")
AUTOCAST_DTYPES = (None, "bfloat16", "float16")
_DEVICE = re.compile(r"auto|cpu|cuda(:\d+)?")


@dataclass(frozen=True)
class Model(ShortRepr, NamedOptions):
    """Name a checkpoint and how it is loaded; a plain value that any process can load again.

    Parameters
    ----------
    name : str
        Hugging Face Hub id (``"sentence-transformers/all-MiniLM-L6-v2"``) or a local folder.
    revision : str, optional
        Branch, tag or commit of a Hub id. Operators resolve it to a commit when they are
        applied, so that every worker loads the same weights. For a local folder it is the
        folder's fingerprint; a folder with another content is then an error.
    dtype : {"auto", "float32", "bfloat16", "float16"}
        Type of the weights. ``"auto"`` is what a sentence-transformers folder names among the
        arguments of its model, else float32 on a CPU and bfloat16 on a GPU that has it.
    autocast : {None, "bfloat16", "float16"}
        Keep the weights as they are and run matrix products in this type (`torch.autocast`).
    device : str
        ``"auto"`` (the worker's GPU, else the CPU), ``"cpu"``, ``"cuda"`` or ``"cuda:1"``.
    attention : str
        ``"auto"`` runs batches without padding where that gives the same result, and padded
        otherwise; ``"padded"`` always pads; any other name (``"eager"``, ``"sdpa"``,
        ``"flash_attention_2"``) is handed to transformers and runs padded.
    compile : bool
        Run the model through `torch.compile`. Compiling takes a minute or so on each worker, at
        load; on a CPU it needs a C++ compiler. Shapes are dynamic, so that texts of other
        lengths compile nothing anew.
    trust_remote_code : bool
        Allow the checkpoint to bring Python code of its own.
    allow_pickle : bool
        Allow weights stored as pickle (``pytorch_model.bin``), which can run any code when
        loaded. By default only safetensors are read.
    cache_dir : str, optional
        Folder of the Hub cache; by default the environment's (``HF_HUB_CACHE``).
    local_files_only : bool
        Never ask the Hub, use what the cache holds.
    model_kwargs : mapping, optional
        Fields of the checkpoint's configuration and the numbers, switches or names to set them
        to: ``{"num_hidden_layers": 6}``. What decides safety or identity has options of its own.
    adapter : str or Path, optional
        Folder or Hub id of a PEFT adapter (LoRA and its kin). Models that differ in their adapter
        alone share one copy of the weights below it in a process.
    adapter_revision : str, optional
        Of the adapter, as `revision` is of the model.
    merge_adapter : bool
        Add the adapter to the weights, which is faster to run but takes a copy of its own.
    quantization : {None, "int8", "int4"} or mapping, optional
        Weights of linear layers in fewer bits (torchao). On a GPU with bfloat16 int4 takes half a
        byte per weight, elsewhere a whole one. A mapping is any quantization configuration of
        transformers, ``{"quant_method": "bitsandbytes", "load_in_4bit": True}``, which has to be
        installed; bitsandbytes runs on CPUs, too. It is kept as json text.
    device_map : str or mapping, optional
        ``"auto"``, another strategy of accelerate, or the device of each part (``{"": "cpu"}``):
        for models larger than a GPU. `device` has to be left at ``"auto"`` then.
    offload_folder : str or Path, optional
        Where workers put weights for which neither GPUs nor memory have room; with `device_map`.
    max_memory : mapping, optional
        Device to the most it may hold, ``{0: "20GiB", "cpu": "60GiB"}``; with `device_map`.
    tokenizer : str or Path, optional
        Folder or Hub id of another tokenizer than the checkpoint's.
    tokenizer_revision : str, optional
        Of the tokenizer, as `revision` is of the model.
    factory : callable, optional
        ``factory(config) -> torch.nn.Module``, called on the worker with the checkpoint's
        configuration to build a model that transformers does not know; a function or class at the
        top of a module that workers can import. Its weights are read from the checkpoint, all
        of them. It is called as ``module(input_ids=..., attention_mask=...)``, with
        ``token_type_ids`` where it takes them, and returns logits of shape (texts, labels) or an
        output that has them as ``logits``.
    labels : sequence of str, optional
        Names of a classifier's labels where the checkpoint's configuration has none or others,
        in the order of its logits: the head that comes with an adapter, for instance.

    Notes
    -----
    There is no access token here: workers take it from their own environment (``HF_TOKEN``),
    so that it never reaches a graph, a key or a log.
    """

    used: ClassVar[str] = (
        "it says which checkpoint is to run and how; operators run it on dataframes, as in "
        "dask_embed.Embedder(model)(pandas.DataFrame({'text': texts}))"
    )

    name: str
    revision: str | None = None
    dtype: str = "auto"
    autocast: str | None = None
    device: str = "auto"
    attention: str = "auto"
    compile: bool = False
    trust_remote_code: bool = False
    allow_pickle: bool = False
    cache_dir: str | None = None
    local_files_only: bool = False
    model_kwargs: Any = field(default=())
    adapter: str | None = None
    adapter_revision: str | None = None
    merge_adapter: bool = False
    quantization: Any = None
    device_map: Any = None
    offload_folder: str | None = None
    max_memory: Any = field(default=())
    tokenizer: str | None = None
    tokenizer_revision: str | None = None
    factory: Callable[..., Any] | None = None
    labels: Any = None

    def __post_init__(self) -> None:
        if isinstance(self.name, Path):
            object.__setattr__(self, "name", str(self.name))
        if not isinstance(self.name, str) or not self.name.strip():
            raise TypeError(
                "model must be a Hub id, a local folder or a dask_embed.Model, got "
                f"{shown(self.name)}"
            )
        for name in ("revision", "adapter_revision", "tokenizer_revision"):
            non_empty_string(name, getattr(self, name), allow_none=True)
        non_empty_string("attention", self.attention)
        one_of("dtype", self.dtype, DTYPES)
        one_of("autocast", self.autocast, AUTOCAST_DTYPES)
        booleans(self)
        for name, value in vars(self).items():
            if isinstance(value, str):
                refuse_secrets(name, value)
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise ValueError(
                f"device must be 'auto', 'cpu', 'cuda' or 'cuda:N', got {shown(self.device)}"
            )
        for name, value in self._canonical().items():
            object.__setattr__(self, name, value)
        _check_combinations(self)

    def _canonical(self) -> dict[str, Any]:
        """Return the options that may be given in several forms, each in its one form."""
        return {
            "model_kwargs": configuration_fields(self.model_kwargs),
            "max_memory": hashable_items("max_memory", self.max_memory),
            "quantization": quantization_text(self.quantization),
            "device_map": self.device_map
            if self.device_map is None or isinstance(self.device_map, str)
            else hashable_items("device_map", self.device_map),
            "labels": label_names(self.labels),
            "factory": importable(self.factory),
            **{
                name: location(name, getattr(self, name))
                for name in ("adapter", "tokenizer", "offload_folder", "cache_dir")
            },
        }

    @classmethod
    def of(cls, model: str | Path | Model) -> Model:
        """Return `model` itself, or the specification with defaults for a name."""
        return model if isinstance(model, Model) else cls(model)  # type: ignore[arg-type]

    @property
    def places_itself(self) -> bool:
        """Whether accelerate or a quantizer of transformers puts the weights where they run."""
        return self.device_map is not None or self.quantization not in (None, "int8", "int4")


def _check_combinations(model: Model) -> None:
    """Raise ValueError for options of a model that have no effect or do not go together."""
    for option, needed in (
        ("adapter_revision", "adapter"),
        ("merge_adapter", "adapter"),
        ("tokenizer_revision", "tokenizer"),
        ("offload_folder", "device_map"),
        ("max_memory", "device_map"),
    ):
        if getattr(model, option) and getattr(model, needed) is None:
            raise ValueError(f"{option}={shown(getattr(model, option))} needs {needed}")
    if model.device_map is not None and not model.device_map:
        raise ValueError("device_map must name a strategy, or the device of each part; it is empty")
    if isinstance(model.device_map, tuple) and not all(
        isinstance(part, str) for part, _ in model.device_map
    ):
        raise TypeError(f"device_map must map names of parts, got {shown(model.device_map)}")
    if isinstance(model.device_map, str):
        one_of("device_map", model.device_map, STRATEGIES)
    for option, others in (
        ("device_map", ("adapter", "compile")),
        ("factory", ("adapter", "compile", "device_map", "model_kwargs")),
    ):
        for other in others:
            if getattr(model, option) is not None and getattr(model, other):
                raise ValueError(f"{option} and {other} do not go together, got both")
    configured = model.quantization is not None and model.quantization not in WEIGHT_BITS
    if configured and (model.merge_adapter or model.factory is not None):
        other = "merge_adapter" if model.merge_adapter else "factory"
        raise ValueError(
            f"with {other} quantization must be one of {', '.join(map(repr, WEIGHT_BITS))}, "
            f"got {shown(model.quantization)}"
        )
    if model.factory is not None and model.attention not in ("auto", "padded"):
        raise ValueError(
            f"the factory's module chooses its attention itself; got {shown(model.attention)}"
        )
