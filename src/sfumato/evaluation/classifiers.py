"""The networks whose accuracy on real images says what synthetic ones are worth.

Each takes float images ``[b, c, h, w]`` in [-1, 1] and returns logits ``[b, classes]``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise
from math import ceil, log2

from torch import Tensor, nn

from sfumato.errors import UsageError

Shape = tuple[int, int, int]
"""Channels, height, width."""


class Logistic(nn.Module):
    """Multinomial logistic regression on pixels in [0, 1], scikit-learn's usual scale."""

    def __init__(self, shape: Shape, classes: int) -> None:
        super().__init__()
        channels, height, width = shape
        self.linear = nn.Linear(channels * height * width, classes)
        # The problem is convex: a start at zero makes the answer the same for every seed.
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, images: Tensor) -> Tensor:
        # W(x + 1)/2 + b, with the scaling moved to the weights, which are fewer than the pixels.
        half = self.linear.weight / 2
        return nn.functional.linear(images.flatten(1), half, self.linear.bias + half.sum(1))


def mlp(shape: Shape, classes: int) -> nn.Module:
    """One hidden layer of 100 units, scikit-learn's default perceptron."""
    channels, height, width = shape
    pixels = channels * height * width
    return nn.Sequential(nn.Flatten(), nn.Linear(pixels, 100), nn.ReLU(), nn.Linear(100, classes))


def stages(height: int, width: int) -> int:
    """Poolings that bring an image to about 4 pixels: 3 up to 32, one more for each doubling."""
    return 3 + max(0, ceil(log2(min(height, width) / 32)))


def cnn(shape: Shape, classes: int) -> nn.Module:
    """The CNN of DPDM's protocol (arXiv 2210.09929): convolutions 32-64-128, dense 128, dropout.

    Pooling comes before the ReLU: the two commute, and the ReLU then touches a quarter as much.
    Images above 32 pixels get one more convolution of 128 channels and pooling a doubling.
    """
    channels, height, width = shape
    depth = stages(height, width)
    layers: list[nn.Module] = []
    for out in [32, 64, *[128] * (depth - 2)]:
        layers += [nn.Conv2d(channels, out, 3, padding=1), nn.MaxPool2d(2), nn.ReLU()]
        channels = out
    dense = 128 * (height >> depth) * (width >> depth)
    layers += [nn.Flatten(), nn.Linear(dense, 128), nn.ReLU()]
    return nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(128, classes))


class Residual(nn.Module):
    """Two convolutions of stride 2 and 1 with BatchNorm, beside a strided linear shortcut."""

    def __init__(self, channels: int, out: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(out),
            nn.ReLU(),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            nn.BatchNorm2d(out),
        )
        self.shortcut = nn.Conv2d(channels, out, 1, stride=2, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.branch(x) + self.shortcut(x))


def resnet(shape: Shape, classes: int) -> nn.Module:
    """A small residual network: a stem, blocks of 32-64-128 channels, global average pooling."""
    channels, height, width = shape
    stem = [nn.Conv2d(channels, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU()]
    widths = [32, 32, 64, *[128] * (stages(height, width) - 2)]
    blocks = [Residual(a, b) for a, b in pairwise(widths)]
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes)]
    return nn.Sequential(*stem, *blocks, *head)


@dataclass(frozen=True)
class Recipe:
    """A network and how it is trained: by Adam, or to the optimum where ``epochs`` is None."""

    build: Callable[[Shape, int], nn.Module]
    epochs: int | None = None
    batch_size: int = 1000
    learning_rate: float = 1.0


RECIPES = {
    "logistic": Recipe(Logistic),
    "mlp": Recipe(mlp, epochs=50, batch_size=200, learning_rate=1e-3),
    "cnn": Recipe(cnn, epochs=50, batch_size=128, learning_rate=3e-4),
    "resnet": Recipe(resnet, epochs=20, batch_size=128, learning_rate=1e-3),
}
"""Every classifier by name; the CNN's recipe is DPDM's (arXiv 2210.09929, appendix)."""

QUICK = "-quick"
"""Ends the name of a recipe with a tenth of the epochs, so that no table can hide the shortcut."""

RECIPES |= {
    name + QUICK: replace(how, epochs=how.epochs // 10)
    for name, how in RECIPES.items()
    if how.epochs
}


def quick(classifier: str) -> str:
    """The short form of ``classifier``; itself where it has none (logistic regression)."""
    return classifier + QUICK if classifier + QUICK in RECIPES else classifier


def recipe(classifier: str) -> Recipe:
    """The recipe of ``classifier``.

    Raises:
        UsageError: there is none of that name.
    """
    if classifier not in RECIPES:
        raise UsageError(f"classifier={classifier!r} is not known. Use one of {sorted(RECIPES)}.")
    return RECIPES[classifier]
