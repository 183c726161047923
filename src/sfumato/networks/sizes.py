"""Numbers of parameters and sides of maps, which plans need: arithmetic of the layers' own sizes.

A plan is made without PyTorch, so networks are counted here and built elsewhere; a test holds each
count against its network.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

COARSEST = 4
"""Side in pixels of the coarsest maps."""

WIDEST = 4
"""Levels have 1, 2, 4, 4, … times the width in channels, from half the image's side down."""


POOLED = 4
"""Side in pixels of the averages that DPAF's first layer is learned through."""


def levels(size: int, width: int) -> list[int]:
    """Channels of the levels at half the image's side, a quarter, …, ``COARSEST`` pixels."""
    halvings = max(1, ((size - 1) // COARSEST).bit_length())
    return [width * min(2**level, WIDEST) for level in range(halvings)]


def convolution(inputs: int, outputs: int, kernel: int) -> int:
    """Parameters of a square convolution with a bias."""
    return (inputs * kernel**2 + 1) * outputs


def linear(inputs: int, outputs: int) -> int:
    """Parameters of a linear layer with a bias."""
    return (inputs + 1) * outputs


def tanh_cnn_parameters(channels: int, classes: int, width: int) -> int:
    """Parameters of a :class:`~sfumato.networks.TanhCNN`."""
    return (
        convolution(channels, width, 8)
        + convolution(width, 2 * width, 4)
        + linear(2 * width * COARSEST**2, 2 * width)
        + linear(2 * width, classes)
    )


def discriminator_parameters(size: int, channels: int, classes: int, width: int) -> int:
    """Parameters of a :class:`~sfumato.networks.Discriminator`."""
    wide = levels(size, width)
    blocks = sum(convolution(a, b, 4) for a, b in pairwise([channels, *wide]))
    features = wide[-1] * COARSEST**2
    return blocks + linear(features, 1) + classes * features


@dataclass(frozen=True)
class LowerShape:
    """The layers of DPAF's discriminator below its sum; see :class:`Lower`, which they make."""

    size: int
    channels: int
    width: int
    maps: int
    position: int | None = None

    @property
    def convolutions(self) -> int:
        """How many there are: as many as leave maps of 8 pixels a side, unless it is stated."""
        return self.position or max(1, len(levels(self.size, self.width)) - 1)

    @property
    def padded(self) -> int:
        """Side in pixels that images are padded to."""
        return COARSEST * 2 ** len(levels(self.size, self.width))

    @property
    def side(self) -> int:
        """Side of the maps that are added up."""
        return self.padded // 2**self.convolutions

    @property
    def wide(self) -> list[int]:
        """Channels of the image and after each convolution."""
        inner = [self.width * min(2**level, 2) for level in range(self.convolutions - 1)]
        return [self.channels, *inner, self.maps]

    @property
    def norm(self) -> float:
        """√m · side, the norm of an image's normalised maps."""
        return float(self.maps**0.5 * self.side)

    @property
    def trained(self) -> int:
        """Parameters of all convolutions but the first, whose weights are fixed."""
        return sum(convolution(a, b, 4) for a, b in pairwise(self.wide[1:]))
