"""What the contenders share; needs only the packages of the one that imports it."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

BATCH_ROWS = 32  # the default of SentenceTransformer.encode
MAX_TOKENS = 256  # of all-MiniLM-L6-v2
DIMENSION = 384  # likewise
RESULT = "result.json"
VECTORS = "vectors"

Backend = Literal["onnx", "openvino"]  # of sentence-transformers, beside torch
Embed = Callable[[str, str], None]  # from a folder of Parquet files to another


@dataclass(frozen=True)
class Setting:
    """What a contender has to know before it sees a text; hashable.

    Attributes
    ----------
    model : str
        Folder of the checkpoint.
    device, dtype : str
        ``"cpu"`` or ``"cuda"``; name of a torch dtype.
    ready : str
        File that a contender writes when its model is loaded, if that is after the run began.
    """

    model: str
    device: str
    dtype: str
    ready: str

    def note_ready(self) -> None:
        """Write the time at which the first copy of the model is ready; any process may."""
        with contextlib.suppress(FileExistsError), open(self.ready, "x") as file:
            file.write(repr(time.monotonic()))  # one clock for all processes on Linux


def vector_array(vectors: Any) -> Any:
    """Return vectors, shape (rows, values), as an Arrow array of fixed-size lists of float32."""
    import pyarrow as pa

    flat = pa.array(vectors.reshape(-1), pa.float32())
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])


def with_vectors(table: Any, vectors: Any) -> Any:
    """Append vectors to an Arrow table."""
    return table.append_column("embedding", vector_array(vectors))


def write_part(table: Any, target: str, part: int = 0) -> None:
    """Write a table as one file of the folder `target`."""
    import pyarrow.parquet as pq

    Path(target).mkdir(exist_ok=True)
    pq.write_table(table, f"{target}/part.{part}.parquet")


@functools.cache
def load_reference(setting: Setting) -> Any:
    """Return this process's SentenceTransformer, loading it on first use."""
    import torch
    from sentence_transformers import SentenceTransformer

    dtype = {"dtype": getattr(torch, setting.dtype)}
    return SentenceTransformer(setting.model, device=setting.device, model_kwargs=dtype)


def encode(model: Any, texts: list[str]) -> Any:
    """Return the vectors of `texts`, float32, shape (texts, values)."""
    return model.encode(texts, batch_size=BATCH_ROWS, show_progress_bar=False).astype("float32")


def load_exported(backend: Backend, model: str, *, export: bool = False) -> Any:
    """Return a SentenceTransformer of another backend: of its own files, or made now."""
    from sentence_transformers import SentenceTransformer

    options: dict[str, Any] = {"provider": "CPUExecutionProvider"}
    if backend == "openvino":  # would take bfloat16 where the processor multiplies it faster
        options = {"ov_config": {"INFERENCE_PRECISION_HINT": "f32"}}
    options |= {"export": True} if export else {}
    return SentenceTransformer(model, device="cpu", backend=backend, model_kwargs=options)
