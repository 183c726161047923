"""What a guarantee leaves to somebody who guesses about one person, in numbers people can weigh."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist

from sfumato.privacy import Event, Relation

STRONG, MODERATE = 1.0, 3.0
"""ε up to which a worst-case bound is called strong, and moderate; a convention, no theorem."""

_LARGEST_EXPONENT = 700.0
_NARROW = "\u202f"
"""The space that keeps a number and its unit on one line."""
_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


@dataclass(frozen=True)
class Odds:
    """The bounds under one neighbouring relation, where ``mu`` is μ of the composed Gaussians.

    Gaussians of μ can be told from one another as N(0, 1) from N(μ, 1), and no better
    (arXiv 1905.02383, Corollary 3.3); the privacy loss is then N(μ²/2, μ²).
    """

    relation: Relation
    epsilon: float
    mu: float

    @property
    def missed(self) -> float:
        """Φ(μ/2 − ε/μ), the probability that the loss passes ε and the odds change by more.

        Larger than δ, which weighs each loss L above ε by 1 − e^(ε − L).
        """
        return NormalDist().cdf(self.mu / 2 - self.epsilon / self.mu)

    @property
    def best_guess(self) -> float:
        """Φ(μ/2), the most that guesses between two equally likely neighbours are right.

        Averaged over the noise, without any exception.
        """
        return NormalDist().cdf(self.mu / 2)

    @property
    def factor(self) -> str:
        """e^ε, the most by which the odds of a guess change."""
        if self.epsilon > _LARGEST_EXPONENT:
            return f"10{str(math.ceil(self.epsilon / math.log(10))).translate(_SUPERSCRIPT)}"
        value = math.exp(self.epsilon)
        if value < 1000:
            return f"{value:.3g}"
        return f"{value:,.0f}" if value < 1e6 else scientific(value)

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
    """The bounds of Gaussian ``events`` that cost ``epsilon`` under ``relation``."""
    mu = math.sqrt(sum(squared_mu(event, relation) for event in events))
    return Odds(relation, epsilon, mu)


def squared_mu(event: Event, relation: Relation) -> float:
    """What an event adds to μ², in which Gaussians compose by addition (arXiv 1905.02383)."""
    return event.count / event.noise_multiplier(relation) ** 2


def percent(share: float) -> str:
    """A share as a percentage that does not hide its distance from 100 %.

    1 %, 73.1 %, 99.9955 %; a bound is never shown as 100 % until less than 10⁻⁸ is missing.
    """
    missing = min(share, 1 - share)
    if missing < 1e-8:
        return f"practically {100 * round(share)}{_NARROW}%"
    digits = max(1, 1 - math.floor(math.log10(100 * missing)))
    text = f"{100 * share:.{digits}f}"
    return f"{text.rstrip('0').rstrip('.')}{_NARROW}%"


def scientific(value: float) -> str:
    """A number as people write it: 10⁻⁵, 2.5·10⁻⁶, 0.01."""
    if 1e-3 <= value < 1e6:
        return f"{value:g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    power = f"10{str(int(exponent)).translate(_SUPERSCRIPT)}"
    mantissa = mantissa.rstrip("0").rstrip(".")
    return power if mantissa == "1" else f"{mantissa}·{power}"
