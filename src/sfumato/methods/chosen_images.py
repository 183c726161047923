"""A released model that holds its images themselves: chosen ones of each class, as they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.data.spec import PublicSpec
from sfumato.methods.base import Batch, Model, Sampling, labels_for
from sfumato.methods.saved_arrays import checked_counts

AT_ONCE = 250
SHIFT = 16
"""An image that is sampled again is moved by up to this fraction of its side."""


@dataclass(frozen=True)
class ChosenImages(Model):
    """Images uint8 ``[classes · kept, c, h, w]``, class after class, and class sizes (or ones)."""

    by_class = True

    spec: PublicSpec
    images: NDArray[np.uint8]
    counts: NDArray[np.float64]
    kept: int

    def sample(self, count: int, seed: int = 0) -> Iterator[Batch]:
        """Sample ``count`` images in batches, classes in proportion to their noisy sizes."""
        return self.sampled(Sampling(count, seed))

    def labels_of(self, wanted: Sampling) -> NDArray[np.int64]:
        """The label of each image of a sampling."""
        return labels_for(self.counts, wanted)

    def sampled(self, wanted: Sampling) -> Iterator[Batch]:
        """Sample each image of a class once before any a second time, then moved by some pixels."""
        count, labels = wanted.count, self.labels_of(wanted)
        rng = np.random.default_rng(wanted.seed)
        numbers = np.zeros(count, np.int64)
        repeated = np.zeros(count, np.bool_)
        for label in range(len(self.counts)):
            places = np.flatnonzero(labels == label)
            rounds = -(-len(places) // self.kept)
            orders = [rng.permutation(self.kept) for _ in range(rounds)]
            numbers[places] = label * self.kept + np.concatenate([*orders, []])[: len(places)]
            repeated[places[self.kept :]] = True
        for start in range(0, count, AT_ONCE):
            part = slice(start, start + AT_ONCE)
            yield _moved(self.images[numbers[part]], repeated[part], rng), labels[part]

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The model's arrays by name."""
        return {"images": self.images, "counts": self.counts}

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the arrays."""
        return {"kept": self.kept}

    @classmethod
    def load(
        cls, spec: PublicSpec, config: dict[str, Any], tensors: dict[str, NDArray[Any]]
    ) -> ChosenImages:
        """Rebuild a model from what was saved."""
        counts, kept = checked_counts(tensors["counts"], spec), config["kept"]
        shape = (len(counts) * kept, spec.channels, spec.height, spec.width)
        images = tensors["images"]
        if set(tensors) != {"images", "counts"} or images.dtype != np.uint8 or kept < 1:
            raise ValueError("the tensors are not those of chosen images")
        if images.shape != shape:
            raise ValueError("the images are not those of the stated specification")
        return cls(spec, images, counts, kept)


def _moved(
    images: NDArray[np.uint8], moving: NDArray[np.bool_], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Copies of images ``[b, c, h, w]``, some shifted; edges are repeated."""
    reach = images.shape[-1] // SHIFT
    padded = np.pad(images, ((0, 0), (0, 0), (reach, reach), (reach, reach)), "edge")
    views = np.lib.stride_tricks.sliding_window_view(padded, images.shape[2:], axis=(2, 3))
    corners = rng.integers(2 * reach + 1, size=(2, len(images)))
    down, across = np.where(moving, corners, reach)
    return np.ascontiguousarray(views[np.arange(len(images)), :, down, across])
