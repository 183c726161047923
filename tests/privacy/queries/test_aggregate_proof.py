"""docs/proofs/aggregate.md: the pair that is claimed dominates two adaptive parts on one sample.

Both parts are put on a grid, one axis each, with a second drift that is any function of the first
answer; H_α is a sum over the grid. No bound and no accountant takes part in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache

import numpy as np
import pytest
from numpy.typing import NDArray

from sfumato.privacy import RELATIONS, AggregateQuery, Relation, epsilon

Array = NDArray[np.float64]
Drift = Callable[[Array], Array]

REACH, POINTS = 8.0, 641
Y = np.linspace(-REACH, REACH, POINTS)
NORMAL = np.exp(-(Y**2) / 2)
WEIGHTS = np.outer(NORMAL, NORMAL) / NORMAL.sum() ** 2
ALPHAS = (1.0, 1.3, 4.0)

DRIFTS: dict[str, Drift] = {
    "constant": lambda y: np.ones_like(y),
    "against": lambda y: -np.ones_like(y),
    "sign": np.sign,
    "where it counts": lambda y: (y > 0.5).astype(np.float64),
    "where it does not": lambda y: (y < 0.0).astype(np.float64),
    "smooth": lambda y: np.tanh(2 * y - 1),
    "wild": lambda y: np.sin(5 * y),
}


def density(first: float, second: Array) -> Array:
    """Of a sampled unit with these drifts over that of an absent one, on the grid."""
    exponent = first * Y - first**2 / 2
    result: Array = np.exp(exponent[:, None] + second[:, None] * Y - second[:, None] ** 2 / 2)
    return result


def divergence(p: Array, q: Array, alpha: float) -> float:
    """H_α of densities over the standard Gaussian."""
    return float((WEIGHTS * np.maximum(p - alpha * q, 0)).sum())


@lru_cache
def claimed(z: float, rate: float, other: int, alpha: float) -> tuple[float, float]:
    """H_α of the statement's pair, both ways, by quadrature on the line."""
    x = np.linspace(-12 * z - 2, 12 * z + 2, 100_001)
    bell = [np.exp(-(((x - centre) / z) ** 2) / 2) for centre in (0.0, 1.0, float(other))]
    p = (1 - rate) * bell[0] + rate * bell[1]
    q = (1 - rate) * bell[0] + rate * bell[2]
    total = bell[0].sum()
    return tuple(  # type: ignore[return-value]
        float(np.maximum(a - alpha * b, 0).sum() / total) for a, b in ((p, q), (q, p))
    )


def worst_excess(r: tuple[float, float], z: float, rate: float, drift: Drift, other: int) -> float:
    """By how much the two parts exceed the claim at the worst α and direction."""
    first, second = r[0], r[1] * drift(Y)
    sampled = density(first, second)
    # A replaced unit may drift anywhere; the far end of the first and any of the second.
    far = [density(-first, -second), density(-first, second), density(first, -second)]
    p = 1 - rate + rate * sampled
    excess = -math.inf
    for q in [1 - rate + rate * other_one for other_one in far] if other else [np.ones_like(p)]:
        for alpha in ALPHAS:
            there, back = claimed(z, rate, other, alpha)
            excess = max(excess, divergence(p, q, alpha) - there, divergence(q, p, alpha) - back)
    return excess


@pytest.mark.parametrize("other", [0, -1])
@pytest.mark.parametrize("rate", [0.1, 1.0])
@pytest.mark.parametrize("r", [(0.5, 0.5), (0.4, 1.2)])
@pytest.mark.parametrize("name", list(DRIFTS))
def test_one_gaussian_dominates_both_parts(
    name: str, r: tuple[float, float], rate: float, other: int
) -> None:
    z = 1 / math.hypot(*r)
    assert worst_excess(r, z, rate, DRIFTS[name], other) < 5e-5


@pytest.mark.parametrize("other", [0, -1])
@pytest.mark.parametrize("rate", [0.1, 1.0])
@pytest.mark.parametrize("r", [(0.5, 0.5), (0.3, 1.2), (1.2, 0.3)])
def test_nothing_smaller_does(r: tuple[float, float], rate: float, other: int) -> None:
    z = 1 / math.hypot(*r)
    assert worst_excess(r, 1.05 * z, rate, DRIFTS["constant"], other) > 2e-4
    # One part's price does not pay for both.
    assert worst_excess(r, 1 / max(r), rate, DRIFTS["constant"], other) > 2e-4


@pytest.mark.parametrize("relation", RELATIONS)
def test_the_accountants_epsilon_holds_for_two_adaptive_parts(relation: Relation) -> None:
    query = AggregateQuery("a", 1, 1, 1.0, 0.2, 1, 1.0, 1, 1.0, 1.5)
    event = replace(query.event(relation), noise_std=0.9)
    r = tuple(1 / std for std in query.noise_stds(0.9))
    other, delta = (0 if relation == "add-or-remove-one" else -1), 1e-3
    alpha = math.exp(epsilon([event], delta, relation))
    deltas = []
    for drift in DRIFTS.values():
        sampled = 1 - 0.2 + 0.2 * density(r[0], r[1] * drift(Y))
        absent = (
            1 - 0.2 + 0.2 * density(-r[0], -r[1] * drift(Y)) if other else np.ones_like(sampled)
        )
        deltas += [divergence(sampled, absent, alpha), divergence(absent, sampled, alpha)]
    assert max(deltas) <= delta * (1 + 1e-3)
    assert max(deltas) >= delta * 0.95  # and is not far from what some drift reaches
