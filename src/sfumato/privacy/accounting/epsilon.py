"""What was done costs what: ε of a list of Gaussian events, three ways, and the noise for an ε.

The data language is :class:`~sfumato.privacy.accounting.events.Event`; the interpreters are

* :func:`epsilon`: privacy loss distributions by ``dp_accounting`` (the figure that is claimed);
* :func:`epsilon_rdp`: Rényi bound (looser, an upper bound);
* :func:`epsilon_recomputed`: the closed form of Balle and Wang (arXiv 1805.06530, Theorem 8) where
  no event samples its units, else a convolution of
  :mod:`sfumato.privacy.accounting.dominating_pairs`; it shares no code
  with the figure that is claimed.

Every interpreter receives the event's own sensitivity under the relation asked for.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache
from importlib.metadata import version

import dp_accounting
from dp_accounting import pld
from scipy import optimize

from sfumato.privacy.accounting.dominating_pairs import (
    Pair,
    epsilon_by_convolution,
    epsilon_by_renyi,
    log_delta_gaussian,
    reach,
    spread,
)
from sfumato.privacy.accounting.events import Event, gaussian_mu, is_sampled
from sfumato.privacy.budget import RELATIONS, Relation

CONVOLUTION_ERROR = 1e-3
"""The recomputed ε of sampled events is within this share of the exact one, on either side."""

CLOSED_FORM_ERROR = 1e-9

POINTS = 2**19
"""Enough points for the grid of a privacy loss, unless rounding to it would cost too much."""

ROUNDING, MOST_ROUNDING = 1e-5, 2e-4
"""The share of ε that rounding may cost, and what it may where ε is very large or small."""

NEIGHBOURS = {
    "add-or-remove-one": dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    "replace-one": dp_accounting.NeighboringRelation.REPLACE_ONE,
}


def epsilon(events: Sequence[Event], delta: float, relation: Relation) -> float:
    """ε at ``delta`` of all ``events`` together, by privacy loss distributions (PLD).

    An upper bound: the discretisation is pessimistic.
    """
    if not events:
        return 0.0
    # A grid that is fine against the answer keeps the pessimism below a thousandth of ε; one that
    # is not too fine against the loss's spread keeps it in memory.
    guess = epsilon_recomputed(events, delta, relation)
    pairs = tuple(event.pair(relation) for event in events)
    if is_sampled(events):
        interval = _sampled_interval(pairs, guess)
    else:
        interval = 1e-4 * max(guess, gaussian_mu(events, relation))
    return _by_pld(pairs, delta, relation, interval)


def _sampled_interval(pairs: Sequence[Pair], guess: float) -> float:
    """Distance of the losses on the grid, for events that cost about ``guess``."""
    # A single step's loss may be much smaller than the sum, and its own shape must be seen.
    fine = 1e-4 * min(guess, 1.0)
    # Rounding a step's loss to a grid of distance h adds about h²/12 to its mean and its variance,
    # so a coarser grid, which is quicker, will do while all steps' rounding is small against ε.
    # For a very large or small ε even that grid has many millions of points.
    steps = sum(pair.count for pair in pairs)
    unit = math.sqrt(12 * guess * min(1.0, spread(pairs)) / steps)
    coarsest = min(2 * reach(pairs) / POINTS, math.sqrt(MOST_ROUNDING) * unit)
    return max(fine, math.sqrt(ROUNDING) * unit, coarsest)


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
    mu = gaussian_mu(events, relation)

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


def tolerance(events: Sequence[Event]) -> float:
    """The share by which a recomputed ε may be too large."""
    return CONVOLUTION_ERROR if is_sampled(events) else CLOSED_FORM_ERROR


def accountant_name() -> str:
    """Name and version of the accountant whose figure is claimed."""
    return f"dp_accounting {version('dp-accounting')} PLD"
