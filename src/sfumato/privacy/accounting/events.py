"""What was released: Gaussian events, as the ledger and the certificate record them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sfumato.privacy.accounting.dominating_pairs import (
    Pair,
)
from sfumato.privacy.budget import Relation


@dataclass(frozen=True)
class Event:
    """One Gaussian release, as the ledger and the certificate record it.

    Args:
        query: the mechanism's name, a heading of ``docs/proofs``.
        name: what the method calls this release.
        clip_norm: L2 bound of one unit's contribution, in the answer's units.
        sensitivity: L2 sensitivity under each relation, in the answer's units.
        noise_std: standard deviation per coordinate of the Gaussian that privacy rests on, in
            the answer's units.
        count: how many times the release happens.
        sampling_rate: probability with which each unit, independently, takes part in a release.
    """

    query: str
    name: str
    clip_norm: float
    sensitivity: Mapping[Relation, float]
    noise_std: float
    count: int = 1
    sampling_rate: float = 1.0

    def noise_multiplier(self, relation: Relation) -> float:
        """Noise standard deviation over sensitivity under ``relation``."""
        return self.noise_std / self.sensitivity[relation]

    def pair(self, relation: Relation) -> Pair:
        """The pair of mixtures of Gaussians that dominates one such release."""
        # Under replace-one the two units stand at +1 and −1, a sensitivity of two.
        reach, other = (1, 0) if relation == "add-or-remove-one" else (2, -1)
        multiplier = reach * self.noise_multiplier(relation)
        return Pair(multiplier, self.sampling_rate, other, count=self.count)

    def to_dict(self) -> dict[str, Any]:
        """The event as plain JSON values."""
        return {**asdict(self), "sensitivity": dict(self.sensitivity)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Event:
        """Read back what :meth:`to_dict` wrote."""
        return cls(**{**values, "sensitivity": dict(values["sensitivity"])})


def gaussian_mu(events: Sequence[Event], relation: Relation) -> float:
    """μ of the one Gaussian that unsampled events compose to (arXiv 1905.02383, Cor. 3.3)."""
    return math.sqrt(sum(e.count / e.noise_multiplier(relation) ** 2 for e in events))


def is_sampled(events: Sequence[Event]) -> bool:
    """Whether any of the events draws a sample of the units, so that no closed form holds."""
    return any(event.sampling_rate < 1 for event in events)
