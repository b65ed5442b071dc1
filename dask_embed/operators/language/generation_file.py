"""What a checkpoint may say of how it generates, told on the client before any work."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

from dask_embed._validation import shown
from dask_embed.models.checkpoint import Checkpoint
from dask_embed.models.modules import first_json

_Rule = tuple[Callable[[Any], bool], str]


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _integer(least: int) -> _Rule:
    return lambda value: _is_integer(value) and value >= least, f"an integer of at least {least}"


def _number(least: float, most: float = math.inf, *, above: bool = False) -> _Rule:
    def allows(value: Any) -> bool:
        number = _is_integer(value) or isinstance(value, float)
        return number and (value > least if above else value >= least) and value <= most

    if least == -math.inf:
        return allows, "a number"
    words = f"a number {'above' if above else 'of at least'} {least:g}"
    return allows, words if most == math.inf else f"{words} and at most {most:g}"


def _ids_or_id(value: Any) -> bool:
    return _is_integer(value) or _ids(value)


def _ids(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_integer, value))


def _words(value: Any) -> bool:
    lists = isinstance(value, list | tuple) and len(value) > 0
    return lists and all(_ids(each) and len(each) > 0 for each in value)


def _biases(value: Any) -> bool:
    pairs = isinstance(value, list) and all(
        isinstance(each, list) and len(each) == 2 and isinstance(each[1], float) for each in value
    )
    return pairs and _words([each[0] for each in value])


_FLAG: _Rule = (lambda value: isinstance(value, bool), "true or false")
_ID: _Rule = (_ids_or_id, "the id of a token, or a list of ids")
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("do_sample", "renormalize_logits", "remove_invalid_values"), _FLAG),
    **dict.fromkeys(("num_beams", "num_beam_groups", "max_new_tokens"), _integer(1)),
    "num_return_sequences": _integer(1),
    **dict.fromkeys(("min_new_tokens", "min_length", "no_repeat_ngram_size"), _integer(0)),
    "encoder_no_repeat_ngram_size": _integer(0),
    "repetition_penalty": _number(0, above=True),
    "encoder_repetition_penalty": _number(0, above=True),
    **dict.fromkeys(("length_penalty", "max_time", "guidance_scale"), _number(-math.inf)),
    **dict.fromkeys(("eos_token_id", "bos_token_id", "decoder_start_token_id"), _ID),
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id"), _ID),
    "pad_token_id": (_is_integer, "the id of a token"),
    "suppress_tokens": (_ids, "a list of ids of tokens"),
    "begin_suppress_tokens": (_ids, "a list of ids of tokens"),
    "bad_words_ids": (_words, "lists of ids of tokens, at least one"),
    "sequence_bias": (_biases, "pairs of a list of ids of tokens and a float"),
}
# What counts only where tokens are drawn: checkpoints that draw none often have a temperature of 0.
_OF_DRAWS: dict[str, _Rule] = {
    "temperature": _number(0, above=True),
    "top_k": _integer(0),
    "top_p": _number(0, 1),
    "min_p": _number(0, 1),
    "typical_p": _number(0, 1, above=True),
    "epsilon_cutoff": _number(0, 1),
    "eta_cutoff": _number(0, 1),
}
# Parts of a config.json that may say it where the whole does not.
_DECODERS = ("decoder", "generator", "text_config")
# Ways to search that transformers has no code for any more, or that need more than a model.
_NOT_RUN = ("constraints", "dola_layers", "force_words_ids", "token_healing")


def require_generation_file(checkpoint: Checkpoint, fields: Mapping[str, Any]) -> None:
    """Raise ValueError for a setting of generation in a checkpoint's files that cannot be run.

    Parameters
    ----------
    checkpoint : Checkpoint
    fields : mapping
        Of a generator, which count before those of the file where they are not None.
    """
    file, written = generation_settings(checkpoint)
    source = f"the {file} of {str(checkpoint.folder)!r}"
    given = {name: value for name, value in fields.items() if value is not None}
    draws = bool((written | given).get("do_sample"))
    left = {name: value for name, value in written.items() if value is not None}
    for name, (allows, words) in (_RULES | (_OF_DRAWS if draws else {})).items():
        if name in left and name not in given and not allows(left[name]):
            raise ValueError(f"{source} has {name}={shown(left[name])}, which must be {words}")
    for name in _NOT_RUN:
        if left.get(name):
            raise ValueError(f"{source} has {name}={shown(left[name])}, which is not supported")
    one_beam = (written | given).get("num_beams") in (None, 1)
    if not one_beam and (left.get("num_beam_groups") or 1) > 1:
        raise ValueError(
            f"{source} has num_beam_groups={shown(left['num_beam_groups'])}, and beams in groups "
            "are not supported"
        )
    if left.get("penalty_alpha") and one_beam and not draws:
        raise ValueError(
            f"{source} has penalty_alpha={shown(left['penalty_alpha'])}, a contrastive search, "
            "which is not supported; set do_sample= or num_beams= to generate otherwise"
        )
    _require_known_tokens(checkpoint, left, source)


def generation_settings(checkpoint: Checkpoint) -> tuple[str, dict[str, Any]]:
    """Return what says how a checkpoint generates, and the name of its file.

    Without a generation_config.json, which is younger than many checkpoints, transformers takes
    the fields of config.json, and of its decoder's part what stands there alone.
    """
    name = "generation_config.json"
    if (checkpoint.folder / name).is_file():
        return name, first_json(checkpoint.folder, (name,))
    config = first_json(checkpoint.folder, ("config.json",))
    part: Any = next((config[name] for name in _DECODERS if config.get(name)), {})
    whole = {field: value for field, value in config.items() if value is not None}
    return "config.json", (part if isinstance(part, dict) else {}) | whole


def _require_known_tokens(checkpoint: Checkpoint, left: Mapping[str, Any], source: str) -> None:
    """Raise ValueError for a token that is to be written or scored and has no embedding."""
    named = {name: left.get(name) for name in ("forced_bos_token_id", "forced_eos_token_id")}
    for name, value in {**named, **_scored(left)}.items():
        ids = value if isinstance(value, list | tuple) else [value]
        for token in ids:
            if token is not None and not checkpoint.has_embedding(token):
                raise ValueError(
                    f"{source} has token {shown(token)} in {name}, for which the model has no "
                    "embedding"
                )


def _scored(left: Mapping[str, Any]) -> dict[str, list[int]]:
    words = {
        "bad_words_ids": left.get("bad_words_ids") or [],
        "sequence_bias": [ids for ids, _ in left.get("sequence_bias") or ()],
    }
    return {name: [each for ids in lists for each in ids] for name, lists in words.items()}
