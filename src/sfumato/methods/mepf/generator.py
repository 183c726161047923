"""A generator of class-conditional images: a coarse Gaussian start, refined by a network."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.data.spec import PublicSpec
from sfumato.features import dct_basis
from sfumato.methods.gaussian import Gaussians
from sfumato.networks import Refiner, fast_bfloat16

GREY = 0.5


def refiner(spec: PublicSpec, width: int) -> Refiner:
    """An untrained refining network for images of ``spec``."""
    return Refiner(spec.height, spec.channels, max(len(spec.classes), 1), width)


class Generator(nn.Module):
    """G(y): start images from class Gaussians (grey without), then the refining network.

    Args:
        spec: shape and classes of the images.
        start: released class Gaussians, or None to start from mid-grey and noise alone.
        width: channels of the network.
    """

    basis: Tensor

    def __init__(self, spec: PublicSpec, start: Gaussians | None, width: int) -> None:
        super().__init__()
        self.spec, self.width = spec, width
        self.refiner = refiner(spec, width)
        self.refiner.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.start = start
        size = start.means.shape[1] if start else 0
        basis: NDArray[np.float32] = dct_basis(spec, size)
        self.register_buffer("basis", torch.from_numpy(basis), persistent=False)

    def draw(self, labels: Tensor, noise: torch.Generator) -> Tensor:
        """Images float32 ``[b, c, h, w]`` in [0, 1] for int64 labels ``[b]``; differentiable."""
        return self.draw_with_change(labels, noise)[0]

    def draw_with_change(self, labels: Tensor, noise: torch.Generator) -> tuple[Tensor, Tensor]:
        """Images, and how far the network moved the logits of their start images."""
        spec, count = self.spec, len(labels)
        shape = (count, spec.channels, spec.height, spec.width)
        if self.start:
            start = self.start.draw(labels, self.basis, noise).view(shape)
        else:
            start = torch.full(shape, GREY)
        grid = (count, self.refiner.noise_channels, self.refiner.grid, self.refiner.grid)
        extra = torch.randn(grid, generator=noise)
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_bfloat16()):
            images, change = self.refiner(start, extra, labels)
        return images, change
