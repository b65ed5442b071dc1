"""Memory errors are told from all others, and a batch costs what it was planned to cost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import assume, example, given
from hypothesis import strategies as st

from dask_embed.inference import memory
from dask_embed.inference.agreement import disagreement
from dask_embed.inference.batching import plan_batches
from dask_embed.inference.memory import Budget, Usage, batch_cost, is_final, is_out_of_memory

CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
MEBIBYTE = 2**20


# --------------------------------------------------------------------- which errors are of memory
def out_of_memory_error(message: str) -> Exception:
    """An error of a library that is not there, as cuDF's or Triton's: only its name tells."""
    return type("OutOfMemoryError", (Exception,), {})(message)


def caught(work: object) -> Exception:
    """What a real allocator raises."""
    with pytest.raises(Exception) as info:  # noqa: PT011 - its type is what is asked
        work()  # type: ignore[operator]
    return info.value


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        MemoryError("std::bad_alloc"),
        pa.ArrowMemoryError("malloc of size 4096 failed"),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
        torch.OutOfMemoryError(),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 4096 bytes. Error code 12 (Cannot allocate memory)"
        ),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 4096 bytes."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported later"),
        RuntimeError("CUDA driver error: out of memory"),
        RuntimeError("cudaErrorMemoryAllocation out of memory"),
        RuntimeError("HIP out of memory. Tried to allocate 2.00 MiB"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("std::bad_alloc: out_of_memory: CUDA error at: rmm/mr/cuda_memory_resource"),
        RuntimeError("Maximum pool size exceeded (failed to allocate 1.0 GiB)"),
        RuntimeError("CUDA_ERROR_OUT_OF_MEMORY"),
        RuntimeError("could not create a primitive"),  # what oneDNN says
        out_of_memory_error("Out of memory allocating 1,024 bytes"),
    ],
    ids=lambda error: f"{type(error).__name__}: {error!s:.40}",
)
def test_memory_errors(error: Exception) -> None:
    assert is_out_of_memory(error)


@pytest.mark.parametrize(
    "work",
    [lambda: torch.empty(2**56), lambda: np.empty(2**56), lambda: bytearray(2**60)],
    ids=["torch", "numpy", "python"],
)
def test_memory_errors_of_the_allocators_here(work: object) -> None:
    assert is_out_of_memory(caught(work))


@pytest.mark.parametrize(
    "error",
    [
        ValueError("out of memory"),
        KeyError("out_of_memory"),
        TypeError("cannot allocate memory"),
        OSError("not enough memory"),
        IndexError("bad_alloc"),
        KeyboardInterrupt("out of memory"),
        RuntimeError(),
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
        RuntimeError("[enforce fail at inline_container.cc:603] . PytorchStreamReader failed"),
        NotImplementedError("no packed attention"),
        out_of_memory_error("of the budget"),
    ],
    ids=lambda error: f"{type(error).__name__}: {error!s:.40}",
)
def test_other_errors(error: BaseException) -> None:
    assert not is_out_of_memory(error)


@pytest.mark.parametrize(
    "work",
    [
        lambda: torch.ones(2, 3) @ torch.ones(2, 3),
        lambda: torch.ones(2).view(3),
        lambda: torch.ones(2)[torch.tensor([5])],
        lambda: torch.empty(-1),
    ],
    ids=["product", "view", "index", "size"],
)
def test_errors_of_shapes_are_not_of_memory(work: object) -> None:
    assert not is_out_of_memory(caught(work))


# ------------------------------------------------------------------------------ what a batch takes
@pytest.mark.parametrize(
    ("tokens", "squares", "peaks", "expected"),
    [
        # 10 t + 0.5 s: 8 texts of 2 and 2 of 8 tokens
        (16, (32, 128), (176, 224), (10, 0.5)),
        # 1 token a text, then all in one: 7 t + 3 s
        (4, (4, 16), (40, 76), (7, 3)),
        # nothing depends on the length
        (16, (32, 128), (160, 160), (10, 0)),
        # noise: longer texts took less, so the squares cost nothing
        (16, (32, 128), (160, 150), (10, 0)),
        # no less than a byte a token, where an allocator counts nothing
        (16, (32, 128), (0, 0), (1, 0)),
        # squares alone: 2 s, and the tokens at least a byte
        (16, (32, 128), (64, 256), (1, 2)),
    ],
)
def test_usage_by_hand(
    tokens: int, squares: tuple[int, int], peaks: tuple[int, int], expected: tuple[float, float]
) -> None:
    usage = Usage.fit(tokens, squares, peaks)
    assert (usage.per_token, usage.per_square) == pytest.approx(expected)
    assert usage.quadratic == pytest.approx(expected[1] / expected[0])


@given(st.integers(1, 10**7), st.integers(0, 10**4), st.integers(1, 512))
def test_usage_finds_what_a_batch_takes(per_token: int, per_square: int, short: int) -> None:
    """Both passes of the probe: eight times as long texts, an eighth of them."""
    longest = 8 * short
    tokens = 8 * longest
    squares = (64 * short**2, 8 * longest**2)
    peaks = tuple(per_token * tokens + per_square * square for square in squares)
    usage = Usage.fit(tokens, squares, (peaks[0], peaks[1]))
    for square, peak in zip(squares, peaks, strict=True):
        taken = usage.per_token * tokens + usage.per_square * square
        assert taken == pytest.approx(peak, rel=1e-6)


# -------------------------------------------------------------------------------------- the budget
def test_a_budget_wants_what_it_is_told_until_something_did_not_fit() -> None:
    budget = Budget(CPU)
    assert budget.tokens(4096) == 4096
    budget.did_not_fit(1000)
    assert budget.tokens(4096) == 500
    assert budget.tokens(100) == 100
    budget.did_not_fit(3000)  # planned before: it says nothing that is not known
    assert budget.tokens(4096) == 500
    budget.did_not_fit(301)
    assert budget.tokens(4096) == 150
    assert budget.quadratic == 0


def test_a_budget_never_falls_below_one_token() -> None:
    budget = Budget(CPU)
    budget.did_not_fit(1)
    assert budget.tokens(4096) == 1


def test_a_budget_keeps_the_least_of_many_threads() -> None:
    budget = Budget(CPU)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(budget.did_not_fit, np.random.default_rng(0).permutation(np.arange(40, 999))))
    assert budget.tokens(4096) == 20


@pytest.mark.parametrize(
    ("free", "per_token", "expected"),
    [
        (100 * MEBIBYTE, MEBIBYTE, 80),  # four fifths of what is free
        (100 * MEBIBYTE, 0.001, 4096),  # more than is wanted
        (0, MEBIBYTE, 1),
    ],
)
def test_a_budget_minds_free_memory(
    monkeypatch: pytest.MonkeyPatch, free: int, per_token: float, expected: int
) -> None:
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    budget = Budget(CUDA, Usage(per_token, per_token / 4))
    assert budget.tokens(4096) == expected
    assert budget.quadratic == 0.25
    budget.did_not_fit(20)
    assert budget.tokens(4096) == min(expected, 10)


@pytest.mark.parametrize(
    ("reserved", "share", "expected"),
    [
        (300, 1.0, 1000 + 300 - 200),
        (300, 0.1, 500 - 200),
        (300, 0.02, 0),
        (RuntimeError("RMM keeps no books"), 1.0, 1000),
    ],
)
def test_memory_that_torch_may_still_fill(
    monkeypatch: pytest.MonkeyPatch, reserved: int | Exception, share: float, expected: int
) -> None:
    def memory_reserved(device: torch.device) -> int:
        if isinstance(reserved, Exception):
            raise reserved
        return reserved

    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 5000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", memory_reserved)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 200)
    monkeypatch.setattr(torch.cuda, "get_per_process_memory_fraction", lambda device: share)
    assert memory.free_bytes(CUDA) == expected


# ----------------------------------------------------------------------------- a GPU that is lost
def test_a_lost_gpu_is_no_way_of_batching_that_a_model_refuses() -> None:
    """Every later kernel of the process fails, too, so another way is not tried."""

    def lost() -> torch.Tensor:
        raise torch.AcceleratorError("CUDA error: misaligned address")

    with pytest.raises(torch.AcceleratorError):
        disagreement(lost, torch.ones(1), 1.0)
    assert is_final(torch.OutOfMemoryError("CUDA out of memory"))
    assert not is_final(ValueError("a mask of another shape"))


# ---------------------------------------------------------------------------------- cost and plan
@pytest.mark.parametrize(
    ("padded", "quadratic", "expected"),
    [
        (False, 0.0, 3 + 5 + 1),
        (True, 0.0, 5 * 3),
        (False, 0.5, 9 + 0.5 * (9 + 25 + 1)),
        (True, 0.5, 15 + 0.5 * 3 * 25),
    ],
)
def test_cost_by_hand(padded: bool, quadratic: float, expected: float) -> None:
    assert batch_cost(np.array([3, 5, 1]), padded=padded, quadratic=quadratic) == expected


def exact_cost(lengths: list[int], padded: bool, quadratic: float) -> Fraction:
    if padded:
        lengths = [max(lengths)] * len(lengths)
    return sum((n + Fraction(quadratic) * n * n for n in lengths), Fraction(0))


@given(
    st.lists(st.integers(1, 2**15), min_size=1, max_size=60),
    st.integers(1, 200_000),
    st.booleans(),
    st.sampled_from([0.0, 1e-4, 0.01, 1.0, 37.5]) | st.floats(0, 100),
)
@example([7, 7, 7], 21, True, 0.0)
@example([2, 2, 2], 6, False, 1e-9)
def test_planned_batches_cost_at_most_the_budget(
    lengths: list[int], max_tokens: int, padded: bool, quadratic: float
) -> None:
    """By the same measure that a batch which did not fit is remembered by."""
    array = np.array(lengths)
    batches = plan_batches(array, max_tokens=max_tokens, padded=padded, quadratic=quadratic)
    assert sorted(np.concatenate(batches).tolist()) == list(range(len(lengths)))
    for batch in batches:
        cost = batch_cost(array[batch], padded=padded, quadratic=quadratic)
        exact = exact_cost(array[batch].tolist(), padded, quadratic)
        assert cost == pytest.approx(float(exact), rel=1e-12)
        assert len(batch) == 1 or exact <= max_tokens * (1 + 1e-9)


@given(
    st.lists(st.integers(1, 512), min_size=2, max_size=60),
    st.integers(2, 20_000),
    st.booleans(),
    st.sampled_from([0.0, 0.01, 1.0]),
)
def test_the_plan_after_a_failure_is_half_as_large(
    lengths: list[int], max_tokens: int, padded: bool, quadratic: float
) -> None:
    def plan() -> list[float]:
        planned = plan_batches(np.array(lengths), max_tokens=budget.tokens(max_tokens), **settings)
        return [
            batch_cost(np.array(lengths)[rows], **settings) for rows in planned if len(rows) > 1
        ]

    settings = {"padded": padded, "quadratic": quadratic}
    budget = Budget(CPU)
    before = plan()
    assume(before)
    budget.did_not_fit(before[0])
    assert max(plan(), default=0) <= before[0] / 2 * (1 + 1e-9)


def test_a_plan_that_shrank_grows_again() -> None:
    """What filled the memory may be gone; small batches say nothing about it."""
    budget = Budget(torch.device("cpu"))
    budget.did_not_fit(400)
    for _ in range(63):
        budget.did_fit(150)
        budget.did_fit(99)
    assert budget.tokens(1000) == 200
    budget.did_fit(150)
    assert budget.tokens(1000) == 400
    budget.did_not_fit(300)
    assert budget.tokens(1000) == 150
    assert budget.allows(150)
    assert not budget.allows(151)
