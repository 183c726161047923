"""How well a plan's noise lets neighbours be told apart, and what it would at other noise.

A family of trade-off functions has one member for every factor by which all noise of a plan is
multiplied. An f-DP audit asks which members an attack refutes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from scipy.special import ndtr, ndtri

from sfumato.privacy import Event, Relation
from sfumato.privacy.accounting.dominating_pairs import LossDistribution, compose, directions
from sfumato.privacy.accounting.epsilon import epsilon_recomputed
from sfumato.privacy.accounting.events import is_sampled

BlowUpInverse = Callable[[float], float]
"""The least probability that an event can have beside a neighbour that gives it ``y``."""

LEAST_NOISE, MOST_NOISE = 2.0**-10, 2.0**10
PRECISION = 2.0**-8
"""Of the noise factor; bounds are rounded down to it."""

SLOPES = 500
"""How many ε of a privacy curve are used; a subset of them is weaker and still right."""


class Family:
    """The trade-offs of ``events`` with all noise multiplied by a factor.

    Args:
        events: what the plan claims; factor 1 is the claim.
        delta: δ at which a member's ε is read.
        relation: the neighbouring relation of both.
    """

    def __init__(self, events: Sequence[Event], delta: float, relation: Relation) -> None:
        self.events, self.delta, self.relation = events, delta, relation
        self._inverses: dict[float, BlowUpInverse] = {}

    def scaled(self, factor: float) -> list[Event]:
        """The events with their noise multiplied by ``factor``."""
        return [replace(event, noise_std=event.noise_std * factor) for event in self.events]

    def epsilon(self, factor: float) -> float:
        """ε of a member at the family's δ."""
        return epsilon_recomputed(self.scaled(factor), self.delta, self.relation)

    def largest_refuted(
        self, refuted: Callable[[BlowUpInverse], bool], precision: float = PRECISION
    ) -> float:
        """The largest ε of a member that a test refutes; 0 where it refutes none.

        Args:
            refuted: whether a member is refuted; the more noise it claims, the sooner.
            precision: share by which the factor of the noise may be too large.
        """

        def at(factor: float) -> bool:
            return refuted(self.blow_up_inverse(factor))

        low, high = 1.0, MOST_NOISE
        if not at(high):
            return 0.0
        while low > LEAST_NOISE and at(low):
            low, high = low / 4, low
        while high / low > 1 + precision:
            middle = math.sqrt(low * high)
            if at(middle):
                high = middle
            else:
                low = middle
        return self.epsilon(high)

    def losses(self, factor: float) -> list[LossDistribution]:
        """The privacy losses of a member: of removing a unit, and of adding one if that differs."""
        pairs = [event.pair(self.relation) for event in self.scaled(factor)]
        return [compose(side) for side in directions(pairs)]

    def blow_up_inverse(self, factor: float) -> BlowUpInverse:
        """1 − f of a member, inverted; convex.

        Of plain Gaussians Φ(Φ⁻¹(y) − μ) (arXiv 1905.02383, Corollary 3.3). Else, of the larger δ
        of both directions, the supremum over ε of (y − δ(ε))·e^{−ε} (their Proposition 2.13).
        """
        if factor not in self._inverses:
            self._inverses[factor] = self._blow_up_inverse(factor)
        return self._inverses[factor]

    def _blow_up_inverse(self, factor: float) -> BlowUpInverse:
        if not is_sampled(self.events):
            mu = math.sqrt(
                sum(
                    event.count / event.noise_multiplier(self.relation) ** 2
                    for event in self.scaled(factor)
                )
            )
            return lambda y: float(ndtr(ndtri(y) - mu))
        sides = self.losses(factor)
        low = max(float(side.losses[0]) for side in sides)
        high = min(float(side.losses[-1]) for side in sides)
        # Beyond ±40 a slope is e^40: no count of guesses feels it.
        slopes = np.linspace(max(low, -40.0), min(high, 40.0), SLOPES)
        deltas = np.maximum.reduce([np.interp(slopes, s.losses, s.deltas()) for s in sides])
        discount = np.exp(-slopes)
        return lambda y: float(max(((y - deltas) * discount).max(), 0.0))
