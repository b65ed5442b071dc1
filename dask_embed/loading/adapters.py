"""PEFT adapters: several on one copy of the weights below them.

An adapter puts layers of its own around those of a model, so two adapters cannot share a model's
modules. They share its weights: each gets a tree of modules whose tensors are those of the base.
Nothing is switched at run time, and threads may run different adapters at a time.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open

from dask_embed.models.patterns import matching
from dask_embed.models.settings import adapter_settings
from dask_embed.models.sources import require_adapter, require_adapter_weights

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from transformers import PreTrainedModel

_PREFIX = "base_model.model."
# Beginnings of LoRA that take what they begin with out of the layer's own weights.
_CHANGING_LAYERS = ("pissa", "olora")


def adapter_weights(folder: Path) -> list[str]:
    """Return the names of an adapter's weights, as the model without the adapter has them.

    Raises
    ------
    ValueError
        If the weights are missing, or stored as pickle.
    """
    # layers of the model lie one level deeper within those of the adapter
    return [name.removeprefix(_PREFIX).replace(".base_layer.", ".") for name in _stored(folder)]


# What peft and torch raise for a configuration, or weights, that do not go with the model.
_MISFITS = (AttributeError, KeyError, RuntimeError, TypeError, ValueError)


def with_adapter(
    model: PreTrainedModel, folder: Path, device: torch.device, *, merge: bool = False
) -> PreTrainedModel:
    """Return `model` with an adapter in its layers; `model` must not be used otherwise.

    Parameters
    ----------
    model : PreTrainedModel
        On `device`. Tensors that other models share are not written to.
    folder : Path
        With ``adapter_config.json`` and ``adapter_model.safetensors``.
    device : torch.device
    merge : bool
        Add the adapter to the weights, of which `model` must hold the only copy.

    Raises
    ------
    ValueError
        If the adapter does not fit the model.
    """
    from peft import PeftModel  # noqa: PLC0415 - an extra

    _own(model, _written_to(folder))
    chosen = _modules_by_name(require_adapter(folder), folder, model)
    with warnings.catch_warnings():
        # of missing weights, which is an error below, and of names that transformers deprecates
        warnings.simplefilter("ignore")
        try:
            adapted: Any = PeftModel.from_pretrained(
                model, str(folder), config=_configuration(folder, chosen), torch_device=str(device)
            )
        except _MISFITS as error:
            of_memory = type(error) is RuntimeError or isinstance(error, torch.OutOfMemoryError)
            if of_memory and "size mismatch" not in str(error):
                raise
            reason = " ".join(str(error).split())
            raise ValueError(f"{_misfit(folder, model)}: {reason:.400}") from None
        _require_fit(adapted, folder)
        if merge:
            _require_untied(adapted, folder)
        whole = adapted.merge_and_unload() if merge else adapted.get_base_model()
    return whole.eval().requires_grad_(False)


def _configuration(folder: Path, chosen: dict[str, list[str]]) -> PeftConfig:
    """Return an adapter's configuration, of the entries that describe the adapter alone.

    `chosen` stands for the entries of these names.
    """
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING  # noqa: PLC0415 - an extra

    written = require_adapter(folder)
    known = PEFT_TYPE_TO_CONFIG_MAPPING.get(written["peft_type"])
    if known is None:
        raise ValueError(f"the installed peft knows no adapters of type {written['peft_type']!r}")
    fields = {field.name for field in dataclasses.fields(known)}
    described = {**adapter_settings(written), **chosen}
    return known(**{name: value for name, value in described.items() if name in fields})


def _written_to(folder: Path) -> Iterator[str]:
    """Yield the weights of the model that an adapter changes in place, if the model has them."""
    initial = require_adapter(folder).get("init_lora_weights")
    for name in adapter_weights(folder):
        layer, lora, _ = name.partition(".lora_")
        if not lora:
            yield name  # of the adapter's own: a bias
        elif initial in _CHANGING_LAYERS:
            yield f"{layer}.weight"


def _modules_by_name(
    written: dict[str, Any], folder: Path, model: torch.nn.Module
) -> dict[str, list[str]]:
    """Return the entries that choose modules by a regular expression, as lists of their names.

    peft would match them with Python's `re`, which nothing can interrupt.
    """
    names = [name for name, _ in model.named_modules() if name]
    chosen = {}
    for entry, pattern in written.items():
        if not entry.endswith("_modules") or not isinstance(pattern, str):
            continue
        if pattern.lower() == "all-linear":
            continue
        source = f"adapter {str(folder)!r}: {entry}"
        found = matching(pattern, names, source)
        if not found and entry == "target_modules":
            raise ValueError(f"{_misfit(folder, model)}: {source} matches no module")
        # peft takes a listed name as the end of others, too
        ends = tuple(f".{name}" for name in found)
        more = [name for name in names if name.endswith(ends) and name not in found] if ends else []
        if more:
            raise ValueError(
                f"{source} takes {more[0]!r} for one that ends as it does; write names as a list"
            )
        chosen[entry] = found
    return chosen


def _own(model: torch.nn.Module, names: Iterable[str]) -> None:
    """Give `model` copies of what the adapter would write to: biases, for instance."""
    for name in names:
        path, _, leaf = name.rpartition(".")
        try:
            module = model.get_submodule(path)
        except AttributeError:
            continue
        shared = module._parameters.get(leaf)
        if shared is not None:
            owned = torch.nn.Parameter(shared.detach().clone(), requires_grad=False)
            module._parameters[leaf] = owned


def _require_fit(adapted: PeftModel, folder: Path) -> None:
    from peft import get_peft_model_state_dict  # noqa: PLC0415 - an extra

    stored = set(_stored(folder))
    needed = set(get_peft_model_state_dict(adapted, save_embedding_layers=False))
    known = set(get_peft_model_state_dict(adapted, save_embedding_layers=True))
    missing, unexpected = sorted(needed - stored), sorted(stored - known)
    if missing or unexpected:
        raise ValueError(
            f"{_misfit(folder, adapted.get_base_model())}: {len(missing)} weights are missing and "
            f"{len(unexpected)} unexpected ({', '.join((missing + unexpected)[:3])})"
        )


def _require_untied(adapted: PeftModel, folder: Path) -> None:
    """Raise ValueError if a layer that the adapter changes lends its weight to another.

    Added to the weight, the change would be one of both: of the embedding of words and the head.
    """
    holders: dict[int, list[str]] = {}
    for name, weight in adapted.get_base_model().named_parameters(remove_duplicate=False):
        holders.setdefault(id(weight), []).append(name)
    for names in holders.values():
        own = [name for name in names if ".base_layer." in name]
        if own and len(names) > 1:
            layer, other = own[0].replace(".base_layer", ""), next(n for n in names if n != own[0])
            raise ValueError(
                f"adapter {str(folder)!r} changes {layer}, which is {other} as well, so it cannot "
                "be merged; leave out merge_adapter=True"
            )


def _misfit(folder: Path, model: torch.nn.Module) -> str:
    trained = require_adapter(folder).get("task_type")
    return (
        f"adapter {str(folder)!r}, trained for task type {trained!r}, does not fit "
        f"{type(model).__name__}"
    )


def _stored(folder: Path) -> list[str]:
    file = require_adapter_weights(folder)
    try:
        with safe_open(file, framework="pt") as weights:
            return list(weights.keys())
    except SafetensorError as error:
        raise ValueError(f"{str(file)!r} is damaged: {error}; fetch the adapter again") from None
