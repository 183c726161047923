"""docs/proofs/integer-gaussian.md: the noise is what is claimed, no less and no more."""

from __future__ import annotations

import math
from fractions import Fraction

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from sfumato.errors import SfumatoError
from sfumato.privacy.noise.entropy import Stream, fresh_stream
from sfumato.privacy.noise.integer_gaussian import SMOOTHING_VARIANCE, add_noise, whole_scale

SURE = 1e-6  # probability that a right sampler fails one of the tests that accept
DRAWS = 20_000


def noise(std: float, count: int = DRAWS) -> np.ndarray:
    return add_noise(np.zeros(count, np.int64), std, fresh_stream())


def discrete_gaussian_fits(drawn: np.ndarray, scale: float) -> float:
    """p-value of a χ² test against the discrete Gaussian's own probabilities."""
    points = np.arange(-40, 41)
    mass = np.exp(-(points**2) / (2 * scale**2))
    expected = len(drawn) * mass / mass.sum()
    counts = np.array([(drawn == point).sum() for point in points])
    inside = expected >= 10
    counts = np.append(counts[inside], len(drawn) - counts[inside].sum())
    expected = np.append(expected[inside], len(drawn) - expected[inside].sum())
    return float(stats.chisquare(counts, expected).pvalue)


def test_small_noise_is_the_discrete_gaussian_and_no_other() -> None:
    drawn = noise(2.0)
    assert whole_scale(2.0) == 4
    assert discrete_gaussian_fits(drawn, 4.0) > SURE
    assert discrete_gaussian_fits(drawn, 4.0 * 2 / 3) < SURE
    assert discrete_gaussian_fits(drawn, 4.0 * 1.5) < SURE
    assert discrete_gaussian_fits(drawn, 4.3) < SURE


@pytest.mark.parametrize("std", [1.0e3, 3.7 * 2**20])
def test_large_noise_is_accepted_at_its_scale_and_rejected_beside_it(std: float) -> None:
    drawn = noise(std) / std
    assert stats.kstest(drawn, "norm").pvalue > SURE
    for wrong in (2 / 3, 1.5):
        assert stats.kstest(drawn * wrong, "norm").pvalue < SURE
    # A scale 2 % off, which a Kolmogorov-Smirnov test of this size would miss.
    spread = (DRAWS - 1) * np.var(drawn, ddof=1)
    tails = stats.chi2(DRAWS - 1)
    assert SURE < tails.cdf(spread) < 1 - SURE
    assert tails.cdf(spread * 0.94**2) < SURE and tails.sf(spread * 1.06**2) < SURE


def test_every_coordinate_and_every_call_has_noise_of_its_own() -> None:
    first, second = (noise(1e6, 4000) / 1e6 for _ in range(2))
    for a, b in ((first, second), (first[1:], first[:-1]), (first[::2], first[1::2])):
        assert stats.pearsonr(a, b).pvalue > SURE
    assert np.unique(first).size > 3900


def test_noise_is_added_to_the_total_and_keeps_its_shape() -> None:
    base = np.arange(6, dtype=np.int64).reshape(2, 3) * 2**40
    noisy = add_noise(base, 5.0, fresh_stream())
    assert noisy.dtype == np.int64 and noisy.shape == (2, 3)
    assert 0 < np.abs(noisy - base).max() < 200


def test_nobody_can_seed_the_noise() -> None:
    drawn = []
    for _ in range(2):
        np.random.seed(0)
        torch.manual_seed(0)
        drawn.append(noise(1e6, 50))
    assert not np.array_equal(*drawn)


def test_insecure_seed_repeats() -> None:
    zeros = np.zeros(9, np.int64)
    assert np.array_equal(*(add_noise(zeros, 50.0, Stream.known(3)) for _ in range(2)))
    three, four = (add_noise(zeros, 50.0, Stream.known(seed)) for seed in (3, 4))
    assert not np.array_equal(three, four)


@given(st.floats(1e-3, 2.0**49))
def test_scale_is_the_smallest_whole_one_and_never_rounded_down(std: float) -> None:
    needed, scale = Fraction(std) ** 2 + SMOOTHING_VARIANCE, whole_scale(std)
    assert scale**2 >= needed
    assert (scale - 1) ** 2 < needed + 1


@pytest.mark.parametrize("std", [0.0, -1.0, math.nan, math.inf, 2.0**51])
def test_a_scale_that_is_none_is_refused(std: float) -> None:
    with pytest.raises(SfumatoError, match="std="):
        add_noise(np.zeros(1, np.int64), std, fresh_stream())


def test_the_lemmas_constant() -> None:
    """Θ₉(x)/√(18π) is within 1e-76 of one, wherever x lies between the integers."""
    with mpmath.workdps(120):
        for x in ("0", "0.1", "0.25", "0.5", "0.73"):
            terms = (mpmath.exp(-((k - mpmath.mpf(x)) ** 2) / 18) for k in range(-150, 151))
            excess = abs(mpmath.fsum(terms) / mpmath.sqrt(18 * mpmath.pi) - 1)
            assert excess <= 2.01 * mpmath.exp(-18 * mpmath.pi**2) < mpmath.mpf("1e-76")


def rounded_over_discrete(std: float, smoothing: float, y: int) -> float:
    """P(y) of N(0, std²) rounded at random with variance ``smoothing``, over the discrete one."""
    x, step = np.linspace(-14 * std, 14 * std, 20_001, retstep=True)
    k = np.arange(-150, 151)
    weights = np.exp(-((k[:, None] - x) ** 2) / (2 * smoothing)).sum(0)
    rounded = np.exp(-((y - x) ** 2) / (2 * smoothing)) / weights
    density = np.exp(-(x**2) / (2 * std**2)) / (std * math.sqrt(2 * math.pi))
    variance = std**2 + smoothing
    discrete = math.exp(-(y**2) / (2 * variance)) / np.exp(-(k**2) / (2 * variance)).sum()
    return float((density * rounded).sum() * step / discrete)


@pytest.mark.parametrize("std", [0.2, 3.0])
@pytest.mark.parametrize("y", [0, 4])
def test_the_lemma_on_the_line(std: float, y: int) -> None:
    assert rounded_over_discrete(std, SMOOTHING_VARIANCE, y) == pytest.approx(1, abs=1e-11)
    if std < 1:  # the smoothing is what makes it true
        assert abs(rounded_over_discrete(std, 0.1, y) - 1) > 1e-3
