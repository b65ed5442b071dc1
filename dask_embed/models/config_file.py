"""The configuration of a transformer, read from its config.json; no code runs unless allowed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dask_embed.models.bounds import require_sizes
from dask_embed.models.dual import TABLE
from dask_embed.models.modules import read_json
from dask_embed.models.options import require_fields
from dask_embed.models.prepared import prepared
from dask_embed.models.settings import model_settings
from dask_embed.models.static import StaticTable
from dask_embed.runtime.libraries import importing

if TYPE_CHECKING:
    from transformers import PretrainedConfig


def read_config(
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


def config_of_table(table: StaticTable) -> PretrainedConfig:
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
