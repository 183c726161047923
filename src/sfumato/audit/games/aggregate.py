"""The worst case of an aggregate: a feature and a parameter of its own for every canary."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.audit.canaries import numbers_of
from sfumato.audit.games.contract import OVER
from sfumato.privacy import AggregateQuery, Curator, Event, Relation


@dataclass(frozen=True)
class CanaryFeatures:
    """A unit's features turn in a plane of its own, by the angle ``speed`` times its weight.

    Longer than the clip norm, so a clip that is left out shows; turning, because the clip takes
    away what changes the length.
    """

    size: float
    speed: float

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """No randomness."""
        return ()

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        """Features float ``[u, 2 · canaries]``."""
        canaries = len(next(network.parameters()))
        number, other = numbers_of(images, canaries)
        angle = self.speed * network(number)[:, 0]
        plane = torch.stack([torch.cos(angle), torch.sin(angle)], dim=1)
        plane = self.size * (1 - 2 * other.float())[:, None] * plane
        own = nn.functional.one_hot(number, canaries).float()
        return (own[:, :, None] * plane[:, None, :]).flatten(1)


class AggregateAudit:
    """The likelihood ratio of all steps, both parts of a step under one sample."""

    def twin(
        self, query: AggregateQuery, canaries: int, relation: Relation, classes: int
    ) -> AggregateQuery:
        """The query with a plane and, where there is a gradient, a parameter for each canary."""
        parameters = canaries if query.backward else 0
        return replace(query, dimension=2 * canaries, gradient_dimension=parameters, describes={})

    def scores(
        self,
        curator: Curator,
        twin: AggregateQuery,
        event: Event,
        canaries: int,
        relation: Relation,
    ) -> NDArray[np.float64]:
        """Log likelihood ratios, added up over the steps."""
        network = nn.Embedding(canaries, 1)
        nn.init.zeros_(network.weight)
        speed = OVER * twin.gradient_clip_norm / twin.clip_norm
        features = CanaryFeatures(OVER * twin.clip_norm, speed)
        pair, number, total = event.pair(relation), np.arange(canaries), np.zeros(canaries)
        forward, backward = twin.noise_stds(event.noise_std)
        cotangent = torch.zeros(twin.rows, twin.dimension)
        cotangent[:, 1::2] = 1.0
        for step in range(twin.steps):
            sums = curator.aggregate(twin.name, step, network, features).double().numpy()
            # The two parts as one observation in clip norms: weighted by their precisions.
            along = sums[number % twin.rows, 2 * number] * twin.clip_norm / forward**2
            if twin.backward:
                pulled = curator.pull_back(twin.name, step, network, features, cotangent)
                along += pulled.double().numpy() * twin.gradient_clip_norm / backward**2
            total += pair.loss(along * pair.z**2)
            curator.forget(twin.name, step)
        return total
