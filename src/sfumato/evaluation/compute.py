"""Where evaluation computes, and in which precision: bfloat16 only where it is fast."""

from __future__ import annotations

import torch

from sfumato.networks import fast_bfloat16


def preferred_device() -> torch.device:
    """The first CUDA device, or the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def training_precision(device: torch.device) -> torch.dtype:
    """The type of activations while a convolutional or dense network trains on ``device``."""
    return torch.bfloat16 if fast_bfloat16(device) else torch.float32
