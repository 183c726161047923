"""The query ``histogram``: noisy counts; ``docs/proofs/histogram.md``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from sfumato.privacy.budget import RELATIONS, Relation
from sfumato.privacy.grid import UNIT
from sfumato.privacy.queries.base import TotalQuery

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class HistogramQuery(TotalQuery):
    """Noisy counts: each unit votes for one bin, or abstains.

    Args:
        name: what the method calls it; unique in a plan.
        vote: (images, labels) → int64 ``[b]``, each unit's bin; outside ``[0, bins)`` abstains.
        bins: number of bins.
        relative_noise: this query's noise multiplier relative to the plan's other queries.
        describes: public JSON values that say what the vote is.

    Guarantee: sensitivity 1 under add-or-remove-one and √2 under replace-one;
    ``docs/proofs/histogram.md``.

    Raises:
        UsageError: a value is outside its rule.
    """

    mechanism: ClassVar[str] = "histogram"

    name: str
    vote: Callable[[Tensor, Tensor], Tensor] = field(compare=False, repr=False)
    bins: int
    relative_noise: float = 1.0
    describes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_name()
        self._check_positive(relative_noise=self.relative_noise)
        self._check_dimensions(bins=self.bins)

    @property
    def bound(self) -> float:
        """One vote."""
        return 1.0

    def shape(self, classes: int) -> tuple[int, int]:
        """Shape of the answer's ``total``: one row of bins."""
        return 1, self.bins

    def values(self, images: Tensor, labels: Tensor) -> Tensor:
        """Each unit's vote, one-hot, float32 ``[b, bins]``; all zeros where it abstains."""
        import torch

        # As integers: a float32 vote above 2²⁴ would compare equal to two bins.
        bins = self.vote(images, labels).to(torch.int64)
        return (bins[:, None] == torch.arange(self.bins, device=bins.device)).to(torch.float32)

    def bounded_sums(self, rows: Tensor, bounds: Tensor | None, starts: Sequence[int]) -> Tensor:
        """Whole votes; a unit of several records splits its vote."""
        import torch

        votes = rows.long() * (UNIT if bounds is None else bounds[:, None])
        ends = [*starts[1:], len(rows)]
        return torch.stack([votes[a:b].sum(dim=0) for a, b in zip(starts, ends, strict=True)])

    def sensitivity(self) -> dict[Relation, float]:
        """L2 sensitivity under each relation, in votes."""
        return dict(zip(RELATIONS, (1.0, math.sqrt(2)), strict=True))
