"""What a guarantee leaves to somebody who guesses about one person, in numbers people can weigh."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from sfumato.privacy import Event, Relation
from sfumato.privacy.accounting.dominating_pairs import compose, directions
from sfumato.privacy.accounting.events import is_sampled

STRONG, MODERATE = 1.0, 3.0
"""ε up to which a worst-case bound is called strong, and moderate; a convention, no theorem."""


@dataclass(frozen=True)
class Odds:
    """The bounds under one neighbouring relation.

    ``missed`` is the probability that the privacy loss passes ε, so that the odds change by more;
    it is larger than δ, which weighs each loss L above ε by 1 − e^(ε − L). ``best_guess`` is the
    most that guesses between two equally likely neighbours are right, averaged over the noise and
    without any exception.
    """

    relation: Relation
    epsilon: float
    missed: float
    best_guess: float

    @property
    def strength(self) -> str:
        """``strong``, ``moderate`` or ``weak``."""
        if self.epsilon <= STRONG:
            return "strong"
        return "moderate" if self.epsilon <= MODERATE else "weak"

    def most(self, prior: float) -> float:
        """The most that a guess of probability ``prior`` can become: pe^ε / (1 − p + pe^ε)."""
        return 1 / (1 + (1 - prior) / prior * math.exp(-self.epsilon))

    def least(self, prior: float) -> float:
        """The least that it can become."""
        return 1 - self.most(1 - prior)


def make_odds(relation: Relation, epsilon: float, events: Sequence[Event]) -> Odds:
    """The bounds of ``events`` that cost ``epsilon`` under ``relation``.

    Plain Gaussians of μ can be told from one another as N(0, 1) from N(μ, 1), and no better
    (arXiv 1905.02383, Corollary 3.3); the privacy loss is then N(μ²/2, μ²). Where an event samples
    its units, the composed loss is taken from a grid.
    """
    if is_sampled(events):
        sides = [compose(side) for side in directions([event.pair(relation) for event in events])]
        missed = max(side.beyond(epsilon) for side in sides)
        apart = max(side.told_apart() for side in sides)
        return Odds(relation, epsilon, missed, 0.5 + apart / 2)
    mu = math.sqrt(sum(loss_variance(event, relation) for event in events))
    normal = NormalDist()
    return Odds(relation, epsilon, normal.cdf(mu / 2 - epsilon / mu), normal.cdf(mu / 2))


def loss_variance(event: Event, relation: Relation) -> float:
    """What an event adds to the variance of the privacy loss; μ² for a plain Gaussian."""
    pair = event.pair(relation)
    return pair.count * pair.moments()[1] ** 2
