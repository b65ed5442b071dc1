"""The parts of a model besides its checkpoint: adapter, tokenizer, optional packages."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from dask_embed._validation import shown
from dask_embed.models.bounds import require_adapter_bounds
from dask_embed.models.hub import ADAPTER_CONFIG, Kind, locate, require_whole
from dask_embed.models.libraries import importing
from dask_embed.models.modules import read_json
from dask_embed.models.options import WEIGHT_BITS
from dask_embed.models.patterns import require_patterns_that_end
from dask_embed.models.prepared import prepared
from dask_embed.models.spec import Model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from dask_embed.models.checkpoint import Checkpoint

TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "vocab.txt", "vocab.json"),
    *("tokenizer.model", "spiece.model", "sentencepiece.bpe.model"),
)
_LONGEST_REASON = 300  # characters of what transformers says
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_ADAPTER = Kind("adapter", (ADAPTER_CONFIG,), "a PEFT adapter")
_TOKENIZER = Kind("tokenizer", TOKENIZER_FILES, "a tokenizer")
# Kinds of adapters that put virtual tokens before the text instead of changing layers.
_VIRTUAL_TOKENS = (
    *("PROMPT_TUNING", "MULTITASK_PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING", "CPT"),
    *("ADAPTION_PROMPT", "CARTRIDGE"),
)
# Kinds that are made of other adapters or another model, which they name.
_OF_OTHERS = ("XLORA", "SHADOW")
# Kinds all of whose weights are in the adapter's own file.
_LAYERS = (
    *("ADALORA", "ADAMSS", "BEFT", "BOFT", "BONE", "C3A", "DEFT", "DELORA", "FOURIERFT", "FROD"),
    *("GLORA", "GRALORA", "HIRA", "HRA", "IA3", "LILY", "LN_TUNING", "LOHA", "LOKR", "LORA"),
    *("MISS", "OFT", "OSF", "PEANUT", "PSOFT", "PVERA", "RANDLORA", "ROAD", "SHIRA"),
    *("SUPERTUNING", "TINYLORA", "TRAINABLE_TOKENS", "UNILORA", "VBLORA", "VERA", "WAVEFT"),
)
# Settings of adapters that act only where peft's own wrapper runs the model.
_OWN_FORWARD = ("alora_invocation_tokens", "arrow_config")
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
    "gptq": "gptqmodel",
    "hqq": "hqq",
    "quanto": "optimum.quanto",
    "torchao": "torchao",
    "vptq": "vptq",
}
# Methods whose code is on the Hub: transformers fetches it with the package kernels.
_FETCHED = ("eetq", "fbgemm_fp8", "fp8", "metal", "mxfp4", "mxfp8", "nvfp4")
_EXTRAS = {
    "accelerate": "offload",
    "bitsandbytes": "bitsandbytes",
    "peft": "adapters",
    "torchao": "quantization",
}


def adapter_folder(model: Model, *, weights: bool = False) -> tuple[Path, str]:
    """Return the folder of a model's adapter and its revision, fetched if it is on the Hub."""
    return locate(_part(model, "adapter"), weights=weights, kind=_ADAPTER)


def tokenizer_folder(model: Model) -> tuple[Path, str]:
    """Return the folder of a model's own tokenizer and its revision."""
    return locate(_part(model, "tokenizer"), weights=False, kind=_TOKENIZER)


def _part(model: Model, name: str) -> Model:
    """Return a specification under whose name and revision the part lies."""
    return Model(
        getattr(model, name),
        revision=getattr(model, f"{name}_revision"),
        trust_remote_code=model.trust_remote_code,
        cache_dir=model.cache_dir,
        local_files_only=model.local_files_only,
    )


def pinned_parts(model: Model) -> dict[str, Any]:
    """Return the options that name adapter and tokenizer, each resolved to a folder or commit."""
    resolved: dict[str, Any] = {}
    for name, find in (("adapter", adapter_folder), ("tokenizer", tokenizer_folder)):
        if getattr(model, name) is None:
            continue
        folder, revision = find(model)
        resolved[f"{name}_revision"] = revision
        if revision.startswith("local-"):
            resolved[name] = str(folder)
    return resolved


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
    _require_saved_method(model, checkpoint)
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
    from dask_embed.models.vocabulary import require_vocabulary

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


