"""A generator of class-conditional images: a coarse Gaussian start, refined by a network."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.data.spec import PublicSpec
from sfumato.devices import bfloat16_where, trains_in_bfloat16
from sfumato.features import dct_basis
from sfumato.methods.gaussian import Gaussians
from sfumato.networks import Random, Refiner, normal

GREY = 0.5


def refiner(spec: PublicSpec, width: int) -> Refiner:
    """An untrained refining network for images of ``spec``."""
    network = Refiner(spec.height, spec.channels, max(len(spec.classes), 1), width)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


class StartedGenerator(nn.Module):
    """G(y): start images from class Gaussians (grey without), then the refining network.

    Args:
        spec: shape and classes of the images.
        start: released class Gaussians, or None to start from mid-grey and noise alone.
        network: turns start images into images.
    """

    basis: Tensor

    def __init__(self, spec: PublicSpec, start: Gaussians | None, network: Refiner) -> None:
        super().__init__()
        self.spec, self.refiner, self.start = spec, network, start
        size = start.means.shape[1] if start else 0
        basis: NDArray[np.float32] = dct_basis(spec, size)
        self.register_buffer("basis", torch.from_numpy(basis), persistent=False)

    @property
    def width(self) -> int:
        """Channels of the network's widest resolution."""
        return self.refiner.width

    def forward(self, labels: Tensor, random: Random) -> tuple[Tensor, Tensor]:
        """Images, and how far the network moved the logits of their start images.

        Args:
            labels: int64 ``[b]``.
            random: where the start images and the network's noise come from.

        Returns:
            images float32 ``[b, c, h, w]`` in [0, 1], and the change of their logits.
        """
        spec, count, device = self.spec, len(labels), random.device
        shape = (count, spec.channels, spec.height, spec.width)
        if self.start is None:
            start = torch.full(shape, GREY, device=device)
        else:
            start = self.start.draw(labels, self.basis, random).view(shape)
        grid = (count, self.refiner.noise_channels, self.refiner.grid, self.refiner.grid)
        noise = normal(random, grid)
        with bfloat16_where(trains_in_bfloat16(device), device):
            images, change = self.refiner(start, noise, labels)
        return images, change
