"""A checkpoint as its small files describe it; no weights are read here."""

from __future__ import annotations

import dataclasses
import functools
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask_embed._validation import (
    require_size,
    strings,
    text_or_none,
    usable_text,
)
from dask_embed.models.bounds import require_generation, require_sizes, require_weights_for
from dask_embed.models.classes import gives_one_vector, plain_class
from dask_embed.models.dual import (
    TABLE,
    has_text_side,
    require_saved_text_side,
    text_width,
)
from dask_embed.models.foreign import told_as
from dask_embed.models.hub import ADAPTER_CONFIG, locate, require_whole
from dask_embed.models.module_files import gives_text_vectors, has_table, read_modules
from dask_embed.models.modules import (
    Dense,
    LayerNorm,
    MultiVector,
    Pooled,
    Pooling,
    SpladePooling,
    StaticEmbedding,
    VectorModule,
    first_json,
    read_json,
)
from dask_embed.models.options import require_fields
from dask_embed.models.prepared import prepared
from dask_embed.models.sentence import SentenceSettings, read_sentence_settings
from dask_embed.models.settings import model_settings
from dask_embed.models.sources import TOKENIZER_FILES, tokenizer_folder
from dask_embed.models.spec import Model
from dask_embed.models.static import StaticTable, read_static_table, require_static
from dask_embed.models.weights import Weights, find_weights
from dask_embed.runtime.libraries import importing

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Fields that say for how many tokens a model has positions, the first that is there.
_POSITION_LIMITS = (
    *("max_position_embeddings", "max_encoder_position_embeddings", "max_source_positions"),
    *("max_seq_len", "max_sequence_length"),
)
# Where the last hidden states have another size than `hidden_size`, the field that says which.
_PROJECTED = {"opt": "word_embed_proj_dim", "embedding_gemma2_text": "embedding_dim"}
# Last hidden states of these are those of two streams side by side.
_STREAMS = {"reformer": 2}
# Learned positions of models with this function start after the padding id, so the position table
# holds pad_token_id + 1 rows that no token uses.
_POSITIONS_AFTER_PADDING = "create_position_ids_from_input_ids"


