"""Exponential moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Generic, TypeVar

import torch
from torch import nn

Network = TypeVar("Network", bound=nn.Module)


class Average(Generic[Network]):
    """The exponential moving average of a network's parameters, short at first.

    After step t the decay is min(``decay``, (1 + t) / (``offset`` + t)), so that early weights are
    soon forgotten: with an offset of 10 about the last ninth of the steps counts, with 3 the last
    half.
    """

    def __init__(self, network: Network, decay: float = 0.998, offset: float = 10.0) -> None:
        self.network = copy.deepcopy(network).requires_grad_(False)
        self.decay, self.offset = decay, offset

    @torch.no_grad()
    def update(self, network: Network, step: int) -> None:
        """Move the average toward ``network`` after optimisation step ``step`` (from 0)."""
        decay = min(self.decay, (1 + step) / (self.offset + step))
        pairs = zip(self.network.parameters(), network.parameters(), strict=True)
        for average, current in pairs:
            average.lerp_(current, 1 - decay)
