"""The blocks of DP-MEPF's joint contribution: their lengths and norms, without PyTorch.

An image of class y contributes, in class y's block, [a; φ₁; r·φ₂; ρ; start; t], and, shared by all
classes, vech(t tᵀ): a count, the two perceptual moments (arXiv 2205.12900, eq. 5), activations of
random networks, the moments of a coarse Gaussian that generated images start from, and the sums of
a least-squares labeller.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

from sfumato.data.spec import PublicSpec
from sfumato.features.shipped import (
    CHANNELS,
    RANDOM_NORM,
    check_encoder,
    layer_lengths,
    random_length,
)
from sfumato.methods.mepf.settings import MEPFSettings
from sfumato.methods.second_moments import MomentShape, SecondMoments

START_MEAN_WEIGHT = 0.4

Layer = TypeVar("Layer")


class Blocks:
    """What a contribution is made of: known without an image, so that a plan needs none.

    ``width`` is the length of each perceptual moment.
    """

    def __init__(self, method: MEPFSettings, spec: PublicSpec) -> None:
        check_encoder(method.encoder)
        self.method = method
        self.lengths = layer_lengths(method.layers, spec.height, spec.width)
        self.width = method.compress or sum(self.lengths)
        self.random = random_length(method.random_networks, spec.height, spec.width)
        self.start: MomentShape | None = None
        self.second: SecondMoments | None = None
        if method.start_coefficients:
            pixels = spec.channels * spec.height * spec.width
            self.start = MomentShape(min(method.start_coefficients, pixels), START_MEAN_WEIGHT)
        if method.labeller_size and len(spec.classes) > 1:
            if method.encoder_size:
                available = sum(CHANNELS)
            else:
                available = sum(labelled_layers(self.lengths))
            self.second = SecondMoments(min(method.labeller_size, available))

    @property
    def shared(self) -> int:
        """Number of coordinates that all classes share."""
        return self.second.pairs if self.second else 0

    def lengths_and_norms(self) -> list[tuple[int, float]]:
        """(length, largest norm) of each block of a contribution, in order."""
        method = self.method
        blocks = [(1, method.count_weight), (self.width, 1.0)]
        blocks.append((self.width if method.second_weight else 0, method.second_weight))
        blocks.append((self.random, method.random_weight * RANDOM_NORM if self.random else 0.0))
        if self.start:
            blocks.append((self.start.dimension, method.start_weight * self.start.norm))
        else:
            blocks.append((0, 0.0))
        if self.second:
            blocks += [(self.second.width, method.labeller_weight)]
            blocks += [(self.second.pairs, method.labeller_weight)]
        return blocks

    @property
    def dimension(self) -> int:
        """Number of coordinates of a contribution."""
        return sum(length for length, _ in self.lengths_and_norms())

    @property
    def norm(self) -> float:
        """Largest L2 norm of a contribution."""
        return math.sqrt(sum(norm**2 for _, norm in self.lengths_and_norms()))


def labelled_layers(layers: Sequence[Layer]) -> list[Layer]:
    """All layers but the deepest, which is coarse in space."""
    return list(layers[:-1] or layers)
