"""What was done costs what: ε of a list of Gaussian events, three ways, and the noise for an ε.

The data language is :class:`Event`; the interpreters are

* :func:`epsilon`: privacy loss distributions by ``dp_accounting`` (the figure that is claimed);
* :func:`epsilon_rdp`: Rényi bound (looser, an upper bound);
* :func:`epsilon_recomputed`: the closed form of Balle and Wang (arXiv 1805.06530, Theorem 8) where
  no event samples its units, else a convolution of :mod:`sfumato.privacy.pairs`; it shares no code
  with the figure that is claimed.

Every interpreter receives the event's own sensitivity under the relation asked for.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib.metadata import version
from typing import Any

import dp_accounting
from dp_accounting import pld
from scipy import optimize

from sfumato.errors import SfumatoError
from sfumato.privacy.budget import RELATIONS, Budget, Relation
from sfumato.privacy.pairs import (
    Pair,
    epsilon_by_convolution,
    epsilon_by_renyi,
    log_delta_gaussian,
)

SPEND_AT_LEAST = 0.999
"""Calibration leaves at most this share of ε unspent."""

CONVOLUTION_ERROR = 1e-3
"""The recomputed ε of sampled events is within this share of the exact one, on either side."""

CLOSED_FORM_ERROR = 1e-9

NEIGHBOURS = {
    "add-or-remove-one": dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    "replace-one": dp_accounting.NeighboringRelation.REPLACE_ONE,
}


@dataclass(frozen=True)
class Event:
    """One Gaussian release, as the ledger and the certificate record it.

    Args:
        query: the mechanism's name, a heading of ``docs/proofs.md``.
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


def _gaussian_mu(events: Sequence[Event], relation: Relation) -> float:
    return math.sqrt(sum(e.count / e.noise_multiplier(relation) ** 2 for e in events))


def is_sampled(events: Sequence[Event]) -> bool:
    """Whether any of the events draws a sample of the units, so that no closed form holds."""
    return any(event.sampling_rate < 1 for event in events)


def epsilon(events: Sequence[Event], delta: float, relation: Relation) -> float:
    """ε at ``delta`` of all ``events`` together, by privacy loss distributions (PLD).

    An upper bound: the discretisation is pessimistic.
    """
    if not events:
        return 0.0
    # A grid that is fine against the answer keeps the pessimism below a thousandth of ε; one that
    # is not too fine against the loss's spread keeps it in memory.
    guess = epsilon_recomputed(events, delta, relation)
    spread = guess if is_sampled(events) else _gaussian_mu(events, relation)
    interval = 1e-4 * max(guess, spread)
    if is_sampled(events):
        # A single step's loss may be much smaller than the sum, and its own shape must be seen.
        interval = min(interval, 1e-4)
    pairs = tuple(event.pair(relation) for event in events)
    return _by_pld(pairs, delta, relation, interval)


@lru_cache(maxsize=256)
def _by_pld(pairs: tuple[Pair, ...], delta: float, relation: Relation, interval: float) -> float:
    accountant = pld.PLDAccountant(NEIGHBOURS[relation], value_discretization_interval=interval)
    for pair in pairs:
        release: dp_accounting.DpEvent = dp_accounting.GaussianDpEvent(pair.z)
        if pair.q < 1:
            release = dp_accounting.PoissonSampledDpEvent(pair.q, release)
        accountant.compose(release, pair.count)
    return float(accountant.get_epsilon(delta))


def epsilon_rdp(events: Sequence[Event], delta: float, relation: Relation) -> float:
    """ε at ``delta`` of all ``events`` together, by Rényi differential privacy: an upper bound."""
    if not events:
        return 0.0
    return epsilon_by_renyi([event.pair(relation) for event in events], delta)


def epsilon_recomputed(events: Sequence[Event], delta: float, relation: Relation) -> float:
    """ε at ``delta`` of all ``events`` together, by an accountant of its own.

    Exact where no event samples its units: Gaussians compose to μ² = Σ countᵢ / zᵢ² (arXiv
    1905.02383, Cor. 3.3), and δ(ε) has a closed form. Otherwise a convolution, right to a
    thousandth.
    """
    if not events:
        return 0.0
    if is_sampled(events):
        return epsilon_by_convolution([event.pair(relation) for event in events], delta)
    mu = _gaussian_mu(events, relation)

    def excess(eps: float) -> float:
        return log_delta_gaussian(mu, eps) - math.log(delta)

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0:
        high *= 2
    return float(optimize.brentq(excess, 0.0, high, xtol=1e-12, rtol=1e-12))


def both_relations(events: Sequence[Event], delta: float) -> dict[Relation, float]:
    """ε by PLD under every relation, because nobody may read one as the other."""
    return {relation: epsilon(events, delta, relation) for relation in RELATIONS}


def calibrate(events: Sequence[Event], budget: Budget) -> list[Event]:
    """Scale all noise by one factor so that the composed events cost the budget, never more.

    The events' ``noise_std`` are read as relative. The result costs at most ``budget.epsilon`` by
    PLD and at least 99.9 % of it, and the second accountant agrees.

    Raises:
        SfumatoError: the accountants contradict each other (a bug, never the user's fault).
    """

    def scaled(factor: float) -> list[Event]:
        return [replace(event, noise_std=event.noise_std * factor) for event in events]

    target = budget.epsilon * (1 - 1e-5)

    def overspend(log_factor: float) -> float:
        spent = epsilon_recomputed(scaled(math.exp(log_factor)), budget.delta, budget.relation)
        return min(spent, 1e9) - target

    low = high = 0.0
    while overspend(low) <= 0:
        low -= 1.0
    while overspend(high) > 0:
        high += 1.0
    # The second accountant brackets the answer; PLD, slightly pessimistic, then decides.
    factor, nudge = float(optimize.brentq(overspend, low, high, xtol=1e-8)), 1e-5
    result = scaled(math.exp(factor))
    while (spent := epsilon(result, budget.delta, budget.relation)) > budget.epsilon:
        factor, nudge = factor + nudge, 2 * nudge
        result = scaled(math.exp(factor))
        if nudge > 1:
            break
    if not SPEND_AT_LEAST * budget.epsilon <= spent <= budget.epsilon:
        raise SfumatoError(
            f"calibration cannot spend between 99.9 % and all of epsilon={budget.epsilon} "
            f"(it finds {spent:.6g}): the accountant is too coarse there. Choose a less extreme "
            "epsilon or delta."
        )
    check_agreement(result, budget.delta, spent, budget.relation)
    return result


def check_agreement(
    events: Sequence[Event], delta: float, claimed: float, relation: Relation
) -> None:
    """Hold a PLD ε against the recomputed one and the Rényi bound.

    Raises:
        SfumatoError: the claim is below the recomputed value or above the looser bound.
    """
    again, loose = (f(events, delta, relation) for f in (epsilon_recomputed, epsilon_rdp))
    if claimed < again * (1 - tolerance(events)) or claimed > loose * (1 + 1e-6):
        raise SfumatoError(
            f"accountants disagree: PLD {claimed:.6g} must lie between the recomputed {again:.6g} "
            f"and the Rényi bound {loose:.6g} ({relation})."
        )


def tolerance(events: Sequence[Event]) -> float:
    """The share by which a recomputed ε may be too large."""
    return CONVOLUTION_ERROR if is_sampled(events) else CLOSED_FORM_ERROR


def accountant_name() -> str:
    """Name and version of the accountant whose figure is claimed."""
    return f"dp_accounting {version('dp-accounting')} PLD"
