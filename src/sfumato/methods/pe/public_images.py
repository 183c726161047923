"""Variations from public images: another one that looks alike, moved and zoomed a little."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from sfumato.features.pooled import CHUNK, directions
from sfumato.methods.pe.nearness import Coordinates
from sfumato.methods.pe.variations import Candidates

REACH = 64
"""A variation of degree 1 goes to one of so many public images that are nearest."""
MOST_ZOOM, MOST_SHIFT = 0.3, 0.15
"""Shares of the side by which a variation of degree 1 is cut out smaller, and moved."""


class PublicImages:
    """Public images and their nearest neighbours; see :class:`Variations`.

    Traits: number of the public image, zoom (1: all of it), and shift across and down.

    Args:
        images: uint8 ``[n, c, h, w]``.
        coordinates: the space in which neighbours are near.
    """

    def __init__(self, images: NDArray[np.uint8], coordinates: Coordinates) -> None:
        self._images, self._coordinates = images, coordinates
        self._features: torch.Tensor | None = None

    def first(self, labels: NDArray[np.int64], rng: np.random.Generator) -> Candidates:
        """Public images at random, as they are: none twice while there are others."""
        count, there = len(labels), len(self._images)
        numbers = np.concatenate([rng.permutation(there) for _ in range(-(-count // there))])
        traits = np.zeros((count, 4))
        traits[:, 0], traits[:, 1] = numbers[:count], 1
        return self._made(traits)

    def vary(self, candidates: Candidates, degree: float, rng: np.random.Generator) -> Candidates:
        """With probability ``degree`` a neighbour, and a little zoom and shift in any case."""
        traits, count = candidates.traits.copy(), len(candidates.traits)
        moving = np.flatnonzero(rng.random(count) < degree)
        reach = min(max(1, round(REACH * degree)), len(self._images) - 1)
        if reach and len(moving):
            near = self._neighbours(traits[moving, 0].astype(np.int64), reach)
            traits[moving, 0] = near[np.arange(len(moving)), rng.integers(reach, size=len(moving))]
        traits[:, 1] = 1 - MOST_ZOOM * degree * rng.random(count)
        traits[:, 2:] = MOST_SHIFT * degree * rng.uniform(-1, 1, (count, 2))
        return self._made(traits)

    def _neighbours(self, numbers: NDArray[np.int64], reach: int) -> NDArray[np.int64]:
        """The ``reach`` public images nearest to each one, without itself."""
        if self._features is None:
            self._features = directions(self._images, self._coordinates)
        found = []
        for part in torch.from_numpy(numbers).split(CHUNK):
            scores = self._features[part] @ self._features.T
            scores[torch.arange(len(part)), part] = -torch.inf
            found.append(scores.topk(reach, dim=1).indices)
        return torch.cat(found).numpy()

    def _made(self, traits: NDArray[np.float64]) -> Candidates:
        images = np.stack([cut(self._images[int(row[0])], *row[1:]) for row in traits])
        return Candidates(images, traits)


def cut(image: NDArray[np.uint8], zoom: float, across: float, down: float) -> NDArray[np.uint8]:
    """The part of an image ``[c, h, w]`` of ``zoom`` times its side, enlarged to its size."""
    if (zoom, across, down) == (1, 0, 0):
        return image
    _, height, width = image.shape
    rest = (1 - zoom) / 2
    left, top = (min(max(rest + move, 0), 2 * rest) for move in (across, down))
    box = (left * width, top * height, (left + zoom) * width, (top + zoom) * height)
    channels = [
        Image.fromarray(channel).resize((width, height), Image.Resampling.BICUBIC, box)
        for channel in image
    ]
    return np.stack([np.asarray(channel) for channel in channels])
