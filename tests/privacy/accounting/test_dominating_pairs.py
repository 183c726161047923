"""docs/proofs/gradient.md: ε from dominating pairs, against a library, a formula and a grid."""

from __future__ import annotations

import math
from itertools import product

import dp_accounting
import numpy as np
import pytest
from dp_accounting import rdp
from dp_accounting.pld import privacy_loss_distribution
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate, stats
from scipy.special import comb, logsumexp

from sfumato.errors import SfumatoError
from sfumato.privacy import RELATIONS
from sfumato.privacy.accounting import dominating_pairs as pairs_module
from sfumato.privacy.accounting.dominating_pairs import (
    ORDERS,
    Pair,
    compose,
    directions,
    epsilon_by_convolution,
    epsilon_by_filter,
    epsilon_by_renyi,
    log_delta_gaussian,
    renyi,
)
from sfumato.privacy.accounting.epsilon import NEIGHBOURS

ADD, REPLACE = RELATIONS
OTHER = {ADD: 0, REPLACE: -1}


def golden(parts: list[tuple[float, float, int]], relation: str, interval: float):
    """dp_accounting's own loss distribution: an upper bound, tight where ``interval`` is small."""
    result = privacy_loss_distribution.identity(interval)
    for z, q, count in parts:
        once = privacy_loss_distribution.from_gaussian_mechanism(
            z,
            sampling_prob=q,
            neighboring_relation=NEIGHBOURS[relation],
            value_discretization_interval=interval,
        )
        result = result.compose(once.self_compose(count))
    return result


def mine(parts: list[tuple[float, float, int]], relation: str) -> list[Pair]:
    return [Pair(z, q, OTHER[relation], count=count) for z, q, count in parts]


CASES = [
    # z, q, steps, δ, the library's interval
    (1.0, 0.01, 1000, 1e-5, 1e-4),
    (0.6, 0.1, 20, 1e-5, 1e-3),
    (5.0, 0.5, 100, 1e-5, 1e-4),
    (10.0, 0.2, 50, 1e-10, 1e-5),
    (2.0, 1e-3, 5000, 1e-6, 1e-5),
    (0.7, 0.9, 5, 1e-5, 1e-3),
    (1.0, 1e-4, 2000, 1e-6, 5e-6),  # tiny rate
    (0.5, 0.5, 60, 1e-10, 1e-2),  # large ε
]
NEAR_ATOMS = [
    (0.3, 0.05, 3, 1e-5, 1e-3),
    (0.2, 0.3, 10, 1e-5, 1e-2),
    (0.5, 1 / 64, 1, 1e-6, 1e-3),
    (0.4, 1e-4, 3, 1e-6, 1e-4),
]


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize(("z", "q", "steps", "delta", "interval"), CASES)
def test_convolution_agrees_with_the_library(
    z: float, q: float, steps: int, delta: float, interval: float, relation: str
) -> None:
    theirs = golden([(z, q, steps)], relation, interval).get_epsilon_for_delta(delta)
    ours = epsilon_by_convolution(mine([(z, q, steps)], relation), delta)
    assert ours == pytest.approx(theirs, rel=1e-3)
    # The grid is fine enough to notice one step too many.
    if steps < 100:
        more = epsilon_by_convolution(mine([(z, q, steps + 1)], relation), delta)
        assert more > theirs * (1 + 1e-3)


@pytest.mark.parametrize(("z", "q", "steps", "delta", "interval"), NEAR_ATOMS)
def test_convolution_agrees_where_most_of_the_loss_lies_in_one_cell(
    z: float, q: float, steps: int, delta: float, interval: float
) -> None:
    theirs = golden([(z, q, steps)], ADD, interval).get_epsilon_for_delta(delta)
    ours = epsilon_by_convolution(mine([(z, q, steps)], ADD), delta)
    assert ours == pytest.approx(theirs, rel=1e-3)


@pytest.mark.parametrize("relation", RELATIONS)
def test_convolution_of_several_different_events(relation: str) -> None:
    parts = [(1.2, 0.02, 300), (4.0, 1.0, 2), (2.5, 0.3, 10), (1.2, 0.02, 1)]
    pairs = mine(parts, relation)
    theirs = golden(parts, relation, 1e-4)
    ours = epsilon_by_convolution(pairs, 1e-6)
    assert ours == pytest.approx(theirs.get_epsilon_for_delta(1e-6), rel=1e-3)
    assert epsilon_by_convolution(pairs[::-1], 1e-6) == pytest.approx(ours, rel=1e-6)
    assert all(epsilon_by_convolution(pairs[:k], 1e-6) < ours for k in (1, 2, 3))


