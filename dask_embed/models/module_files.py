"""The modules of a sentence-transformers checkpoint, read from its json files.

Source: the folder layout of sentence-transformers 2 to 6 (``modules.json`` and one
``config.json`` per module).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dask_embed._validation import shown
from dask_embed.models.known import ANY, COUNT, FLAG, OFF, TEXT, Rule, Rules, among, require_known
from dask_embed.models.modules import (
    SENTENCE_TRANSFORMERS_MODES,
    SPLADE_ACTIVATIONS,
    SPLADE_STRATEGIES,
    Dense,
    HeadModule,
    LayerNorm,
    MultiVector,
    Normalize,
    Pooled,
    Pooling,
    SpladePooling,
    StaticEmbedding,
    VectorModule,
    first_json,
    read_json,
)

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
_MASK: Rules = {
    "skiplist_words": Rule(lambda value: _are(value, str), "a list of words"),
    "skiplist_tasks": Rule(
        lambda value: isinstance(value, str) or _are(value, str), "a list of tasks"
    ),
    "keep_only_token_ids": Rule(lambda value: _are(value, int), "a list of ids"),
}
# Of an entry of modules.json; arguments of a call would be passed on to the module.
_ENTRY: Rules = {"idx": ANY, "name": ANY, "path": TEXT, "type": TEXT, "kwargs": OFF}


def read_modules(
    folder: Path,
) -> tuple[str, Pooled | None, tuple[VectorModule, ...]] | None:
    """Read ``modules.json``.

    Returns
    -------
    tuple or None
        The transformer's subfolder, its pooling (None for a cross-encoder, whose transformer has
        the head, and for a dual encoder, which gives a vector of a text by itself) or the table
        that stands in place of both, and the modules after that; None if `folder` is a plain
        transformers checkpoint. Sparse encoders and multi-vector models have something else in
        place of the pooling.

    Raises
    ------
    ValueError
        If a module is of a kind that cannot be run; it is never skipped.
    """
    listing = folder / "modules.json"
    if not listing.is_file():
        return None
    entries = read_json(listing, list)  # run in this order, whatever their numbers (idx) say
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
    if any(_kind(entry) == "MultiVectorMask" for entry in entries):
        return path, *_read_multi_vector(folder, entries)
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


def _read_multi_vector(
    folder: Path, entries: list[dict[str, Any]]
) -> tuple[MultiVector, tuple[VectorModule, ...]]:
    """Read what follows the transformer of a multi-vector model, all of it on tokens."""
    masks, modules = [], []
    for entry in entries[1:]:
        path, kind = entry.get("path", ""), _kind(entry)
        file = folder / path / "config.json"
        config = read_json(file) if path and file.is_file() else {}
        source = f"module {path!r} ({kind})"
        if kind == "MultiVectorMask":
            require_known(config, _MASK, source)
            masks.append(_multi_vector(config))
            continue
        if kind not in ("Dense", "Normalize"):
            raise ValueError(
                f"modules.json names the module {entry['type']!r}, which cannot be run in a "
                "multi-vector model; supported are Transformer, Dense, Normalize, MultiVectorMask"
            )
        # a Dense of older folders does not say on what it works; a Normalize would do nothing
        named = {"module_input_name": "token_embeddings"} if kind == "Dense" else {}
        feature = among("token_embeddings")
        rules = dict.fromkeys(_FEATURES, feature)
        require_known(config, {**_SETTINGS[kind], **rules}, source)
        if (named | config).get("module_input_name") is None:
            raise ValueError(f"{source} must have module_input_name='token_embeddings'")
        module = _read_dense(path, config) if kind == "Dense" else Normalize()
        modules.append(module)
    if len(masks) != 1:
        raise ValueError(
            "modules.json must have one MultiVectorMask module; got "
            f"{[entry['type'] for entry in entries]}"
        )
    return masks[0], tuple(modules)


def _multi_vector(config: dict[str, Any]) -> MultiVector:
    tasks = config.get("skiplist_tasks")
    tasks = ("document",) if tasks is None else (tasks,) if isinstance(tasks, str) else tuple(tasks)
    return MultiVector(
        tuple(config.get("skiplist_words") or ()),
        tasks,
        tuple(config.get("keep_only_token_ids") or ()),
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


def _are(values: Any, kind: type) -> bool:
    return isinstance(values, list) and all(isinstance(value, kind) for value in values)


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
        modes = modes or ["mean"]
    names = (modes,) if isinstance(modes, str) else tuple(modes)
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
