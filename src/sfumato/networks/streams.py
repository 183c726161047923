"""Public random numbers of sampled images, a stream for each, so that one is made again alone.

What an image is made from depends on the public seed and the image's number, not on its batch, the
device, or how many images there are. ``sfumato verify`` rests on that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.devices import CPU


class ImageStreams:
    """One stream of random numbers for each image of a batch.

    Args:
        seed: the public seed of the sample, 0 or more.
        numbers: of the images in the sample.
        device: where the numbers are wanted.
    """

    def __init__(self, seed: int, numbers: Sequence[int], device: torch.device = CPU) -> None:
        self.device = device
        self._streams = [
            np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(number,)))
            for number in numbers
        ]

    def of(self, chosen: NDArray[np.int64]) -> ImageStreams:
        """The streams of the images at these places of the batch, which go on."""
        part = ImageStreams(0, [], self.device)
        part._streams = [self._streams[at] for at in chosen]
        return part

    def normal(self, *shape: int) -> Tensor:
        """Standard normal float32 numbers ``[images, *shape]``."""
        rows = [stream.standard_normal(shape, np.float32) for stream in self._streams]
        return self._tensor(np.array(rows, np.float32), shape)

    def uniform(self, *shape: int) -> Tensor:
        """Uniform float32 numbers in [0, 1), ``[images, *shape]``."""
        rows = [stream.random(shape, np.float32) for stream in self._streams]
        return self._tensor(np.array(rows, np.float32), shape)

    def below(self, bound: int, *shape: int) -> Tensor:
        """Whole numbers int64 ``[images, *shape]`` from 0 to ``bound - 1``."""
        rows = [stream.integers(bound, size=shape) for stream in self._streams]
        return self._tensor(np.array(rows, np.int64), shape)

    def _tensor(self, rows: NDArray[np.generic], shape: tuple[int, ...]) -> Tensor:
        return torch.from_numpy(rows.reshape(-1, *shape)).to(self.device)


Random = torch.Generator | ImageStreams
"""Where a model's random numbers come from: in training one generator for all images."""


def normal(random: Random, shape: Sequence[int]) -> Tensor:
    """Standard normal float32 numbers, a row ``shape[1:]`` for each of ``shape[0]`` images."""
    if isinstance(random, ImageStreams):
        return random.normal(*shape[1:])
    return torch.randn(tuple(shape), generator=random, device=random.device)
