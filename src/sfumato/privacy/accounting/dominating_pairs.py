"""A second accountant: ε from dominating pairs, by quadrature and convolution, without a library.

Every event here, a Gaussian release on a Poisson sample or on all units, is dominated by a pair of
one-dimensional mixtures of Gaussians (``docs/proofs/gradient.md``). Their privacy loss has a
closed form and an inverse, so its distribution can be put on a grid exactly; composition is
convolution (arXiv 2106.02848), or, under adaptive choice of later runs, a sum of Rényi divergences.
It shares no code with ``dp_accounting``, whose figure is the one that is claimed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_ndtr, logsumexp, ndtr

from sfumato.errors import SfumatoError

GRID = 2**18
TAILS = 10.0
"""Standard deviations of the composed loss that the grid covers; a budget's δ is at least 1e-12."""

NEGLIGIBLE = 1e-20
"""Probability of a single step's loss beyond what is looked at."""

WRAPPED = 1e-16
"""Probability of a composed loss beyond the grid, which would come back at its other end."""

RARE = -math.log(WRAPPED)

ORDERS = tuple(1 + 0.125 * 2 ** (0.5 * k) for k in range(26))
"""From 1.1 to 725, each order less 1 larger than the last by √2."""

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """P = (1 − q)·N(0, z²) + q·N(1, z²) against Q, both on the line, in clip norms.

    Args:
        z: noise standard deviation.
        q: probability that a unit is in the sample.
        other: centre of Q's other component: 0 (the unit is absent) or −1 (it is another one).
        swapped: the loss of Q against P instead: adding a unit rather than removing it.
        count: how many times the event happens.
    """

    z: float
    q: float
    other: int
    swapped: bool = False
    count: int = 1

    def loss(self, x: Array) -> Array:
        """log P(x)/Q(x); increasing."""
        return self.log_ratio(x) - (self.log_ratio(-x) if self.other else 0.0)

    def log_ratio(self, x: Array) -> Array:
        """log of P, or of Q mirrored, over N(0, z²)."""
        tilted = (2 * x - 1) / (2 * self.z**2)
        if self.q == 1:
            return tilted
        return np.logaddexp(math.log1p(-self.q), math.log(self.q) + tilted)

    def where(self, loss: Array) -> Array:
        """The x of a loss; −∞ below the smallest one."""
        z2, q = self.z**2, self.q
        if q == 1:
            return loss * z2 / (1 - self.other) + (0.5 if not self.other else 0.0)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            if not self.other:
                # log((e^l − (1 − q)) / q), without overflow for large l.
                inner = loss + np.log1p(-(1 - q) * np.exp(-loss)) - math.log(q)
                return np.where(loss > math.log1p(-q), z2 * inner + 0.5, -np.inf)
            # With u = e^{x/z²}, a = q e^{-1/2z²}: a u² − (1 − q)(e^l − 1) u − e^l a = 0. Odd in l.
            size = np.abs(loss)
            log_a = math.log(q) - 1 / (2 * z2)
            # b = (1 − q)(1 − e^{−l}) / 2a; the root is u = e^l (b + √(b² + e^{−l})).
            log_b = math.log1p(-q) + np.log(-np.expm1(-size)) - math.log(2) - log_a
            log_root = np.logaddexp(log_b, 0.5 * np.logaddexp(2 * log_b, -size))
            return np.sign(loss) * z2 * (size + log_root)

    def mass_up_to(self, loss: Array) -> Array:
        """P[loss ≤ l] when x is drawn from the first of the pair."""
        if self.swapped:
            return ndtr(-self.where(-loss) / self.z)
        x = self.where(loss)
        return (1 - self.q) * ndtr(x / self.z) + self.q * ndtr((x - 1) / self.z)

    @lru_cache(maxsize=256)  # noqa: B019 (a pair is a few numbers)
    def moments(self) -> tuple[float, float, float]:
        """Mean, standard deviation and practical maximum of the loss."""
        if self.q == 1:
            mu = (1 - self.other) / self.z
            return mu**2 / 2, mu, mu**2 / 2 + 40 * mu
        x = np.linspace(-40 * self.z - 1, 40 * self.z + 1, 40_001)
        edges = np.r_[-np.inf, (x[1:] + x[:-1]) / 2, np.inf]
        cdf = (1 - self.q) * ndtr(edges / self.z) + self.q * ndtr((edges - 1) / self.z)
        weights = np.diff(ndtr(edges / self.z) if self.swapped else cdf)
        losses = -self.loss(x) if self.swapped else self.loss(x)
        mean = float(weights @ losses)
        kept = np.abs(losses[weights > NEGLIGIBLE])
        return mean, math.sqrt(float(weights @ (losses - mean) ** 2)), float(kept.max())


def renyi(pair: Pair) -> Array:
    """Rényi divergence of P from Q, or of Q from P where ``swapped``, at each of ORDERS."""
    return np.array([divergence(pair, order) for order in ORDERS])


