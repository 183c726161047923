"""The query ``sum``: one noisy total over all units; ``docs/proofs/sum.md``."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, TypeAlias

from sfumato.errors import UsageError
from sfumato.privacy.budget import RELATIONS, Relation
from sfumato.privacy.queries.base import TotalQuery

if TYPE_CHECKING:
    from torch import Tensor

Contribution: TypeAlias = "Callable[[Tensor, Tensor], Tensor]"
"""(uint8 ``[b, c, h, w]``, int64 ``[b]``) → float ``[b, d]``; each row from its own example."""


@dataclass(frozen=True)
class SumQuery(TotalQuery):
    """Σ f(x, y) over all units, each clipped to L2 norm C, plus exact Gaussian noise.

    Args:
        name: what the method calls it; unique in a plan.
        contribution: the public function f; one row per example, from that example alone.
        dimension: number of coordinates f returns.
        clip_norm: C, in the units of f.
        by_class: add each unit's f to the block of its own class: the answer has one row a class
            and sensitivity is unchanged, because a unit touches one row.
        shared: with ``by_class``, how many of f's last coordinates are added over all classes
            instead (a covariance that all classes share, in the same release).
        nonnegative: raise f's negative coordinates to zero (replace-one then moves by √2·C).
        relative_noise: this query's noise multiplier relative to the plan's other queries.
        describes: public JSON values that say what f is, for the plan and the certificate.

    Guarantee: sensitivity C under add-or-remove-one and 2C (√2·C if ``nonnegative``) under
    replace-one; ``docs/proofs/sum.md``.

    Raises:
        UsageError: a value is outside its rule.
    """

    mechanism: ClassVar[str] = "sum"

    name: str
    contribution: Contribution = field(compare=False, repr=False)
    dimension: int
    clip_norm: float
    by_class: bool = False
    shared: int = 0
    nonnegative: bool = False
    relative_noise: float = 1.0
    describes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_name()
        self._check_bounds(clip_norm=self.clip_norm)
        self._check_positive(relative_noise=self.relative_noise)
        self._check_dimensions(dimension=self.dimension)
        if not 0 <= self.shared < self.dimension:
            raise UsageError(
                f"query {self.name!r}: shared={self.shared} must lie in [0, {self.dimension})."
            )

    @property
    def bound(self) -> float:
        """C."""
        return self.clip_norm

    def values(self, images: Tensor, labels: Tensor) -> Tensor:
        """What each record would contribute, float ``[b, d]``, not yet bounded."""
        return self.contribution(images, labels)

    def bounded_sums(self, rows: Tensor, bounds: Tensor | None, starts: Sequence[int]) -> Tensor:
        """Each row clipped to C, or to its share of it."""
        from sfumato.privacy.clipping import clipped_sums

        rows = rows.clamp(min=0) if self.nonnegative else rows
        return clipped_sums(rows, self.clip_norm, bounds, starts)

    def sensitivity(self) -> dict[Relation, float]:
        """L2 sensitivity under each relation, in the units of f."""
        replace = math.sqrt(2) if self.nonnegative else 2.0
        return dict(zip(RELATIONS, (self.clip_norm, replace * self.clip_norm), strict=True))

    def shape(self, classes: int) -> tuple[int, int]:
        """Shape of the answer's ``total`` for a data set of ``classes`` classes (0: unlabelled)."""
        return (max(classes, 1) if self.by_class else 1), self.dimension - self.shared
