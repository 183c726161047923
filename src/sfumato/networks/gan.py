"""A class-conditional generator and the discriminator that mirrors it, for images up to 128 pixels.

Both go through grids of 4, 8, 16, … pixels a side; what is not such a size is padded for the
discriminator and cut out of the generator's image. No layer of either mixes the rows of a batch.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.networks.sizes import COARSEST, levels

LEAK = 0.2
GROUPS = 4


class Generator(nn.Module):
    """G(z, y): noise and a class become an image in (-1, 1).

    Args:
        size: image height and width in pixels.
        channels: 1 or 3.
        classes: number of classes, at least 1.
        width: channels of the finest level, a multiple of 4.
        latent: dimension of z.
    """

    def __init__(
        self, size: int, channels: int, classes: int, width: int = 32, latent: int = 64
    ) -> None:
        super().__init__()
        self.size, self.classes, self.latent = size, classes, latent
        wide = levels(size, width)[::-1]
        self.label = nn.Embedding(classes, latent)
        self.enter = nn.Linear(2 * latent, wide[0] * COARSEST**2)
        blocks: list[nn.Module] = []
        for inputs, outputs in zip(wide, [*wide[1:], channels], strict=True):
            blocks += [
                nn.GroupNorm(GROUPS, inputs),
                nn.LeakyReLU(LEAK),
                nn.Upsample(scale_factor=2, mode="bilinear"),
                nn.Conv2d(inputs, outputs, 3, padding=1),
            ]
        self.blocks = nn.Sequential(*blocks)

    def forward(self, z: Tensor, labels: Tensor) -> Tensor:
        """Images ``[b, channels, size, size]``.

        Args:
            z: ``[b, latent]``, standard normal.
            labels: int64 ``[b]``.
        """
        coarse = self.enter(torch.cat([z, self.label(labels)], dim=1))
        images = torch.tanh(self.blocks(coarse.unflatten(1, (-1, COARSEST, COARSEST))))
        edge = (images.shape[-1] - self.size) // 2
        inside = slice(edge, edge + self.size)
        return images[:, :, inside, inside]


class Discriminator(nn.Module):
    """D(x, y): how real an image of its class looks, as a logit; a projection discriminator.

    The class enters as in arXiv 1802.05637: logit = ⟨v + e_y, φ(x)⟩ with a vector e_y per class.
    Every layer has a rule for gradients per unit, and is used once a pass.

    Args:
        size, channels, classes, width: as of the :class:`Generator`.
    """

    def __init__(self, size: int, channels: int, classes: int, width: int = 32) -> None:
        super().__init__()
        narrow = levels(size, width)
        self.missing = COARSEST * 2 ** len(narrow) - size
        blocks: list[nn.Module] = []
        for inputs, outputs in zip([channels, *narrow], narrow, strict=False):
            blocks += [nn.Conv2d(inputs, outputs, 4, stride=2, padding=1), nn.LeakyReLU(LEAK)]
        self.blocks = nn.Sequential(*blocks)
        features = narrow[-1] * COARSEST**2
        self.score = nn.Linear(features, 1)
        self.label = nn.Embedding(classes, features)
        nn.init.normal_(self.label.weight, std=features**-0.5)

    def forward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Logits ``[b]``: images in [-1, 1] ``[b, channels, size, size]``, labels int64 ``[b]``."""
        edge = self.missing // 2
        padded = F.pad(images, (edge, self.missing - edge) * 2)
        features = self.blocks(padded).flatten(1)
        logits: Tensor = self.score(features).squeeze(1)
        return logits + (self.label(labels) * features).sum(dim=1)
