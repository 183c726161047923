"""The query ``nearest``: each unit votes for its nearest candidate; ``docs/proofs/nearest.md``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from sfumato.privacy.budget import RELATIONS, Relation
from sfumato.privacy.queries.base import Query

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class NearestQuery(Query):
    """``steps`` noisy histograms over public candidates: a unit votes for the one nearest to it.

    Args:
        name: what the method calls it; unique in a plan.
        features: images uint8 ``[b, c, h, w]`` → float ``[b, width]``, each row from its own image;
            nearness is the cosine between them. An image whose row is zero abstains.
        width: number of features.
        bins: number of candidates in a step.
        steps: how many histograms will be asked for, each over candidates of its own.
        relative_noise: this query's noise multiplier relative to the plan's other queries.
        describes: public JSON values that say what the features are.

    Guarantee: each step is a histogram, of sensitivity 1 under add-or-remove-one and √2 under
    replace-one; ``docs/proofs/nearest.md``.

    Raises:
        UsageError: a value is outside its rule.
    """

    mechanism: ClassVar[str] = "nearest"

    name: str
    features: Callable[[Tensor], Tensor] = field(compare=False, repr=False)
    width: int
    bins: int
    steps: int = 1
    relative_noise: float = 1.0
    describes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_name()
        self._check_positive(relative_noise=self.relative_noise)
        self._check_dimensions(width=self.width, bins=self.bins)
        self._check_counts(steps=self.steps)

    @property
    def bound(self) -> float:
        """One vote."""
        return 1.0

    def values(self, images: Tensor, labels: Tensor) -> Tensor:
        """The features of each record, float ``[b, width]``."""
        return self.features(images)

    def sensitivity(self) -> dict[Relation, float]:
        """L2 sensitivity of one step under each relation, in votes."""
        return dict(zip(RELATIONS, (1.0, math.sqrt(2)), strict=True))

    def repeats(self) -> tuple[int, float]:
        """``steps`` answers over all units."""
        return self.steps, 1.0
