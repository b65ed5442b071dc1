"""The modules of a sentence-transformers checkpoint, read from its json files.

Source: the folder layout of sentence-transformers 2 to 6 (``modules.json`` and one
``config.json`` per module). These are plain values; `dask_embed.inference.heads` runs them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dask_embed._validation import meant, shown, shown_error
from dask_embed.models.bounds import require_size_of_file
from dask_embed.models.known import ANY, COUNT, FLAG, OFF, TEXT, Rules, among, require_known

# In the order in which sentence-transformers concatenates them.
SENTENCE_TRANSFORMERS_MODES = {
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
SPLADE_STRATEGIES, SPLADE_ACTIVATIONS = ("max", "sum"), ("relu", "log1p_relu")
_FIRST = ("Transformer", "MLMTransformer", "StaticEmbedding")
_REQUIRED_KEYS = {"Dense": ("in_features", "out_features"), "LayerNorm": ("dimension",)}
_FEATURE = among("sentence_embedding")
_FEATURES: Rules = {"module_input_name": _FEATURE, "module_output_name": _FEATURE}
# The settings of each module that is run here. Those of a Transformer lie elsewhere.
_SETTINGS: dict[str, Rules] = {
    "Pooling": {
        "embedding_dimension": COUNT,
        "word_embedding_dimension": COUNT,
        "include_prompt": FLAG,
        "pooling_mode": ANY,  # Pooling judges it
        **dict.fromkeys(SENTENCE_TRANSFORMERS_MODES, FLAG),
    },
    "Dense": {
        "in_features": COUNT,
        "out_features": COUNT,
        "bias": FLAG,
        "activation_function": TEXT,
        "use_residual": FLAG,
        **_FEATURES,
    },
    "LayerNorm": {"dimension": COUNT},
    "Normalize": _FEATURES,
    "Dropout": {"dropout": ANY},
    "SpladePooling": {
        "pooling_strategy": among(*SPLADE_STRATEGIES),
        "activation_function": among(*SPLADE_ACTIVATIONS),
        "embedding_dimension": COUNT,
        "word_embedding_dimension": COUNT,
        "chunk_size": ANY,  # what is held at a time
    },
}
# Of an entry of modules.json; arguments of a call would be passed on to the module.
_ENTRY: Rules = {"idx": ANY, "name": ANY, "path": TEXT, "type": TEXT, "kwargs": OFF}
POOLING_MODES = (*SENTENCE_TRANSFORMERS_MODES.values(), "sum", "none")


@dataclass(frozen=True)
class Pooling:
    """Token vectors of a text to one vector: the `modes`, concatenated."""

    modes: tuple[str, ...]
    include_prompt: bool = True

    def __post_init__(self) -> None:
        for mode in self.modes:
            if mode not in POOLING_MODES:
                raise ValueError(
                    f"pooling must be 'auto' or among {', '.join(map(repr, POOLING_MODES))}; "
                    f"got {shown(mode)}{meant(mode, POOLING_MODES)}"
                )
        if not self.modes or ("none" in self.modes and len(self.modes) > 1):
            raise ValueError(f"pooling {self.modes!r} cannot be concatenated")

    def output_dimension(self, dimension: int) -> int:
        return len(self.modes) * dimension


@dataclass(frozen=True)
class Dense:
    """A linear layer with an activation, after pooling."""

    path: str
    in_features: int
    out_features: int
    bias: bool = True
    activation: str = "torch.nn.modules.activation.Tanh"
    residual: bool = False

    def output_dimension(self, dimension: int) -> int:
        _require_dimension(f"Dense module {self.path!r}", self.in_features, dimension)
        return self.out_features


@dataclass(frozen=True)
class LayerNorm:
    """Layer normalization of the vector."""

    path: str
    dimension: int

    def output_dimension(self, dimension: int) -> int:
        _require_dimension(f"LayerNorm module {self.path!r}", self.dimension, dimension)
        return dimension


@dataclass(frozen=True)
class Truncate:
    """Keep the first `dimension` values of the vector (Matryoshka embeddings)."""

    dimension: int

    def output_dimension(self, dimension: int) -> int:
        if self.dimension > dimension:
            raise ValueError(
                f"truncate_dim must be at most the model's dimension {dimension}, "
                f"got {self.dimension}"
            )
        return self.dimension


@dataclass(frozen=True)
class Normalize:
    """Scale the vector to Euclidean length one; the zero vector stays zero."""

    def output_dimension(self, dimension: int) -> int:
        return dimension


@dataclass(frozen=True)
class StaticEmbedding:
    """A vector of each token from a table, and their mean: in place of a transformer."""

    path: str


@dataclass(frozen=True)
class SpladePooling:
    """Scores of the vocabulary for each token of a text to one weight of each of its words."""

    strategy: str = "max"
    activation: str = "relu"


VectorModule = Dense | LayerNorm | Truncate | Normalize
HeadModule = Pooling | VectorModule


def read_modules(
    folder: Path,
) -> tuple[str, Pooling | StaticEmbedding | SpladePooling | None, tuple[VectorModule, ...]] | None:
    """Read ``modules.json``.

    Returns
    -------
    tuple or None
        The transformer's subfolder, its pooling (None for a cross-encoder, whose transformer has
        the head, and for a dual encoder, which gives a vector of a text by itself) or the table
        that stands in place of both, and the modules after that; None if `folder` is a plain
        transformers checkpoint. A sparse encoder has its own kind of pooling.

    Raises
    ------
    ValueError
        If a module is of a kind that cannot be run; it is never skipped.
    """
    listing = folder / "modules.json"
    if not listing.is_file():
        return None
    entries = sorted(read_json(listing, list), key=lambda entry: entry["idx"])
    for entry in entries:
        _require_below(folder, entry.get("path", ""))
        require_known(entry, _ENTRY, f"modules.json of {str(folder)!r}")
    if not entries or _kind(entries[0]) not in _FIRST:
        given = entries[0]["type"] if entries else "nothing"
        raise ValueError(
            "modules.json must begin with a Transformer or StaticEmbedding module, got "
            f"{shown(given)}"
        )
    kind, path = _kind(entries[0]), entries[0].get("path", "")
    if kind == "StaticEmbedding":
        return path, StaticEmbedding(path), _after_pooling(folder, entries, pooled=True)[1]
    if len(entries) == 2 and _kind(entries[1]) == "SpladePooling":
        return path, _read_splade(folder, entries[1]), ()
    if len(entries) == 1 and _has_classifier(folder / path):
        return path, None, ()
    if kind == "MLMTransformer":
        raise ValueError(
            "modules.json must have one SpladePooling module after an MLMTransformer and nothing "
            f"else; got {[entry['type'] for entry in entries]}"
        )
    return path, *_after_pooling(folder, entries, pooled=gives_text_vectors(folder / path))


def _after_pooling(
    folder: Path, entries: list[dict[str, Any]], *, pooled: bool = False
) -> tuple[Pooling | None, tuple[VectorModule, ...]]:
    """Return the pooling, None where the first module has done that, and what follows it."""
    head = [_read_module(folder, entry) for entry in entries[1:]]
    kept = [module for module in head if module is not None]
    after = tuple(module for module in kept if not isinstance(module, Pooling))
    if pooled and len(after) == len(kept):
        return None, after
    if pooled or len(after) != len(kept) - 1 or not isinstance(kept[0], Pooling):
        raise ValueError(
            "modules.json must have one Pooling module, right after the Transformer, and none "
            f"after a StaticEmbedding; got {[entry['type'] for entry in entries]}"
        )
    return kept[0], after


def _require_below(folder: Path, path: Any) -> None:
    """Raise ValueError for the path of a module that is not the checkpoint's own."""
    parts = Path(path).parts if isinstance(path, str) else ("..",)
    links = any((folder / Path(*parts[: end + 1])).is_symlink() for end in range(len(parts)))
    if ".." in parts or Path(path).is_absolute() or links:
        raise ValueError(
            f"modules.json of {str(folder)!r} must name folders in it, not links; "
            f"got path {shown(path)}"
        )


