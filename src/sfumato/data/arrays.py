"""Labelled images in memory: for released, declared-public and evaluation data only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sfumato.data.source import ImageSource


@dataclass(frozen=True, repr=False)
class LabelledImages:
    """images uint8 [n, channels, height, width], labels int64 [n], classes in label order.

    Raises ValueError where shapes or dtypes differ from that.
    """

    images: np.ndarray
    labels: np.ndarray
    classes: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim != 4:
            raise ValueError("images must be uint8 [n, channels, height, width].")
        if self.labels.dtype != np.int64 or self.labels.shape != self.images.shape[:1]:
            raise ValueError("labels must be int64 [n], one for each image.")

    def __repr__(self) -> str:
        _, channels, height, width = self.images.shape
        return f"LabelledImages({height}x{width}x{channels}, {len(self.classes) or 'no'} classes)"


def load_labelled(source: ImageSource) -> LabelledImages:
    """Read a whole source into memory, without the records that are unusable."""
    kept = [(images[labels >= 0], labels[labels >= 0]) for images, labels in source.batches(1024)]
    spec = source.spec
    none = np.zeros((0, spec.channels, spec.height, spec.width), np.uint8)
    images = np.concatenate([none, *(images for images, _ in kept)])
    labels = np.concatenate([np.zeros(0, np.int64), *(labels for _, labels in kept)])
    return LabelledImages(images, labels, spec.classes)
