"""The worst case of a histogram: every canary votes for a bin of its own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from sfumato.audit.canaries import numbers_of
from sfumato.privacy import Curator, Event, HistogramQuery, Relation


class HistogramAudit:
    """Canary j votes for bin 2j, its other record for bin 2j + 1."""

    def twin(
        self, query: HistogramQuery, canaries: int, relation: Relation, classes: int
    ) -> HistogramQuery:
        """The query with canaries for voters."""

        def vote(images: Tensor, labels: Tensor) -> Tensor:
            number, other = numbers_of(images, canaries)
            return 2 * number + other.long()

        return replace(query, vote=vote, bins=2 * canaries, describes={})

    def scores(
        self,
        curator: Curator,
        twin: HistogramQuery,
        event: Event,
        canaries: int,
        relation: Relation,
    ) -> NDArray[np.float64]:
        """Log likelihood ratios from one answer."""
        first, second = curator.histogram(twin.name).total.reshape(canaries, 2).T
        middle = 0.5 if relation == "add-or-remove-one" else second
        return (first - middle) / event.noise_std**2