@pytest.mark.parametrize("other", [0, -1])
@pytest.mark.parametrize(
    ("z", "count", "delta"), [(1.0, 1, 1e-5), (0.4, 7, 1e-10), (30.0, 9, 1e-3)]
)
def test_without_sampling_the_closed_form(z: float, count: int, delta: float, other: int) -> None:
    epsilon = epsilon_by_convolution([Pair(z, 1.0, other, count=count)], delta)
    mu = (1 - other) * math.sqrt(count) / z
    # ε moves δ so fast that the comparison is made in ε, through two values beside it.
    above, below = (log_delta_gaussian(mu, epsilon * (1 + side)) for side in (-1e-3, 1e-3))
    assert below < math.log(delta) < above


def exact_delta(mu: float, eps: float) -> float:
    return stats.norm.cdf(mu / 2 - eps / mu) - math.exp(eps) * stats.norm.cdf(-mu / 2 - eps / mu)


def test_distribution_of_a_gaussian_loss() -> None:
    mu = 2 / 1.5  # four times, at z = 1.5
    found = compose([Pair(1.5, 1.0, 0, count=4)])
    assert found.mass.sum() == pytest.approx(1, abs=1e-9)
    assert found.mass @ found.losses == pytest.approx(mu**2 / 2, rel=1e-6)
    assert found.told_apart() == pytest.approx(exact_delta(mu, 0.0), rel=1e-4)
    for eps in (0.0, 0.5, 3.0):
        assert found.beyond(eps) == pytest.approx(stats.norm.sf(eps, mu**2 / 2, mu), rel=1e-3)
        near = np.interp(eps, found.losses, found.deltas())
        assert near == pytest.approx(exact_delta(mu, eps), rel=1e-3)


rates = st.floats(1e-9, 1.0)
multipliers = st.floats(0.05, 1e3)


@settings(max_examples=300)
@given(multipliers, rates, st.sampled_from([0, -1]), st.floats(-60, 60))
def test_where_inverts_loss(z: float, q: float, other: int, wanted: float) -> None:
    pair = Pair(z, q, other)
    found = pair.where(np.array([wanted]))
    assert not np.isnan(found).any()
    if other == 0 and q < 1 and wanted <= math.log1p(-q):
        assert found[0] == -math.inf  # removing a unit never loses more than this
        return
    assert np.isfinite(found).all()
    # A rounding of e^{−l} is magnified where the loss has hardly left its smallest value.
    slack = 1e-9 + (1e-14 / q if other == 0 else 0)
    if other == 0 and q < 1 and wanted - math.log1p(-q) < 1e-6:
        return
    assert pair.loss(found)[0] == pytest.approx(wanted, rel=1e-8, abs=slack)


@settings(max_examples=200)
@given(multipliers, rates, st.sampled_from([0, -1]))
def test_loss_and_its_inverse_ascend_and_are_never_nan(z: float, q: float, other: int) -> None:
    pair = Pair(z, q, other)
    x = np.linspace(-50 * z - 2, 50 * z + 2, 400)
    losses = pair.loss(x)
    assert np.isfinite(losses).all() and (np.diff(losses) >= -1e-9 * np.abs(losses[1:])).all()
    extremes = np.r_[-1e6, -800.0, -1.0, -1e-300, 0.0, 1e-300, 1e-12, 1.0, 800.0, 1e6]
    found = pair.where(extremes)
    assert not np.isnan(found).any() and (np.diff(found[found > -math.inf]) >= 0).all()
    for swapped in (False, True) if other == 0 else (False,):
        mass = Pair(z, q, other, swapped).mass_up_to(extremes)
        assert ((mass >= 0) & (mass <= 1)).all() and (np.diff(mass) >= -1e-15).all()
    if other:
        assert np.array_equal(pair.where(-extremes), -found)  # a replacement is symmetric


