"""Match the mean embedding of generated images to a released one, without the bias of a batch.

The squared distance ‖μ̃ − μ̂‖² to the mean μ̂ of one batch is biased by the batch's variance and
rewards collapse. The gradient taken here is that of −2⟨μ̃ − m, μ̂⟩ with m a running average of batch
means, as in GFMN (arXiv 1904.02762) without its second optimiser. m follows the batch before it is
used, so a share of the batch's bias is left, a tenth at the usual memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

BETAS = (0.5, 0.999)
"""Adam's, for all generators that are matched to means."""

LARGEST_GRADIENT = 1.0
"""Norm of a generator's gradient: one wild batch must not push it to where all images are alike."""

WARM_UP = 50
LAST_RATE = 0.05

MOST_APART = 100.0
"""Largest factor of what tells classes apart: where they hardly differ, noise would count alone."""


def follow(running: Tensor, mean: Tensor, memory: float, step: int) -> None:
    """Move a running average towards a batch's mean, in place.

    Its memory is shorter at first, while the generator moves fast.
    """
    running.lerp_(mean.detach(), 1 - min(memory, step / (step + 9)))


def factor_apart(wanted: Tensor, weight: float) -> float:
    """How often what tells class means ``[classes, d]`` apart shall count in their distance.

    Counted so, its squared length is ``weight`` times that of what the means have in common, so
    classes that are alike are told apart as well as others. At least 1, and 1 with ``weight`` 0.
    """
    common = wanted.mean(dim=0)
    apart = (wanted - common).square().sum().clamp(min=1e-12)
    ratio = len(wanted) * float(common.square().sum() / apart)
    return min(max(1.0, weight * ratio), MOST_APART)


def told_apart(means: Tensor, factor: float) -> Tensor:
    """Class means ``[classes, d]`` further from their average.

    A squared distance between two such sets counts what tells classes apart ``factor`` times.
    """
    common = means.mean(dim=0)
    return common + math.sqrt(factor) * (means - common)


class MovingMean:
    """A released mean and the running average of the means of generated images.

    Args:
        wanted: μ̃, float32 ``[classes, d]``.
        memory: decay of the running average.
        known: weighs what generated means miss; by default nothing does.
    """

    def __init__(
        self, wanted: Tensor, memory: float, known: Callable[[Tensor], Tensor] | None = None
    ) -> None:
        self.wanted, self.running, self.memory = wanted, torch.zeros_like(wanted), memory
        self.known = known

    def missed(self, mean: Tensor) -> Tensor:
        """μ̃ less a mean, as far as μ̃ is not noise."""
        missed = self.wanted - mean
        return missed if self.known is None else self.known(missed)

    def loss(self, mean: Tensor, step: int) -> Tensor:
        """−2⟨μ̃ − m, μ̂⟩ for a batch's mean μ̂ ``[classes, d]``, after m has moved towards it."""
        follow(self.running, mean, self.memory, step)
        return -2 * (self.missed(self.running) * mean).sum()


def warm_up_and_cosine(steps: int) -> Callable[[int], float]:
    """Factor of the learning rate: linear over the first 50 steps, then a cosine down to 5 %."""

    def rate(step: int) -> float:
        cosine = 0.5 * (1 + math.cos(math.pi * step / steps))
        return min(1.0, (step + 1) / WARM_UP) * (cosine * (1 - LAST_RATE) + LAST_RATE)

    return rate
