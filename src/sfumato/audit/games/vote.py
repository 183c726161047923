"""The worst case of a vote: every canary is alone in a shard and makes its teacher's vote."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.audit.canaries import numbers_of
from sfumato.privacy import (
    Curator,
    Event,
    GeneratedBatch,
    Relation,
    TeacherBatches,
    TeacherGradients,
    VoteQuery,
)

SHARDS_PER_CANARY = 32
"""So many that few canaries share one; a teacher can vote for one of them only."""


@dataclass(frozen=True)
class CanaryTeachers:
    """A teacher votes for its record's own coordinate, against it where it holds the other."""

    canaries: int
    memory: int = 0
    batch: int = 1
    at_once: int = 1024

    def begin(self, count: int, generator: torch.Generator) -> Tensor:
        """Nothing is remembered."""
        return torch.zeros(count, 0)

    def draws(
        self, count: int, generated: GeneratedBatch, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """No randomness."""
        return ()

    def vote(
        self, memory: Tensor, shard: TeacherBatches, generated: GeneratedBatch, /, *draws: Tensor
    ) -> tuple[Tensor, TeacherGradients]:
        """One gradient a teacher; 0 without a record."""
        number, other = numbers_of(shard.images[:, 0], self.canaries)
        values = (1 - 2 * other.float()) * shard.there[:, 0].float()
        return memory, TeacherGradients(values[:, None], number[:, None])


class VoteAudit:
    """Under add-or-remove-one a missing canary leaves its teacher silent, half as far away as the
    sensitivity allows for: a teacher that turns round needs other records in the shard."""

    def twin(self, query: VoteQuery, canaries: int, relation: Relation, classes: int) -> VoteQuery:
        """The query with one coordinate a canary, one entry a vote, and the same noise for it."""
        return replace(
            query,
            dimension=canaries,
            entries=1,
            parts=1,
            stochastic=False,
            teachers=SHARDS_PER_CANARY * canaries,
            describes={},
        )

    def scores(
        self, curator: Curator, twin: VoteQuery, event: Event, canaries: int, relation: Relation
    ) -> NDArray[np.float64]:
        """Log likelihood ratios, added up over the steps."""
        shape = (1, curator.spec.channels, curator.spec.height, curator.spec.width)
        generated = GeneratedBatch(torch.zeros(shape), torch.zeros(1, dtype=torch.int64), 0.0)
        teachers, total = CanaryTeachers(canaries), np.zeros(canaries)
        alone, middle = (1.0, 0.5) if relation == "add-or-remove-one" else (2.0, 0.0)
        for step in range(twin.steps):
            votes = curator.vote(twin.name, step, teachers, generated).numpy()
            total += alone * (votes - middle) / event.noise_std**2
            curator.forget(twin.name, step)
        return total
