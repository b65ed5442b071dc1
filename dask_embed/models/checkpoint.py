"""A checkpoint as its small files describe it; no weights are read here."""

from __future__ import annotations

import functools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask_embed.models.bounds import require_generation, require_weights_for
from dask_embed.models.classes import gives_one_vector, plain_class
from dask_embed.models.config_file import config_of_table, read_config
from dask_embed.models.dual import (
    has_text_side,
    require_saved_text_side,
    text_width,
)
from dask_embed.models.foreign import told_as
from dask_embed.models.hub import locate
from dask_embed.models.kinds import require_kinds
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
)
from dask_embed.models.needed_files import require_named_adapter, require_safe, require_tokenizer
from dask_embed.models.sentence import SentenceSettings, read_sentence_settings
from dask_embed.models.sizes import position_limit, vector_size
from dask_embed.models.sources import tokenizer_folder
from dask_embed.models.spec import Model
from dask_embed.models.static import StaticTable, read_static_table, require_static
from dask_embed.models.tensor_files import require_whole
from dask_embed.models.weights import Weights, find_weights
from dask_embed.runtime.remembered import looked

if TYPE_CHECKING:
    from transformers import PretrainedConfig


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
        size = vector_size(self.text_config)
        if size is None:
            raise ValueError(
                f"the configuration in {str(self.folder)!r}, of type "
                f"{self.text_config.model_type!r}, does not say how many values a vector has "
                "(hidden_size)"
            )
        return size

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
        return looked((_has_chat_template, folder), lambda: _has_chat_template(folder))

    @property
    def text_config(self) -> Any:
        return self.config.get_text_config()

    @property
    def position_limit(self) -> int | None:
        """Longest sequence that the model has positions for, None where nothing limits it.

        A folder of sentence-transformers may ask for more of a model that computes its positions.
        """
        limit, asked = position_limit(self.text_config, self.config), self.sentence.max_seq_length
        rotates = bool(getattr(self.text_config, "rope_parameters", None))
        return limit if limit is None or asked is None or not rotates else max(limit, asked)

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
        limit = _tokenizer_settings(self.tokenizer_folder).get("model_max_length")
        # transformers writes int(1e30) where there is no limit
        return int(limit) if isinstance(limit, int | float) and limit < 1e9 else None


def _tokenizer_settings(folder: Path) -> dict[str, Any]:
    place = (_tokenizer_settings, folder)
    return looked(place, lambda: first_json(folder, ("tokenizer_config.json",)))


def _has_chat_template(folder: Path) -> bool:
    files = [folder / "chat_template.jinja", *folder.glob("additional_chat_templates/*.jinja")]
    written = _tokenizer_settings(folder).get("chat_template")
    return bool(written) or any(file.is_file() for file in files)


def read_checkpoint(
    model: Model, *, weights: bool = False, needs_weights: bool = True
) -> Checkpoint:
    """Return the checkpoint of `model`; with `weights`, have them on this machine too.

    A local folder must hold weights, unless `needs_weights` is false: for its tokenizer alone.
    """
    asked = (read_checkpoint, model, weights, needs_weights)
    return looked(asked, lambda: _checkpoint(model, weights, needs_weights))


def _checkpoint(model: Model, weights: bool, needs_weights: bool) -> Checkpoint:
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
    require_tokenizer(checkpoint.tokenizer_folder)
    if checkpoint.static is not None:
        require_static(model)
        return checkpoint
    if weights or needs_weights:
        require_named_adapter({checkpoint.root, checkpoint.folder}, model)
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
        for name in ("generation_config.json", "config.json"):  # the latter in old ones
            require_generation(first_json(folder, (name,)), f"the {name} of {str(folder)!r}")
        checkpoint = Checkpoint(
            folder=folder,
            root=root,
            revision=revision,
            config=read_config(folder, trust_remote_code, known, labels, dict(fields))
            if table is None
            else config_of_table(table),
            pooling=_of_vectors(pooling),
            splade=pooling if isinstance(pooling, SpladePooling) else None,
            multi_vector=pooling if isinstance(pooling, MultiVector) else None,
            modules=modules,
            sentence=sentence,
            own_tokenizer=tokenizer,
            static=table,
        )
        require_kinds(checkpoint)
    if listed is not None and gives_text_vectors(folder):
        require_saved_text_side(root, checkpoint.config)
    return checkpoint


def _of_vectors(pooling: Pooled | None) -> Pooling | None:
    """Return how vectors of tokens become one, None where a folder does not say."""
    if isinstance(pooling, StaticEmbedding):
        return Pooling(("mean",))
    return pooling if isinstance(pooling, Pooling) else None


def _require_weights(checkpoint: Checkpoint, model: Model) -> None:
    folder = checkpoint.folder
    weights = checkpoint.weights(model)
    for module in checkpoint.modules:
        if isinstance(module, Dense | LayerNorm):
            files = sorted((checkpoint.root / module.path).glob("*.safetensors"))
            require_whole(files, checkpoint.root, "checkpoint")
    require_safe(weights, folder)
    stored = sum(file.stat().st_size for file in weights.files)
    if model.factory is None:
        require_weights_for(checkpoint.text_config, stored, f"checkpoint {str(folder)!r}")
