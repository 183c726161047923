"""Σ over units of TopAgg's votes: each unit's gradient, its k largest entries, their signs.

A vote jumps where a gradient hardly moves: when the last bits of two entries change, another one
may be the k-th largest. So unlike a clipped gradient it must not know its mates even in the last
bit. Micro-batches have one fixed shape here, and a way of computing counts only if public images
get the same bits from it in any company (``docs/proofs.md``, "gradient").
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from sfumato.privacy.gradients.per_example import WAYS, Batch, UnitLoss, trained, units_at_once
from sfumato.privacy.gradients.topagg import TopSigns, add_votes, top_signs

CROWDS = 8
"""In how many crowds, of different sizes, a unit's gradient is compared bit by bit."""


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
        """The loss's draws and float32 ``[units, k]`` in [0, 1); k = 0 where signs are plain."""
        shape = (units, self._drawn)
        uniform = torch.rand(shape, generator=generator, device=generator.device)
        return (*self._loss.draws(units, generator), uniform)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        """The loss of each unit."""
        return self._loss(network, images, labels, *draws[:-1])


def summed_votes(
    network: nn.Module, loss: UnitLoss, batch: Batch, compress: TopSigns, way: str
) -> Tensor:
    """Σ over units of the votes of their gradients, integers as float64 ``[parameters]``.

    A unit whose gradient is zero, or holds a NaN or an infinity, adds nothing. ``loss`` is a
    :class:`VotingLoss`; stochastic signs use the last of the batch's draws.
    """
    size = sum(parameter.numel() for parameter in trained(network))
    total = torch.zeros(size, dtype=torch.int64, device=next(network.parameters()).device)
    for part in batch.split(units_at_once(loss)):
        rows = lone_gradients(network, loss, part, way)
        uniform = part.draws[-1] if compress.stochastic else None
        add_votes(total, *top_signs(rows, compress.entries, uniform))
    return total.to(torch.float64)


def lone_gradients(network: nn.Module, loss: UnitLoss, part: Batch, way: str) -> Tensor:
    """Gradients of at most a micro-batch of units, in one that is filled up with black images."""
    missing = units_at_once(loss) - len(part)

    def filled(tensor: Tensor) -> Tensor:
        return torch.cat([tensor, tensor.new_zeros(missing, *tensor.shape[1:])])

    draws = tuple(filled(draw) for draw in part.draws)
    full = Batch(filled(part.images), filled(part.labels), draws)
    return WAYS[way](network, loss, full)[: len(part)]


def units_are_alone(network: nn.Module, loss: UnitLoss, public: Batch, way: str) -> bool:
    """Whether a unit's gradient has the same bits wherever and beside whomever it stands."""
    size = units_at_once(loss)
    part = public.split(size)[0]
    expected = lone_gradients(network, loss, part, way)
    generator = torch.Generator().manual_seed(0)
    for count in range(size, 0, -max(1, size // CROWDS)):
        crowd = torch.randint(len(part), (count,), generator=generator).to(part.labels.device)
        if not torch.equal(lone_gradients(network, loss, part.at(crowd), way), expected[crowd]):
            return False
    return True
