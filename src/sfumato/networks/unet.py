"""The DDPM++ U-Net that denoises images of known noise level, and its patchified small form.

A network for per-example gradients: its parameters live in plain convolution, linear,
normalisation and embedding modules, each called exactly once a pass, and no operation mixes
examples or writes in place.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.nn import functional as F

Resample = Callable[[Tensor], Tensor]
Module = TypeVar("Module", nn.Conv2d, nn.Linear)

LONGEST_PERIOD = 10_000.0
CHANNELS_PER_GROUP = 4


def normalisation(width: int) -> nn.GroupNorm:
    """Group normalisation over four channels at a time, as DDPM++ has up to 128 channels."""
    return nn.GroupNorm(width // CHANNELS_PER_GROUP, width, eps=1e-6)


def normalise(norm: nn.GroupNorm, x: Tensor) -> Tensor:
    """Group normalisation in float32: PyTorch's bfloat16 kernel is five times slower on CPUs."""
    return norm(x.float()).to(x.dtype)


def started(module: Module) -> Module:
    """DDPM's start: uniform weights of variance 2 / (inputs + outputs), biases zero."""
    nn.init.xavier_uniform_(module.weight)
    nn.init.zeros_(module.bias)  # type: ignore[arg-type]
    return module


def silenced(module: nn.Conv2d) -> nn.Conv2d:
    """The same convolution with all weights zero, so that its branch starts as nothing."""
    nn.init.zeros_(module.weight)
    return module


def convolution(inputs: int, outputs: int, kernel: int = 3) -> nn.Conv2d:
    """A convolution that keeps the resolution."""
    return started(nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2))


def merge(x: Tensor, branch: Tensor) -> Tensor:
    """The sum of two equally large signals, rescaled to the size of one."""
    return (x + branch) * math.sqrt(0.5)


def halve(x: Tensor) -> Tensor:
    """Average over 2×2 pixels; at an odd edge over those that are there."""
    return F.avg_pool2d(x, 2, ceil_mode=True)


def double(x: Tensor) -> Tensor:
    """Every pixel becomes 2×2."""
    return F.interpolate(x, scale_factor=2.0)


def cropped(x: Tensor, other: Tensor) -> Tensor:
    """What ``halve`` added at an odd edge, taken away again."""
    return x[:, :, : other.shape[2], : other.shape[3]]


