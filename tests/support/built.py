"""A tiny model of any architecture of transformers, saved with a tokenizer that fits it."""

from __future__ import annotations

import contextlib
import copy
import inspect
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers.processors import RobertaProcessing
from transformers.models.auto import tokenization_auto

from dask_embed.models.classes import output_fields
from dask_embed.models.dual import has_text_side
from support import shrunk, tiny

LONGEST = 100  # tokens
_ROOM = 8  # positions left for tokens that a model writes
_MOST_WEIGHTS = 6_000_000
_SCALES = (0.1, 0.03)  # of the random numbers in weights; smaller where vectors would be infinite
# What a forward pass takes besides texts, by the names of its arguments.
_OTHER_INPUTS = (
    ("an image or a video", re.compile(r"^(pixel_|image_|visual_|vision_embeds)")),
    ("sounds", re.compile(r"^(input_features|input_values|audio_|encoder_inputs_embeds)|codes")),
    ("the boxes of words", re.compile(r"^bbox")),
    ("actions", re.compile(r"^action_")),
)
# How a model says, or shows, that it misses one of them.
_MISSED = re.compile(
    r"'NoneType' object|NoneType, |missing \d+ required positional|(?i:bbox)|pixel_values|visual_"
    r"|vision_embeds|image_embeds|input_features"
)
_WORD = re.compile(r"\w+")
_CAUSAL = re.compile(r"CausalLM|LMHead")
_PACKAGE = re.compile(r"requires the (\w+) library")


class NotBuiltError(Exception):
    """There is no tiny model of an architecture, or transformers itself gives no vectors of it."""


def texts() -> list[str]:
    """Short and long ones, with special tokens in letters."""
    words = tiny.corpus()
    return [
        words[40] + words[41],
        "[PAD] to fill up <pad> a [MASK] batch [SEP]",
        words[7],
        "Return the lines.",
        words[7][:40],
        words[100] + words[101],
    ]


def save(
    kind: str,
    model_class: Any,
    folder: Path,
    fields: Mapping[str, Any] | None = None,
    change: Callable[[Any], None] | None = None,
) -> Any:
    """Save a tiny model of a class and its tokenizer; return the tokenizer.

    Parameters
    ----------
    kind : str
        Type of the model.
    model_class : type
    folder : Path
    fields : mapping, optional
        Of its configuration, set to these values.
    change : callable, optional
        What is done to the tokenizer.
    """
    parameters = inspect.signature(model_class.forward).parameters
    if "input_ids" not in parameters:
        raise NotBuiltError("takes no text")
    if "shared_kv_states" in parameters:
        raise NotBuiltError("needs states of another model besides the text")
    problem, absent, attempts = "", shrunk.Absent(), [*shrunk.ATTEMPTS]
    while attempts:
        try:
            default = transformers.CONFIG_MAPPING[kind]()
            tokens = tokenizer(kind, default, "token_type_ids" in parameters)
            if change is not None:
                change(tokens)
            config = shrunk.shrunk(type(default), tokens, attempts[0], default, absent)
            config = _changed(config, fields) if fields else config
            model = _model(model_class, _fitting(model_class, config), tokens)
            model.save_pretrained(folder)
            tokens.save_pretrained(folder)
            return tokens
        except Exception as error:  # every architecture has its own way to refuse
            if not absent.found(error):
                told = reason(error, parameters)
                needs = told.startswith("needs ")
                problem = told if needs else problem or told
                # what is None may be a field of the configuration, too
                done = needs and "NoneType" not in str(error)
                attempts = [] if done else attempts[1:]
    needs = problem.startswith("needs ")
    raise NotBuiltError(problem if needs else _sounds(model_class, default) or problem)


def _changed(config: Any, fields: Mapping[str, Any]) -> Any:
    """Return a configuration with other values, and what it makes of them."""
    written = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    return type(config)(**{**written, **fields})


def _sounds(model_class: Any, default: Any) -> str:
    """Return why a model of sounds reads no text alone, nothing if it is none."""
    if output_fields(model_class) & {"waveform", "spectrogram"}:
        return "gives sounds, and no vectors of texts"
    return "reads codes of sounds" if "codebook" in default.to_json_string() else ""