@pytest.mark.parametrize("swapped", [False, True])
def test_mass_up_to_is_the_distribution_of_the_loss(swapped: bool) -> None:
    z, q = 0.8, 0.3
    pair = Pair(z, q, 0, swapped)
    rng = np.random.default_rng(0)
    x = rng.normal(0, z, 200_000)
    if not swapped:
        x += rng.random(len(x)) < q
    losses = -pair.loss(x) if swapped else pair.loss(x)
    assert stats.kstest(losses[:20_000], lambda loss: pair.mass_up_to(loss)).pvalue > 1e-6
    wrong = Pair(z, q, 0, not swapped)
    assert stats.kstest(losses[:20_000], lambda loss: wrong.mass_up_to(loss)).pvalue < 1e-6
    mean, spread, largest = pair.moments()
    assert mean == pytest.approx(losses.mean(), abs=6 * spread / math.sqrt(len(x)))
    assert spread == pytest.approx(losses.std(), rel=0.03)
    assert largest >= np.abs(losses).max()


def brute_force(pair: Pair, folds: int, eps: float, points: int) -> float:
    """δ(ε) of ``folds`` events, from the densities themselves on a grid of so many dimensions."""
    x, step = np.linspace(-8 * pair.z - 1, 8 * pair.z + 1, points, retstep=True)

    def density(weights: dict[float, float]) -> np.ndarray:
        line = sum(w * stats.norm.pdf(x, at, pair.z) for at, w in weights.items())
        result = np.ones(())
        for _ in range(folds):
            result = np.multiply.outer(result, line)
        return result

    first = density({0.0: 1 - pair.q, 1.0: pair.q})
    second = density({0.0: 1 - pair.q, -1.0: pair.q} if pair.other else {0.0: 1.0})
    if pair.swapped:
        first, second = second, first
    return float(np.maximum(first - math.exp(eps) * second, 0).sum() * step**folds)


@pytest.mark.parametrize(("folds", "points", "share"), [(2, 1200, 2e-3), (3, 180, 1e-2)])
@pytest.mark.parametrize("eps", [0.0, 0.2, 0.7])
@pytest.mark.parametrize(("other", "swapped"), [(0, False), (0, True), (-1, False)])
def test_two_and_three_events_by_brute_force(
    other: int, swapped: bool, eps: float, folds: int, points: int, share: float
) -> None:
    pair = Pair(0.8, 0.4, other, swapped, folds)
    found = compose([pair])
    ours = float(np.interp(eps, found.losses, found.deltas()))
    assert ours == pytest.approx(brute_force(pair, folds, eps, points), rel=share, abs=1e-7)


def test_adding_and_removing_are_told_apart() -> None:
    theirs = golden([(1.0, 0.01, 1000)], ADD, 1e-4)
    remove, add = (compose(side) for side in directions([Pair(1.0, 0.01, 0, count=1000)]))
    for found, pmf in ((remove, theirs._pmf_remove), (add, theirs._pmf_add)):
        assert found.epsilon(1e-5) == pytest.approx(pmf.get_epsilon_for_delta(1e-5), rel=1e-3)
    assert remove.epsilon(1e-5) > 1.2 * add.epsilon(1e-5)
    # At ε = 0 both are the same distance.
    assert remove.told_apart() == pytest.approx(add.told_apart(), rel=1e-3)


def test_the_worse_direction_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    pairs = [Pair(1.0, 0.01, 0, count=1000)]
    both = epsilon_by_convolution(pairs, 1e-5)
    monkeypatch.setattr(pairs_module, "directions", lambda pairs: directions(pairs)[::-1])
    pairs_module._by_convolution.cache_clear()
    assert epsilon_by_convolution(pairs, 1e-5) == both
    pairs_module._by_convolution.cache_clear()
    monkeypatch.setattr(pairs_module, "directions", lambda pairs: directions(pairs)[1:])
    assert epsilon_by_convolution(pairs, 1e-5) < both


@pytest.mark.parametrize(("z", "q"), [(1.0, 0.01), (0.5, 0.3), (4.0, 0.9), (2.0, 1e-5), (0.7, 1.0)])
def test_renyi_at_whole_orders_is_the_binomial_sum(z: float, q: float) -> None:
    """The closed form of arXiv 1908.10530, section 3.3."""
    found = renyi(Pair(z, q, 0))
    for order, value in zip(ORDERS, found, strict=True):
        if order > 40 or abs(order - round(order)) > 1e-9:
            continue
        a = round(order)
        k = np.arange(a + 1)
        with np.errstate(divide="ignore"):
            logs = np.log(comb(a, k)) + k * math.log(q) + (k * k - k) / (2 * z * z)
            logs += (a - k) * np.log1p(-q) if q < 1 else np.where(k == a, 0.0, -np.inf)
        # A divergence near zero is a difference of two numbers near one.
        assert value == pytest.approx(logsumexp(logs) / (a - 1), rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("other", "swapped"), [(0, True), (-1, False)])
