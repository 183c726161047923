"""The query ``histogram``: noisy counts; ``docs/proofs.md``, "histogram"."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfumato.privacy.accounting.events import Event
from sfumato.privacy.budget import RELATIONS, Relation
from sfumato.privacy.clipping import UNIT
from sfumato.privacy.queries.checks import (
    check_dimension,
    check_name,
    check_positive,
)


@dataclass(frozen=True)
class HistogramQuery:
    """Noisy counts: each unit votes for one bin, or abstains.

    Args:
        name: what the method calls it; unique in a plan.
        vote: (images, labels) → int64 ``[b]``, each unit's bin; outside ``[0, bins)`` abstains.
        bins: number of bins.
        relative_noise: this query's noise multiplier relative to the plan's other queries.
        describes: public JSON values that say what the vote is.

    Guarantee: sensitivity 1 under add-or-remove-one and √2 under replace-one;
    ``docs/proofs.md``, section "histogram".

    Raises:
        UsageError: a value is outside its rule.
    """

    mechanism: ClassVar[str] = "histogram"
    by_class: ClassVar[bool] = False
    shared: ClassVar[int] = 0

    name: str
    vote: Callable[[Tensor, Tensor], Tensor] = field(compare=False, repr=False)
    bins: int
    relative_noise: float = 1.0
    describes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_name(self.name)
        check_positive(self.name, relative_noise=self.relative_noise)
        check_dimension(self.name, bins=self.bins)

    @property
    def dimension(self) -> int:
        """Number of coordinates of the answer."""
        return self.bins

    def shape(self, classes: int) -> tuple[int, int]:
        """Shape of the answer's ``total``: one row of bins."""
        return 1, self.bins

    def values(self, images: Tensor, labels: Tensor) -> Tensor:
        """Each unit's vote, one-hot, float32 ``[b, bins]``; all zeros where it abstains."""
        # As integers: a float32 vote above 2²⁴ would compare equal to two bins.
        bins = self.vote(images, labels).to(torch.int64)
        return (bins[:, None] == torch.arange(self.bins)).to(torch.float32)

    def clipped_sum(self, values: Tensor, chosen: Tensor, bounds: Tensor | None = None) -> Tensor:
        """Sum of at most sixteen chosen votes, each of its bound, in steps of 2⁻²⁰."""
        if bounds is None:
            return values[chosen].sum(dim=0) * UNIT
        return (values[chosen] * bounds[chosen, None]).sum(dim=0)

    def sensitivity(self) -> dict[Relation, float]:
        """L2 sensitivity under each relation, in votes."""
        return dict(zip(RELATIONS, (1.0, math.sqrt(2)), strict=True))

    def event(self, relation: Relation) -> Event:
        """The query's event, its noise relative to the plan's common scale."""
        bound = self.sensitivity()
        return Event(
            query=self.mechanism,
            name=self.name,
            clip_norm=1.0,
            sensitivity=bound,
            noise_std=self.relative_noise * bound[relation],
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything public about the query, as plain JSON values."""
        return {
            **self.describes,
            "query": self.mechanism,
            "name": self.name,
            "bins": self.bins,
            "relative_noise": self.relative_noise,
        }
