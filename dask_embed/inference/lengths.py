"""Lengths at which a model may change its ways, as its configuration names them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

# Numbers that no length is compared with: sizes of vectors, counts of parts, ids of tokens.
_SIZES = re.compile(
    r"vocab|hidden|intermediate|inner|ffn|dim|d_(model|ff|kv|inner|state|conv)|embd|embed|head|layer"
    r"|expert|rank|channel|kernel|conv|group|width|units|labels|types?_|version|seed|bits|image"
    r"|patch|vision|audio|_ids?$|_token|index$|beams"
)
# Names of lengths, also where they hold one of the above.
_LENGTHS = re.compile(
    r"position|window|chunk|block|local_att|length|seq|context|ctx|top_?k|radius|stride|bucket|span"
    r"|segment|landmark"
)
_PARTS_OF_OTHER_KINDS = ("vision_config", "audio_config", "image_config", "id2label", "label2id")


def named_lengths(config: Any) -> list[int]:
    """Return the numbers in a configuration that may be lengths, ascending, each once.

    Parameters
    ----------
    config : PretrainedConfig
        Whatever the fields are called: all whole numbers count but those whose name says that they
        are another thing.
    """
    return sorted(set(_lengths_in(config.to_dict())))


def _lengths_in(value: Any, name: str = "") -> Iterator[int]:
    if isinstance(value, dict):
        for key, each in value.items():
            if key not in _PARTS_OF_OTHER_KINDS:
                yield from _lengths_in(each, str(key))
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _lengths_in(each, name)
    elif isinstance(value, int) and not isinstance(value, bool) and value > 1:
        is_length = _LENGTHS.search(name) or not _SIZES.search(name)
        yield from [value] if is_length else []
