"""The spaces in which candidates are near: a public encoder's, or the lowest frequencies."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.data.spec import PublicSpec
from sfumato.devices import CPU, device_of, moved
from sfumato.features import dct_basis, to_unit
from sfumato.features.shipped import ShippedCoordinates
from sfumato.methods.pe.method import COSINES

if TYPE_CHECKING:
    from sfumato.methods.pe.method import PrivateEvolution

CHUNK = 250


@runtime_checkable
class Coordinates(Protocol):
    """Public coordinates of an image; nearness is the cosine between them."""

    @property
    def width(self) -> int:
        """Their number."""

    def __call__(self, images: Tensor) -> Tensor:
        """Float images ``[b, c, h, w]`` in [0, 1] → ``[b, width]``, each row from its own image."""


def placed(coordinates: Coordinates, device: torch.device) -> Coordinates:
    """The coordinates, computed on ``device`` where they are a network."""
    return moved(coordinates, device) if isinstance(coordinates, nn.Module) else coordinates


class LowFrequencies(nn.Module):
    """Cosine coefficients of the lowest frequencies but the mean: shapes, blurred."""

    basis: Tensor

    def __init__(self, spec: PublicSpec) -> None:
        super().__init__()
        self.register_buffer("basis", torch.from_numpy(dct_basis(spec, COSINES + 1)[1:].T.copy()))

    @property
    def width(self) -> int:
        """Number of coefficients."""
        return self.basis.shape[1]

    def forward(self, images: Tensor) -> Tensor:
        """Float images in [0, 1] → ``[b, width]``."""
        return images.flatten(1) @ self.basis


@lru_cache(maxsize=1)
def coordinates_of(method: PrivateEvolution, spec: PublicSpec) -> Coordinates:
    """The space in which the candidates of a configuration are near."""
    if method.near == "pixels":
        return LowFrequencies(spec)
    return ShippedCoordinates(method.encoder, method.encoder_size, method.axes).loaded()


@torch.no_grad()
def features_of(images: NDArray[np.uint8], coordinates: Coordinates) -> Tensor:
    """Coordinates float32 ``[n, width]`` of public images, of norm 1, batch by batch."""
    parts = (images[start : start + CHUNK] for start in range(0, len(images), CHUNK))
    device = device_of(coordinates) if isinstance(coordinates, nn.Module) else CPU
    rows = torch.cat([coordinates(to_unit(part).to(device)) for part in parts]).cpu()
    return rows / rows.norm(dim=1, keepdim=True).clamp(min=1e-6)
