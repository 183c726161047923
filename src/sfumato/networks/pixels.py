"""Bytes of images and the numbers that networks take: uint8, and float32 in [-1, 1]."""

from __future__ import annotations

import torch
from torch import Tensor


def to_pixels(images: Tensor) -> Tensor:
    """uint8 images as float32 in [-1, 1]."""
    return images.to(torch.float32) / 127.5 - 1


def to_bytes(images: Tensor) -> Tensor:
    """Images in [-1, 1] as uint8, on their device."""
    return ((images + 1) * 127.5).clamp(0, 255).round().to(torch.uint8)
