"""The questions a method may ask: frozen, public, and bounded whatever the data holds.

A query carries its own sensitivity, so the bound cannot drift from the code that enforces it.
Each has a section of the same name in ``docs/proofs.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfumato.errors import UsageError
from sfumato.privacy.accounting import Event
from sfumato.privacy.aggregate_query import AggregateQuery
from sfumato.privacy.budget import RELATIONS, Relation
from sfumato.privacy.checks import check_dimension, check_name, check_positive, check_sampled
from sfumato.privacy.clipping import UNIT, clipped_sum
from sfumato.privacy.topagg import TopSigns
from sfumato.privacy.vote_query import VoteQuery

Contribution = Callable[[Tensor, Tensor], Tensor]
"""(uint8 ``[b, c, h, w]``, int64 ``[b]``) → float ``[b, d]``; each row from its own example."""


@dataclass(frozen=True)
class SumQuery:
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
    replace-one; ``docs/proofs.md``, section "sum".

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
        check_name(self.name)
        check_positive(self.name, clip_norm=self.clip_norm, relative_noise=self.relative_noise)
        check_dimension(self.name, dimension=self.dimension)
        if not 0 <= self.shared < self.dimension:
            raise UsageError(
                f"query {self.name!r}: shared={self.shared} must lie in [0, {self.dimension})."
            )

    def values(self, images: Tensor, labels: Tensor) -> Tensor:
        """What each unit would contribute, float ``[b, d]``, not yet bounded."""
        return self.contribution(images, labels)

    def clipped_sum(self, values: Tensor, chosen: Tensor, bounds: Tensor | None = None) -> Tensor:
        """Sum of at most sixteen chosen rows, each clipped to its bound, in steps of C · 2⁻²⁰."""
        return clipped_sum(values, chosen, self.clip_norm, self.nonnegative, bounds)

    def sensitivity(self) -> dict[Relation, float]:
        """L2 sensitivity under each relation, in the units of f."""
        replace = math.sqrt(2) if self.nonnegative else 2.0
        return dict(zip(RELATIONS, (self.clip_norm, replace * self.clip_norm), strict=True))

    def shape(self, classes: int) -> tuple[int, int]:
        """Shape of the answer's ``total`` for a data set of ``classes`` classes (0: unlabelled)."""
        return (max(classes, 1) if self.by_class else 1), self.dimension - self.shared

    def event(self, relation: Relation) -> Event:
        """The query's event, its noise relative to the plan's common scale."""
        bound = self.sensitivity()
        return Event(
            query=self.mechanism,
            name=self.name,
            clip_norm=self.clip_norm,
            sensitivity=bound,
            noise_std=self.relative_noise * bound[relation],
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything public about the query, as plain JSON values."""
        return {
            **self.describes,
            "query": self.mechanism,
            "name": self.name,
            "dimension": self.dimension,
            "clip_norm": self.clip_norm,
            "by_class": self.by_class,
            "shared": self.shared,
            "nonnegative": self.nonnegative,
            "relative_noise": self.relative_noise,
        }


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


@dataclass(frozen=True)
class GradientQuery:
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
    2C under replace-one; ``docs/proofs.md``, section "gradient".

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
        check_name(self.name)
        if (self.clip_norm is None) == (self.compress is None):
            raise UsageError(
                f"query {self.name!r}: clip_norm={self.clip_norm} and compress={self.compress} "
                "exclude each other: a vote has a norm of its own. Give one and set the other to "
                "None."
            )
        check_positive(self.name, clip_norm=self.bound, relative_noise=self.relative_noise)
        check_sampled(self.name, self.sampling_rate, steps=self.steps, dimension=self.dimension)
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

    def event(self, relation: Relation) -> Event:
        """The query's event, its noise relative to the plan's common scale."""
        bound = self.sensitivity()
        return Event(
            query=self.mechanism,
            name=self.name,
            clip_norm=self.bound,
            sensitivity=bound,
            noise_std=self.relative_noise * bound[relation],
            count=self.steps,
            sampling_rate=self.sampling_rate,
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything public about the query, as plain JSON values."""
        compress = {} if self.compress is None else {"compress": asdict(self.compress)}
        return {
            **self.describes,
            **compress,
            "query": self.mechanism,
            "name": self.name,
            "dimension": self.dimension,
            "clip_norm": self.clip_norm,
            "sampling_rate": self.sampling_rate,
            "steps": self.steps,
            "relative_noise": self.relative_noise,
        }


ExactQuery = SumQuery | HistogramQuery
"""Answered once, exactly, over all units."""

SampledQuery = GradientQuery | AggregateQuery
"""Asked step by step, each step over a Poisson sample of the units."""

StepQuery = SampledQuery | VoteQuery
"""Asked step by step; ``steps`` answers."""

Query = ExactQuery | StepQuery