@lru_cache(maxsize=4096)
def divergence(pair: Pair, order: float) -> float:
    """The same at one order."""
    z = pair.z
    if pair.q == 1:
        return order * (1 - pair.other) ** 2 / (2 * z**2)
    # The integrand is a sum of bells of width z between −order and order.
    x = np.linspace(-30 * z - 1 - order, 30 * z + 1 + order, 20_001)
    normal = -0.5 * (x / z) ** 2 - math.log(z * math.sqrt(2 * math.pi))
    log_p = normal + pair.log_ratio(x)
    log_q = normal + (pair.log_ratio(-x) if pair.other else 0.0)
    first, second = (log_q, log_p) if pair.swapped else (log_p, log_q)
    integral = logsumexp(order * first + (1 - order) * second) + math.log(x[1] - x[0])
    return max(float(integral) / (order - 1), 0.0)


def directions(pairs: Sequence[Pair]) -> list[list[Pair]]:
    """The compositions whose larger δ counts: removing, and adding where that differs."""
    if all(pair.other for pair in pairs):
        return [list(pairs)]
    return [[Pair(p.z, p.q, p.other, swapped, p.count) for p in pairs] for swapped in (False, True)]


@dataclass(frozen=True)
class LossDistribution:
    """The composed privacy loss on a grid: ``losses`` ascending, ``mass`` their probabilities."""

    losses: Array
    mass: Array

    def deltas(self) -> Array:
        """δ(ε) at every ε of ``losses``: Σ over losses l > ε of p · (1 − e^{ε − l})."""
        above = np.cumsum(self.mass[::-1])[::-1]
        scaled = self.mass * np.exp(-np.clip(self.losses, -700, None))
        discounted = np.cumsum(scaled[::-1])[::-1]
        result: Array = above - np.exp(np.minimum(self.losses, 700)) * discounted
        return result

    def epsilon(self, delta: float) -> float:
        """The smallest ε ≥ 0 that ``delta`` allows, log δ taken as linear between grid points."""
        deltas = self.deltas()
        allowed = np.flatnonzero((deltas <= delta) & (self.losses >= 0))
        if not len(allowed):
            return math.inf
        at = int(allowed[0])
        if at == 0 or self.losses[at - 1] < 0 or not 0 < deltas[at] < deltas[at - 1]:
            return float(self.losses[at])
        high, low = math.log(deltas[at - 1]), math.log(deltas[at])
        share = (high - math.log(delta)) / (high - low)
        return float(self.losses[at - 1] + share * (self.losses[at] - self.losses[at - 1]))

    def beyond(self, epsilon: float) -> float:
        """The probability that the loss is larger than ``epsilon``."""
        return max(float(self.mass[self.losses > epsilon].sum()), 0.0)

    def told_apart(self) -> float:
        """δ(0): the total variation distance, how well neighbours can be told apart on average."""
        return float(np.interp(0.0, self.losses, self.deltas()))


def spread(pairs: Sequence[Pair]) -> float:
    """Standard deviation of the loss of all events together."""
    return math.sqrt(sum(pair.count * pair.moments()[1] ** 2 for pair in pairs))


def reach(pairs: Sequence[Pair]) -> float:
    """What the size of the loss of all events together, and of each, practically never exceeds."""
    mean = abs(sum(pair.count * pair.moments()[0] for pair in pairs))
    largest = max(pair.moments()[2] for pair in pairs)
    usual = mean + TAILS * spread(pairs) + largest
    return usual if _covers(usual, pairs) else max(usual, _far(pairs, mean, largest))