def test_renyi_is_the_integral_of_its_definition(other: int, swapped: bool) -> None:
    z, q = 0.9, 0.25
    found = dict(zip(ORDERS, renyi(Pair(z, q, other, swapped)), strict=True))
    for order in (1.125, 2.0, 3.0, 5.0):

        def integrand(x: float, order: float = order) -> float:
            p = (1 - q) * stats.norm.pdf(x, 0, z) + q * stats.norm.pdf(x, 1, z)
            r = stats.norm.pdf(x, 0, z)
            if other:
                r = (1 - q) * r + q * stats.norm.pdf(x, -1, z)
            p, r = (r, p) if swapped else (p, r)
            return p**order * r ** (1 - order)

        value, _ = integrate.quad(integrand, -14, 14, limit=300, points=[-1, 0, 1])
        near = min(found, key=lambda known: abs(known - order))
        assert near == pytest.approx(order)
        assert found[near] == pytest.approx(math.log(value) / (order - 1), rel=1e-5)


@pytest.mark.parametrize(
    ("z", "q", "steps", "delta"),
    [(1.0, 0.01, 1000, 1e-5), (0.6, 0.1, 20, 1e-5), (5.0, 0.5, 100, 1e-10)],
)
def test_renyi_epsilon_agrees_with_the_library_and_bounds_the_convolution(
    z: float, q: float, steps: int, delta: float
) -> None:
    accountant = rdp.RdpAccountant(
        list(ORDERS), dp_accounting.NeighboringRelation.ADD_OR_REMOVE_ONE
    )
    once = dp_accounting.PoissonSampledDpEvent(q, dp_accounting.GaussianDpEvent(z))
    accountant.compose(once, steps)
    loose = epsilon_by_renyi([Pair(z, q, 0, count=steps)], delta)
    assert loose == pytest.approx(accountant.get_epsilon(delta), rel=1e-3)
    for other in (0, -1):
        pairs = [Pair(z, q, other, count=steps)]
        tight, bound = epsilon_by_convolution(pairs, delta), epsilon_by_renyi(pairs, delta)
        assert tight < bound < 2 * tight
        assert bound < epsilon_by_filter(pairs, delta) < 2 * bound


@settings(max_examples=12)
@given(st.floats(1.0, 20), st.floats(1e-2, 1), st.integers(20, 500), st.sampled_from(RELATIONS))
def test_filter_over_renyi_over_the_claim(z: float, q: float, steps: int, relation: str) -> None:
    pairs = mine([(z, q, steps)], relation)
    loose, adaptive = epsilon_by_renyi(pairs, 1e-6), epsilon_by_filter(pairs, 1e-6)
    assert epsilon_by_convolution(pairs, 1e-6) <= loose * (1 + 1e-6) + 1e-9
    assert loose <= adaptive


@settings(max_examples=6)
@given(
    st.floats(0.7, 10),
    st.floats(0.01, 0.9),
    st.integers(5, 200),
    st.sampled_from([0, -1]),
    st.sampled_from(["z", "q", "count"]),
)
def test_less_noise_more_sampling_more_steps_cost_more(
    z: float, q: float, steps: int, other: int, what: str
) -> None:
    pair = Pair(z, q, other, count=steps)
    worse = {
        "z": Pair(z / 1.05, q, other, count=steps),
        "q": Pair(z, q * 1.1, other, count=steps),
        "count": Pair(z, q, other, count=math.ceil(steps * 1.2)),
    }[what]
    for price in (epsilon_by_convolution, epsilon_by_renyi, epsilon_by_filter):
        assert price([pair], 1e-5) < price([worse], 1e-5)


def hockey_stick(first: np.ndarray, second: np.ndarray, alpha: float, cell: float) -> float:
    return float(np.clip(first - alpha * second, 0, None).sum() * cell)


