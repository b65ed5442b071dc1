"""Bounds on what a checkpoint's small files ask for, all in one place and told on the client.

A file of a few hundred bytes can ask for a million layers, a rank of a billion or a regular
expression that never ends. The bounds are several times what models in use have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dask_embed._validation import shown
from dask_embed.models.patterns import compiled_pattern, repeats_nest
from dask_embed.models.written import entries

LARGEST_JSON = 256 << 20  # bytes; vocabularies have up to some 40 MiB
MOST_STOP_STRINGS, MOST_STOP_CHARACTERS = 64, 2_000
_MOST_LAYERS, _MOST_EXPERTS, MOST_BEAMS, _MOST_RANK = 1024, 4096, 1024, 8192
_LARGEST_SIZE = 1 << 24  # of a vocabulary, a vector, a sequence
# Names of sizes by which transformers makes modules and tensors.
_SIZES = re.compile(r"size|dim|width|channels|heads|position|n_embd|n_inner|d_model|d_ff|labels")
_COUNTS = re.compile(r"^(?!.*theta).*(layer|depth|blocks?$|hidden_groups)")
_LAYERS = re.compile(r"^(num|n)_\w*layers?$")  # of which -1 stands for nothing else
# Entries whose own names are of labels and tasks.
_NAMED_FREELY = ("id2label", "label2id", "task_specific_params")
# Weights that are quantized, shared between layers or pruned are fewer numbers than the
# configuration says; these many times as many are random numbers in want of memory.
_NUMBERS_OF_A_BYTE, _NUMBERS_AT_LEAST = 16, 1 << 28
_MOST_PATTERNS = 4096
_REPEAT = re.compile(r"[*+]|\{\d*,?\d*\}")


def require_sizes(written: dict[str, Any], source: str) -> None:
    """Raise ValueError if a configuration asks for more of anything than any model has.

    Parameters
    ----------
    written : dict
        A config.json, nested as it is.
    source : str
        Where it comes from, for the message.
    """
    named = {name: value for name, value in written.items() if name not in _NAMED_FREELY}
    for name, value in _numbers(named):
        if _SIZES.search(name):
            most = _LARGEST_SIZE
        elif _COUNTS.search(name):
            most = _MOST_LAYERS
        elif "expert" in name:
            most = _MOST_EXPERTS
        else:
            continue
        if value < 0 and _LAYERS.search(name):
            raise ValueError(f"{source} has {name}={shown(value)}, and no model has fewer than 0")
        if abs(value) > most:
            raise ValueError(
                f"{source} has {name}={shown(value)}, and more than {most:,} is no model's: the "
                "file is damaged or made to fill the memory of workers"
            )


def require_weights_for(config: Any, stored: int, source: str) -> None:
    """Raise ValueError if a configuration describes many times more than there are weights.

    transformers fills what is missing or of another shape with random numbers before it says so.

    Parameters
    ----------
    config : PretrainedConfig
    stored : int
        Bytes of the weight files.
    source : str
    """

    def number(*names: str) -> int:
        values = (getattr(config, name, None) for name in names)
        return next((value for value in values if type(value) is int and value > 0), 0)

    width, inner = number("hidden_size"), number("intermediate_size", "ffn_dim", "d_ff", "n_inner")
    rows = number("vocab_size") + number("max_position_embeddings")
    layers = number("num_hidden_layers")
    wanted = rows * width + layers * (4 * width**2 + 2 * width * inner)
    if wanted > _NUMBERS_OF_A_BYTE * stored + _NUMBERS_AT_LEAST:
        raise ValueError(
            f"{source} describes a model of {wanted:,} weights or more, but its files hold "
            f"{stored:,} bytes: config.json is of another model, or made to fill memory"
        )


def require_generation(written: dict[str, Any], source: str) -> None:
    """Raise ValueError if a generation_config.json asks for what would take for ever."""
    stop = written.get("stop_strings")
    if stop is not None:
        require_stop_strings([stop] if isinstance(stop, str) else stop, f"{source}: stop_strings")
    for name, most in (("num_beams", MOST_BEAMS), ("num_return_sequences", MOST_BEAMS)):
        value = written.get(name)
        if isinstance(value, int) and value > most:
            raise ValueError(f"{source} has {name}={shown(value)}; at most {most:,} can be run")


def require_stop_strings(stop: Any, name: str) -> None:
    """Raise ValueError for more than can be compared with a vocabulary in reasonable time."""
    if not isinstance(stop, list | tuple) or not all(isinstance(each, str) for each in stop):
        raise ValueError(f"{name} must be strings, got {shown(stop)}")
    characters = sum(map(len, stop))
    if len(stop) > MOST_STOP_STRINGS or characters > MOST_STOP_CHARACTERS:
        raise ValueError(
            f"{name} must be at most {MOST_STOP_STRINGS} strings of {MOST_STOP_CHARACTERS:,} "
            f"characters together, each of which is compared with every token of the vocabulary; "
            f"got {len(stop):,} of {characters:,}"
        )


# ------------------------------------------------------------------------------------- adapters
def require_adapter_bounds(written: dict[str, Any], source: str) -> None:
    """Raise ValueError if an adapter asks for sizes, or names modules, in a way that never ends.

    peft takes names of modules as regular expressions, which Python cannot interrupt.
    """
    for name, given in written.items():
        ranks = name == "r" or name.endswith("_r") or "rank" in name
        most = _MOST_RANK if ranks else _LARGEST_SIZE
        largest = max((abs(value) for _, value in _numbers(given)), default=0)
        if largest > most and "seed" not in name and "key" not in name:
            raise ValueError(f"{source} has {name}={shown(given)}; at most {most:,} can be meant")
    _require_few_layers(written.get("layer_replication") or [], source)
    for name, value in written.items():
        if name.endswith("_pattern") or name in ("modules_to_save", "target_parameters"):
            _require_names(value, f"{source}: {name}")
        elif name.endswith("_modules") and isinstance(value, str):
            compiled_pattern(value, f"{source}: {name}")
        elif name.endswith("_modules") and isinstance(value, list):
            _require_number(value, f"{source}: {name}")


def _require_few_layers(ranges: Any, source: str) -> None:
    try:
        count = sum(last - first for first, last in ranges)
    except (TypeError, ValueError):
        raise ValueError(
            f"{source} has layer_replication={shown(ranges)}, which must be pairs of layers"
        ) from None
    if count > _MOST_LAYERS:
        raise ValueError(f"{source} replicates {count:,} layers; at most {_MOST_LAYERS:,} are run")


def _require_names(given: Any, name: str) -> None:
    """Raise ValueError unless patterns are names of modules, with few wildcards in them."""
    if not isinstance(given, str | list | dict | None):
        raise ValueError(f"{name} must be names of modules, got {shown(given)}")
    patterns = [given] if isinstance(given, str) else list(given or ())
    _require_number(patterns, name)
    repeats = 0
    for pattern in patterns:
        if not isinstance(pattern, str):
            raise ValueError(f"{name} must be names of modules, got {shown(pattern)}")
        found = len(_REPEAT.findall(pattern))
        repeats += found
        if found > 2 or len(pattern) > 500 or repeats_nest(pattern) or repeats > 64:
            raise ValueError(
                f"{name} must be names of modules with at most two wildcards, which end in "
                f"time; got {shown(pattern)}"
            )


def _require_number(patterns: list[Any], name: str) -> None:
    if len(patterns) > _MOST_PATTERNS:
        raise ValueError(f"{name} must be at most {_MOST_PATTERNS:,}, got {len(patterns):,}")


def _numbers(written: Any) -> Iterator[tuple[str, int]]:
    """Yield every integer, in lists too, with the name that it stands under."""
    for name, value in entries(written):
        if isinstance(value, float) and value.is_integer():
            yield name, int(value)
        elif isinstance(value, int) and not isinstance(value, bool):
            yield name, value


def require_size_of_file(file: Path) -> None:
    """Raise ValueError for a configuration file that is larger than any in use."""
    size = file.stat().st_size
    if size > LARGEST_JSON:
        raise ValueError(f"{size:,} bytes; a configuration has at most {LARGEST_JSON:,}")
