"""Pooled features: the mean activation of every block of a public encoder, image enlarged first.

Networks that were trained on photographs of 224 pixels see more in a small image when it is
enlarged before it enters. Averages over space keep what kind of image it is and drop where things
stand, which is what a linear classifier needs.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.devices import CPU, device_of
from sfumato.features.encoder import Encoder, load_encoder
from sfumato.features.perceptual import PublicAxes, to_unit
from sfumato.features.shipped import (
    AXES,
    CHANNELS,
    LARGEST_SIZE,
    ShippedCoordinates,
    axes_digest,
    shipped_axes,
)

CHUNK = 250


@torch.no_grad()
def directions(images: NDArray[np.uint8], coordinates: Callable[[Tensor], Tensor]) -> Tensor:
    """Coordinates float32 ``[n, width]`` of public images, of norm 1: nearness is their cosine.

    ``coordinates``: float images in [0, 1] → ``[b, width]``, computed where its tensors are.
    """
    parts = (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
    device = device_of(coordinates) if isinstance(coordinates, nn.Module) else CPU
    rows = torch.cat([coordinates(to_unit(part).to(device)) for part in parts]).cpu()
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-6)


class PooledFeatures(nn.Module):
    """Mean activation of each channel of each block.

    Args:
        encoder: the frozen public encoder.
        size: side in pixels that images are enlarged to; larger images stay as they are.
    """

    def __init__(self, encoder: Encoder, size: int) -> None:
        super().__init__()
        self.encoder, self.size = encoder, size

    @property
    def width(self) -> int:
        """Number of features: the channels of all blocks."""
        return sum(CHANNELS)

    def forward(self, images: Tensor) -> Tensor:
        """Float ``[b, 1 or 3, h, w]`` in [0, 1] → float32 ``[b, channels of all blocks]``.

        Differentiable; a row depends on its own image alone.
        """
        if max(images.shape[-2:]) < self.size:
            size = (self.size, self.size)
            images = F.interpolate(images, size, mode="bilinear", align_corners=False)
        maps = self.encoder(images)
        return torch.cat([layer.to(torch.float32).mean(dim=(2, 3)) for layer in maps], dim=1)

    @torch.no_grad()
    def of(self, images: NDArray[np.uint8]) -> Tensor:
        """Features of many public or generated images, batch by batch."""
        chunks = (images[i : i + CHUNK] for i in range(0, len(images), CHUNK))
        return torch.cat([self(to_unit(chunk).to(self.encoder.mean.device)) for chunk in chunks])


class PooledCoordinates(nn.Module):
    """Public coordinates t of an image: pooled features along public axes, of L2 norm at most 1.

    Args:
        features: what the axes were fitted on.
        axes: whitened public axes.
    """

    def __init__(self, features: PooledFeatures, axes: PublicAxes) -> None:
        super().__init__()
        self.features, self.axes = features, axes

    @classmethod
    def of(
        cls, encoder: str, size: int, count: int, public: NDArray[np.uint8] | None = None
    ) -> PooledCoordinates:
        """The first ``count`` of the axes that ship, or of those of the user's public images.

        Raises:
            UsageError: so many do not ship.
        """
        features = PooledFeatures(load_encoder(encoder), size)
        if public is not None:
            return cls(features, fitted_axes(features.of(public), count))
        known = ShippedCoordinates(encoder, size, count)
        mean, axes = (torch.from_numpy(array.copy()) for array in shipped_axes(known.count))
        return cls(features, PublicAxes(mean, axes, whitened=True))

    def loaded(self) -> PooledCoordinates:
        """Itself; :class:`ShippedCoordinates` are known before they are loaded."""
        return self

    @property
    def width(self) -> int:
        """Length of t."""
        return self.axes.axes.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        """Float images in [0, 1] → ``[b, width]``; differentiable."""
        coordinates: Tensor = self.axes(self.features(images))
        return coordinates

    @property
    def digest(self) -> str:
        """SHA-256 of the axes, as little-endian float32."""
        return axes_digest(*(tensor.cpu().numpy() for tensor in self.tensors().values()))

    def tensors(self) -> dict[str, Tensor]:
        """The tensors that :meth:`load` needs."""
        return {"mean": self.axes.mean, "axes": self.axes.axes}

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides them."""
        return {"encoder": self.features.encoder.name, "encoder_size": self.features.size}

    @classmethod
    def load(cls, config: dict[str, Any], tensors: dict[str, Tensor]) -> PooledCoordinates:
        """Rebuild coordinates from what was saved.

        Raises:
            ValueError: the axes are not those of the encoder's features.
        """
        size = config["encoder_size"]
        if not isinstance(size, int) or not 1 <= size <= LARGEST_SIZE:
            raise ValueError("images cannot be enlarged so far")
        features = PooledFeatures(load_encoder(config["encoder"]), size)
        mean, axes = tensors["mean"], tensors["axes"]
        if axes.ndim != 2 or mean.shape != (len(axes),) or len(axes) != features.width:
            raise ValueError("the axes are not those of the encoder's features")
        if not all(t.dtype == torch.float32 and bool(t.isfinite().all()) for t in (mean, axes)):
            raise ValueError("the axes must be finite float32 numbers")
        return cls(features, PublicAxes(mean, axes, whitened=True))


def fitted_axes(features: Tensor, count: int) -> PublicAxes:
    """Half-whitened principal axes of public pooled features ``[n, width]``, blocks weighing alike.

    Half-whitened: each axis is divided by its spread plus that of the middle one, so that the
    smallest are not blown up.
    """
    blocks = features.split(list(CHANNELS), dim=1)
    norms = [block.square().sum(dim=1).mean().sqrt() for block in blocks]
    scale = torch.cat([norm.expand(n) for norm, n in zip(norms, CHANNELS, strict=True)]) + 1e-6
    axes = PublicAxes.fit(features / scale, min(count, features.shape[1]), whiten=True)
    return PublicAxes(axes.mean * scale, axes.axes / scale[:, None], whitened=True)


def photograph_card() -> dict[str, Any]:
    """What the shipped axes were fitted on, and how: source, licence, digests and settings."""
    with safe_open(files("sfumato.features").joinpath(AXES), framework="numpy") as file:
        card: dict[str, Any] = json.loads(file.metadata()["card"])
    return card