def tokenizer(kind: str, config: Any, takes_types: bool) -> Any:
    """Return a tokenizer with the padding id of the architecture, and token types if it has any."""
    if kind == "canine":
        return transformers.CanineTokenizer(model_max_length=LONGEST)
    text = text_config(config)
    after = getattr(text, "pad_token_id", None) == 1
    made = tiny._roberta_tokenizer() if after else tiny.wordpiece()
    if after:  # pairs as RoBERTa's, which Longformer counts on
        ends = [(token, made.convert_tokens_to_ids(token)) for token in ("</s>", "<s>")]
        made.backend_tokenizer.post_processor = RobertaProcessing(*ends, trim_offsets=False)
    with contextlib.suppress(Exception):  # a tokenizer that is not installed
        name = tokenization_auto.TOKENIZER_MAPPING_NAMES.get(kind)
        own = getattr(transformers, name) if name else None
        takes_types = takes_types and "token_type_ids" in getattr(own, "model_input_names", ())
    takes_types = takes_types and not hasattr(text, "type_vocab_sizes")  # of the cells of a table
    made.model_input_names = ["input_ids", "attention_mask"]
    made.model_input_names += ["token_type_ids"] if takes_types else []
    positions = getattr(text, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        positions = LONGEST + _ROOM
    made.model_max_length = min(LONGEST, positions - _ROOM)
    return made


def text_config(config: Any) -> Any:
    """Return the configuration of the part that reads text; the whole one where several do."""
    try:
        return config.get_text_config()
    except ValueError:
        return config


def reason(error: Exception, parameters: Iterable[str]) -> str:
    """Return why there is no tiny model in a line, one for each kind of reason."""
    told = f"{type(error).__name__}: {line(error)}"
    if isinstance(error, ImportError):
        package = _PACKAGE.search(str(error))
        return f"needs the package {package[1]}" if package else told
    if _MISSED.search(str(error)):
        for what, names in _OTHER_INPUTS:
            if any(map(names.search, (*parameters, *_WORD.findall(str(error))))):
                return f"needs {what} besides the text"
    return told


def line(error: Any) -> str:
    return " ".join(str(error).split())[:200]


def encoder(model: Any) -> Any:
    """Return the encoder of one with a decoder, unless it has a head, or the text side of one."""
    if has_text_side(model.config) and hasattr(model, "get_text_features"):
        return model.get_text_features
    plain = model.config.is_encoder_decoder and hasattr(model, "get_encoder")
    bare = type(model).__name__.endswith("Model")
    return model.get_encoder() if plain and bare else model


def fills_up(config: Any) -> bool:
    """Return whether a model was trained on texts that are filled up to one length."""
    return str(config.model_type).startswith("siglip")


def inputs(tokens: Any, text: str, model: Any = None) -> Any:
    """Return what a model is called with."""
    padding = "max_length" if model is not None and fills_up(model.config) else False
    return tokens(text, truncation=True, padding=padding, return_tensors="pt")


def _fitting(model_class: Any, config: Any) -> Any:
    """Return the configuration that a class takes: of a part where the whole has more of them."""
    parts = getattr(config, "sub_configs", {})
    if model_class.config_class is parts.get("text_config"):
        config = config.get_text_config()
    if _CAUSAL.search(model_class.__name__) and hasattr(config, "is_decoder"):
        config.is_decoder = True
    for name, token in (("decoder_start_token_id", 2), ("pad_token_id", 0)):
        if config.is_encoder_decoder and getattr(config, name, 0) is None:
            setattr(config, name, token)
    config.architectures = [model_class.__name__]
    return config


def _model(model_class: Any, config: Any, tokens: Any) -> Any:
    """Return a model whose weights are large enough that errors show."""
    with torch.device("meta"):
        weights = sum(each.numel() for each in model_class(config).parameters())
    if weights > _MOST_WEIGHTS:
        raise ValueError(f"{weights:,} weights are too many for a tiny model")
    for scale in _SCALES:
        torch.manual_seed(0)
        model = model_class(config).eval()
        tiny.enlarge(model, scale)
        with torch.inference_mode():
            given = _first_tensor(copy.deepcopy(encoder(model))(**_first_inputs(model, tokens)))
        if torch.isfinite(given).all():
            return model
    raise ValueError("its results are no finite numbers")


def _first_inputs(model: Any, tokens: Any) -> dict[str, Any]:
    """Return the first text, and a token for a decoder that makes none of it."""
    begin = {}
    if model.config.is_encoder_decoder and model.can_generate():
        begin["decoder_input_ids"] = torch.tensor([[2]])
    text = texts()[0]
    if type(model).__name__.endswith("QuestionAnswering"):  # behind a question
        text = f"what? {(tokens.sep_token or '') * 2} {text}"
    return {**inputs(tokens, text, model), **begin}


def _first_tensor(output: Any) -> torch.Tensor:
    for value in output.values() if hasattr(output, "values") else output:
        if isinstance(value, torch.Tensor):
            return value
    raise ValueError("its result has no tensor")
