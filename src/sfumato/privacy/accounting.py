"""What was done costs what: ε of a list of Gaussian events, three ways, and the noise for an ε.

The data language is :class:`Event`; the interpreters are

* :func:`epsilon`: privacy loss distributions by ``dp_accounting`` (the figure that is claimed);
* :func:`epsilon_rdp`: Rényi bound by ``dp_accounting`` (looser, an independent upper bound);
* :func:`epsilon_closed_form`: the analytic Gaussian of Balle and Wang (arXiv 1805.06530, Theorem
  8) written out here with SciPy only (exact, shares no code with the writer's accountant).

Every interpreter receives the event's own sensitivity under the relation asked for, and accounts
for a Gaussian of sensitivity one. ``dp_accounting``'s own notion of the relation is not used: its
0.6.0 RDP accountant is wrong for a plain Gaussian under replace-one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from typing import Any

import dp_accounting
from dp_accounting import pld, rdp
from scipy import optimize
from scipy.special import log_ndtr

from sfumato.errors import SfumatoError
from sfumato.privacy.budget import RELATIONS, Budget, Relation

SPEND_AT_LEAST = 0.999
"""Calibration leaves at most this share of ε unspent."""


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
    """

    query: str
    name: str
    clip_norm: float
    sensitivity: Mapping[Relation, float]
    noise_std: float
    count: int = 1

    def noise_multiplier(self, relation: Relation) -> float:
        """Noise standard deviation over sensitivity under ``relation``."""
        return self.noise_std / self.sensitivity[relation]

    def to_dict(self) -> dict[str, Any]:
        """The event as plain JSON values."""
        return {**asdict(self), "sensitivity": dict(self.sensitivity)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Event:
        """Read back what :meth:`to_dict` wrote."""
        return cls(**{**values, "sensitivity": dict(values["sensitivity"])})


def _composed(events: Sequence[Event], relation: Relation) -> dp_accounting.DpEvent:
    parts = [
        dp_accounting.SelfComposedDpEvent(
            dp_accounting.GaussianDpEvent(event.noise_multiplier(relation)), event.count
        )
        for event in events
    ]
    return dp_accounting.ComposedDpEvent(parts)


def _gaussian_mu(events: Sequence[Event], relation: Relation) -> float:
    return math.sqrt(sum(e.count / e.noise_multiplier(relation) ** 2 for e in events))


def epsilon(events: Sequence[Event], delta: float, relation: Relation) -> float:
    """ε at ``delta`` of all ``events`` together, by privacy loss distributions (PLD).

    An upper bound: the discretisation is pessimistic.
    """
    if not events:
        return 0.0
    # A grid that is fine against the answer keeps the pessimism below a thousandth of ε; one that
    # is not too fine against the loss's spread μ keeps it in memory.
    guess, spread = epsilon_closed_form(events, delta, relation), _gaussian_mu(events, relation)
    interval = 1e-4 * max(guess, spread)
    accountant = pld.PLDAccountant(value_discretization_interval=interval)
    accountant.compose(_composed(events, relation))
    return float(accountant.get_epsilon(delta))


def epsilon_rdp(events: Sequence[Event], delta: float, relation: Relation) -> float:
    """ε at ``delta`` of all ``events`` together, by Rényi differential privacy."""
    if not events:
        return 0.0
    accountant = rdp.RdpAccountant()
    accountant.compose(_composed(events, relation))
    return float(accountant.get_epsilon(delta))


def epsilon_closed_form(events: Sequence[Event], delta: float, relation: Relation) -> float:
    """ε at ``delta`` of all ``events`` together, by the analytic Gaussian mechanism.

    Gaussians compose exactly: μ² = Σ countᵢ / zᵢ², and
    δ(ε) = Φ(μ/2 − ε/μ) − e^ε Φ(−μ/2 − ε/μ) (arXiv 1805.06530, Theorem 8; 1905.02383, Cor. 3.3).
    """
    if not events:
        return 0.0
    mu = _gaussian_mu(events, relation)

    def excess(eps: float) -> float:
        first, second = log_ndtr(mu / 2 - eps / mu), eps + log_ndtr(-mu / 2 - eps / mu)
        return float(first + math.log(-math.expm1(min(second - first, -1e-300)))) - math.log(delta)

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
    PLD and at least 99.9 % of it, and the closed form agrees.

    Raises:
        SfumatoError: the accountants contradict each other (a bug, never the user's fault).
    """

    def scaled(factor: float) -> list[Event]:
        return [replace(event, noise_std=event.noise_std * factor) for event in events]

    target = budget.epsilon * (1 - 1e-5)

    def overspend(log_factor: float, interpreter: Any = epsilon_closed_form) -> float:
        return float(
            interpreter(scaled(math.exp(log_factor)), budget.delta, budget.relation) - target
        )

    low = high = 0.0
    while overspend(low) <= 0:
        low -= 1.0
    while overspend(high) > 0:
        high += 1.0
    # The exact curve brackets the answer; PLD, slightly pessimistic, then decides.
    factor, nudge = float(optimize.brentq(overspend, low, high, xtol=1e-9)), 1e-5
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
    """Hold a PLD ε against the closed form and the Rényi bound.

    Raises:
        SfumatoError: the claim is below the exact value or above the looser bound.
    """
    exact, loose = (f(events, delta, relation) for f in (epsilon_closed_form, epsilon_rdp))
    if claimed < exact * (1 - 1e-6) or claimed > loose * (1 + 1e-6):
        raise SfumatoError(
            f"accountants disagree: PLD {claimed:.6g} must lie between the exact {exact:.6g} and "
            f"the Rényi bound {loose:.6g} ({relation})."
        )


def accountant_name() -> str:
    """Name and version of the accountant whose figure is claimed."""
    return f"dp_accounting {version('dp-accounting')} PLD"
