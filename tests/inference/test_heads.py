"""Pooling and the modules after it, against their definitions written out in numpy."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer.modules import Pooling as ReferencePooling

from dask_embed.inference.heads import apply_modules, pool
from dask_embed.models.modules import Dense, LayerNorm, Normalize, Pooling, Truncate

LENGTHS = [4, 1, 0, 7, 3, 0, 2]
HIDDEN = 5
DEFINITIONS: dict[str, Callable[[np.ndarray, int], np.ndarray]] = {
    "cls": lambda tokens, skipped: tokens[0],
    "max": lambda tokens, skipped: tokens.max(axis=0),
    "mean": lambda tokens, skipped: tokens.mean(axis=0),
    "mean_sqrt_len_tokens": lambda tokens, skipped: tokens.sum(axis=0) / len(tokens) ** 0.5,
    "weightedmean": lambda tokens, skipped: np.average(
        tokens, axis=0, weights=np.arange(len(tokens)) + 1 + skipped
    ),
    "lasttoken": lambda tokens, skipped: tokens[-1],
    "sum": lambda tokens, skipped: tokens.sum(axis=0),
}


def token_vectors() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(sum(LENGTHS), HIDDEN, generator=generator) - 2  # below zero, for max


def by_hand(mode: str, skipped: int) -> np.ndarray:
    """Zero where no token is left, otherwise the definition on what is left."""
    parts = np.split(token_vectors().double().numpy(), np.cumsum(LENGTHS)[:-1])
    return np.array(
        [
            DEFINITIONS[mode](part[skipped:], skipped) if len(part) > skipped else np.zeros(HIDDEN)
            for part in parts
        ]
    )


@pytest.mark.parametrize("skipped", [0, 1, 3])
@pytest.mark.parametrize("mode", DEFINITIONS)
def test_pool_by_hand(mode: str, skipped: int) -> None:
    given = pool(mode, token_vectors(), torch.tensor(LENGTHS), skipped).numpy()
    expected = by_hand(mode, skipped)
    if mode == "cls":  # the reference keeps the first token where the prompt is all there is
        short = [row for row, length in enumerate(LENGTHS) if 0 < length <= skipped]
        starts = np.cumsum(LENGTHS) - LENGTHS
        expected[short] = token_vectors().numpy()[starts[short]]
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("skipped", [0, 2])
@pytest.mark.parametrize("mode", ReferencePooling.POOLING_MODES)
def test_pool_equals_the_reference(mode: str, skipped: int) -> None:
    """sentence-transformers on the padded batch; texts with a token left."""
    kept = [row for row, length in enumerate(LENGTHS) if length > skipped]
    parts = torch.split(token_vectors(), LENGTHS)
    padded = torch.nn.utils.rnn.pad_sequence([parts[row] for row in kept], batch_first=True)
    mask = torch.tensor([[at < LENGTHS[row] for at in range(padded.shape[1])] for row in kept])
    features = {
        "token_embeddings": padded,
        "attention_mask": mask.long(),
        "prompt_length": skipped,
    }
    module = ReferencePooling(HIDDEN, mode, include_prompt=False)
    expected = module(features)["sentence_embedding"]
    given = pool(mode, token_vectors(), torch.tensor(LENGTHS), skipped)[kept]
    np.testing.assert_allclose(given.numpy(), expected.numpy(), rtol=0, atol=1e-6)


@pytest.mark.parametrize("mode", DEFINITIONS)
def test_texts_without_tokens_only(mode: str) -> None:
    """Zero vectors, unless there is no token at all: such a batch is never made."""
    given = pool(mode, token_vectors()[:1], torch.tensor([0, 1, 0]))
    assert given[[0, 2]].tolist() == [[0.0] * HIDDEN] * 2
    np.testing.assert_allclose(given[1].numpy(), token_vectors()[0].numpy(), rtol=1e-6)


@pytest.mark.parametrize("mode", ["mean", "sum", "mean_sqrt_len_tokens", "weightedmean"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_sums_run_in_float32(mode: str, dtype: torch.dtype) -> None:
    """A running sum in half precision would stop growing at 256 (bfloat16) or 2048."""
    tokens = torch.full((4100, 1), 1.5, dtype=dtype)
    given = pool(mode, tokens, torch.tensor([4100]))
    expected = {"mean": 1.5, "weightedmean": 1.5, "sum": 6150.0}
    expected["mean_sqrt_len_tokens"] = 6150 / 4100**0.5
    assert given.dtype == dtype
    assert float(given) == pytest.approx(expected[mode], rel=torch.finfo(dtype).eps)


def test_a_concatenation_keeps_its_order() -> None:
    modes = ("max", "cls", "mean")
    given = apply_modules([Pooling(modes)], {}, token_vectors(), torch.tensor(LENGTHS)).numpy()
    expected = np.concatenate([by_hand(mode, 0) for mode in modes], axis=1)
    np.testing.assert_allclose(given, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("include", "skipped"), [(True, 0), (False, 2)])
def test_the_prompt_is_skipped_only_where_asked_for(include: bool, skipped: int) -> None:
    pooling = Pooling(("mean",), include_prompt=include)
    given = apply_modules([pooling], {}, token_vectors(), torch.tensor(LENGTHS), 2).numpy()
    np.testing.assert_allclose(given, by_hand("mean", skipped), rtol=0, atol=1e-6)


def test_modules_run_in_their_order() -> None:
    linear, norm = torch.nn.Linear(HIDDEN, 4), torch.nn.LayerNorm(4)
    with torch.no_grad():
        for parameter in (*linear.parameters(), *norm.parameters()):
            parameter.copy_(torch.linspace(-1, 1, parameter.numel()).reshape(parameter.shape))
    layers = {"2_Dense": torch.nn.Sequential(linear, torch.nn.Tanh()), "3_LayerNorm": norm}
    modules = [
        Pooling(("mean",)),
        Dense("2_Dense", HIDDEN, 4),
        LayerNorm("3_LayerNorm", 4),
        Truncate(3),
        Normalize(),
    ]
    with torch.inference_mode():
        given = apply_modules(modules, layers, token_vectors(), torch.tensor(LENGTHS))
    weight, bias = linear.weight.detach().double().numpy(), linear.bias.detach().double().numpy()
    vectors = np.tanh(by_hand("mean", 0) @ weight.T + bias)
    centred = vectors - vectors.mean(axis=1, keepdims=True)
    vectors = centred / np.sqrt((centred**2).mean(axis=1, keepdims=True) + 1e-5)
    scale, shift = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    vectors = (vectors * scale + shift)[:, :3]
    expected = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    assert given.dtype == torch.float32
    np.testing.assert_allclose(given.numpy(), expected, rtol=0, atol=1e-5)


def test_the_zero_vector_stays_zero_when_normalized() -> None:
    modules = [Pooling(("mean",)), Normalize()]
    given = apply_modules(modules, {}, token_vectors(), torch.tensor(LENGTHS))
    lengths = given.norm(dim=1).numpy()
    np.testing.assert_allclose(lengths, [length > 0 for length in LENGTHS], atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_normalized_vectors_have_unit_length_in_any_type(dtype: torch.dtype) -> None:
    """Normalized in bfloat16 they would be up to 0.4 % longer or shorter."""
    modules = [Pooling(("mean",)), Normalize()]
    given = apply_modules(modules, {}, token_vectors().to(dtype), torch.tensor(LENGTHS))
    lengths = given.norm(dim=1).numpy()
    np.testing.assert_allclose(lengths, [length > 0 for length in LENGTHS], atol=1e-6)


def test_a_layer_after_normalizing_runs_in_the_type_of_the_model() -> None:
    layer = torch.nn.Linear(HIDDEN, 3).to(torch.bfloat16).requires_grad_(False)
    modules = [Pooling(("mean",)), Normalize(), Dense("2_Dense", HIDDEN, 3)]
    tokens = token_vectors().to(torch.bfloat16)
    given = apply_modules(modules, {"2_Dense": layer}, tokens, torch.tensor(LENGTHS))
    first = torch.nn.functional.normalize(tokens[: LENGTHS[0]].float().mean(0), dim=0)
    expected = layer.float()(first.to(torch.bfloat16).float())
    np.testing.assert_allclose(given[0].numpy(), expected.numpy(), atol=2e-2)


def test_vectors_are_float32_whatever_the_model() -> None:
    tokens = token_vectors().to(torch.bfloat16)
    given = apply_modules([Pooling(("lasttoken",))], {}, tokens, torch.tensor(LENGTHS))
    assert given.dtype == torch.float32
    assert torch.equal(given[0], tokens[3].float())