@pytest.mark.parametrize("seed", range(5))
def test_no_pair_of_units_in_the_plane_beats_the_dominating_pair(seed: int) -> None:
    """The theorem of ``docs/proofs/gradient.md``: the worst centres lie on one line."""
    rng = np.random.default_rng(seed)
    z, q, alpha = rng.uniform(0.4, 2), rng.uniform(0.05, 0.9), np.exp(rng.uniform(0, 2))
    line = np.linspace(-8 * z - 1, 8 * z + 1, 400)
    x, y = np.meshgrid(line, line)
    cell = float((line[1] - line[0]) ** 2)

    def bell(centre: tuple[float, float]) -> np.ndarray:
        squared = (x - centre[0]) ** 2 + (y - centre[1]) ** 2
        return np.exp(-squared / (2 * z * z)) / (2 * np.pi * z * z)

    def mixture(centre: tuple[float, float]) -> np.ndarray:
        return (1 - q) * bell((0.0, 0.0)) + q * bell(centre)

    worst_replaced = hockey_stick(mixture((1.0, 0.0)), mixture((-1.0, 0.0)), alpha, cell)
    worst_removed = hockey_stick(mixture((1.0, 0.0)), bell((0.0, 0.0)), alpha, cell)
    worst_added = hockey_stick(bell((0.0, 0.0)), mixture((1.0, 0.0)), alpha, cell)
    for _ in range(12):
        angles, radii = rng.uniform(0, 2 * np.pi, 2), np.sqrt(rng.uniform(0, 1, 2))
        a, b = (
            (float(r * np.cos(t)), float(r * np.sin(t))) for r, t in zip(radii, angles, strict=True)
        )
        assert hockey_stick(mixture(a), mixture(b), alpha, cell) <= worst_replaced + 1e-9
        assert hockey_stick(mixture(a), bell((0.0, 0.0)), alpha, cell) <= worst_removed + 1e-9
        assert hockey_stick(bell((0.0, 0.0)), mixture(b), alpha, cell) <= worst_added + 1e-9
    # And the line's own pair is what the accountant composes.
    ours = compose([Pair(z, q, -1)])
    at = float(np.interp(np.log(alpha), ours.losses, ours.deltas()))
    assert at == pytest.approx(worst_replaced, abs=2e-4)


@pytest.mark.parametrize(
    ("z", "q", "steps", "delta", "wanted"),
    # dp_accounting's PLD at a discretisation of 1e-3, which takes ten seconds each.
    [
        (0.05, 0.01, 10, 1e-12, 1331.43),
        (0.05, 0.01, 10, 1e-5, 635.87),
        (0.1, 0.01, 100, 1e-12, 665.78),
        # At 5e-4. So many steps' rounding carries the loss past the end of the grid.
        (0.3, 0.001, 1_000_000, 1e-5, 909.84),
    ],
)
def test_rare_large_losses_stay_on_the_grid(
    z: float, q: float, steps: int, delta: float, wanted: float
) -> None:
    pair = pairs_module.Pair(z, q, 0, count=steps)
    assert pairs_module.epsilon_by_convolution([pair], delta) == pytest.approx(wanted, rel=1e-3)


def test_many_tiny_losses_are_one_gaussian() -> None:
    q, steps, mu = 0.2, 100_000, 4.2e-4
    pair = Pair(q * math.sqrt(steps) / mu, q, 0, count=steps)
    ours = epsilon_by_convolution([pair], 1e-5)
    assert log_delta_gaussian(mu, ours) == pytest.approx(math.log(1e-5), rel=1e-4)


def test_the_reach_is_that_of_all_orders_however_few_were_asked() -> None:
    """It stops at the first orders that say enough: the grid may not be another for it."""
    answers = set()
    for z, q, other, steps in product((0.3, 2.0, 80.0), (1e-4, 0.1), (0, -1), (1, 1000)):
        pairs = [Pair(z, q, other, count=steps), Pair(5.0, 1.0, other)]
        mean = abs(sum(pair.count * pair.moments()[0] for pair in pairs))
        largest = max(pair.moments()[2] for pair in pairs)
        usual = mean + pairs_module.TAILS * pairs_module.spread(pairs) + largest
        answers.add(pairs_module._covers(usual, pairs))
        assert pairs_module.reach(pairs) == max(usual, pairs_module._far(pairs, mean, largest))
    assert answers == {True, False}


def test_a_delta_that_float64_cannot_resolve_is_refused() -> None:
    pair = pairs_module.Pair(1.0, 0.01, 0, count=1000)
    assert 3 < pairs_module.epsilon_by_convolution([pair], 1e-12) < 5
    with pytest.raises(SfumatoError, match=r"delta=1e-17 is below .* delta of .e-1\d or more"):
        pairs_module.epsilon_by_convolution([pair], 1e-17)
