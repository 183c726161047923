"""The spaces in which candidates are near: a public encoder's, or the lowest frequencies."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from sfumato.data.spec import PublicSpec
from sfumato.devices import moved
from sfumato.features import dct_basis
from sfumato.features.shipped import ShippedCoordinates
from sfumato.methods.pe.method import COSINES

if TYPE_CHECKING:
    from sfumato.methods.pe.method import PrivateEvolution


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
