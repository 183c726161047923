"""The worst case of a nearest query: every canary is itself a candidate, and votes for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.audit.canaries import numbers_of
from sfumato.privacy import Curator, Event, NearestQuery, Relation


class NearestAudit:
    """Canary j has the features of candidate 2j, its other record those of candidate 2j + 1."""

    def twin(
        self, query: NearestQuery, canaries: int, relation: Relation, classes: int
    ) -> NearestQuery:
        """The query with canaries for voters and for candidates."""
        width = (2 * canaries - 1).bit_length()

        def features(images: Tensor) -> Tensor:
            number, other = numbers_of(images, canaries)
            return _code(2 * number + other.long(), width)

        return replace(query, features=features, width=width, bins=2 * canaries, describes={})

    def scores(
        self,
        curator: Curator,
        twin: NearestQuery,
        event: Event,
        canaries: int,
        relation: Relation,
    ) -> NDArray[np.float64]:
        """Log likelihood ratios, added up over the steps."""
        candidates, total = _code(torch.arange(twin.bins), twin.width).numpy(), np.zeros(canaries)
        for step in range(twin.steps):
            votes = curator.nearest(twin.name, step, candidates).total
            first, second = votes.reshape(canaries, 2).T
            middle = 0.5 if relation == "add-or-remove-one" else second
            total += (first - middle) / event.noise_std**2
            curator.forget(twin.name, step)
        return total


def _code(numbers: Tensor, width: int) -> Tensor:
    """The binary digits of each number as ±1, float32 ``[n, width]``: no two are parallel."""
    digits = (numbers[:, None] >> torch.arange(width)) & 1
    return 2 * digits.to(torch.float32) - 1
