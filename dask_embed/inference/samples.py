"""Random texts on which a model is tried, and their vectors, each text alone."""

from __future__ import annotations

import numpy as np
import torch

from dask_embed._validation import shown_error
from dask_embed.inference.forward import Forward
from dask_embed.inference.lengths import SHORT, lengths_to_try, repeating_tokens
from dask_embed.loading.load import LoadedModel
from dask_embed.models.vocabulary import Tables
from dask_embed.tokens.lists import TokenLists

_LONGEST_LEAST = 16


def probed_lengths(loaded: LoadedModel) -> tuple[list[int], int | None]:
    """Return lengths to try, past those that the configuration names, and what they vouch for."""
    checkpoint = loaded.checkpoint
    # a factory's configuration need not say how many positions there are
    known = checkpoint.position_limit if loaded.spec.factory is None else checkpoint.default_limit
    return lengths_to_try(checkpoint.text_config, known)


def random_tokens(loaded: LoadedModel, lengths: list[int], *, special: bool = True) -> TokenLists:
    """Return texts of any tokens, with every special one among those of the first."""
    config = loaded.checkpoint.text_config
    # configurations of a factory's models need not say
    vocabulary = getattr(config, "vocab_size", None) or len(loaded.tokenizer)
    vocabulary = min(vocabulary, Tables.of(loaded.model, loaded.task).tokens or vocabulary)
    named = {*loaded.tokenizer.all_special_ids, getattr(config, "pad_token_id", None)}
    ids = sorted(each for each in named if each is not None and 0 <= each < vocabulary)
    allowed = np.setdiff1d(np.arange(vocabulary), ids)
    lists = repeating_tokens(allowed, lengths)
    if special and ids and lists:
        places = np.arange(1, max(len(lists[0]) - 1, 1))[: len(ids)]
        lists[0][places] = ids[: len(places)]
    return TokenLists.of([each.tolist() for each in lists])


def texts_alone(
    forward: Forward, loaded: LoadedModel, lengths: list[int], up_to: int | None
) -> tuple[TokenLists, torch.Tensor, int, int | None]:
    """Return random texts that the model takes, their vectors, the least length, and `up_to`.

    Some models do not take every special token, such as one that stands for an image, and some no
    text longer than another number in their configuration.
    """
    problem = ""
    for special in (True, False):
        for shortest in range(1, min(_LONGEST_LEAST, max(lengths)) + 1):
            tokens = random_tokens(loaded, [max(n, shortest) for n in lengths], special=special)
            given = forward.each_alone(tokens)
            taken = np.array([isinstance(each, torch.Tensor) for each in given])
            if taken[: len(SHORT)].all():
                limits = [int(length) - 1 for length in tokens.lengths[~taken]]
                limits += [] if up_to is None else [up_to]
                alone = torch.cat([each for each in given if isinstance(each, torch.Tensor)])
                kept = tokens.take(np.flatnonzero(taken))
                return kept, alone, shortest, min(limits, default=None)
            error = next(each for each in given if isinstance(each, Exception))
            problem = problem or shown_error(error)
    raise ValueError(f"model {loaded.spec.name!r} does not run on a text: {problem}")
