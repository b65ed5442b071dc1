"""Packed attention is the attention of each sequence alone, written out in numpy."""

from __future__ import annotations

from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from dask_embed.inference.attention import NotPackableError, attention, laid_out
from dask_embed.inference.sequences import Sequences

# Unsorted, with neighbours of one length, an empty sequence, and one longer than any window.
LENGTHS = [3, 3, 1, 7, 0, 20, 20, 2, 20]
HEADS, SIZE = 4, 8


def inputs(kv_heads: int = HEADS, value_size: int = SIZE) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(HEADS, SIZE), (kv_heads, SIZE), (kv_heads, value_size)]
    return [
        3 * torch.randn(1, heads, sum(LENGTHS), size, generator=generator) for heads, size in shapes
    ]


def offsets(lengths: list[int] = LENGTHS) -> torch.Tensor:
    return torch.tensor(np.concatenate([[0], np.cumsum(lengths)]), dtype=torch.int32)


def by_hand(
    tensors: list[torch.Tensor], *, causal: bool, window: int | None, scaling: float
) -> np.ndarray:
    """One softmax per token over the tokens that it sees; shape (tokens, heads, size)."""
    query, key, value = (tensor[0].double().cpu().numpy() for tensor in tensors)
    shared = len(query) // len(key)
    rows = []
    for start, stop in pairwise(offsets().tolist()):
        for token in range(start, stop):
            seen = [
                other
                for other in range(start, stop)
                if not (causal and other > token)
                and not (window is not None and abs(other - token) >= window)
            ]
            heads = []
            for head in range(len(query)):
                scores = key[head // shared, seen] @ query[head, token] * scaling
                weights = np.exp(scores - scores.max())
                heads.append(weights @ value[head // shared, seen] / weights.sum())
            rows.append(heads)
    return np.array(rows)


def attend(tensors: list[torch.Tensor], **arguments: Any) -> torch.Tensor:
    layer = SimpleNamespace(is_causal=False)
    settings = {"attention_mask": None, **arguments}
    with laid_out(Sequences(np.array(LENGTHS), tensors[0].device)):
        output, weights = attention(layer, *tensors, **settings)
    assert weights is None
    return output


@pytest.mark.parametrize("scaling", [None, 0.1])
@pytest.mark.parametrize("kv_heads", [4, 2, 1])
@pytest.mark.parametrize("window", [None, 1, 4, 20, 64])
@pytest.mark.parametrize("causal", [False, True])
def test_equals_each_sequence_alone(
    causal: bool, window: int | None, kv_heads: int, scaling: float | None
) -> None:
    tensors = inputs(kv_heads)
    output = attend(tensors, is_causal=causal, sliding_window=window, scaling=scaling)
    expected = by_hand(tensors, causal=causal, window=window, scaling=scaling or SIZE**-0.5)
    assert output.shape == (1, sum(LENGTHS), HEADS, SIZE)
    np.testing.assert_allclose(output[0].numpy(), expected, rtol=0, atol=1e-5)


def test_values_may_have_another_size() -> None:
    tensors = inputs(value_size=5)
    expected = by_hand(tensors, causal=False, window=None, scaling=SIZE**-0.5)
    np.testing.assert_allclose(attend(tensors)[0].numpy(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("module", "argument", "causal"),
    [
        (SimpleNamespace(is_causal=True), None, True),
        (SimpleNamespace(is_causal=False), None, False),
        (SimpleNamespace(), None, True),
        (SimpleNamespace(is_causal=True), False, False),
        (SimpleNamespace(is_causal=False), True, True),
    ],
    ids=str,
)
def test_the_layer_says_whether_it_is_causal(
    module: Any, argument: bool | None, causal: bool
) -> None:
    """As the attention functions of transformers take it; causal unless said otherwise."""
    tensors = inputs()
    with laid_out(Sequences(np.array(LENGTHS), tensors[0].device)):
        output, _ = attention(module, *tensors, None, is_causal=argument)
    expected = by_hand(tensors, causal=causal, window=None, scaling=SIZE**-0.5)
    np.testing.assert_allclose(output[0].numpy(), expected, rtol=0, atol=1e-5)


def test_no_sequence_sees_another() -> None:
    """Changing all tokens of one sequence leaves the others as they were, to the bit."""
    tensors = inputs()
    before = attend(tensors)
    start, stop = offsets()[3:5].tolist()
    for tensor in tensors:
        tensor[:, :, start:stop] = torch.randn_like(tensor[:, :, start:stop])
    after = attend(tensors)
    others = [*range(start), *range(stop, sum(LENGTHS))]
    assert torch.equal(after[:, others], before[:, others])
    assert not torch.allclose(after[:, start:stop], before[:, start:stop])


def test_dropout_does_nothing() -> None:
    tensors = inputs()
    assert torch.equal(attend(tensors, dropout=0.9), attend(tensors))


@pytest.mark.parametrize(
    "name", ["position_bias", "s_aux", "softcap", "head_mask", "relative_attention_bias"]
)
def test_what_would_change_the_result_is_refused(name: str) -> None:
    with pytest.raises(NotPackableError, match=name):
        attend(inputs(), **{name: torch.ones(1)})
    assert torch.equal(attend(inputs(), **{name: None}), attend(inputs()))


def test_a_mask_is_refused() -> None:
    with pytest.raises(NotPackableError, match="mask"):
        attend(inputs(), attention_mask=torch.ones(1, 1, sum(LENGTHS), sum(LENGTHS)))


def test_without_a_batch_nobody_knows_who_sees_whom() -> None:
    with pytest.raises(NotPackableError, match="layout"):
        attention(SimpleNamespace(is_causal=False), *inputs(), None)


def test_attention_to_other_tokens_is_refused() -> None:
    """Cross-attention, or a cache of earlier tokens."""
    query, key, value = inputs()
    with pytest.raises(NotPackableError, match="other tokens"):
        attend([query[:, :, :-1], key, value])


@pytest.mark.cuda
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("kv_heads", [4, 2])
@pytest.mark.parametrize("window", [None, 4, 64])
@pytest.mark.parametrize("causal", [False, True])
def test_equals_each_sequence_alone_on_a_gpu(
    causal: bool, window: int | None, kv_heads: int, dtype: torch.dtype
) -> None:
    tensors = [tensor.to("cuda", dtype) for tensor in inputs(kv_heads)]
    output = attend(tensors, is_causal=causal, sliding_window=window)
    expected = by_hand(tensors, causal=causal, window=window, scaling=SIZE**-0.5)
    tolerance = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}[dtype]
    given = output[0].double().cpu().numpy()
    np.testing.assert_allclose(given, expected, rtol=0, atol=tolerance)
