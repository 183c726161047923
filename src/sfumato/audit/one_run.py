"""A lower bound on ε from one run: Steinke, Nasr, Jagielski, arXiv 2305.08846, Theorem 5.2.

If each coin of (ε, δ)-private data is guessed, the number of right guesses is dominated by a
binomial with success probability e^ε/(1 + e^ε), but for a correction by δ.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.special import bdtrc, expit

from sfumato.audit.guesses import Guesses

LARGEST = 64.0
STEPS = 50


def p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """The most that the probability of so many right guesses can be under (ε, δ)-privacy.

    β + 2mδ·max over i ≥ 1 of (P[W ≥ v − i] − β)/i, where W ~ Bin(r, e^ε/(1 + e^ε)),
    β = P[W ≥ v], v of r guesses are right and there are m canaries.
    """
    r, v = guesses.made, guesses.correct
    if v == 0:
        return 1.0
    chance = expit(epsilon)
    fewer = np.arange(v - 1, -1, -1)
    # bdtrc(k, n, p) is P[W > k].
    at_least = bdtrc(np.r_[v - 1, fewer - 1.0], r, chance)
    at_least[-1] = 1.0
    beta, larger = float(at_least[0]), at_least[1:]
    slope = float(((larger - beta) / np.arange(1, v + 1)).max())
    return min(1.0, beta + 2 * guesses.canaries * delta * slope)


def epsilon_one_run(guesses: Guesses, delta: float, significance: float) -> float:
    """The largest ε that is refuted at ``delta``; 0 where none is.

    Guarantee: of an (ε, δ)-private mechanism it exceeds ε with probability at most
    ``significance``.
    """
    if p_value(guesses, 0.0, delta) > significance:
        return 0.0
    low, high = 0.0, 1.0
    while high < LARGEST and p_value(guesses, high, delta) <= significance:
        low, high = high, 2 * high
    for _ in range(STEPS):
        middle = (low + high) / 2
        if p_value(guesses, middle, delta) <= significance:
            low = middle
        else:
            high = middle
    return low if math.isfinite(low) else 0.0