@dataclass(frozen=True)
class Checkpoint:
    """What the configuration files of a checkpoint say.

    Attributes
    ----------
    folder : Path
        Folder of the transformer: configuration, tokenizer and weights.
    root : Path
        Folder of the whole checkpoint; differs from `folder` for old sentence-transformers.
    revision : str
        Commit sha, or fingerprint of a local folder.
    config : PretrainedConfig
    pooling : Pooling or None
        None for a plain transformers checkpoint.
    modules : tuple
        What follows the pooling.
    sentence : SentenceSettings
        What else a sentence-transformers folder says.
    own_tokenizer : Path or None
        Folder of the tokenizer where another one than the checkpoint's was asked for.
    splade : SpladePooling or None
        How a sparse encoder makes weights of scores of its vocabulary.
    multi_vector : MultiVector or None
        Which tokens of a multi-vector model count; `modules` work on tokens then.
    static : StaticTable or None
        The table of token vectors that stands in place of a transformer.
    """

    folder: Path
    root: Path
    revision: str
    config: PretrainedConfig
    pooling: Pooling | None = None
    modules: tuple[VectorModule, ...] = ()
    sentence: SentenceSettings = field(default_factory=SentenceSettings)
    own_tokenizer: Path | None = None
    splade: SpladePooling | None = None
    multi_vector: MultiVector | None = None
    static: StaticTable | None = None

    @property
    def tokenizer_folder(self) -> Path:
        return self.own_tokenizer or self.folder

    def weights(self, model: Model) -> Weights:
        """Return the files of the transformer's weights, none where there are none.

        Raises
        ------
        ValueError
            If they are not whole, or not in the folder.
        """
        return find_weights(
            self.folder, any_name=model.factory is not None, allow_pickle=model.allow_pickle
        )

    @property
    def hidden_size(self) -> int:
        """Number of values of a token vector."""
        if self.has_text_side:
            return text_width(self.config)
        config = self.text_config
        # OPT projects its hidden states to the size of the embeddings, EmbeddingGemma 2 to its own
        projected = _PROJECTED.get(config.model_type)
        size = getattr(config, projected or "hidden_size", None)
        size = size or getattr(config, "hidden_size", None)
        if not isinstance(size, int):
            raise ValueError(
                f"the configuration in {str(self.folder)!r}, of type {config.model_type!r}, does "
                "not say how many values a vector has (hidden_size)"
            )
        return int(size) * _STREAMS.get(config.model_type, 1)

    @property
    def has_text_side(self) -> bool:
        """Whether the model has one vector of a text, beside those of images or sounds."""
        return has_text_side(self.config)

    @property
    def default_pooling(self) -> Pooling:
        """How token vectors become one where nobody says: as sentence-transformers does it.

        Where a model gives a vector for a text alone, it is that of the first token (DPR).
        """
        kind: Any = type(self.config)
        if self.pooling is None and gives_one_vector(plain_class(kind)):
            return Pooling(("cls",))
        architectures = getattr(self.config, "architectures", None) or [""]
        causal = architectures[0].endswith("ForCausalLM") and getattr(
            self.config, "is_causal", True
        )
        return self.pooling or Pooling(("lasttoken",) if causal else ("mean",))

    @property
    def has_chat_template(self) -> bool:
        """Whether the tokenizer's files hold a template for chats."""
        folder = self.tokenizer_folder
        files = [folder / "chat_template.jinja", *folder.glob("additional_chat_templates/*.jinja")]
        written = first_json(folder, ("tokenizer_config.json",)).get("chat_template")
        return bool(written) or any(file.is_file() for file in files)

    @property
    def text_config(self) -> Any:
        return self.config.get_text_config()

    @property
    def position_limit(self) -> int | None:
        """Longest sequence that the position table holds, None where nothing limits it."""
        return position_limit(self.text_config, self.config)

    @property
    def padding_id(self) -> int | None:
        """Id of the padding token, None where there is none or none that has an embedding."""
        given = getattr(self.text_config, "pad_token_id", None)
        return given if isinstance(given, int) and self.has_embedding(given) else None

    def has_embedding(self, token: int) -> bool:
        """Return whether the configuration has an embedding for a token of this id."""
        known = getattr(self.text_config, "vocab_size", None)
        return token >= 0 and (not isinstance(known, int) or token < known)

    @property
    def default_limit(self) -> int | None:
        """Most tokens of a sequence where nobody asks for another limit, None without one."""
        if self.static is not None:
            return None
        limits = (self.position_limit, self.sentence.max_seq_length or self.tokenizer_limit)
        return min((value for value in limits if value is not None), default=None)

    @property
    def tokenizer_limit(self) -> int | None:
        """Longest sequence that the tokenizer's configuration allows, None without one."""
        settings = first_json(self.tokenizer_folder, ("tokenizer_config.json",))
        limit = settings.get("model_max_length")
        # transformers writes int(1e30) where there is no limit
        return int(limit) if isinstance(limit, int | float) and limit < 1e9 else None


def position_limit(config: Any, whole: Any = None) -> int | None:
    """Return the most tokens that a model has positions for, None where nothing limits them.

    Of a part, whose code is that of the `whole`.
    """
    given = (getattr(config, name, None) for name in _POSITION_LIMITS)
    limit = next((value for value in given if isinstance(value, int) and value > 0), None)
    padding = getattr(config, "pad_token_id", None)
    kinds: set[Any] = {type(config), type(whole or config)}
    if limit is None or padding is None or not any(map(_begins_after_padding, kinds)):
        return limit
    return limit - padding - 1


