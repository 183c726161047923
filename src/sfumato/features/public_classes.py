"""Public classes, each by the mean coordinates of its images, and which of them images are nearest.

A public classifier of public classes: everybody can compute it, and an image's class is a function
of that image alone.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from sfumato.devices import CPU, moved
from sfumato.features.pooled import directions
from sfumato.features.shipped import CLASS_SPACE


def _in_class_space(images: NDArray[np.uint8], device: torch.device) -> NDArray[np.float32]:
    rows: NDArray[np.float32] = directions(images, moved(CLASS_SPACE.loaded(), device)).numpy()
    return rows


def class_centres(
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    classes: int,
    device: torch.device = CPU,
) -> NDArray[np.float32]:
    """The mean direction of each public class.

    Args:
        images: uint8 ``[n, c, h, w]``, public.
        labels: int64 ``[n]``; images with labels outside ``[0, classes)`` do not count.
        classes: P.
        device: where the encoder computes.

    Returns:
        float32 ``[P, width]``; zeros for a class without images.
    """
    rows = _in_class_space(images, device).astype(np.float64)
    known = (0 <= labels) & (labels < classes)
    centres = np.zeros((classes, rows.shape[1]))
    np.add.at(centres, labels[known], rows[known])
    sizes = np.bincount(labels[known], minlength=classes)
    return (centres / np.maximum(sizes, 1)[:, None]).astype(np.float32)


def nearest_classes(
    images: NDArray[np.uint8], centres: NDArray[np.float32], device: torch.device = CPU
) -> NDArray[np.int64]:
    """The class of each public image, int64 ``[n]``: the one with the nearest of ``centres``."""
    lengths = np.linalg.norm(centres, axis=1).clip(min=1e-6)
    nearness = _in_class_space(images, device) @ centres.T / lengths
    found: NDArray[np.int64] = nearness.argmax(axis=1)
    return found
