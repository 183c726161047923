"""Σ over units of TopAgg's votes: each unit's gradient, its k largest entries, their signs.

A vote jumps where a gradient hardly moves: when the last bits of two entries change, another one
may be the k-th largest. So here in particular a gradient must not know its mates even in the last
bit (``docs/proofs/gradient.md``).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfumato.devices import device_of, sent
from sfumato.privacy.gradients.per_example import (
    UnitBatch,
    UnitLoss,
    filled_gradients,
    trained,
    units_at_once,
)
from sfumato.privacy.gradients.topagg import add_votes, top_signs
from sfumato.privacy.queries.gradient import TopSigns


class VotingLoss:
    """A loss whose units also draw the randomness of their own vote's signs, as the last draw."""

    def __init__(self, loss: UnitLoss, compress: TopSigns) -> None:
        self._loss = loss
        self._drawn = compress.entries if compress.stochastic else 0

    @property
    def multiplicity(self) -> int:
        """As of the loss."""
        return self._loss.multiplicity

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """The loss's draws and float32 ``[units, k]`` in [0, 1); k = 0 for certain signs."""
        shape = (units, self._drawn)
        uniform = torch.rand(shape, generator=generator, device=generator.device)
        return (*self._loss.draws(units, generator), uniform)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        """The loss of each unit."""
        return self._loss(network, images, labels, *draws[:-1])


def vote_sum(
    network: nn.Module,
    loss: UnitLoss,
    batch: UnitBatch,
    compress: TopSigns,
    engine: str,
    images: int | None = None,
) -> Tensor:
    """Σ over units of the votes of their gradients in steps of 2⁻¹⁰, int64 ``[parameters]``.

    A unit whose gradient is zero, or holds a NaN or an infinity, adds nothing. ``loss`` is a
    :class:`VotingLoss`; stochastic signs use the last of the batch's draws.
    """
    size = sum(parameter.numel() for parameter in trained(network))
    device = device_of(network)
    total = torch.zeros(size, dtype=torch.int64, device=device)

    def add(part: UnitBatch) -> None:
        rows, uniform = filled_gradients(network, loss, part, engine, images), None
        if compress.stochastic:
            uniform = sent(part.filled(len(rows) - len(part)).draws[-1], device)
        add_votes(total, *top_signs(rows, compress.entries, uniform), compress.entries)

    for part in batch.split(units_at_once(loss, images)):
        add(part)
    return total
