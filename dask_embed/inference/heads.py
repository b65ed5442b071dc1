"""Token vectors to one vector per text: pooling, and the modules after it.

Source of the pooling modes and of their order in a concatenation: sentence-transformers'
``Pooling``. All sums run in float32 or the wider type of the model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch.nn.functional import normalize

from dask_embed.models.modules import (
    Dense,
    HeadModule,
    LayerNorm,
    Normalize,
    Pooling,
    Truncate,
)


def apply_modules(
    modules: Sequence[HeadModule],
    layers: dict[str, torch.nn.Module],
    tokens: torch.Tensor,
    lengths: torch.Tensor,
    prompt_length: int = 0,
) -> torch.Tensor:
    """Turn the token vectors of a batch into one vector per text.

    Parameters
    ----------
    modules : sequence of HeadModule
        `Pooling` first.
    layers : dict
        The loaded layers of `Dense` and `LayerNorm` modules by their path.
    tokens : torch.Tensor
        Shape (tokens, hidden size), the texts one after the other.
    lengths : torch.Tensor
        Tokens of each text, int64, shape (texts,); zero gives the zero vector.
    prompt_length : int
        Leading tokens that pooling leaves out where the checkpoint asks for it.

    Returns
    -------
    torch.Tensor
        float32, shape (texts, dimension).
    """
    vectors = tokens
    for module in modules:
        if isinstance(module, Pooling):
            skipped = 0 if module.include_prompt else prompt_length
            vectors = torch.cat(
                [pool(mode, tokens, lengths, skipped) for mode in module.modes], dim=1
            )
        elif isinstance(module, Dense | LayerNorm):
            vectors = layers[module.path](vectors.to(tokens.dtype))
        elif isinstance(module, Truncate):
            vectors = vectors[:, : module.dimension]
        elif isinstance(module, Normalize):
            vectors = normalize(vectors.float(), p=2, dim=1)  # bfloat16 has lengths to 0.4 %
    return vectors.float()


def pool(mode: str, tokens: torch.Tensor, lengths: torch.Tensor, skipped: int = 0) -> torch.Tensor:
    """Pool each text's token vectors.

    Parameters
    ----------
    mode : str
        A pooling mode of sentence-transformers, or ``"sum"``.
    tokens : torch.Tensor
        Shape (tokens, hidden size).
    lengths : torch.Tensor
        Tokens of each text, int64, shape (texts,).
    skipped : int
        Leading tokens of each text to leave out. Where that is all of them the result is the
        zero vector, of ``"cls"`` the first token.

    Returns
    -------
    torch.Tensor
        Shape (texts, hidden size), in the type of `tokens`.
    """
    return _POOLERS[mode](tokens, lengths, skipped)


def _cls(tokens: torch.Tensor, lengths: torch.Tensor, skipped: int) -> torch.Tensor:
    starts = lengths.cumsum(0) - lengths
    first = starts + torch.where(lengths > skipped, skipped, 0)
    return _rows_or_zero(tokens, first, lengths)


def _lasttoken(tokens: torch.Tensor, lengths: torch.Tensor, skipped: int) -> torch.Tensor:
    return _rows_or_zero(tokens, lengths.cumsum(0) - 1, lengths - skipped)


def _rows_or_zero(tokens: torch.Tensor, rows: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
    present = (lengths > 0).unsqueeze(1)
    return torch.where(present, tokens[rows.clamp(0, len(tokens) - 1)], 0)


def _max(tokens: torch.Tensor, lengths: torch.Tensor, skipped: int) -> torch.Tensor:
    kept, text, counts = _kept(tokens, lengths, skipped)
    index = text.unsqueeze(1).expand_as(kept)
    lowest = kept.new_full((len(lengths), kept.shape[1]), float("-inf"))
    highest = lowest.scatter_reduce(0, index, kept, reduce="amax")
    return torch.where((counts > 0).unsqueeze(1), highest, 0)


def _mean(tokens: torch.Tensor, lengths: torch.Tensor, skipped: int) -> torch.Tensor:
    kept, text, counts = _kept(tokens, lengths, skipped)
    return (_sums(kept, text, len(lengths)) / _column(counts)).to(tokens.dtype)


def _mean_sqrt(tokens: torch.Tensor, lengths: torch.Tensor, skipped: int) -> torch.Tensor:
    kept, text, counts = _kept(tokens, lengths, skipped)
    return (_sums(kept, text, len(lengths)) / _column(counts).sqrt()).to(tokens.dtype)


def _sum(tokens: torch.Tensor, lengths: torch.Tensor, skipped: int) -> torch.Tensor:
    kept, text, _ = _kept(tokens, lengths, skipped)
    return _sums(kept, text, len(lengths)).to(tokens.dtype)


def _weightedmean(tokens: torch.Tensor, lengths: torch.Tensor, skipped: int) -> torch.Tensor:
    """Weigh each token by its position, counted from one (the prompt included)."""
    kept, text, counts = _kept(tokens, lengths, skipped)
    ends = counts.cumsum(0)
    position = torch.arange(len(kept), device=kept.device) - (ends - counts)[text]
    weights = (position + skipped + 1).to(_wide(kept.dtype)).unsqueeze(1)
    total = _sums(weights, text, len(lengths)).clamp_min(1)
    return (_sums(kept * weights, text, len(lengths)) / total).to(tokens.dtype)


_POOLERS: dict[str, Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]] = {
    "cls": _cls,
    "max": _max,
    "mean": _mean,
    "mean_sqrt_len_tokens": _mean_sqrt,
    "weightedmean": _weightedmean,
    "lasttoken": _lasttoken,
    "sum": _sum,
}


def _kept(
    tokens: torch.Tensor, lengths: torch.Tensor, skipped: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return the token vectors that count, the text of each, and how many each text has."""
    texts = torch.arange(len(lengths), device=tokens.device)
    # told how many there are, a GPU is not asked
    text = torch.repeat_interleave(texts, lengths, output_size=len(tokens))
    if not skipped:
        return tokens, text, lengths
    starts = (lengths.cumsum(0) - lengths)[text]
    counts = torch.arange(len(tokens), device=tokens.device) - starts >= skipped
    return tokens[counts], text[counts], (lengths - skipped).clamp_min(0)


def _sums(values: torch.Tensor, text: torch.Tensor, texts: int) -> torch.Tensor:
    dtype = _wide(values.dtype)
    zeros = torch.zeros(texts, values.shape[1], dtype=dtype, device=values.device)
    return zeros.index_add_(0, text, values.to(dtype))


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _column(counts: torch.Tensor) -> torch.Tensor:
    return counts.clamp_min(1).unsqueeze(1)
