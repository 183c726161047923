"""The noise for an ε: one factor for all events of a plan, agreed on by two accountants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from scipy import optimize

from sfumato.errors import SfumatoError, UsageError
from sfumato.privacy.accounting.epsilon import epsilon, epsilon_rdp, epsilon_recomputed, tolerance
from sfumato.privacy.accounting.events import Event
from sfumato.privacy.budget import Budget, Relation

SPEND_AT_LEAST = 0.999
"""Calibration leaves at most this share of ε unspent."""


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
    short = factor = float(optimize.brentq(overspend, low, high, xtol=1e-8))
    nudge, result = 1e-5, scaled(math.exp(factor))
    while (spent := epsilon(result, budget.delta, budget.relation)) > budget.epsilon and nudge < 1:
        short, factor, nudge = factor, factor + nudge, 4 * nudge
        result = scaled(math.exp(factor))
    while spent < SPEND_AT_LEAST * budget.epsilon and factor - short > 1e-8:
        middle = (short + factor) / 2
        tried = scaled(math.exp(middle))
        price = epsilon(tried, budget.delta, budget.relation)
        if price > budget.epsilon:
            short = middle
        else:
            factor, result, spent = middle, tried, price
    if not SPEND_AT_LEAST * budget.epsilon <= spent <= budget.epsilon:
        raise UsageError(
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
