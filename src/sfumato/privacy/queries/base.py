"""What every query is: a name, a bound on one unit's part, and the event that pays for it."""

from __future__ import annotations

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, ClassVar

from sfumato.errors import UsageError
from sfumato.privacy.accounting.events import Event
from sfumato.privacy.budget import Relation
from sfumato.privacy.grid import max_dimension

if TYPE_CHECKING:
    from torch import Tensor

LEAST_BOUND, LARGEST_BOUND = 1e-12, 1e12
"""Clip norms lie between these: squares of float32 coordinates neither vanish nor overflow."""


class Query(ABC):
    """A question whose answer depends on one unit by a bounded amount only.

    A subclass is a frozen dataclass. Fields that are compared are public and go into the plan;
    functions are not compared. ``describes`` holds further public JSON values for the certificate.
    """

    mechanism: ClassVar[str]
    """The query's kind, a page of ``docs/proofs``."""

    name: str
    describes: Mapping[str, Any]

    @property
    @abstractmethod
    def relative_noise(self) -> float:
        """The noise multiplier relative to the plan's other queries."""

    @property
    @abstractmethod
    def bound(self) -> float:
        """C, the largest L2 norm of what one unit adds, in the answer's units."""

    @abstractmethod
    def sensitivity(self) -> dict[Relation, float]:
        """L2 sensitivity of one answer under each relation, in the answer's units."""

    def repeats(self) -> tuple[int, float]:
        """How many answers there are, and the probability with which a unit is in one's sample."""
        return 1, 1.0

    @property
    def answers(self) -> int:
        """How many answers there are."""
        return self.repeats()[0]

    def event(self, relation: Relation) -> Event:
        """The query's event, its noise relative to the plan's common scale."""
        sensitivity, (count, rate) = self.sensitivity(), self.repeats()
        return Event(
            query=self.mechanism,
            name=self.name,
            clip_norm=self.bound,
            sensitivity=sensitivity,
            noise_std=self.relative_noise * sensitivity[relation],
            count=count,
            sampling_rate=rate,
        )

    def to_dict(self) -> dict[str, Any]:
        """Everything public about the query, as plain JSON values."""
        names = [f.name for f in fields(self) if f.compare]  # type: ignore[arg-type]
        values = {name: getattr(self, name) for name in names if name != "describes"}
        return {**self.describes, "query": self.mechanism, **values}

    def _check_name(self) -> None:
        if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", self.name):
            raise UsageError(
                f"query name {self.name!r} must be letters, digits, '_', '-' or inner dots; "
                "answers are stored under it."
            )

    def _check_positive(self, **values: float) -> None:
        for key, value in values.items():
            if not 0 < value < math.inf:
                raise UsageError(f"query {self.name!r}: {key}={value} must be a positive number.")

    def _check_bounds(self, **values: float) -> None:
        self._check_positive(**values)
        for key, value in values.items():
            if not LEAST_BOUND <= value <= LARGEST_BOUND:
                raise UsageError(
                    f"query {self.name!r}: {key}={value} must lie in [{LEAST_BOUND:g}, "
                    f"{LARGEST_BOUND:g}], so that nothing underflows. Scale what is summed."
                )

    def _check_dimensions(self, **values: int) -> None:
        for key, value in values.items():
            if not isinstance(value, int) or not 0 < value <= max_dimension():
                raise UsageError(
                    f"query {self.name!r}: {key}={value} must be an integer in "
                    f"[1, {max_dimension()}]. Compress the features."
                )

    def _check_counts(self, **values: int) -> None:
        for key, value in values.items():
            if value < 1:
                raise UsageError(f"query {self.name!r}: {key}={value} must be at least 1.")

    def _check_rate(self, sampling_rate: float) -> None:
        if not 0 < sampling_rate <= 1:
            raise UsageError(
                f"query {self.name!r}: sampling_rate={sampling_rate} must lie in (0, 1]. It is the "
                "expected batch over the declared number of records: lower the batch."
            )


class TotalQuery(Query):
    """A query that is answered once, by one sum over all units."""

    by_class: bool = False
    """Whether each class has a row of its own in the answer."""

    shared: int = 0
    """How many of a contribution's last coordinates are added over all classes instead."""

    @abstractmethod
    def shape(self, classes: int) -> tuple[int, int]:
        """Shape of the answer's ``total`` for a data set of ``classes`` classes (0: unlabelled)."""

    @abstractmethod
    def values(self, images: Tensor, labels: Tensor) -> Tensor:
        """What each record would contribute, float ``[b, d]``, not yet bounded."""

    @property
    def width(self) -> int:
        """Number of coordinates of a contribution."""
        return self.shape(1)[1] + self.shared

    @abstractmethod
    def bounded_sums(self, rows: Tensor, bounds: Tensor | None, starts: Sequence[int]) -> Tensor:
        """Σ of stretches of rows in grid steps of ``bound`` / 2²⁰, int64 ``[stretches, d]``.

        ``rows`` ``[b, d]``, at most sixteen; ``bounds`` int64 ``[b]``: the most steps of each row;
        None: 2²⁰ for all. ``starts``: the first row of each stretch, ascending from 0.
        """
