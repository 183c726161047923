"""The layers of a U-Net by kind and size: its parameters are counted without PyTorch."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Layer:
    """A layer with parameters.

    Args:
        inputs: numbers that each output depends on; of a normalisation or an embedding: 1.
        outputs: channels, or all numbers of an embedding.
        bias: whether each output has one.
        adapted: whether low-rank adapters are given to it.
        last: whether it is of the last block, the output, or the classes.
        label: whether it is the classes' embedding.
    """

    inputs: int
    outputs: int
    bias: bool = True
    adapted: bool = True
    last: bool = False
    label: bool = False

    @property
    def parameters(self) -> int:
        """Their number."""
        return (self.inputs + self.bias) * self.outputs

    def adapter(self, rank: int) -> int:
        """Parameters of an adapter of this rank, or of the largest that there can be."""
        return min(rank, self.inputs, self.outputs) * (self.inputs + self.outputs)


def unet_layers(
    size: int,
    channels: int,
    classes: int,
    width: int,
    multipliers: Sequence[int],
    blocks: int,
    attention: int,
    patch: int,
) -> list[Layer]:
    """The layers of a :class:`~sfumato.networks.UNet` of these arguments."""
    embedding, folded = 4 * width, channels * patch**2
    layers = [Layer(width, embedding), Layer(embedding, embedding), Layer(9 * folded, width)]
    if classes:
        layers.append(
            Layer(1, (classes + 1) * embedding, bias=False, adapted=False, last=True, label=True)
        )
    widths = [multiplier * width for multiplier in multipliers]
    grid, now, skips, attends = -(-size // patch), width, [width], []
    for level, wide in enumerate(widths):
        if level:
            layers += _residual(now, now, embedding, resampled=True)
            skips.append(now)
            grid = math.ceil(grid / 2)
        attends.append(grid <= attention)
        for _ in range(blocks):
            layers += _block(now, wide, embedding, attends[level])
            now = wide
            skips.append(now)
    layers += [*_block(now, now, embedding, True), *_residual(now, now, embedding)]
    for level, wide in reversed(list(enumerate(widths))):
        for block in range(blocks + 1):
            own = list(
                _block(now + skips.pop(), wide, embedding, attends[level] and block == blocks)
            )
            final = level == 0 and block == blocks
            layers += [replace(layer, last=True) for layer in own] if final else own
            now = wide
        if level:
            layers += _residual(now, now, embedding, resampled=True)
    layers += [replace(_norm(now), last=True), Layer(9 * now, folded, last=True)]
    return layers


def _norm(channels: int) -> Layer:
    return Layer(1, channels, adapted=False)


def _residual(
    inputs: int, outputs: int, embedding: int, resampled: bool = False
) -> Iterator[Layer]:
    yield from (_norm(inputs), Layer(9 * inputs, outputs), Layer(embedding, outputs))
    yield from (_norm(outputs), Layer(9 * outputs, outputs))
    if resampled or inputs != outputs:
        yield Layer(inputs, outputs)


def _block(inputs: int, outputs: int, embedding: int, attention: bool) -> Iterator[Layer]:
    yield from _residual(inputs, outputs, embedding)
    if attention:
        yield from (_norm(outputs), Layer(outputs, 3 * outputs), Layer(outputs, outputs))