def read_checkpoint(
    model: Model, *, weights: bool = False, needs_weights: bool = True
) -> Checkpoint:
    """Return the checkpoint of `model`; with `weights`, have them on this machine too.

    A local folder must hold weights, unless `needs_weights` is false: for its tokenizer alone.
    """
    root, revision = locate(model, weights=weights)
    if not weights and has_table(root):  # whose size only the header of its weights tells
        root, revision = locate(model, weights=True)
    tokenizer = None if model.tokenizer is None else tokenizer_folder(model)[0]
    known = model.factory is None
    checkpoint = _read(
        root,
        revision,
        model.trust_remote_code,
        known,
        model.labels,
        tokenizer,
        model.model_kwargs,
    )
    _require_tokenizer(checkpoint)
    if checkpoint.static is not None:
        require_static(model)
        return checkpoint
    if weights or needs_weights:
        _require_named_adapter(checkpoint, model)
    if weights or (needs_weights and revision.startswith("local-")):
        _require_weights(checkpoint, model)
    return checkpoint


@functools.lru_cache(maxsize=64)
def _read(
    root: Path,
    revision: str,
    trust_remote_code: bool,
    known: bool,
    labels: tuple[str, ...] | None,
    tokenizer: Path | None,
    fields: tuple[tuple[str, Any], ...],
) -> Checkpoint:
    """Read the small files; unless `known`, the model may be of no type of transformers."""
    with told_as(f"the files of checkpoint {str(root)!r} cannot be read"):
        listed = read_modules(root)
        subfolder, pooling, modules = listed or ("", None, ())
        folder = root / subfolder
        sentence = SentenceSettings()
        if listed is not None:  # without it sentence-transformers reads no other settings either
            sentence = read_sentence_settings(root, folder, pooling)
        table = read_static_table(folder) if isinstance(pooling, StaticEmbedding) else None
        generation = first_json(folder, ("generation_config.json",))
        require_generation(generation, f"the generation_config.json of {str(folder)!r}")
        checkpoint = Checkpoint(
            folder=folder,
            root=root,
            revision=revision,
            config=_read_config(folder, trust_remote_code, known, labels, dict(fields))
            if table is None
            else _config_of_table(table),
            pooling=_of_vectors(pooling),
            splade=pooling if isinstance(pooling, SpladePooling) else None,
            multi_vector=pooling if isinstance(pooling, MultiVector) else None,
            modules=modules,
            sentence=sentence,
            own_tokenizer=tokenizer,
            static=table,
        )
        _require_kinds(checkpoint)
    if listed is not None and gives_text_vectors(folder):
        require_saved_text_side(root, checkpoint.config)
    return checkpoint


def _of_vectors(pooling: Pooled | None) -> Pooling | None:
    """Return how vectors of tokens become one, None where a folder does not say."""
    if isinstance(pooling, StaticEmbedding):
        return Pooling(("mean",))
    return pooling if isinstance(pooling, Pooling) else None


def _require_kinds(checkpoint: Checkpoint) -> None:
    """Raise TypeError or ValueError unless the settings are values of their kind."""
    sentence = checkpoint.sentence
    text_or_none("default_prompt_name", sentence.default_prompt_name)
    for name, prompt in sentence.prompts.items():
        usable_text(f"prompt {name!r}", prompt)
    for module in checkpoint.modules:
        for each in dataclasses.fields(module):
            if each.type == "int":
                name = f"{each.name} of {type(module).__name__}"
                require_size(name, getattr(module, each.name))
    strings("architectures", getattr(checkpoint.config, "architectures", None) or [])
    hidden = getattr(checkpoint.text_config, "hidden_size", None)
    if hidden is not None:
        require_size("hidden_size", hidden)


@functools.lru_cache(maxsize=64)
def _begins_after_padding(config: Any) -> bool:
    """Return whether models of this configuration number positions from the padding id on."""
    model = plain_class(config)
    if model is None:
        return False
    code = vars(sys.modules[model.__module__])
    # sinusoidal positions are computed and have no end
    parts = [
        vars(each) for name, each in code.items() if isinstance(each, type) and "Sinus" not in name
    ]
    return any(_POSITIONS_AFTER_PADDING in part for part in (code, *parts))


