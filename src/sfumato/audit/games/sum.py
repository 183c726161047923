"""The worst case of a sum: every canary adds the clip norm in a direction of its own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import one_hot

from sfumato.audit.canaries import numbers_of
from sfumato.audit.games.contract import OVER
from sfumato.privacy import Answer, Curator, Event, Relation, SumQuery


class SumAudit:
    """Canary j has a coordinate in its class's block and, where there are any, a shared one.

    Under replace-one the other record lies opposite, or, where coordinates are not negative, on
    axes of its own: as far away as the query allows.
    """

    def twin(self, query: SumQuery, canaries: int, relation: Relation, classes: int) -> SumQuery:
        """The query with canaries for contributions."""
        rows = max(classes, 1) if query.by_class else 1
        axes = _axes(query, relation)
        own = axes * math.ceil(canaries / rows)
        shared = axes * canaries if query.shared else 0

        def contribution(images: Tensor, labels: Tensor) -> Tensor:
            number, other = numbers_of(images, canaries)
            axis = other.long() if axes == 2 else 0
            parts = [one_hot(axes * (number // rows) + axis, own)]
            if shared:
                parts.append(one_hot(axes * number + axis, shared))
            sign = 1.0 if axes == 2 else 1.0 - 2.0 * other.float()[:, None]
            size = OVER * query.clip_norm / math.sqrt(len(parts))
            return size * sign * torch.cat(parts, dim=1).float()

        return replace(
            query, contribution=contribution, dimension=own + shared, shared=shared, describes={}
        )

    def scores(
        self, curator: Curator, twin: SumQuery, event: Event, canaries: int, relation: Relation
    ) -> NDArray[np.float64]:
        """Log likelihood ratios from one answer."""
        answer = curator.sum(twin.name)
        axes, number = _axes(twin, relation), np.arange(canaries)
        first = _along(answer, axes * number, number, axes)
        if relation == "add-or-remove-one":
            first, gap = first - event.clip_norm / 2, event.clip_norm
        elif axes == 1:
            gap = 2 * event.clip_norm
        else:
            first, gap = first - _along(answer, axes * number + 1, number, axes), event.clip_norm
        return first * gap / event.noise_std**2


def _axes(query: SumQuery, relation: Relation) -> int:
    return 2 if query.nonnegative and relation == "replace-one" else 1


def _along(
    answer: Answer, place: NDArray[np.int64], number: NDArray[np.int64], axes: int
) -> NDArray[np.float64]:
    """The answer along each canary's direction; ``place`` counts its axis over all blocks."""
    rows = len(answer.total)
    value = answer.total[number % rows, axes * (number // rows) + place % axes]
    if len(answer.shared):
        value = (value + answer.shared[place]) / math.sqrt(2)
    return value
