"""Which files hold the weights of a checkpoint: one file, or the shards that an index lists."""

from __future__ import annotations

import pickle
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import Any

from dask_embed._validation import shown
from dask_embed.models.modules import read_json
from dask_embed.models.settings import is_plain
from dask_embed.models.tensor_files import require_whole
from dask_embed.runtime.remembered import once

SAFE, PICKLED = "model.safetensors", "pytorch_model.bin"
INDEX = ".index.json"
# What may lie beside a model's weights and is none of them.
_OTHERS = ("adapter_model.safetensors",)


@dataclass(frozen=True)
class Weights:
    """The files of a checkpoint's weights.

    Attributes
    ----------
    files : tuple of Path
    names : dict
        Under which name transformers finds each file, the index among them.
    """

    files: tuple[Path, ...] = ()
    names: dict[str, Path] = field(default_factory=dict)


def find_weights(folder: Path, *, any_name: bool = False, allow_pickle: bool = False) -> Weights:
    """Return the weight files of a transformer, none where there are none.

    Parameters
    ----------
    folder : Path
    any_name : bool
        Take every safetensors file where none has the name that transformers looks for.
    allow_pickle : bool
        Where there is no safetensors file, take pickled weights.

    Raises
    ------
    ValueError
        If files are named that are not the folder's, missing, cut short, or of another kind.
    """
    named = _named(folder)
    if named is not None:
        return _weights(folder, named, SAFE)
    for standard in (SAFE, PICKLED) if allow_pickle else (SAFE,):
        for name in (standard, f"{standard}{INDEX}"):
            if (folder / name).is_file():
                return _weights(folder, name, standard)
        others = [path for path in sorted(folder.glob("*.safetensors")) if path.name not in _OTHERS]
        if others and any_name:
            require_whole(others, folder, "checkpoint")
            return Weights(tuple(others))
        if others:
            raise ValueError(
                f"checkpoint {str(folder)!r} holds no {SAFE} and no {SAFE}{INDEX}, but "
                f"{shown(others[0].name)}; give the weights that are meant that name"
            )
    return Weights()


def _named(folder: Path) -> str | None:
    """Return the weight file that config.json names, by which transformers would go."""
    file = folder / "config.json"
    named = _named_in(file) if file.is_file() else None
    if named is None:
        return None
    if not is_plain(named) or not named.endswith((".safetensors", f".safetensors{INDEX}")):
        raise ValueError(
            f"the config.json of {str(folder)!r} must name a safetensors file in its folder as "
            f"transformers_weights, got {shown(named)}"
        )
    if not (folder / named).is_file():
        raise ValueError(f"file {named!r} of checkpoint {str(folder)!r} is missing; fetch it again")
    return str(named)


@once
def _named_in(config: Path) -> Any:
    return read_json(config).get("transformers_weights")


def _weights(folder: Path, name: str, standard: str) -> Weights:
    """Return the file `name`, or the shards that it lists, under the names of `standard`."""
    if not name.endswith(INDEX):
        file = folder / name
        if standard == SAFE:
            require_whole([file], folder, "checkpoint")
        return Weights((file,), {standard: file})
    places = _places(folder / name, Path(standard).suffix)
    files = tuple(folder / shard for shard in sorted(set(places.values())))
    if standard == SAFE:
        require_whole(files, folder, "checkpoint")
        _require_listed(places, folder, name)
    index = {f"{standard}{INDEX}": folder / name}
    return Weights(files, {**index, **{file.name: file for file in files}})


def _places(index: Path, suffix: str) -> dict[str, str]:
    """Return the shard of every tensor that an index lists."""
    places: Any = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise ValueError(f"{str(index)!r} must map names of weights to files in its weight_map")
    for shard in places.values():
        if not is_plain(shard) or not shard.endswith(suffix):
            raise ValueError(
                f"{str(index)!r} must name {suffix} files in its folder, got {shown(shard)}"
            )
    return places


def _require_listed(places: dict[str, str], folder: Path, index: str) -> None:
    held = {shard: tensor_names(folder / shard) for shard in set(places.values())}
    absent = sorted(name for name, shard in places.items() if name not in held[shard])
    if absent:
        raise ValueError(
            f"{index!r} of checkpoint {str(folder)!r} lists {len(absent)} weights that its files "
            f"lack ({', '.join(absent[:3])}); fetch it again"
        )


def read_pickled(file: Path) -> dict[str, Any]:
    """Return the tensors of pickled weights, that somebody allowed.

    Raises
    ------
    ValueError
        If there is more in it than tensors, which would run.
    """
    import torch

    try:
        return dict(torch.load(file, map_location="cpu", weights_only=True))
    except pickle.UnpicklingError as error:
        raise ValueError(not_tensors(file, error)) from None


def not_tensors(file: Path, error: Exception) -> str:
    """Return a message of one line for pickled weights that torch does not read."""
    return f"pickled weights {str(file)!r} cannot be read: {shorten(str(error), 200)}"


@once
def tensor_names(file: Path) -> frozenset[str]:
    """Return the names of what a whole safetensors file holds."""
    from safetensors import safe_open

    with safe_open(file, framework="np") as weights:
        return frozenset(weights.keys())