def read_json(file: Path, kind: type = dict) -> Any:
    """Return what a json file holds, an object unless `kind` is list.

    Raises
    ------
    ValueError
        If the file is not json, or holds something else.
    """
    try:
        require_size_of_file(file)
        content = json.loads(file.read_text("utf8"))
    except (OSError, RecursionError, ValueError) as error:
        raise ValueError(f"{str(file)!r} is not valid json: {shown_error(error)}") from error
    if not isinstance(content, kind):
        wanted = "a list" if kind is list else "an object"
        raise ValueError(f"{str(file)!r} must hold {wanted}, got {type(content).__name__}")
    return content


def first_json(folder: Path, names: tuple[str, ...]) -> dict[str, Any]:
    """Return the object in the first of some files that is there, empty without any."""
    for name in names:
        if (folder / name).is_file():
            content: dict[str, Any] = read_json(folder / name)
            return content
    return {}


def _read_splade(folder: Path, entry: dict[str, Any]) -> SpladePooling:
    path = entry.get("path", "")
    file = folder / path / "config.json"
    if not path or not file.is_file():
        raise ValueError(f"module {path!r} (SpladePooling) needs its settings in {str(file)!r}")
    config = read_json(file)
    require_known(config, _SETTINGS["SpladePooling"], f"module {path!r} (SpladePooling)")
    named = {"strategy": "pooling_strategy", "activation": "activation_function"}
    return SpladePooling(
        **{ours: config[theirs] for ours, theirs in named.items() if config.get(theirs)}
    )