def _require_saved_method(model: Model, checkpoint: Checkpoint) -> None:
    """Raise unless weights that were saved quantized can be read."""
    saved = getattr(checkpoint.config, "quantization_config", None)
    if not isinstance(saved, dict) or model.quantization is not None:
        return
    # bitsandbytes once wrote no method
    method = saved.get("quant_method", "bitsandbytes")
    _require_method(method)
    if method in _FETCHED and _is_installed("kernels"):
        raise ValueError(
            f"model {model.name!r} was saved quantized by {method!r}, for which transformers "
            "fetches code from the Hub where the package kernels is installed; uninstall it, or "
            f"allow it with dask_embed.Model(..., quantization={{'quant_method': {method!r}}})"
        )
    asking = f"model {model.name!r}, which was saved quantized by {method!r},"
    _require_package(_PACKAGES.get(method), asking)


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


def require_adapter(folder: Path) -> dict[str, Any]:
    """Return the configuration of an adapter; raise ValueError for what cannot run here."""
    config = read_json(folder / ADAPTER_CONFIG)
    kind = config.get("peft_type")
    if kind in _VIRTUAL_TOKENS:
        raise ValueError(
            f"adapter {str(folder)!r} is of type {kind!r}, which adds virtual tokens; "
            "adapters that change layers are needed, such as LoRA"
        )
    if kind in _OF_OTHERS:
        raise ValueError(
            f"adapter {str(folder)!r} is of type {kind!r}, which reads other adapters or models "
            "than its own weights; merge it into one model with peft"
        )
    if kind not in _LAYERS:
        raise ValueError(
            f"adapter {str(folder)!r} is of type {shown(kind)}; supported are {', '.join(_LAYERS)}"
        )
    if str(config.get("init_lora_weights")).startswith("pissa_niter_"):
        raise ValueError(
            f"adapter {str(folder)!r} sets init_lora_weights="
            f"{shown(config['init_lora_weights'])}, which peft would compute anew, at random; "
            "convert it to plain LoRA with peft's save_pretrained(..., "
            "path_initial_model_for_weight_conversion=)"
        )
    given = [name for name in _OWN_FORWARD if config.get(name)]
    if given:
        raise ValueError(f"adapter {str(folder)!r} sets {given[0]}, which is not supported")
    require_adapter_bounds(config, f"adapter {str(folder)!r}")
    require_whole(folder.glob(ADAPTER_WEIGHTS), folder, _ADAPTER.word)
    return config


def require_adapter_weights(folder: Path) -> Path:
    """Return the file of an adapter's weights; raise ValueError without it."""
    file = folder / ADAPTER_WEIGHTS
    if not file.is_file():
        raise ValueError(
            f"adapter folder {str(folder)!r} holds no {ADAPTER_WEIGHTS}; pickled adapters are not "
            "read, save it again with peft's save_pretrained"
        )
    return file


def brings_a_head(model: Model) -> bool:
    """Return whether a model's adapter holds whole layers, the head that was trained with it."""
    if model.adapter is None:
        return False
    folder, _ = adapter_folder(model)
    return bool(require_adapter(folder).get("modules_to_save"))


def load_tokenizer(folder: Path, model: Model) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a folder.

    Raises
    ------
    ValueError
        If its files are damaged, or some are missing.
    """
    ready = prepared(folder, code=model.trust_remote_code)
    with importing():
        _require_tokenizer_class(ready, folder)
    try:
        with importing():
            from transformers import AutoTokenizer

            tokenizer = AutoTokenizer.from_pretrained(
                ready, trust_remote_code=model.trust_remote_code, local_files_only=True
            )
    except Exception as error:  # tokenizers raise bare exceptions
        reason = shorten(f"{type(error).__name__}: {error}", _LONGEST_REASON, placeholder=" ...")
        raise ValueError(
            f"the tokenizer of model {model.name!r} in {str(folder)!r} cannot be loaded: {reason}"
        ) from error
    require_patterns_that_end(
        tokenizer, f"the tokenizer of model {model.name!r} in {str(folder)!r}"
    )
    return tokenizer


def _require_tokenizer_class(ready: Path, folder: Path) -> None:
    """Raise ValueError if a class of transformers is named that is no tokenizer.

    transformers would load whatever else it has under that name: a model, for instance.
    """
    from transformers import PreTrainedTokenizerBase
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    for file in ("tokenizer_config.json", "config.json"):
        name = read_json(ready / file).get("tokenizer_class") if (ready / file).is_file() else None
        if name is None:
            continue
        if not isinstance(name, str):
            raise ValueError(f"{str(folder / file)!r} names tokenizer_class {shown(name)}")
        for each in (name, name.removesuffix("Fast")):
            found = tokenizer_class_from_name(each)
            if found is not None and not _is_tokenizer(found, PreTrainedTokenizerBase):
                raise ValueError(
                    f"{str(folder / file)!r} names tokenizer_class {shown(name)}, which is no "
                    "tokenizer of transformers"
                )


def _is_tokenizer(found: Any, base: type) -> bool:
    return isinstance(found, type) and issubclass(found, base)
