"""The parts of a model besides its checkpoint: adapter and tokenizer."""

from __future__ import annotations

from pathlib import Path
from textwrap import shorten
from typing import TYPE_CHECKING, Any

from dask_embed._validation import shown
from dask_embed.models.bounds import require_adapter_bounds
from dask_embed.models.growth import require_bounded_growth
from dask_embed.models.hub import ADAPTER_CONFIG, Kind, locate
from dask_embed.models.modules import read_json
from dask_embed.models.patterns import require_patterns_that_end, require_short_texts
from dask_embed.models.prepared import prepared
from dask_embed.models.spec import Model
from dask_embed.models.tensor_files import require_whole
from dask_embed.runtime.libraries import importing

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

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
    if not isinstance(config.get("task_type"), str | None):
        raise ValueError(
            f"adapter {str(folder)!r} must name task_type as a text, got "
            f"{shown(config['task_type'])}"
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
    source = f"the tokenizer of model {model.name!r} in {str(folder)!r}"
    require_short_texts(tokenizer, source)
    require_bounded_growth(tokenizer, source)
    require_patterns_that_end(tokenizer, source)
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