def compose(pairs: Sequence[Pair]) -> LossDistribution:
    """The loss of all events together, in the pairs' own direction."""
    step = 2 * reach(pairs) / GRID
    losses = (np.arange(GRID, dtype=np.float64) - GRID // 2) * step
    spectrum, drift = np.ones(GRID // 2 + 1, dtype=np.complex128), 0.0
    for pair in pairs:
        pair_mean = pair.moments()[0]
        mass = np.diff(pair.mass_up_to(np.r_[losses - step / 2, losses[-1] + step / 2]))
        # Rounding to the grid moves the mean a little every time; all of it is put back at the end.
        drift += (pair_mean - float(mass @ losses)) * pair.count
        spectrum *= np.fft.rfft(np.fft.ifftshift(mass)) ** pair.count
    # Not cut at zero: rounding errors of either sign cancel in sums, those of one sign add up.
    composed: Array = np.fft.fftshift(np.fft.irfft(spectrum, GRID))
    # What the drift of very many steps carried over one end came back at the other.
    whole = round(drift / step)
    return LossDistribution(losses + (drift - whole * step), np.roll(composed, whole))


def _far(pairs: Sequence[Pair], mean: float, largest: float) -> float:
    """What the size of all events' loss exceeds with probability 2 · :data:`WRAPPED` at most.

    Where few units are sampled and noise is weak, the loss is rare and large: no number of standard
    deviations covers it, and what lies beyond the grid would come back at its other end. Chernoff
    bounds cover it: P[loss > t] ≤ exp((α − 1)(D_α(P‖Q) − t)) and
    P[loss < −t] ≤ exp((α − 1) D_α(Q‖P) − α t), for any order α > 1. Where the whole loss is tiny
    they would need orders of many thousands, and Bernstein's inequality serves, which knows the
    loss's mean, its standard deviation and the ``largest`` of a single step: with
    t = L + √(L² + 2 r σ²), L = r · 2 · largest / 3, P[|loss − mean| > t] ≤ 2 exp(−r).
    """
    bounds = [_chernoff(pairs, order) for order in _sure(pairs)]
    above, below = map(min, zip(*bounds, strict=True)) if bounds else (0.0, 0.0)
    linear = RARE * 2 * largest / 3
    bernstein = mean + linear + math.sqrt(linear**2 + 2 * RARE * spread(pairs) ** 2)
    return min(max(above, below, 0.0), bernstein)


def _covers(size: float, pairs: Sequence[Pair]) -> bool:
    """Whether Chernoff bounds say that the loss stays within ``size``.

    One or two orders say so of most plans, and each costs integrals. For a Gaussian loss the best
    is known; where single losses are large, it is a smaller one.
    """
    best = 1 + math.sqrt(2 * RARE) / max(spread(pairs), 1e-9)
    above = below = False
    for order in sorted(_sure(pairs), key=lambda order: (order > 2 * best, abs(order - best))):
        bounds = _chernoff(pairs, order)
        above, below = above or bounds[0] <= size, below or bounds[1] <= size
        if above and below:
            return True
    return False


def _sure(pairs: Sequence[Pair]) -> list[float]:
    """The orders whose quadrature is sure: its points lie closer than a bell is wide."""
    return [order for order in ORDERS if order < 1000 * min(pair.z for pair in pairs)]


def _chernoff(pairs: Sequence[Pair], order: float) -> tuple[float, float]:
    """What the loss, and the loss with its sign turned, exceed with probability WRAPPED at most."""
    turned = [Pair(p.z, p.q, p.other, not p.swapped, p.count) for p in pairs]
    above, below = (sum(p.count * divergence(p, order) for p in way) for way in (pairs, turned))
    return above + RARE / (order - 1), (below * (order - 1) + RARE) / order


def epsilon_by_convolution(pairs: Sequence[Pair], delta: float) -> float:
    """ε at ``delta`` of all events together, to about a thousandth, neither bound.

    Raises:
        SfumatoError: ``delta`` is below what float64 resolves here.
    """
    return _by_convolution(tuple(pairs), delta)


@lru_cache(maxsize=256)
def _by_convolution(pairs: tuple[Pair, ...], delta: float) -> float:
    sides = [compose(side) for side in directions(pairs)]
    # Negative probabilities are rounding errors; those of either sign mostly cancel in sums.
    rounding = max(float(-np.minimum(side.mass, 0.0).sum()) for side in sides) / 16
    if delta < rounding:
        raise SfumatoError(
            f"delta={delta} is below {rounding:.1g}, what the second accountant resolves for these "
            f"events in float64. Choose a delta of {2 * rounding:.0g} or more, or fewer steps."
        )
    return max(side.epsilon(delta) for side in sides)


def epsilon_by_renyi(pairs: Sequence[Pair], delta: float) -> float:
    """An upper bound of ε at ``delta`` by the best Rényi order (arXiv 2004.00010, Prop. 12)."""
    orders = np.array(ORDERS, dtype=np.float64)
    worst = np.maximum.reduce(
        [np.sum([p.count * renyi(p) for p in side], axis=0) for side in directions(pairs)]
    )
    bounds = worst - (math.log(delta) + np.log(orders)) / (orders - 1) + np.log1p(-1 / orders)
    return float(max(bounds.min(), 0.0))


def epsilon_by_filter(pairs: Sequence[Pair], delta: float) -> float:
    """ε at ``delta`` that holds also where later events were chosen after earlier answers.

    Rényi divergences add up under fully adaptive choice for an order fixed in advance; δ is shared
    between the orders, so that the best may be taken afterwards (arXiv 2103.01379).
    """
    return epsilon_by_renyi(pairs, delta / len(ORDERS))


def log_delta_gaussian(mu: float, epsilon: float) -> float:
    """log δ(ε) of a Gaussian mechanism of sensitivity over noise μ (arXiv 1805.06530, Thm 8)."""
    first = log_ndtr(mu / 2 - epsilon / mu)
    second = epsilon + log_ndtr(-mu / 2 - epsilon / mu)
    return float(first + math.log(-math.expm1(min(second - first, -1e-300))))
