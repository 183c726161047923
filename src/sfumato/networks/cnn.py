"""A small convolutional classifier for training on noisy gradients."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfumato.networks.sizes import COARSEST


class TanhCNN(nn.Module):
    """Two strided convolutions and two linear layers with tanh between them.

    Few parameters, so that little noise is added in all, and bounded activations, which keep
    gradients small (arXiv 2007.14191, section 4). Every layer has a rule for gradients per unit.

    Args:
        channels: 1 or 3.
        classes: number of classes.
        width: channels of the first convolution; the second and the linear layer have twice as
            many.
    """

    def __init__(self, channels: int, classes: int, width: int = 16) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(channels, width, 8, stride=2, padding=2),
            nn.Tanh(),
            nn.MaxPool2d(2, 1),
            nn.Conv2d(width, 2 * width, 4, stride=2),
            nn.Tanh(),
            nn.MaxPool2d(2, 1),
            nn.AdaptiveAvgPool2d(COARSEST),
            nn.Flatten(),
            nn.Linear(2 * width * COARSEST**2, 2 * width),
            nn.Tanh(),
            nn.Linear(2 * width, classes),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Logits ``[b, classes]`` of images ``[b, channels, h, w]`` in [-1, 1]."""
        logits: Tensor = self.layers(images.contiguous(memory_format=torch.channels_last))
        return logits
