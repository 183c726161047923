"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class Average(Generic[Network]):
    """The running average of a network's parameters, with a warm-up.

    After step t the decay is min(``decay``, (1 + t) / (``haste`` + t)), so that early weights are
    soon forgotten: with 10 about the last ninth of the steps counts, with 3 the last half.
    """

    def __init__(self, network: Network, decay: float = 0.998, haste: float = 10.0) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay, self.haste = decay, haste

    @torch.no_grad()
    def update(self, network: Network, step: int) -> None:
        """Move the average toward ``network`` after optimisation step ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (self.haste + step))
        pairs = zip(self.network.parameters(), network.parameters(), strict=True)
        for average, current in pairs:
            average.lerp_(current, 1 - decay)