def positional(value: Float[Tensor, " b"], width: int) -> Float[Tensor, "b width"]:
    """Sines and cosines of ``value`` at frequencies from 1 down to 1/10,000 (arXiv 1706.03762)."""
    steps = torch.arange(width // 2, dtype=torch.float32, device=value.device)
    frequencies = torch.exp(-math.log(LONGEST_PERIOD) / (width // 2 - 1) * steps)
    angles = value.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


class Residual(nn.Module):
    """The BigGAN block of arXiv 2011.13456, which adds the embedding between its convolutions.

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        embedding: width of the embedding of noise level and label.
        resample: changes the resolution of both branches; the shortcut is then projected.
    """

    def __init__(
        self, inputs: int, outputs: int, embedding: int, resample: Resample | None = None
    ) -> None:
        super().__init__()
        self.resample = resample or nn.Identity()
        self.before = normalisation(inputs)
        self.first = convolution(inputs, outputs)
        self.condition = started(nn.Linear(embedding, outputs))
        self.between = normalisation(outputs)
        self.second = silenced(convolution(outputs, outputs))
        same = inputs == outputs and resample is None
        self.shortcut = nn.Identity() if same else convolution(inputs, outputs, 1)

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        h = self.first(self.resample(F.silu(normalise(self.before, x))))
        h = h + self.condition(embedding)[:, :, None, None]
        h = self.second(F.silu(normalise(self.between, h)))
        return merge(self.shortcut(self.resample(x)), h)


class Attention(nn.Module):
    """Every pixel attends to every pixel of its image with one head."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = normalisation(width)
        self.project = convolution(width, 3 * width, 1)
        self.out = silenced(convolution(width, width, 1))

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = (
            self.project(normalise(self.norm, x)).flatten(2).transpose(1, 2).chunk(3, dim=2)
        )
        # Plain products: the fused kernel has no batching rule under torch.func.vmap on CPUs.
        weights = (query @ key.transpose(1, 2) * x.shape[1] ** -0.5).softmax(dim=2)
        return merge(x, self.out((weights @ value).transpose(1, 2).reshape(x.shape)))


class Block(nn.Module):
    """A residual block, followed by attention where wanted."""

    def __init__(self, inputs: int, outputs: int, embedding: int, attention: bool) -> None:
        super().__init__()
        self.residual = Residual(inputs, outputs, embedding)
        self.attention = Attention(outputs) if attention else nn.Identity()

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        return self.attention(self.residual(x, embedding))


class UNet(nn.Module):
    """F(x; c_noise, y) of DPDM (arXiv 2210.09929): DDPM++ (arXiv 2011.13456) without dropout.

    The defaults are the paper's at 28 pixels; it also attends at 16 pixels for images of 32
    (``attention=16``). The output starts at zero.

    Args:
        size: image height and width in pixels.
        channels: 1 or 3.
        classes: number of classes, or 0 for a network that takes no labels.
        width: channels of the first level, a multiple of 4.
        multipliers: channels of each level relative to ``width``; a level halves the resolution.
        blocks: residual blocks a level on the way down; one more on the way up.
        attention: largest resolution with attention, in pixels of the folded image.
        patch: the image is folded into patches of this side first: the same network with
            ``patch``² times fewer pixels to convolve.
    """

    def __init__(
        self,
        size: int,
        channels: int,
        classes: int,
        width: int = 32,
        multipliers: tuple[int, ...] = (1, 2, 2),
        blocks: int = 2,
        attention: int = 8,
        patch: int = 1,
    ) -> None:
        super().__init__()
        if width % CHANNELS_PER_GROUP:
            raise ValueError(f"width={width} must be a multiple of {CHANNELS_PER_GROUP}")
        if patch < 1:
            raise ValueError(f"patch={patch} must be at least 1")
        self.size, self.channels, self.classes = size, channels, classes
        self.width, self.patch = width, patch
        self.missing = -size % patch
        embedding = 4 * width
        self.level = nn.Sequential(
            started(nn.Linear(width, embedding)),
            nn.SiLU(),
            started(nn.Linear(embedding, embedding)),
        )
        self.label = nn.Embedding(classes + 1, embedding) if classes else None
        folded = channels * patch**2
        self.enter = convolution(folded, width)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        widths = [multiplier * width for multiplier in multipliers]
        grid = (size + self.missing) // patch
        skips, now, attends = [width], width, []
        for level, wide in enumerate(widths):
            if level:
                self.down.append(Residual(now, now, embedding, halve))
                skips.append(now)
                grid = math.ceil(grid / 2)
            attends.append(grid <= attention)
            for _ in range(blocks):
                self.down.append(Block(now, wide, embedding, attends[level]))
                now = wide
                skips.append(now)
        self.middle = Block(now, now, embedding, attention=True)
        self.after = Residual(now, now, embedding)
        for level, wide in reversed(list(enumerate(widths))):
            for block in range(blocks + 1):
                attend = attends[level] and block == blocks
                self.up.append(Block(now + skips.pop(), wide, embedding, attend))
                now = wide
            if level:
                self.up.append(Residual(now, now, embedding, double))
        self.leave = normalisation(now)
        self.paint = silenced(convolution(now, folded))

    @property
    def last(self) -> list[nn.Module]:
        """The last block and what follows it, and the classes' embeddings."""
        classes = [] if self.label is None else [self.label]
        return [self.up[-1], self.leave, self.paint, *classes]

    @property
    def no_label(self) -> int:
        """The index that stands for an unknown class, for classifier-free guidance."""
        return self.classes

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        noise_level: Float[Tensor, " b"],
        labels: Int64[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c h w"]:
        """The network's output for noisy images.

        Args:
            x: noisy images, scaled to unit variance.
            noise_level: c_noise of each image.
            labels: classes, or ``no_label``; None gives all images ``no_label``.
        """
        embedding = F.silu(self._embed(noise_level, labels))
        padded = F.pad(x, (0, self.missing, 0, self.missing)) if self.missing else x
        h = self.enter(F.pixel_unshuffle(padded, self.patch))
        skips = [h]
        for block in self.down:
            h = block(h, embedding)
            skips.append(h)
        h = self.after(self.middle(h, embedding), embedding)
        for block in self.up:
            if isinstance(block, Block):  # the others double the resolution
                skip = skips.pop()
                h = torch.cat([cropped(h, skip), skip], dim=1)
            h = block(h, embedding)
        h = F.pixel_shuffle(self.paint(F.silu(normalise(self.leave, h))), self.patch)
        return h[:, :, : self.size, : self.size]

    def _embed(self, noise_level: Tensor, labels: Tensor | None) -> Tensor:
        embedding = self.level(positional(noise_level, self.width))
        if self.label is None:
            return embedding
        if labels is None:
            labels = torch.full_like(noise_level, self.no_label, dtype=torch.int64)
        return embedding + self.label(labels)
