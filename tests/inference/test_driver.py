"""The loop over the rows of a partition, with samples that are no texts."""

from __future__ import annotations

import contextlib
import hashlib
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
import torch

from dask_embed.inference.driver import Driver
from dask_embed.inference.execution import NOT_FINITE
from dask_embed.inference.memory import Budget
from dask_embed.inference.sink import Sink
from dask_embed.inference.stream import Batching, Stream
from dask_embed.runtime.stats import Meter
from dask_embed.tokens.encoded import Encoded

pytestmark = pytest.mark.usefixtures("one_torch_thread")
CHUNK = 60  # pictures, of as many characters as a picture costs pixels


@dataclass(frozen=True)
class Pictures:
    """Grey pictures of one size, shape (pictures, height, width)."""

    unit: ClassVar[str] = "pixels"

    pixels: np.ndarray

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def lengths(self) -> np.ndarray:
        return np.full(len(self), self.pixels[0].size if len(self) else 0)

    def digests(self) -> list[bytes]:
        return [hashlib.blake2b(each.tobytes(), digest_size=16).digest() for each in self.pixels]

    def take(self, places: np.ndarray) -> Pictures:
        return Pictures(self.pixels[places])


class Model:
    """Runs pictures on the CPU, at most `most` of them at a time."""

    shares = True
    phase = "forward"
    smallest_share = 256
    device = torch.device("cpu")

    def __init__(self, most: int = 1000) -> None:
        self.budget = Budget(self.device)
        self.most = most
        self.ran: list[int] = []

    def usable(self, encoded: Encoded) -> Encoded:
        return encoded

    def runs_packed(self, longest: int) -> bool:
        return True

    def amounts(self, lengths: np.ndarray) -> dict[str, int]:
        return {"tokens": int(lengths.sum())}

    def session(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def means(self, pictures: Pictures) -> torch.Tensor:
        if len(pictures) > self.most or (self.most == 2 and pictures.pixels.max() == 99):
            raise torch.OutOfMemoryError("no more")
        self.ran.append(len(pictures))
        return torch.from_numpy(pictures.pixels.astype(np.float32)).mean((1, 2))


class Means(Sink):
    """Keep a number for each picture, and those of each row when its chunk ends."""

    def __init__(self, *, keeps: bool) -> None:
        self.keeps = keeps  # type: ignore[misc]
        self.results: dict[int, float] = {}
        self.rows: dict[int, list[float]] = {}

    def put(self, names: np.ndarray, results: torch.Tensor, lengths: np.ndarray) -> None:
        assert lengths.tolist() == [16] * len(names)
        self.results.update(zip(names.tolist(), results.tolist(), strict=True))

    def copy(self, names: np.ndarray, sources: np.ndarray) -> None:
        for name, source in zip(names.tolist(), sources.tolist(), strict=True):
            self.results[name] = self.results.get(source, np.nan)

    def end(self, encoded: Encoded, names: np.ndarray, failures: dict[int, str]) -> None:
        for row, name in zip(encoded.rows.tolist(), names.tolist(), strict=True):
            result = self.results.pop(name, np.nan)
            if row not in failures:
                self.rows.setdefault(row, []).append(result)


@pytest.fixture(params=[True, False], ids=["kept", "by chunk"])
def means(request: pytest.FixtureRequest) -> Means:
    return Means(keeps=request.param)


def some_pictures() -> np.ndarray:
    """200 of 4 by 4 pixels: 100, and again in another order."""
    draws = np.random.default_rng(0)
    once = draws.integers(0, 90, (100, 4, 4)).astype(np.float64)
    return once[np.concatenate([np.arange(100), draws.permutation(100)])]


def stream_of(model: Any, pictures: np.ndarray, *, each: int = 1) -> Stream:
    """Every row is `each` pictures, its own and those turned by a quarter; a 98 is no picture."""

    def encode(rows: np.ndarray) -> Encoded[Pictures]:
        if (pictures[rows] == 98).any():
            raise OSError("it is truncated")
        turned = [np.rot90(pictures[row], turn) for row in rows for turn in range(each)]
        return Encoded(np.repeat(rows, each), Pictures(np.stack(turned)))

    # 32 batches of 4 characters for each of their pixels are a chunk
    size = 32 * 64 * 4 // CHUNK
    meter = Meter("Means", "a model of pictures")
    return Stream(model, encode, [size] * len(pictures), meter, Batching(max_tokens=64))


def test_results_stand_in_their_places(means: Means) -> None:
    """Four pictures to a batch, four chunks; repeats run once where results are kept."""
    model, pictures = Model(), some_pictures()
    stream = stream_of(model, pictures)
    Driver(stream, model.means, means).run()
    found = [means.results[n] if means.keeps else means.rows[n][0] for n in range(200)]
    np.testing.assert_allclose(found, pictures.mean((1, 2)), rtol=1e-6)
    record = stream.meter.record
    assert (record.rows, record.tokens) == (200, 16 * record.unique_rows)
    assert sum(model.ran) == record.unique_rows
    assert max(model.ran) == 4
    if means.keeps:
        assert record.unique_rows == 100
    else:
        assert 100 < record.unique_rows < 200
        assert not means.results  # used up with their chunks


def test_rows_of_several_samples_and_none() -> None:
    means, model, pictures = Means(keeps=False), Model(), some_pictures()
    pictures[:100] = np.arange(100)[:, None, None] / 4  # turned, they are the same
    stream = stream_of(model, pictures, each=3)
    stream.sizes = [None if row in (3, 77) else size for row, size in enumerate(stream.sizes)]
    Driver(stream, model.means, means).run()
    assert sorted(means.rows) == sorted({*range(200)} - {3, 77})
    for row, found in means.rows.items():
        np.testing.assert_allclose(found, [pictures[row].mean()] * 3, rtol=1e-6)
    assert stream.meter.record.rows == 198
    assert stream.meter.record.unique_rows <= 98 + 3 * 100


def test_failures_are_of_their_rows(means: Means) -> None:
    """One that is no picture, one with no finite result, one too large, and repeats of them."""
    model, pictures = Model(most=2), some_pictures()
    pictures[[5, 50]] = 98
    pictures[[7, 8, 150]] = np.inf
    pictures[[9, 10, 190]] = 99
    stream = stream_of(model, pictures)
    Driver(stream, model.means, means).run()
    assert sorted(stream.failures) == [5, 7, 8, 9, 10, 50, 150, 190]
    assert {stream.failures[row] for row in (7, 8, 150)} == {NOT_FINITE}
    assert {stream.failures[row] for row in (5, 50)} == {"it cannot be encoded: it is truncated"}
    too_large = "its 16 pixels do not fit in the memory of cpu, even alone: no more"
    assert {stream.failures[row] for row in (9, 10, 190)} == {too_large}
    for row in {*range(200)} - stream.failures.keys():
        found = means.results[row] if means.keeps else means.rows[row][0]
        assert found == pytest.approx(pictures[row].mean(), rel=1e-6)
    assert max(model.ran) <= 2
    assert stream.meter.record.rows == 200
    assert stream.meter.record.splits > 0


def test_an_error_that_is_no_matter_of_memory_ends_it(means: Means) -> None:
    model = Model()

    def broken(pictures: Pictures) -> torch.Tensor:
        raise TypeError("no such layer")

    with pytest.raises(TypeError, match="no such layer"):
        Driver(stream_of(model, some_pictures()), broken, means).run()


def test_samples_whose_results_differ_all_run() -> None:
    means, model = Means(keeps=False), Model()
    pictures = np.zeros((50, 4, 4))
    Driver(stream_of(model, pictures), model.means, means, repeats=False).run()
    assert sum(model.ran) == 50
    assert [means.rows[row] for row in range(50)] == [[0.0]] * 50
