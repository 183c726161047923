"""The query ``vote``: teachers inside the curator answer with a few signs each."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sfumato.errors import UsageError
from sfumato.privacy.budget import RELATIONS, Relation
from sfumato.privacy.queries.base import Query


@dataclass(frozen=True)
class VoteQuery(Query):
    """``steps`` noisy sums of the votes of teachers, each of which knows its own shard only.

    Args:
        name: what the method calls it; unique in a plan.
        dimension: number of coordinates that are voted on in a step.
        entries: k, the most entries of ±1 in one teacher's vote; the rest is 0.
        teachers: N, the number of shards that the units are spread over at random.
        steps: how many sums will be asked for.
        parts: the coordinates are cut into so many equal stretches, and ``entries / parts`` are
            taken in each: as many as there are images for one vote an image, 1 for one a batch.
        stochastic: signs are drawn, +1 with probability ½ + g / 2·max|g|, instead of taken.
        relative_noise: this query's noise multiplier relative to the plan's other queries.
        describes: public JSON values that say what the teachers are.

    Guarantee: each step is a Gaussian of sensitivity 2√k under both relations;
    ``docs/proofs/vote.md``.

    Raises:
        UsageError: a value is outside its rule.
    """

    mechanism: ClassVar[str] = "vote"

    name: str
    dimension: int
    entries: int
    teachers: int
    steps: int
    parts: int = 1
    stochastic: bool = False
    relative_noise: float = 1.0
    describes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_name()
        self._check_positive(relative_noise=self.relative_noise)
        self._check_dimensions(dimension=self.dimension)
        self._check_counts(steps=self.steps, teachers=self.teachers)
        whole = self.parts >= 1 and self.dimension % self.parts == self.entries % self.parts == 0
        if not (whole and 1 <= self.entries <= self.dimension):
            raise UsageError(
                f"query {self.name!r}: entries={self.entries} must lie in [1, {self.dimension}], "
                f"and parts={self.parts} must divide it and the dimension."
            )

    @property
    def bound(self) -> float:
        """√k, the norm of a vote."""
        return math.sqrt(self.entries)

    def sensitivity(self) -> dict[Relation, float]:
        """L2 sensitivity of one step under each relation, in votes."""
        return dict.fromkeys(RELATIONS, 2 * math.sqrt(self.entries))

    def repeats(self) -> tuple[int, float]:
        """``steps`` answers over all teachers."""
        return self.steps, 1.0
