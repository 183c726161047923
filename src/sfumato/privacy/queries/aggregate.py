"""The query ``aggregate``: features summed in the forward pass, then their pulled-back gradient.

Private aggregation in the forward pass (DPAF, arXiv 2304.12185), in a form that has a proof:
``docs/proofs/aggregate.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sfumato.errors import UsageError
from sfumato.privacy.budget import RELATIONS, Relation
from sfumato.privacy.queries.base import Query


@dataclass(frozen=True)
class AggregateQuery(Query):
    """``steps`` times, over a fresh Poisson sample: noisy class sums of features, then a gradient.

    Args:
        name: what the method calls it; unique in a plan.
        rows: one for each class, or 1 where there are none; a unit adds to the row of its class.
        dimension: number of features of a unit.
        clip_norm: S, the L2 norm that a unit's features are clipped to.
        sampling_rate: q, the probability with which a unit, independently, is in a step's sample.
        steps: how many times it will be asked.
        forward_noise: f, noise multiplier of the sums relative to the plan's other queries.
        gradient_dimension: number of parameters below the sums; 0 asks for no gradient.
        gradient_clip_norm: C, the L2 norm that a unit's pulled-back gradient is clipped to.
        backward_noise: b, noise multiplier of the gradient, relative as ``forward_noise`` is.
        describes: public JSON values that say what the features are.

    Guarantee: a step is one Poisson-sampled Gaussian with 1/z² = 1/z_a² + 1/z_g², z_a and z_g being
    noise over clip norm of the two parts, so its event has clip norm 1 and sensitivity 1 under
    add-or-remove-one, 2 under replace-one; ``docs/proofs/aggregate.md``.

    Raises:
        UsageError: a value is outside its rule.
    """

    mechanism: ClassVar[str] = "aggregate"

    name: str
    rows: int
    dimension: int
    clip_norm: float
    sampling_rate: float
    steps: int
    forward_noise: float = 1.0
    gradient_dimension: int = 0
    gradient_clip_norm: float = 1.0
    backward_noise: float = 1.0
    describes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._check_name()
        self._check_bounds(clip_norm=self.clip_norm, gradient_clip_norm=self.gradient_clip_norm)
        self._check_positive(forward_noise=self.forward_noise, backward_noise=self.backward_noise)
        self._check_rate(self.sampling_rate)
        self._check_counts(rows=self.rows, steps=self.steps)
        self._check_dimensions(dimension=self.dimension)
        if self.gradient_dimension < 0:
            raise UsageError(
                f"query {self.name!r}: gradient_dimension={self.gradient_dimension} must be 0 "
                "(no gradient) or the number of parameters."
            )

    @property
    def backward(self) -> bool:
        """Whether a step has a second part."""
        return self.gradient_dimension > 0

    @property
    def bound(self) -> float:
        """1: the clip norms of both parts are divided out."""
        return 1.0

    @property
    def relative_noise(self) -> float:
        """The noise multiplier of both parts together, relative to the plan's other queries."""
        if not self.backward:
            return self.forward_noise
        return 1 / math.hypot(1 / self.forward_noise, 1 / self.backward_noise)

    def noise_stds(self, noise_std: float) -> tuple[float, float]:
        """Noise of the sums and of the gradient, each in its own units, for the event's."""
        scale = noise_std / self.relative_noise
        return (
            scale * self.forward_noise * self.clip_norm,
            scale * self.backward_noise * self.gradient_clip_norm,
        )

    def sensitivity(self) -> dict[Relation, float]:
        """L2 sensitivity of one step under each relation, both clip norms divided out."""
        return dict(zip(RELATIONS, (1.0, 2.0), strict=True))

    def repeats(self) -> tuple[int, float]:
        """``steps`` answers of two parts, each over a sample of its own."""
        return self.steps, self.sampling_rate

    def to_dict(self) -> dict[str, Any]:
        """Everything public about the query, as plain JSON values."""
        values = {**super().to_dict(), "relative_noise": self.relative_noise}
        if not self.backward:
            for name in ("gradient_dimension", "gradient_clip_norm", "backward_noise"):
                del values[name]
        return values