def _read_module(folder: Path, entry: dict[str, Any]) -> HeadModule | None:
    path, kind = entry.get("path", ""), _kind(entry)
    file = folder / path / "config.json"
    config = read_json(file) if path and file.is_file() else {}
    for key in _REQUIRED_KEYS.get(kind, ()):
        if key not in config:
            raise ValueError(f"module {path!r} ({kind}) needs {key!r} in {str(file)!r}")
    if kind == "Pooling" and not config:
        raise ValueError(f"module {path!r} (Pooling) needs its settings in {str(file)!r}")
    if kind in _SETTINGS:
        require_known(config, _SETTINGS[kind], f"module {path!r} ({kind})")
    if kind == "Pooling":
        return _read_pooling(config)
    if kind == "Dense":
        return _read_dense(path, config)
    if kind == "LayerNorm":
        return LayerNorm(path, config["dimension"])
    if kind == "Normalize":
        return Normalize()
    if kind == "Dropout":  # does nothing outside training
        return None
    raise ValueError(
        f"modules.json names the module {entry['type']!r}, which cannot be run here; supported "
        "are Transformer, StaticEmbedding, SpladePooling, Pooling, Dense, LayerNorm, Normalize and "
        "Dropout of sentence-transformers"
    )


def has_table(folder: Path) -> bool:
    """Return whether a folder's first module is a table in place of a transformer."""
    listing = folder / "modules.json"
    entries = read_json(listing, list) if listing.is_file() else []
    return any(isinstance(each, dict) and _is_table(each) for each in entries)


def _is_table(entry: dict[str, Any]) -> bool:
    return isinstance(entry.get("type"), str) and _kind(entry) == "StaticEmbedding"


def _has_classifier(folder: Path) -> bool:
    """Return whether a Transformer module was saved with a head for classification."""
    file = folder / "sentence_bert_config.json"
    return file.is_file() and read_json(file).get("transformer_task") == "sequence-classification"


def gives_text_vectors(folder: Path) -> bool:
    """Return whether a Transformer module was saved that needs no pooling: of a dual encoder."""
    settings = first_json(folder, ("sentence_bert_config.json",))
    return bool(settings.get("module_output_name") == "sentence_embedding")


def _kind(entry: dict[str, Any]) -> str:
    package, _, name = entry["type"].rpartition(".")
    return name if package.split(".")[0] == "sentence_transformers" else ""


def _read_pooling(config: dict[str, Any]) -> Pooling:
    modes = config.get("pooling_mode")
    if modes is None:
        modes = [mode for key, mode in SENTENCE_TRANSFORMERS_MODES.items() if config.get(key)]
    names = (modes,) if isinstance(modes, str) else tuple(modes) or ("mean",)
    return Pooling(names, bool(config.get("include_prompt", True)))


def _read_dense(path: str, config: dict[str, Any]) -> Dense:
    dense = Dense(
        path=path,
        in_features=config["in_features"],
        out_features=config["out_features"],
        bias=config.get("bias") is not False,
        activation=config.get("activation_function", Dense.activation),
        residual=config.get("use_residual", False),
    )
    if not dense.activation.startswith("torch.nn."):
        raise ValueError(
            f"Dense module {path!r} has the activation {dense.activation!r}; only the classes "
            "of torch.nn can be run"
        )
    return dense


def _require_dimension(what: str, expected: int, given: int) -> None:
    if expected != given:
        raise ValueError(
            f"{what} takes vectors of {expected} values but the modules before it give {given}"
        )
