"""What the machine is and can do, and how much of it a model needs."""

from __future__ import annotations

import os
import platform
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

_SIZE = {"cpu": 2048, "cuda": 8192}
_REPEATS = 21


def describe(device: str) -> dict[str, Any]:
    """Return processor, cores, memory, system and, for ``"cuda"``, the GPU."""
    import torch

    described: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
        "torch_threads": torch.get_num_threads(),
    }
    if device == "cuda":
        described["gpu"] = torch.cuda.get_device_name()
        described["cuda"] = torch.version.cuda
    return described


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def matmul_rate(device: str, dtype: str, size: int | None = None) -> float:
    """Return the floating-point operations per second of a square matrix product.

    The median of many products, 2048 x 2048 on a CPU and 8192 x 8192 on a GPU.
    """
    import torch

    size = size or _SIZE[device]
    left, right = torch.randn(2, size, size, device=device).to(getattr(torch, dtype))
    seconds = []
    for _ in range(_REPEATS + 3):
        start = time.perf_counter()
        left @ right
        synchronize(device)
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / statistics.median(seconds[3:])


def synchronize(device: str) -> None:
    """Wait for the device; a CPU has nothing under way."""
    import torch

    if device == "cuda":
        torch.cuda.synchronize()


@dataclass(frozen=True)
class Work:
    """The arithmetic that a transformer cannot do without.

    Attributes
    ----------
    linear_parameters : int
        Weights of its linear layers, without a pooler or a head.
    hidden, layers : int
        Values of all attention heads together; number of layers.
    causal : bool
        A token attends to those before it only, so that half the attention is needed.
    """

    linear_parameters: int
    hidden: int
    layers: int
    causal: bool = False

    @classmethod
    def of(cls, model: str, *, causal: bool = False) -> Work:
        """Read the shapes of the checkpoint in the folder `model`; no weights are loaded."""
        import torch
        from transformers import AutoConfig, AutoModel

        config = AutoConfig.from_pretrained(model, local_files_only=True)
        with torch.device("meta"):
            transformer = AutoModel.from_config(config)
        linear = sum(
            module.weight.numel()
            for name, module in transformer.named_modules()
            if isinstance(module, torch.nn.Linear) and "pooler" not in name
        )
        return cls(linear, config.hidden_size, config.num_hidden_layers, causal)

    def flops(self, lengths: np.ndarray) -> float:
        """Return the operations for texts of so many tokens each."""
        attention = (2 if self.causal else 4) * self.hidden * self.layers
        lengths = lengths.astype(float)
        return float(2 * self.linear_parameters * lengths.sum() + attention * (lengths**2).sum())

    def explained(self) -> dict[str, Any]:
        """Return how `flops` counts, for the result."""
        pairs = "2 (causal)" if self.causal else "4"
        return {
            "formula": (
                "2 x linear_parameters x tokens + "
                f"{pairs} x tokens per text squared x hidden x layers, summed over all texts"
            ),
            "linear_parameters": self.linear_parameters,
            "hidden": self.hidden,
            "layers": self.layers,
            "note": "no padding, embeddings, norms or biases; repeated texts count each time",
        }
