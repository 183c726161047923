"""A discriminator in two parts, cut where the features of a batch are added up (DPAF).

Lin et al., arXiv 2304.12185: convolutions and instance normalisation below the sum over the batch;
a convolution and a linear layer above it, which see class means only.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.networks.gan import LEAK
from sfumato.networks.sizes import LowerShape

MapShape: TypeAlias = "tuple[int, int, int]"
"""Channels, height and width of a group of maps."""


class FixedConvolution(nn.Module):
    """A stride-two convolution whose weights are not trained."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        layer = nn.Conv2d(inputs, outputs, 4, stride=2, padding=1)
        self.register_buffer("weight", nn.init.normal_(layer.weight.detach(), std=inputs**-0.5 / 4))
        self.register_buffer("bias", nn.init.uniform_(torch.empty(outputs), -0.5, 0.5))

    def forward(self, images: Tensor) -> Tensor:
        """Half the side, ``outputs`` channels."""
        weight, bias = self.get_buffer("weight"), self.get_buffer("bias")
        return F.conv2d(images, weight, bias, stride=2, padding=1)


class Lower(nn.Module):
    """The layers below the sum; none mixes the rows of a batch.

    Args:
        size: image height and width in pixels.
        channels: 1 or 3.
        width: channels of the first, fixed convolution.
        maps: m, channels of the feature maps that are added up.
        position: convolutions below the sum; by default as many as leave maps of 8 pixels a side.
        normalised: whether each map of each image is brought to mean 0 and variance 1.
    """

    def __init__(
        self,
        size: int,
        channels: int,
        width: int,
        maps: int,
        position: int | None = None,
        normalised: bool = True,
    ) -> None:
        super().__init__()
        self.shape = shape = LowerShape(size, channels, width, maps, position)
        self.missing, self.normalised, self.maps = shape.padded - size, normalised, maps
        self.side = shape.side
        blocks: list[nn.Module] = []
        for level, (inputs, outputs) in enumerate(pairwise(shape.wide)):
            if level == 0:
                blocks.append(FixedConvolution(inputs, outputs))
            else:
                blocks.append(nn.Conv2d(inputs, outputs, 4, stride=2, padding=1))
            blocks.append(nn.LeakyReLU(LEAK))
        self.blocks = nn.Sequential(*blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Feature maps ``[b, maps, side, side]`` of images in [-1, 1]."""
        edge = self.missing // 2
        maps: Tensor = self.blocks(F.pad(images, (edge, self.missing - edge) * 2, value=-1.0))
        return F.instance_norm(maps) if self.normalised else maps

    @property
    def device(self) -> torch.device:
        """Where the weights are; the first layer is a buffer, and may be the only one."""
        return next(self.buffers()).device

    @property
    def map_shapes(self) -> list[MapShape]:
        """The form of its maps: what the layers above are made for."""
        return [(self.maps, self.side, self.side)]


class Upper(nn.Module):
    """The layers above the sum: how real the mean feature maps of a class look, as a logit.

    Args:
        shapes: of the groups of maps that are added up; each has a convolution of its own.
        classes: number of classes, at least 1.
        width: channels of each convolution.
    """

    def __init__(self, shapes: Sequence[MapShape], classes: int, width: int) -> None:
        super().__init__()
        self.shapes = list(shapes)
        blocks, features = [], 0
        for channels, *sides in shapes:
            kernel = min(4, *(side + 2 for side in sides))  # a single pixel has room for 3
            convolution = nn.Conv2d(channels, width, kernel, stride=2, padding=1)
            blocks.append(nn.Sequential(convolution, nn.LeakyReLU(LEAK), nn.Flatten()))
            features += width * prod((side + 2 - kernel) // 2 + 1 for side in sides)
        self.blocks = nn.ModuleList(blocks)
        self.score = nn.Linear(features, 1)
        self.label = nn.Embedding(classes, features)
        nn.init.normal_(self.label.weight, std=features**-0.5)

    def forward(self, means: Tensor, labels: Tensor) -> Tensor:
        """Logits ``[b]`` of mean maps, flat ``[b, dimension]``, of classes int64 ``[b]``."""
        groups = means.split([prod(shape) for shape in self.shapes], dim=1)
        judged = [
            block(maps.unflatten(1, shape))
            for block, maps, shape in zip(self.blocks, groups, self.shapes, strict=True)
        ]
        features = torch.cat(judged, dim=1)
        logits: Tensor = self.score(features).squeeze(1)
        return logits + (self.label(labels) * features).sum(dim=1)
