"""The query ``gradient``: noisy sums of clipped gradients; ``docs/proofs/gradient.md``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

from sfumato.errors import UsageError
from sfumato.privacy.budget import RELATIONS, Relation
from sfumato.privacy.queries.base import Query


@dataclass(frozen=True)
class TopSigns:
    """How a vector becomes a vote.

    Args:
        entries: k, how many entries a vote has.
        stochastic: draw each sign, the more surely the larger its entry; else take it as it is.

    Raises:
        UsageError: ``entries`` is not positive.
    """

    entries: int
    stochastic: bool = True

    def __post_init__(self) -> None:
        if self.entries < 1:
            raise UsageError(f"entries={self.entries} must be at least 1.")

    @property
    def norm(self) -> float:
        """√k, the largest L2 norm of a vote."""
        return math.sqrt(self.entries)


@dataclass(frozen=True)
class GradientQuery(Query):
    """``steps`` noisy sums of bounded gradients, each over a fresh Poisson sample of the units.

    Args:
        name: what the method calls it; unique in a plan.
        dimension: number of parameters.
        clip_norm: C, the L2 norm that one unit's gradient is clipped to; None with ``compress``.
        sampling_rate: q, the probability with which a unit, independently, is in a step's sample.
        steps: how many sums will be asked for.
        relative_noise: this query's noise multiplier relative to the plan's other queries.
        describes: public JSON values that say what is trained.
        compress: add up votes of this kind instead of clipped gradients (TopAgg, arXiv
            2103.11109): the k largest entries of each unit's gradient as signs, so that C = √k.

    Guarantee: each step is a Poisson-sampled Gaussian of sensitivity C under add-or-remove-one and
    2C under replace-one; ``docs/proofs/gradient.md``.

    Raises:
        UsageError: a value is outside its rule.
    """

    mechanism: ClassVar[str] = "gradient"

    name: str
    dimension: int
    clip_norm: float | None
    sampling_rate: float
    steps: int
    relative_noise: float = 1.0
    describes: Mapping[str, Any] = field(default_factory=dict)
    compress: TopSigns | None = None

    def __post_init__(self) -> None:
        self._check_name()
        if (self.clip_norm is None) == (self.compress is None):
            raise UsageError(
                f"query {self.name!r}: clip_norm={self.clip_norm} and compress={self.compress} "
                "exclude each other: a vote has a norm of its own. Give one and set the other to "
                "None."
            )
        self._check_bounds(clip_norm=self.bound)
        self._check_positive(relative_noise=self.relative_noise)
        self._check_rate(self.sampling_rate)
        self._check_counts(steps=self.steps)
        self._check_dimensions(dimension=self.dimension)
        if self.compress is not None and self.compress.entries > self.dimension:
            raise UsageError(
                f"query {self.name!r}: entries={self.compress.entries} must be at most its "
                f"dimension={self.dimension}."
            )

    @property
    def bound(self) -> float:
        """C, the largest L2 norm of what one unit adds: the clip norm, or √k of a vote."""
        if self.compress is not None:
            return self.compress.norm
        assert self.clip_norm is not None
        return self.clip_norm

    def sensitivity(self) -> dict[Relation, float]:
        """L2 sensitivity of one step under each relation, in the units of the gradient."""
        return dict(zip(RELATIONS, (self.bound, 2 * self.bound), strict=True))

    def repeats(self) -> tuple[int, float]:
        """``steps`` answers, each over a sample of its own."""
        return self.steps, self.sampling_rate

    def to_dict(self) -> dict[str, Any]:
        """Everything public about the query, as plain JSON values."""
        values = super().to_dict()
        if self.compress is None:
            del values["compress"]
        else:
            values["compress"] = asdict(self.compress)
        return values
