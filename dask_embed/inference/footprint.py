"""How much memory a worker process needs for a model, told before any weights are loaded."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from dask_embed.inference.cache_size import state_values
from dask_embed.models.checkpoint import Checkpoint, read_checkpoint
from dask_embed.models.tasks import empty_model
from dask_embed.models.tensor_files import read_header
from dask_embed.models.weights import find_weights
from dask_embed.runtime.libraries import importing

if TYPE_CHECKING:
    from dask_embed.models.spec import Model

MIB = 2**20
# What a worker has resident once it ran a model of no size: Python, Dask, torch and transformers.
# Measured at 516 to 527 MiB (Linux, x86-64, Python 3.11, torch 2.13 for CPUs).
PROCESS = 520 * MIB
# Resident bytes of a tokenizer and of the copy that operators set limits on, per byte of its
# tokenizer.json: measured at 16 for BPE of 150,000 merges, at 50 for Unigram of 250,000 words.
_TOKENIZER = {"Unigram": 50}
_TOKENIZER_OTHERWISE = 16
# Vectors of a layer that are there at a time beside the residual, and of its feed-forward part.
_HIDDEN, _INTERMEDIATE = 8, 3
_WIDTHS = ("intermediate_size", "d_ff", "ffn_dim", "encoder_ffn_dim", "n_inner", "hidden_dim")
# Rows under way in a decoder, and the times that their scores over the vocabulary are held.
_ROWS_OF_SCORES, _COPIES_OF_SCORES = 64, 3
_LANGUAGE_TASKS = ("causal-lm", "seq2seq-lm")
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}


@dataclass(frozen=True)
class Footprint:
    """Bytes that a model takes of a worker process.

    Attributes
    ----------
    model : str
    weights : int
        In the type that they have in memory.
    reading : int
        Pages of the file that are resident while weights are read into another type.
    tokenizer : int
    batch : int
        Of a forward pass at the planned token budget, and of the keys and values under way.
    batches : int
        How many run at a time: one for each core, or thread of the worker.
    """

    model: str
    weights: int
    reading: int
    tokenizer: int
    batch: int
    batches: int

    @property
    def process(self) -> int:
        """Bytes of the whole process, at its highest; rows and results of partitions are more."""
        running = self.batch * self.batches
        return PROCESS + self.tokenizer + self.weights + max(self.reading, running)

    def __str__(self) -> str:
        parts = {
            "libraries": PROCESS,
            "weights": self.weights,
            "tokenizer": self.tokenizer,
            "reading the weights" if self.reading > self.batch * self.batches else "batches": max(
                self.reading, self.batch * self.batches
            ),
        }
        told = ", ".join(f"{round(size / MIB)} for {name}" for name, size in parts.items())
        return f"about {round(self.process / MIB)} MiB ({told})"


def footprint(
    spec: Model, task: str, tokens: int, batches: int, *, dtype: str = "float32"
) -> Footprint | None:
    """Return what a model needs, from its small files and the headers of its weights.

    Parameters
    ----------
    spec : Model
    task : str
        One of `dask_embed.models.tasks.TASKS`.
    tokens : int
        Token budget of a batch.
    batches : int
        That run at a time.
    dtype : str
        Of the weights where the specification leaves it to the device.

    Returns
    -------
    Footprint or None
        None where it cannot be known: weights that are parted among devices, pickled ones, those
        of a factory or of code of the checkpoint's own that are not on this machine.
    """
    if spec.places_itself:
        return None
    checkpoint = read_checkpoint(spec)
    own = checkpoint.sentence.dtype or dtype
    itemsize = _itemsize(own if spec.dtype == "auto" else spec.dtype)
    sizes = _sizes(checkpoint.folder, checkpoint.revision)
    if sizes is None:
        if spec.trust_remote_code or spec.factory is not None:
            return None
        sizes = _sizes_of_class(checkpoint, task)
    if sizes is None:
        return None
    numbers, others, written = sizes
    weights = numbers * itemsize + others
    return Footprint(
        model=spec.name,
        weights=weights,
        reading=0 if written == weights else written,
        tokenizer=_tokenizer_bytes(checkpoint.tokenizer_folder),
        batch=_batch_bytes(checkpoint.text_config, task, tokens, itemsize),
        batches=batches,
    )


def _itemsize(dtype: str) -> int:
    return 4 if dtype == "float32" else 2


@functools.lru_cache(maxsize=64)
def _sizes(folder: Path, revision: str) -> tuple[int, int, int] | None:
    """Return the numbers in weight files, bytes of what is no number, and bytes of the files."""
    try:
        files = find_weights(folder, any_name=True).files
    except ValueError:  # a machine that loads nothing need not have them
        return None
    files = tuple(file for file in files if file.suffix == ".safetensors" and file.is_file())
    if not files:
        return None
    numbers = others = 0
    for file in files:
        for tensor in read_header(file)[1].values():
            if tensor["dtype"] in _BYTES:
                numbers += math.prod(tensor["shape"])
            else:
                start, stop = tensor["data_offsets"]
                others += stop - start
    return numbers, others, sum(_body(file) for file in files)


def _body(file: Path) -> int:
    with file.open("rb") as stream:
        return file.stat().st_size - 8 - int.from_bytes(stream.read(8), "little")


def _sizes_of_class(checkpoint: Checkpoint, task: str) -> tuple[int, int, int] | None:
    """Return the sizes of a model that is built without any memory for its weights."""
    try:
        with importing(), torch.device("meta"):
            model = empty_model(task, checkpoint)
    except Exception:  # what cannot be built here is for loading to tell, not for an estimate
        return None
    numbers = sum(weights.numel() for weights in model.parameters())
    return numbers, 0, numbers * 4


def _tokenizer_bytes(folder: Path) -> int:
    file = folder / "tokenizer.json"
    if not file.is_file():
        return 0
    with file.open("rb") as stream:
        kind = b'"Unigram"' in stream.read(MIB)
    factor = _TOKENIZER["Unigram"] if kind else _TOKENIZER_OTHERWISE
    return factor * file.stat().st_size


def _batch_bytes(config: Any, task: str, tokens: int, itemsize: int) -> int:
    hidden = getattr(config, "hidden_size", None) or 0
    widths = [getattr(config, name, None) for name in _WIDTHS]
    wide = max((width for width in widths if isinstance(width, int)), default=4 * hidden)
    passed = tokens * itemsize * (_HIDDEN * hidden + _INTERMEDIATE * wide)
    if task not in _LANGUAGE_TASKS:
        return passed
    vocabulary = getattr(config, "vocab_size", None) or 0
    scores = _ROWS_OF_SCORES * _COPIES_OF_SCORES * 4 * vocabulary
    return passed + scores + tokens * itemsize * state_values(config)
