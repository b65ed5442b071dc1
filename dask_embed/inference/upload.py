"""What a batch reads, from the host to its device."""

from __future__ import annotations

import numpy as np
import torch


def upload(array: np.ndarray, device: torch.device) -> torch.Tensor:
    """Return `array` on `device`; a GPU is not waited for, whatever it still has to compute."""
    host = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda":
        host = host.pin_memory()  # from other memory a copy waits for all that is under way
    return host.to(device, non_blocking=True)
