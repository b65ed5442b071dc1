"""What of a checkpoint's own configuration reaches transformers and peft: values, no names of more.

Both libraries keep in the same files what a model is and where they are to look further: other
weight files, code, kernels and repositories of the Hub. A checkpoint says the former; the latter is
for `dask_embed.Model` to say.
"""

from __future__ import annotations

import dataclasses
import functools
from pathlib import Path
from typing import Any

from dask_embed._validation import shown
from dask_embed.models.options import IN_PIECES
from dask_embed.runtime.libraries import importing

# Entries of config.json by which transformers chooses code, kernels, files or devices.
_OF_TRANSFORMERS = frozenset(
    {
        *("allow_all_kernels", "attn_implementation", "device_map", "device_mesh", "gguf_file"),
        *("distributed_config", "experts_implementation", "fusion_config", "kernel_config"),
        *("name_or_path", "tp_plan", "tp_size", "transformers_weights", "use_kernels"),
    }
)
# Entries of config.json that hold names of any kind, or settings of another library.
_NOT_OF_MODELS = ("id2label", "label2id", "quantization_config", "task_specific_params")
_PARTS = ("atom_encoder", "decoder", "encoder", "generator", "question_encoder", "text_encoder")
# Arguments of tokenizers that are read as paths, or say where to look for files.
_PLACES = ("_dir", "_file", "_files", "_folder", "_path")
_OF_TOKENIZERS = frozenset(
    {
        *("cache_dir", "is_local", "local_files_only", "merges", "name_or_path", "proxies"),
        *(
            "mecab_option",
            "revision",
            "subfolder",
            "token",
            "tokenizer_object",
            "trust_remote_code",
        ),
        *("use_auth_token", "vocab"),
    }
)
# Fields of an adapter that name other files and modules, or serve its training.
_OF_TRAINING = frozenset(
    {
        *("auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "revision"),
        *("loftq_config", "lora_ga_config", "megatron_config", "megatron_core", "runtime_config"),
    }
)


def model_settings(written: dict[str, Any], folder: Path, *, code: bool) -> dict[str, Any]:
    """Return what of a config.json describes the model.

    Parameters
    ----------
    written : dict
    folder : Path
        Where it lies, for messages and for the code that it may bring.
    code : bool
        Keep what names Python code of the checkpoint's own.

    Raises
    ------
    ValueError
        If it names another file or repository that would change the model.
    """
    if written.get("configuration_files"):
        raise ValueError(
            f"the config.json of {str(folder)!r} names other configuration files "
            f"({shown(written['configuration_files'])}); put the one that is meant in its place"
        )
    quantization = written.get("quantization_config")
    if quantization is not None and not isinstance(quantization, dict):
        raise ValueError(
            f"in the config.json of {str(folder)!r} quantization_config must be an object, "
            f"got {shown(quantization)}"
        )
    kept = _described(written, folder)
    name = written.get("_name_or_path")
    kept["_name_or_path"] = name if isinstance(name, str) and name else str(folder)
    if code and "auto_map" in written:
        kept["auto_map"] = own_code(written["auto_map"], folder)
    return kept


def _described(written: dict[str, Any], folder: Path) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    hidden = _hidden_fields(written.get("model_type"))
    for name, value in written.items():
        if name in IN_PIECES or (name not in hidden and not _describes(name)):
            continue
        if name == "backbone" and value is not None:
            raise ValueError(
                f"the config.json of {str(folder)!r} names backbone={shown(value)}, which "
                "transformers would look up on the Hub; models with a backbone are not supported"
            )
        part = isinstance(value, dict) and name not in _NOT_OF_MODELS
        if part and ("model_type" in value or name.endswith("config") or name in _PARTS):
            value = _described(value, folder)
        kept[name] = value
    return kept


@functools.lru_cache(maxsize=64)
def _hidden_fields(kind: Any) -> frozenset[str]:
    """Return the fields of a type of models that begin with an underscore, as one of OPT does."""
    from transformers import CONFIG_MAPPING, PretrainedConfig

    if not isinstance(kind, str) or kind not in CONFIG_MAPPING:
        return frozenset()
    with importing():
        found = CONFIG_MAPPING[kind]
    own = dataclasses.fields(found) if dataclasses.is_dataclass(found) else ()
    names = {each.name for each in own if each.name.startswith("_")}
    return frozenset(name for name in names if not hasattr(PretrainedConfig, name))


def _describes(name: str) -> bool:
    """Return whether an entry of config.json is of the model, not of how transformers loads it.

    An entry becomes an attribute: it must not stand for a method, or for what belongs to the class.
    """
    from transformers import PretrainedConfig

    if name.startswith("_") or name == "auto_map" or name in _OF_TRANSFORMERS:
        return False
    if name == "model_type" or name in {each.name for each in dataclasses.fields(PretrainedConfig)}:
        return True
    own = getattr(PretrainedConfig, name, None)
    return not hasattr(PretrainedConfig, name) or (isinstance(own, property) and bool(own.fset))


def own_code(named: Any, folder: Path) -> Any:
    """Return an ``auto_map`` whose modules are all in `folder`.

    Raises
    ------
    ValueError
        If it names code of another repository, at no revision.
    """
    if isinstance(named, dict):
        return {name: own_code(each, folder) for name, each in named.items()}
    if isinstance(named, list | tuple):
        return [own_code(each, folder) for each in named]
    if not isinstance(named, str) or "--" not in named:
        return named
    other, _, own = named.partition("--")
    if not (folder / f"{own.split('.')[0]}.py").is_file():
        raise ValueError(
            f"checkpoint {str(folder)!r} runs code of another repository, {shown(other)}, at no "
            "revision; read it, and put its .py files beside the checkpoint's config.json"
        )
    return own


def tokenizer_settings(written: dict[str, Any], folder: Path, *, code: bool) -> dict[str, Any]:
    """Return what of a tokenizer_config.json describes the tokenizer; see `model_settings`."""
    if written.get("init_inputs"):
        raise ValueError(
            f"the tokenizer_config.json of {str(folder)!r} sets "
            f"init_inputs={shown(written['init_inputs'])}, which is not supported"
        )
    kept = _values(written)
    files = written.get("fast_tokenizer_files") or []
    if files:
        if not isinstance(files, list) or not all(map(is_plain, files)):
            raise ValueError(
                f"the tokenizer_config.json of {str(folder)!r} must name files in its folder as "
                f"fast_tokenizer_files, got {shown(files)}"
            )
        kept["fast_tokenizer_files"] = files
    if code and "auto_map" in written:
        kept["auto_map"] = own_code(written["auto_map"], folder)
    return kept


def _values(written: dict[str, Any]) -> dict[str, Any]:
    return {
        name: _values(value) if isinstance(value, dict) and name.endswith("_kwargs") else value
        for name, value in written.items()
        if not name.startswith("_")
        and not name.endswith(_PLACES)
        and name not in _OF_TOKENIZERS
        and name != "auto_map"
    }


def special_tokens(written: dict[str, Any]) -> dict[str, Any]:
    """Return the tokens of a special_tokens_map.json, without whatever else it sets."""
    return {name: value for name, value in written.items() if name.endswith(("_token", "_tokens"))}


def adapter_settings(written: dict[str, Any]) -> dict[str, Any]:
    """Return what of an adapter_config.json describes the adapter."""
    return {name: value for name, value in written.items() if name not in _OF_TRAINING}


def is_plain(name: Any) -> bool:
    """Return whether `name` is that of a file in the folder that names it."""
    return isinstance(name, str) and name not in ("", ".", "..") and Path(name).name == name
