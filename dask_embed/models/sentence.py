"""What a sentence-transformers folder says besides its modules: limits, prompts, type of weights.

Source: `config_keys` and the arguments of `Transformer` and of the models themselves in
sentence-transformers 6.2, and the older names that it reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dask_embed._validation import meant, shown
from dask_embed.models.known import (
    ANY,
    COUNT,
    FLAG,
    OFF,
    TEXT,
    Rule,
    Rules,
    among,
    require_known,
)
from dask_embed.models.module_files import gives_text_vectors
from dask_embed.models.modules import MultiVector, Pooled, SpladePooling, first_json

_KINDS = ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
_TRANSFORMER_CONFIGS = tuple(f"sentence_{kind}_config.json" for kind in _KINDS)
# Arguments that sentence-transformers replaces by its own, whatever a folder says.
_REPLACED = ("cache_dir", "local_files_only", "revision", "subfolder", "token", "trust_remote_code")
_LOADING: Rules = dict.fromkeys(_REPLACED, ANY)
_DTYPE = among("auto", "float32", "bfloat16", "float16")
# Of the model: where and how it runs, which changes no result, and its type.
_OF_MODELS: Rules = {
    **_LOADING,
    **dict.fromkeys(("attn_implementation", "device_map", "low_cpu_mem_usage"), ANY),
    **dict.fromkeys(("dtype", "torch_dtype"), _DTYPE),
    "use_safetensors": FLAG,
}
# Results do not depend on the side of the padding; all tokenizers are those in Rust.
_OF_TOKENIZERS: Rules = {
    **_LOADING,
    "model_max_length": COUNT,
    "padding_side": among("left", "right"),
    "use_fast": FLAG,
}
_OF_CONFIGURATIONS: Rules = {**_LOADING, "use_cache": FLAG}
_CALLS: Rules = {
    **dict.fromkeys(("audio", "image", "video"), ANY),
    "chat_template": {"restore_suffix": among(True)},
    "common": {"return_tensors": among("pt")},
    "text": {"padding": among(True, "longest"), "truncation": among(True, "longest_first")},
}
_ELSEWHERE = Rule(
    lambda value: not value, "to name it with dask_embed.Model(..., tokenizer=) and leave it out"
)
_MODALITIES = {"audio", "image", "message", "text", "video"}
_PROMPTS = Rule(
    lambda value: (
        isinstance(value, dict) and all(isinstance(text, str | None) for text in value.values())
    ),
    "an object of texts",
)


@dataclass(frozen=True)
class _Use:
    """What a Transformer module does: its task, a method of the model, and what that gives."""

    task: str
    output: str
    feature: str
    method: str = "forward"


_EMBEDS = _Use("feature-extraction", "last_hidden_state", "token_embeddings")
_CLASSIFIES = _Use("sequence-classification", "logits", "scores")
# Of dual encoders, such as CLIP.
_GIVES_VECTORS = _Use(
    "feature-extraction", "pooler_output", "sentence_embedding", "get_text_features"
)
_SCORES_WORDS = _Use("fill-mask", "logits", "token_embeddings")
# Of the model's configuration, beside what all have.
_OF_DENSE: Rules = {"model_type": among("SentenceTransformer", "CrossEncoder")}
_OF_KINDS: dict[type, Rules] = {
    SpladePooling: {"model_type": among("SparseEncoder"), "max_active_dims": COUNT},
    MultiVector: {"model_type": among("MultiVectorEncoder")},
}
# Of the transformer of a multi-vector model.
_SIDES: Rules = {
    "document_length": COUNT,
    "query_length": COUNT,
    "query_expansion": {
        "strategy": among("fixed", "min"),
        "attend": FLAG,
        "token": TEXT,
        "length": COUNT,
    },
}
_MODEL: Rules = {
    "__version__": ANY,
    "activation_fn": ANY,  # a Reranker judges it
    "default_prompt_name": TEXT,
    "keep_in_fp32_modules": OFF,
    "prompts": _PROMPTS,
    "requirements": ANY,
    "similarity_fn_name": TEXT,
    "truncate_dim": COUNT,
}


@dataclass(frozen=True)
class QueryExpansion:
    """How queries of a multi-vector model are filled up to a length.

    Attributes
    ----------
    strategy : {"fixed", "min"}
        Whether longer queries are cut to that length, or left as they are.
    length : int
    attend : bool
        Whether the query sees the tokens that are added.
    token : str or None
        What is added; by default masks, of a tokenizer without them the token that ends a text.
    """

    strategy: str
    length: int
    attend: bool = False
    token: str | None = None


@dataclass(frozen=True)
class SentenceSettings:
    """Settings of a sentence-transformers folder; of another checkpoint there are none.

    Attributes
    ----------
    max_seq_length : int or None
        Most tokens of a text.
    do_lower_case : bool
        Lowercase the text before tokenizing.
    dtype : str or None
        Type of the weights where nobody asks for another one.
    prompts : dict
        Name to text put before every input.
    default_prompt_name : str or None
    truncate_dim : int or None
        Number of leading values to keep.
    message_format : {None, "auto", "flat", "structured"}
        How a message of a chat holds a text; None where texts are read as they are.
    max_active_dims : int or None
        How many values of a sparse vector are kept.
    document_length, query_length : int or None
        Most tokens of a document or a query of a multi-vector model.
    query_expansion : QueryExpansion or None
        How queries of a multi-vector model are filled up.
    """

    max_seq_length: int | None = None
    do_lower_case: bool = False
    dtype: str | None = None
    prompts: dict[str, str] = field(default_factory=dict)
    default_prompt_name: str | None = None
    truncate_dim: int | None = None
    message_format: str | None = None
    max_active_dims: int | None = None
    document_length: int | None = None
    query_length: int | None = None
    query_expansion: QueryExpansion | None = None

    def prompt(self, name: str | None) -> str | None:
        """Return the prompt of a name, by default the folder's own; None where there is none.

        Raises
        ------
        ValueError
            If there is no prompt of this name.
        """
        name = name or self.default_prompt_name
        if name is None or name in self.prompts:
            return None if name is None else self.prompts[name]
        if not self.prompts:
            raise ValueError(
                f"prompt_name={shown(name)}: the checkpoint has no prompts; leave it out, or give "
                "the text itself with prompt="
            )
        raise ValueError(
            f"prompt_name must be one of the checkpoint's prompts {list(self.prompts)}; "
            f"got {shown(name)}{meant(name, list(self.prompts))}"
        )


def read_sentence_settings(root: Path, folder: Path, pooling: Pooled | None) -> SentenceSettings:
    """Return the settings of a folder that has a modules.json.

    Parameters
    ----------
    root, folder : Path
        Of the whole, and of its transformer.
    pooling : Pooled or None
        Of a cross-encoder, whose transformer has the head, and of a dual encoder, whose
        transformer gives vectors of texts, there is none.

    Raises
    ------
    ValueError
        If a setting is not known, or cannot be honoured.
    """
    given = first_json(folder, _TRANSFORMER_CONFIGS)
    model = first_json(root, ("config_sentence_transformers.json",))
    source = f"the sentence-transformers configuration of {str(root)!r}"
    use = _CLASSIFIES if pooling is None else _EMBEDS
    use = _SCORES_WORDS if isinstance(pooling, SpladePooling) else use
    use = _GIVES_VECTORS if gives_text_vectors(folder) else use
    rules = _transformer_rules(given, use)
    multi_vector = isinstance(pooling, MultiVector)
    require_known(given, {**rules, **_SIDES} if multi_vector else rules, source)
    inputs = given.get("modality_config")
    if inputs is not None and not {"message", "text"} & set(inputs):
        raise ValueError(f"{source} takes no text: its modality_config has {list(inputs)}")
    require_known(model, {**_MODEL, **_OF_KINDS.get(type(pooling), _OF_DENSE)}, source)
    loading = _joined(given, "model_args", "model_kwargs")
    dtype = loading.get("dtype") or loading.get("torch_dtype")
    processor = _joined(given, "tokenizer_args", "processor_kwargs")
    return SentenceSettings(
        max_seq_length=processor.get("model_max_length") or given.get("max_seq_length"),
        do_lower_case=bool(given.get("do_lower_case")),
        dtype=None if dtype == "auto" else dtype,
        prompts={k: v for k, v in (model.get("prompts") or {}).items() if v is not None},
        default_prompt_name=model.get("default_prompt_name"),
        truncate_dim=model.get("truncate_dim"),
        message_format=_message_format(inputs or {}),
        max_active_dims=model.get("max_active_dims"),
        document_length=given.get("document_length"),
        query_length=given.get("query_length"),
        query_expansion=_query_expansion(given, source),
    )


def _query_expansion(given: dict[str, Any], source: str) -> QueryExpansion | None:
    told = given.get("query_expansion")
    if not told:
        return None
    strategy, length = told.get("strategy"), told.get("length")
    if strategy is None or length is None:
        raise ValueError(f"{source} must give strategy and length in query_expansion")
    most = given.get("query_length")
    if most is not None and most < length:
        raise ValueError(
            f"{source} sets query_length={shown(most)}, and fills queries up to {length} tokens"
        )
    return QueryExpansion(strategy, length, bool(told.get("attend")), told.get("token"))


def _message_format(inputs: dict[str, Any]) -> str | None:
    if "message" not in inputs:
        return None
    return str((inputs["message"] or {}).get("format") or "auto")


def _joined(given: dict[str, Any], old: str, new: str) -> dict[str, Any]:
    """Return arguments under their old name where they have it, which counts before the new."""
    found = given.get(old)
    return (given.get(new) if found is None else found) or {}


def _transformer_rules(given: dict[str, Any], use: _Use) -> Rules:
    outputs = among(use.output, [use.output])
    told = {"method": among(use.method), "method_output_name": outputs}
    inputs = given.get("modality_config")
    inputs = inputs if isinstance(inputs, dict) else {}
    known = [name for name in inputs if set(name.split("+")) <= _MODALITIES]
    return {
        "backend": among("torch"),
        "config_args": _OF_CONFIGURATIONS,
        "config_kwargs": _OF_CONFIGURATIONS,
        "do_lower_case": FLAG,
        "document_length": OFF,
        "max_seq_length": COUNT,
        "modality_config": {
            **dict.fromkeys(known, ANY),  # of inputs that are no texts
            "text": told,
            "message": {**told, "format": among("auto", "flat", "structured")},
        },
        "model_args": _OF_MODELS,
        "model_kwargs": _OF_MODELS,
        "module_output_name": among(use.feature),
        "processing_kwargs": _CALLS,
        "processor_kwargs": _OF_TOKENIZERS,
        "query_expansion": OFF,
        "query_length": OFF,
        "tokenizer_args": _OF_TOKENIZERS,
        "tokenizer_name_or_path": _ELSEWHERE,
        "transformer_task": among(use.task),
        "unpad_inputs": FLAG,
    }
