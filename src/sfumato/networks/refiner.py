"""A small U-shaped network that turns blurred start images into sharp ones.

It works at half the image's resolution and below (a quarter at 64 pixels, an eighth at 128), where
convolutions are cheap, and writes its correction at full resolution through bilinear upsampling,
which leaves no checkerboard. It has no normalisation layers: residual branches start at zero.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEAK = 0.1


def activate(x: Tensor) -> Tensor:
    """A leaky rectifier: without normalisation layers a plain one can die for good."""
    return F.leaky_relu(x, LEAK)


class Residual(nn.Module):
    """x + conv(act(conv(act(x)))), the identity at the start."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(activate(self.first(activate(x))))


class Refiner(nn.Module):
    """G(x₀, n, y): a start image, noise and a class become an image.

    Args:
        size: image height and width in pixels.
        channels: 1 or 3.
        classes: number of classes, at least 1.
        width: channels of the widest resolution; the middle has twice as many.
    """

    noise_channels = 4

    def __init__(self, size: int, channels: int, classes: int, width: int = 48) -> None:
        super().__init__()
        self.fold = 2 * max(1, size // 32)
        self.size, self.width = size, width
        self.missing = -size % (2 * self.fold)
        self.grid = (size + self.missing) // self.fold
        inputs = channels * self.fold**2 + self.noise_channels
        self.enter = nn.Sequential(nn.Conv2d(inputs, width, 3, padding=1), Residual(width))
        self.down = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.label = nn.Embedding(classes, 2 * width)
        self.middle = nn.Sequential(*(Residual(2 * width) for _ in range(3)))
        self.up = nn.ConvTranspose2d(2 * width, width, 2, stride=2)
        self.leave = Residual(width)
        steps: list[nn.Module] = []
        for factor in range(self.fold.bit_length() - 1):
            narrow = max(width // 2 ** (factor + 1), 16)
            steps += [
                nn.LeakyReLU(LEAK),
                nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
                nn.Conv2d(width, narrow, 3, padding=1),
            ]
            width = narrow
        self.sharpen = nn.Sequential(*steps, nn.LeakyReLU(LEAK))
        self.paint = nn.Conv2d(width + channels, channels, 3, padding=1)
        nn.init.zeros_(self.paint.weight)
        nn.init.zeros_(self.paint.bias)  # type: ignore[arg-type]

    def forward(self, start: Tensor, noise: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Images in [0, 1] from start images in [0, 1], and the change of their logits.

        Args:
            start: ``[b, channels, size, size]``.
            noise: ``[b, noise_channels, grid, grid]``, standard normal.
            labels: int64 ``[b]``.
        """
        start = F.pad(start, (0, self.missing, 0, self.missing))
        folded = F.pixel_unshuffle(start * 2 - 1, self.fold)
        high = self.enter(torch.cat([folded, noise], dim=1))
        low = self.down(high) + self.label(labels)[:, :, None, None]
        high = self.leave(self.up(self.middle(low)) + high)
        change = self.paint(torch.cat([self.sharpen(high), start], dim=1))
        change = change.float()
        image = torch.sigmoid(torch.logit(start.float().clamp(0.02, 0.98)) + change)
        return image[:, :, : self.size, : self.size], change
