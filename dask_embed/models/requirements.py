"""What a model needs besides its files: parts that fit, and packages that are installed."""

from __future__ import annotations

import json
from importlib.util import find_spec

from dask_embed._validation import shown
from dask_embed.models.checkpoint import Checkpoint
from dask_embed.models.options import WEIGHT_BITS
from dask_embed.models.sources import adapter_folder, require_adapter, require_adapter_weights
from dask_embed.models.spec import Model
from dask_embed.models.tensor_files import tensor_types
from dask_embed.models.vocabulary import require_vocabulary
from dask_embed.runtime.libraries import importing

# Package that a quantization method of transformers needs; of others transformers itself tells.
_PACKAGES = {
    "aqlm": "aqlm",
    "auto-round": "auto_round",
    "awq": "gptqmodel",
    "bitsandbytes": "bitsandbytes",
    "bitsandbytes_4bit": "bitsandbytes",
    "bitsandbytes_8bit": "bitsandbytes",
    "compressed-tensors": "compressed_tensors",
    "fbgemm_fp8": "fbgemm_gpu",
    "fouroversix": "fouroversix",
    "gptq": "gptqmodel",
    "hqq": "hqq",
    "quanto": "optimum.quanto",
    "sinq": "sinq",
    "torchao": "torchao",
    "vptq": "vptq",
}
# Methods whose code is on the Hub: transformers fetches it with the package kernels.
_FETCHED = ("eetq", "fbgemm_fp8", "fp8", "metal", "mxfp4", "mxfp8", "nvfp4")
# Methods that may keep weights as they were, in floating point: what they need is known to them.
_OF_FLOATS = ("bitnet", "compressed-tensors", "fouroversix", "fp_quant", "gemma", "quark", "sinq")
# Types of tensors in weights that nobody quantized: numbers, positions, masks.
_PLAIN_TYPES = frozenset({"F64", "F32", "F16", "BF16", "I64", "BOOL"})
_EXTRAS = {
    "accelerate": "offload",
    "bitsandbytes": "bitsandbytes",
    "peft": "adapters",
    "torchao": "quantization",
}


def check_parts(model: Model, checkpoint: Checkpoint) -> None:
    """Raise unless all that a specification names is there and fits its checkpoint.

    Raises
    ------
    ModuleNotFoundError
        If a package is missing.
    ValueError
        If the adapter or the tokenizer is missing or does not fit.
    """
    require_packages(model)
    require_saved_method(model, checkpoint)
    if model.device_map is not None and model.device != "auto":
        raise ValueError(
            f"device_map={shown(model.device_map)} says where the weights go; leave device at "
            f"'auto', got {shown(model.device)}"
        )
    if model.adapter is not None:
        folder, revision = adapter_folder(model)
        require_adapter(folder)
        if revision.startswith("local-"):
            require_adapter_weights(folder)
    require_vocabulary(model, checkpoint)


def require_packages(model: Model) -> None:
    """Raise ModuleNotFoundError, naming the extra, for a package that `model` needs."""
    if model.adapter is not None:
        _require_package("peft", f"adapter={shown(model.adapter)}")
    if model.device_map is not None:
        _require_package("accelerate", f"device_map={shown(model.device_map)}")
    if model.quantization in WEIGHT_BITS:
        _require_package("torchao", f"quantization={shown(model.quantization)}")
    elif model.quantization is not None:
        method = json.loads(model.quantization)["quant_method"]
        asking = f"quantization by {method!r}"
        _require_method(method)
        _require_package("accelerate", asking)
        _require_package(_PACKAGES.get(method), asking)


def require_saved_method(model: Model, checkpoint: Checkpoint) -> None:
    """Raise unless weights that were saved quantized can be read, and were saved so.

    A client need not have the weights; workers do.
    """
    saved = getattr(checkpoint.config, "quantization_config", None)
    if not isinstance(saved, dict) or model.quantization is not None:
        return
    # bitsandbytes once wrote no method
    method = saved.get("quant_method", "bitsandbytes")
    _require_method(method)
    if method not in _OF_FLOATS and _are_plain(model, checkpoint):
        raise ValueError(
            f"the config.json of {str(checkpoint.folder)!r} says that weights were saved quantized "
            f"by {method!r} (quantization_config), but they are plain: take the entry out of "
            "config.json, or quantize while loading with dask_embed.Model(..., quantization=...)"
        )
    if method in _FETCHED and _is_installed("kernels"):
        raise ValueError(
            f"model {model.name!r} was saved quantized by {method!r}, for which transformers "
            "fetches code from the Hub where the package kernels is installed; uninstall it, or "
            f"allow it with dask_embed.Model(..., quantization={{'quant_method': {method!r}}})"
        )
    asking = f"model {model.name!r}, which was saved quantized by {method!r},"
    _require_package(_PACKAGES.get(method), asking)


def _are_plain(model: Model, checkpoint: Checkpoint) -> bool:
    """Return whether the weights are here, and nobody quantized any of them."""
    if model.factory is not None:  # which reads them as it likes
        return False
    try:
        files = checkpoint.weights(model).files
    except ValueError:  # a machine that loads nothing need not have them
        return False
    types = {kind for file in files if file.suffix == ".safetensors" for kind in tensor_types(file)}
    return bool(types) and types <= _PLAIN_TYPES


def _require_method(method: str) -> None:
    with importing():
        from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    known = {*AUTO_QUANTIZATION_CONFIG_MAPPING, "bitsandbytes"}
    if not isinstance(method, str) or method not in known:
        raise ValueError(f"quant_method must be one of {sorted(known)}, got {shown(method)}")


def _require_package(package: str | None, asking: str) -> None:
    if package is None or _is_installed(package):
        return
    wanted = f"'dask-embed[{_EXTRAS[package]}]'" if package in _EXTRAS else package
    raise ModuleNotFoundError(f"{asking} needs the package {package}: pip install {wanted}")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:  # of a parent package
        return False
