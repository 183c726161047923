"""Activations of convolutional networks whose weights are random and public.

A classifier that is trained on generated images from scratch begins as such a network. Means of
these activations are what distribution matching (Zhao and Bilen, arXiv 2110.04181) matches; the
weights follow from a public seed, so nothing is learned from anybody.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.features.perceptual import to_unit
from sfumato.features.shipped import RANDOM_CHANNELS

LARGEST_BIAS = 0.1
CHUNK = 250


class RandomConvolutions(nn.Module):
    """The last two of three layers of ``networks`` random networks, each less its public mean.

    A layer is a convolution of 3 × 3, the largest of each 2 × 2, and a rectifier. An image has a
    row of norm at most RANDOM_NORM: a layer's activations have norm 1, and the networks share it.

    Args:
        networks: N, at least 1.
        channels: of the images, 1 or 3.
        seed: public seed of the weights.
    """

    means: Tensor | None

    def __init__(self, networks: int, channels: int, seed: int = 0) -> None:
        super().__init__()
        self.networks, self.channels, rng = networks, channels, np.random.default_rng(seed)
        for number in range(networks):
            before = channels
            for layer, after in enumerate(RANDOM_CHANNELS):
                deviation = np.sqrt(2 / (9 * before))
                weight = rng.normal(0, deviation, (after, before, 3, 3)).astype(np.float32)
                bias = rng.normal(0, LARGEST_BIAS, after).astype(np.float32)
                self.register_buffer(f"weight_{number}_{layer}", torch.from_numpy(weight))
                self.register_buffer(f"bias_{number}_{layer}", torch.from_numpy(bias))
                before = after
        self.register_buffer("means", None)

    @torch.no_grad()
    def centre(self, public: NDArray[np.uint8]) -> RandomConvolutions:
        """Subtract from now on what public images have on average; returns itself."""
        total: Tensor | None = None
        for start in range(0, len(public), CHUNK):
            rows = torch.cat(self._layers(to_unit(public[start : start + CHUNK])), dim=1)
            total = rows.sum(dim=0) if total is None else total + rows.sum(dim=0)
        assert total is not None
        self.means = total / len(public)
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Float ``[b, 1 or channels, h, w]`` in [0, 1] → float32 ``[b, d]``.

        Differentiable; a row depends on its own image alone.
        """
        layers = self._layers(images)
        if self.means is not None:
            means = self.means.split([layer.shape[1] for layer in layers])
            layers = [layer - mean for layer, mean in zip(layers, means, strict=True)]
        return torch.cat([F.normalize(layer) for layer in layers], dim=1) / self.networks**0.5

    def _layers(self, images: Tensor) -> list[Tensor]:
        found = []
        for number in range(self.networks):
            x = (2 * images - 1).expand(-1, self.channels, -1, -1)  # grey is in all channels alike
            x = x.contiguous(memory_format=torch.channels_last)
            for layer in range(len(RANDOM_CHANNELS)):
                weight = getattr(self, f"weight_{number}_{layer}")
                bias = getattr(self, f"bias_{number}_{layer}")
                x = F.relu(F.max_pool2d(F.conv2d(x, weight, bias, padding=1), 2))
                if layer:
                    found.append(x.flatten(1))
        return found
