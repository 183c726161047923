"""proof.md: the sampler's law is the discrete Gaussian, and every coin is exact.

Each statistical test accepts right code and rejects a planted fault. Right code fails one of its
assertions with a probability of at most ``SURE``.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from fractions import Fraction

import mpmath
import numpy as np
import opendp.prelude as dp
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from sfumato.errors import SfumatoError
from sfumato.privacy.noise import discrete_gaussian, enclosure, fixed_point
from sfumato.privacy.noise.discrete_gaussian import sample
from sfumato.privacy.noise.entropy import Stream, fresh_stream
from sfumato.privacy.noise.strata import strata_of

SURE = 1e-6
Ints = NDArray[np.int64]
HALF = Fraction(1, 2)


def masses(scale: float, edges: Ints) -> NDArray[np.float64]:
    """P[edge_i ≤ Y < edge_{i+1}], below, between and above the edges, by summing every integer.

    Floating point is good for twelve digits here, which no sample of ours can resolve.
    """
    reach = math.ceil(14 * scale) + 1
    points = np.arange(-reach, reach + 1)
    weight = np.exp(-((points / scale) ** 2) / 2)
    starts = np.searchsorted(points, edges)
    total: NDArray[np.float64] = np.add.reduceat(weight, np.append(0, starts)) / weight.sum()
    return total


def counted(drawn: Ints, edges: Ints) -> NDArray[np.int64]:
    return np.bincount(np.searchsorted(edges, drawn, "right"), minlength=len(edges) + 1)


def edges_for(scale: float, draws: int) -> Ints:
    """Single integers with about 50 expected draws each, or 40 bins of equal mass."""
    if scale > 100:
        return np.rint(scale * stats.norm.ppf(np.arange(1, 40) / 40)).astype(np.int64)
    top = math.ceil(8 * scale)
    every = np.arange(-top, top + 1)
    kept = every[draws * np.exp(-((every / scale) ** 2) / 2) / (2.6 * scale + 1) > 50]
    return np.arange(kept[0], kept[-1] + 2)


def fit(drawn: Ints, scale: float) -> float:
    """p-value of a χ² test against the exact probabilities at a scale."""
    edges = edges_for(scale, len(drawn))
    expected = len(drawn) * masses(scale, edges)
    # The outermost bins may expect next to nothing; they go to their neighbours.
    counts = counted(drawn, edges).astype(float)
    for outer, inner in ((0, 1), (-1, -2)):
        if expected[outer] < 50:
            counts[inner] += counts[outer]
            expected[inner] += expected[outer]
    keep = slice(int(expected[0] < 50), len(counts) - int(expected[-1] < 50))
    return float(stats.chisquare(counts[keep], expected[keep], sum_check=False).pvalue)


@pytest.mark.parametrize("scale", [HALF, Fraction(3), Fraction(10**4)])
def test_the_law_is_the_discrete_gaussian_of_this_scale_and_no_other(scale: Fraction) -> None:
    drawn = sample(scale, 400_000, fresh_stream())
    assert fit(drawn, float(scale)) > SURE
    assert fit(drawn, float(scale) * 0.97) < SURE and fit(drawn, float(scale) * 1.03) < SURE
    planted = sample(scale * Fraction(103, 100), 400_000, fresh_stream())
    assert fit(planted, float(scale)) < SURE


@pytest.mark.parametrize("scale", [HALF, Fraction(3)])
def test_zero_is_not_counted_twice(scale: Fraction) -> None:
    drawn = sample(scale, 400_000, fresh_stream())
    twice = np.append(drawn, drawn[drawn == 0])  # what a sign drawn for zero, too, would give
    assert fit(drawn, float(scale)) > SURE > fit(twice, float(scale))


@pytest.mark.parametrize("scale", [10**4, 10**6, 2**31, 2**50])
def test_the_low_digits_are_uniform_and_not_biased(scale: int) -> None:
    drawn = sample(scale, 400_000, fresh_stream())
    # At these scales Y mod 16 is uniform but for a factor 1 ± exp(−2π²s²/256).
    assert stats.chisquare(np.bincount(drawn % 16)).pvalue > SURE
    odd = np.where(np.arange(400_000) % 25 == 0, drawn | 1, drawn)  # parity off by 2 %
    assert stats.chisquare(np.bincount(odd % 16)).pvalue < SURE


def from_opendp(scale: float, n: int) -> Ints:
    dp.enable_features("contrib")
    domain = dp.vector_domain(dp.atom_domain(T="i64"))
    noise = dp.m.make_gaussian(domain, dp.l2_distance(T="f64"), scale=scale)
    return np.array(noise([0] * n), dtype=np.int64)


def alike(one: Ints, other: Ints, edges: Ints) -> float:
    """p-value of a two-sample χ² test over bins that are well filled in both."""
    table = np.array([counted(one, edges), counted(other, edges)])
    table = table[:, table.min(axis=0) >= 20]
    return float(stats.chi2_contingency(table, correction=False).pvalue)


@pytest.mark.parametrize("scale", [3, 10**6])
def test_opendp_draws_the_same_law(scale: int) -> None:
    theirs = from_opendp(float(scale), 150_000)
    edges = edges_for(scale, len(theirs))
    assert alike(sample(scale, 1_500_000, fresh_stream()), theirs, edges) > SURE
    planted = sample(Fraction(103, 100) * scale, 1_500_000, fresh_stream())
    assert alike(planted, theirs, edges) < SURE


def by_definition(scale: Fraction, n: int, stream: Stream) -> list[int]:
    """The same candidates from the same words, one by one and from the definition only.

    No table, no fixed point, no bit trick: real numbers with 60 digits, and fractions.
    """
    words = [int(word) for word in stream.words(n)]
    looks = [int(look) for look in stream.words(-(-n // 4)).view(np.uint16)[:n]]
    with mpmath.workdps(60):
        bits = max(0, math.floor(math.log2(scale)) - 3)
        width = 2**bits

        def weight(y: int) -> mpmath.mpf:
            exponent = Fraction(y * y) / (2 * scale**2)
            return mpmath.exp(-mpmath.mpf(exponent.numerator) / exponent.denominator)

        weights = [weight(k * width) for k in range(600)]
        total, passed, ends = mpmath.fsum(weights), mpmath.mpf(0), []
        for w in weights:
            passed += w
            ends.append(passed / total)

        def stratum(u: mpmath.mpf) -> int:
            return next(k for k, end in enumerate(ends) if u < end)

        def least(k: int) -> int:
            return int(mpmath.floor(2**16 * weight((k + 1) * width) / weight(k * width)))

        def value(word: int, k: int) -> int:
            top = word >> (63 - bits)
            negative, place = divmod(top, width)
            return -1 - (k * width + width - 1 - place) if negative else k * width + place

        rows: list[tuple[int, bool, int]] = []
        for word in words:
            cell = word % 2**16
            k, last = stratum(mpmath.mpf(cell) / 2**16), stratum((cell + 1) / mpmath.mpf(2**16))
            rows.append((k, k != last or least(k) == 0, cell))
        rest = [i for i, (k, doubt, _) in enumerate(rows) if doubt or looks[i] >= least(k)]
        unclear = [i for i in rest if rows[i][1]]
        strata = {i: row[0] for i, row in enumerate(rows)}
        for i, more in zip(unclear, stream.words(len(unclear)), strict=True):
            tail = mpmath.mpf(int(more) >> 16) / 2**48
            strata[i] = stratum((rows[i][2] + tail) / 2**16)
        coins = {
            i: (looks[i] + mpmath.mpf(int(more) >> 16) / 2**48) / 2**16
            for i, more in zip(rest, stream.words(len(rest)), strict=True)
        }
        values = [value(words[i], strata[i]) for i in range(n)]
        return [
            y
            for i, y in enumerate(values)
            if i not in coins or coins[i] < weight(y) / weight(strata[i] * width)
        ]


@pytest.mark.parametrize(
    "scale", [HALF, Fraction(3), Fraction(7, 3), Fraction(15), Fraction(10**4), Fraction(2**50)]
)
def test_every_decision_agrees_with_the_definition_on_the_same_words(scale: Fraction) -> None:
    n = 3000
    fast = discrete_gaussian._candidates(n, strata_of(scale), Stream.known(5))
    assert fast.tolist() == by_definition(scale, n, Stream.known(5))
    assert fast.tolist() != by_definition(scale * Fraction(101, 100), n, Stream.known(5))


@pytest.mark.parametrize("scale", [HALF, Fraction(4), Fraction(10**6), Fraction(2**50)])
def test_exact_integers_decide_every_open_coin_as_fixed_point_does(
    scale: Fraction, monkeypatch: pytest.MonkeyPatch
) -> None:
    fast = sample(scale, 20_000, Stream.known(1))
    monkeypatch.setattr(discrete_gaussian, "MARGIN", 2**40)  # nothing is proven by fixed point
    assert np.array_equal(sample(scale, 20_000, Stream.known(1)), fast)
    monkeypatch.setattr(discrete_gaussian, "MARGIN", -(2**26))  # accepts 1.6 % too often
    assert not np.array_equal(sample(scale, 20_000, Stream.known(1)), fast)


EXTREMES = [HALF, Fraction(5, 8), Fraction(1), Fraction(3), Fraction(4), Fraction(8)]
EXTREMES += [Fraction(2**e + d) for e in range(4, 50) for d in (-1, 0, 1)] + [Fraction(2**50)]


def places(scale: Fraction) -> Iterator[tuple[int, int]]:
    """Integers at the ends of the first, a middle and the last stratum, and their strata."""
    strata = strata_of(scale)
    width = 2**strata.width_bits
    for k in {0, strata.count // 2, strata.count - 1}:
        for y in {k * width, k * width + width // 3, k * width + width - 1}:
            yield y, k
            yield -1 - y, k


@pytest.mark.parametrize("scale", EXTREMES)
def test_no_product_leaves_64_bits_and_the_error_is_within_the_proven_bound(
    scale: Fraction,
) -> None:
    strata = strata_of(scale)
    b = strata.width_bits
    assert b + 1 + 16 <= 64 and 0 < strata.count <= 128
    # Integers without a limit give what uint64 gives, so nothing wrapped.
    for y, k in places(scale):
        corner = k << b
        x, z = (abs(y) - corner) * 2**24 >> b, (abs(y) + corner) * 2**24 >> b
        rate = int(strata.rate * 4**b * 2**35)
        assert max(x * z, (x * z >> 25) * rate, (abs(y) + corner) * 2 ** max(0, 24 - b)) < 2**63
        g = (x * z >> 25) * rate >> 30
        true = strata.exponent(y, k)
        assert 0 <= true * 2**28 - g < 64 and g < 2**32
        found = fixed_point.scaled_exponent(np.array([y]), np.array([k]), strata)
        assert found.tolist() == [g]
        weight = int(fixed_point.exp_minus_scaled(found)[0])
        lower, upper = enclosure.exp_minus(true, 32)
        assert lower - 1111 <= weight <= upper + 1111


def test_the_fixed_point_exponential_keeps_its_error_bound_and_a_shorter_series_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    points = np.append(rng.integers(2**32, size=20_000, dtype=np.uint64), np.uint64(2**32 - 1))
    points = np.append(points, np.arange(1000, dtype=np.uint64))
    true = np.exp(-(points.astype(float) / 2**28)) * 2**32  # good to 10⁻⁶ units

    def error() -> float:
        return float(np.abs(fixed_point.exp_minus_scaled(points).astype(float) - true).max())

    assert error() <= 87
    monkeypatch.setattr(fixed_point, "_DEGREE", 4)
    assert error() > fixed_point.MARGIN


@pytest.mark.parametrize("scale", [HALF, Fraction(4), Fraction(10**6 + 1), Fraction(2**50)])
def test_the_tables_claim_only_what_holds(scale: Fraction) -> None:
    strata = strata_of(scale)
    with mpmath.workdps(50):
        coarse = strata.rate * 4**strata.width_bits
        rate = mpmath.mpf(coarse.numerator) / coarse.denominator
        total = (1 + mpmath.jtheta(3, 0, mpmath.exp(-rate))) / 2
        start = mpmath.mpf(0)
        clear = strata.safe > 0
        for k in range(strata.count):
            end = start + mpmath.exp(-rate * k * k) / total
            low, high = int(strata.lower[k]), int(strata.upper[k])
            assert low <= end * 2**64 and (end * 2**64 <= high or high == 2**64 - 1)
            assert high - low <= 2
            cells = np.flatnonzero(clear & (strata.stratum == k))
            if cells.size:
                assert start * 2**16 <= cells[0] and int(cells[-1]) + 1 <= end * 2**16
                least = 2**16 * mpmath.exp(-rate * (2 * k + 1))
                assert strata.safe[cells].max() <= least < int(strata.safe[cells].min()) + 1
            start = end


@given(st.fractions(0, 3000, max_denominator=2**60), st.integers(1, 300))
@settings(max_examples=150, deadline=None)
def test_the_exponential_is_enclosed_and_closely(exponent: Fraction, bits: int) -> None:
    lower, upper = enclosure.exp_minus(exponent, bits)
    with mpmath.workdps(150 + int(exponent)):
        true = mpmath.exp(-mpmath.mpf(exponent.numerator) / exponent.denominator) * 2**bits
        assert lower <= true <= upper and upper - lower <= 2


@pytest.mark.parametrize("scale", [HALF, Fraction(4), Fraction(10**6)])
def test_a_word_on_a_boundary_is_decided_by_further_bits(scale: Fraction, scripted: type) -> None:
    strata = strata_of(scale)
    boundary = int(strata.lower[1])
    coarse = strata.rate * 4**strata.width_bits
    lower, upper = enclosure.boundaries(coarse, 2, 128)[1]
    assert lower >> 64 == boundary and upper - lower <= 2
    tail = lower % 2**64
    for further, expected in ((tail - 3, 1), (tail + 3, 2)):
        stream = scripted([further])
        found = strata.find(np.array([boundary], dtype=np.uint64), stream)
        assert found.tolist() == [expected] and not stream.script
    # One unit to either side needs no further bits.
    for word, expected in ((boundary - 1, 1), (int(strata.upper[1]) + 1, 2)):
        found = strata.find(np.array([word], dtype=np.uint64), scripted([]))
        assert found.tolist() == [expected]


def test_a_uniform_beyond_the_tables_finds_its_stratum(scripted: type) -> None:
    strata = strata_of(HALF)
    rate = strata.rate
    for k in (strata.count, strata.count + 1):
        inside = enclosure.boundaries(rate, k, 192)[-1][1] + 1
        words = [inside >> 128, inside >> 64 & 2**64 - 1, inside & 2**64 - 1]
        found = strata.find(np.array(words[:1], dtype=np.uint64), scripted(words[1:] + [0] * 9))
        assert found.tolist() == [k]


@pytest.mark.parametrize("beyond", [0, 1, 2])
def test_a_candidate_beyond_the_tables_is_accepted_with_its_exact_weight(
    beyond: int, scripted: type
) -> None:
    strata = strata_of(HALF)
    k = strata.count + beyond
    inside = enclosure.boundaries(strata.rate, k, 192)[-1][1] + 1
    cell, first = inside >> 176, (inside >> 128) % 2**48 << 16
    further = [inside >> 64 & 2**64 - 1, inside & 2**64 - 1]
    probe = scripted([*further, 0])
    assert strata.find(np.array([inside >> 128], dtype=np.uint64), probe).tolist() == [k]
    asked = further[: 3 - len(probe.script)]  # the words by which the stratum was told
    exponent = strata.exponent(-1 - k, k)
    assert exponent == 2 * (2 * k + 1)
    weight = enclosure.exp_minus(exponent, 64)
    for coin, expected in ((weight[0] - 1, True), (weight[1], False), (2**63, False)):
        script = scripted([first, *asked, coin % 2**48 << 16])
        words = np.array([2**63 | cell], dtype=np.uint64)
        coins = np.array([coin >> 48], dtype=np.uint16)
        value, accepted = discrete_gaussian._decide(words, coins, strata, script)
        assert value.tolist() == [-1 - k] and accepted.tolist() == [expected]
        assert not script.script


def test_a_coin_on_its_weight_is_decided_by_further_bits(scripted: type) -> None:
    exponent = Fraction(1, 3)
    lower, upper = enclosure.exp_minus(exponent, 128)
    for further, expected in ((lower % 2**64 - 3, True), (upper % 2**64 + 3, False)):
        stream = scripted([further])
        uniform = enclosure.LazyUniform(lower >> 64, 64, stream)
        assert uniform.below(lambda bits: enclosure.exp_minus(exponent, bits)) is expected
        assert not stream.script


def test_the_largest_scale_overflows_nowhere() -> None:
    drawn = sample(2**50, 300_000, fresh_stream()) / 2**50
    tails = stats.chi2(len(drawn))
    assert SURE / 2 < tails.cdf((drawn**2).sum()) < 1 - SURE / 2
    assert tails.cdf((drawn**2).sum() * 0.97**2) < SURE
    assert abs(drawn.mean()) * math.sqrt(len(drawn)) < stats.norm.isf(SURE / 2)
    assert np.abs(drawn).max() < 9 and stats.kstest(drawn, "norm").pvalue > SURE


def test_every_answer_and_every_integer_has_noise_of_its_own() -> None:
    first, second = (sample(10**9, 200_000, fresh_stream()) for _ in range(2))
    assert np.intersect1d(first, second).size < 200  # about 20 by chance
    for a, b in ((first, second), (first[1:], first[:-1]), (first[::2], first[1::2])):
        assert stats.pearsonr(a, b).pvalue > SURE
        assert stats.pearsonr(np.abs(a), np.abs(b)).pvalue > SURE
    planted = first[1:] + first[:-1] // 20
    assert stats.pearsonr(planted, first[:-1]).pvalue < SURE


def test_nobody_can_seed_a_fresh_stream() -> None:
    drawn = []
    for _ in range(2):
        np.random.seed(0)
        drawn.append(sample(10**9, 50, fresh_stream()))
    assert not np.array_equal(*drawn) and not fresh_stream().insecure


@pytest.mark.parametrize("scale", [0, -1, Fraction(1, 3), 2**50 + 1])
def test_scales_that_are_not_proven_are_refused(scale: int) -> None:
    with pytest.raises(SfumatoError):
        sample(scale, 1, fresh_stream())


@pytest.mark.parametrize("n", [0, 1, 2, 70_000, 200_001])
def test_as_many_integers_as_asked_for(n: int) -> None:
    drawn = sample(1000, n, fresh_stream())
    assert drawn.shape == (n,) and drawn.dtype == np.int64
