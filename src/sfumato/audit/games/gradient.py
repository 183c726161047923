"""The worst case of a gradient: every canary pulls at a weight of its own, at every step."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.audit.canaries import numbers_of
from sfumato.audit.games.contract import OVER
from sfumato.privacy import Curator, Event, GradientQuery, Relation, TopSigns


@dataclass(frozen=True)
class CanaryLoss:
    """A unit's loss: its own weight, times more than the clip norm; negative for the other."""

    size: float
    multiplicity: int = 1

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """No randomness."""
        return ()

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        """Loss of each unit, float ``[u]``."""
        number, other = numbers_of(images, len(next(network.parameters())))
        return self.size * (1 - 2 * other.float()) * network(number)[:, 0]


class GradientAudit:
    """The likelihood ratio of all steps together, each a mixture of sampled and not sampled."""

    def twin(
        self, query: GradientQuery, canaries: int, relation: Relation, classes: int
    ) -> GradientQuery:
        """The query with one parameter a canary, and votes of one entry where it takes votes."""
        compress = None if query.compress is None else TopSigns(1)
        return replace(query, dimension=canaries, compress=compress, describes={})

    def scores(
        self, curator: Curator, twin: GradientQuery, event: Event, canaries: int, relation: Relation
    ) -> NDArray[np.float64]:
        """Log likelihood ratios, added up over the steps."""
        network, loss = nn.Embedding(canaries, 1), CanaryLoss(OVER * twin.bound)
        pair, total = event.pair(relation), np.zeros(canaries)
        for step in range(twin.steps):
            answer = curator.gradient(twin.name, step, network, loss).numpy()
            total += pair.loss(answer.astype(np.float64) / twin.bound)
            curator.forget(twin.name, step)
        return total