def _read_config(
    folder: Path,
    trust_remote_code: bool,
    known: bool,
    labels: tuple[str, ...] | None,
    fields: dict[str, Any],
) -> PretrainedConfig:
    file = folder / "config.json"
    if not file.is_file():
        raise ValueError(f"model folder {str(folder)!r} holds no config.json")
    with importing():
        return _config_of(file, trust_remote_code, known, labels, fields)


def _config_of_table(table: StaticTable) -> PretrainedConfig:
    """Return what the configuration of a model with the sizes of a table would be."""
    with importing():
        from transformers import PretrainedConfig
    sizes = {"vocab_size": table.tokens, "hidden_size": table.dimension}
    return PretrainedConfig.from_dict({"model_type": TABLE, **sizes})


def _config_of(
    file: Path,
    trust_remote_code: bool,
    known: bool,
    labels: tuple[str, ...] | None,
    fields: dict[str, Any],
) -> PretrainedConfig:
    from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

    folder, written = file.parent, read_json(file)
    require_sizes(written | fields, repr(str(file)))
    kind = written.get("model_type")
    named = named_labels(labels)
    if not known and kind not in CONFIG_MAPPING:
        described = model_settings(written, folder, code=trust_remote_code)
        return PretrainedConfig.from_dict(described | named)
    if kind not in CONFIG_MAPPING and not trust_remote_code:
        if "auto_map" in written:
            raise ValueError(
                f"checkpoint {str(folder)!r} brings Python code of its own "
                f"({written['auto_map']}); read it, then allow it with "
                "dask_embed.Model(..., trust_remote_code=True)"
            )
        raise ValueError(
            f"{str(file)!r} has model_type {kind!r}, which the installed transformers does not know"
        )
    ready = prepared(folder, code=trust_remote_code)
    read = {"trust_remote_code": trust_remote_code, "local_files_only": True}
    if fields:
        require_fields(fields, AutoConfig.from_pretrained(ready, **read))
    return AutoConfig.from_pretrained(ready, **read, **named, **fields)


def named_labels(labels: tuple[str, ...] | None) -> dict[str, Any]:
    """Return the entries of a configuration for labels of these names, none without labels."""
    if labels is None:
        return {}
    return {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: place for place, label in enumerate(labels)},
    }


def _require_weights(checkpoint: Checkpoint, model: Model) -> None:
    folder = checkpoint.folder
    weights = checkpoint.weights(model)
    for module in checkpoint.modules:
        if isinstance(module, Dense | LayerNorm):
            files = sorted((checkpoint.root / module.path).glob("*.safetensors"))
            require_whole(files, checkpoint.root, "checkpoint")
    if weights.files:
        stored = sum(file.stat().st_size for file in weights.files)
        if model.factory is None:
            require_weights_for(checkpoint.text_config, stored, f"checkpoint {str(folder)!r}")
        return
    pickled = sorted(path.name for path in folder.glob("pytorch_model*.bin"))
    if pickled:
        raise ValueError(
            f"checkpoint {str(folder)!r} holds only pickled weights ({pickled[0]}), which can run "
            "any code when loaded; convert them to safetensors, or allow them with "
            "dask_embed.Model(..., allow_pickle=True)"
        )
    raise ValueError(f"checkpoint {str(folder)!r} holds no weights (*.safetensors)")


def _require_named_adapter(checkpoint: Checkpoint, model: Model) -> None:
    """Raise ValueError if an adapter lies beside the model that nobody asked for."""
    folders = {checkpoint.root, checkpoint.folder}
    if model.adapter is None and any((each / ADAPTER_CONFIG).is_file() for each in folders):
        raise ValueError(
            f"model {model.name!r} holds a PEFT adapter beside the model; to run it with the "
            f"adapter name it, dask_embed.Model(..., adapter={model.name!r}), and to "
            f"run it without take {ADAPTER_CONFIG} out of a copy of the folder"
        )


def _require_tokenizer(checkpoint: Checkpoint) -> None:
    folder = checkpoint.tokenizer_folder
    if not any((folder / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(
            f"checkpoint {str(folder)!r} holds no tokenizer; one of "
            f"{', '.join(TOKENIZER_FILES)} is needed"
        )
