"""proof.md: uniform bits, integers below a bound, and Poisson samples are what their proofs need.

Each statistical test accepts right code and rejects a planted fault. Right code fails one of its
assertions with a probability of at most ``SURE``.
"""

from __future__ import annotations

import math
import pickle
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from sfumato.errors import SfumatoError
from sfumato.privacy.noise import entropy
from sfumato.privacy.noise.entropy import Stream, fresh_stream
from sfumato.privacy.noise.poisson_sampling import bernoulli_mask

SURE = 1e-6


def test_the_stream_is_chacha20_as_rfc_8439_defines_it() -> None:
    expected = bytes.fromhex("76b8e0ada0f13d90405d6ae55386bd28bdd219b8a08ded1aa836efcc8b770dc7")
    assert Stream(bytes(32)).bytes(32) == expected


def test_a_derived_stream_repeats_for_its_key_and_label_only() -> None:
    key = bytes(range(32))
    again = [Stream.derived(key, label).bytes(32) for label in ("noise 1", "noise 1", "noise 2")]
    assert again[0] == again[1] != again[2]
    assert Stream.derived(key[::-1], "noise 1").bytes(32) != again[0]
    assert Stream.known(1).insecure and not Stream.derived(key, "").insecure
    with pytest.raises(SfumatoError):
        Stream.derived(b"short", "noise")


def test_how_much_is_asked_for_at_once_does_not_matter() -> None:
    parts, whole = Stream.known(1), Stream.known(1)
    assert np.array_equal(np.append(parts.words(3), parts.words(70_000)), whole.words(70_003))


def test_a_long_stream_goes_on_with_another_key(monkeypatch: pytest.MonkeyPatch) -> None:
    first = Stream.known(2).bytes(64)
    monkeypatch.setattr(entropy, "RUN_BYTES", 64)
    short = Stream.known(2)
    drawn = short.bytes(96)
    # 32 bytes are given out, the next 32 are the new key and never seen.
    assert drawn[:32] == first[:32] and drawn[32:64] == Stream(first[32:]).bytes(32)
    assert first[32:] not in drawn and len(set(drawn)) > 32


def test_a_stream_cannot_be_copied() -> None:
    with pytest.raises(TypeError):
        pickle.dumps(fresh_stream())


@given(st.integers(1, 2**64 - 1), st.integers(0, 2**32))
@settings(deadline=None)
def test_integers_lie_below_their_bound(bound: int, seed: int) -> None:
    drawn = Stream.known(seed).below(bound, 20)
    assert drawn.dtype == np.uint64 and drawn.shape == (20,) and max(drawn.tolist()) < bound
    several = np.array([[bound, 1], [2**64 - 1, 3]], dtype=np.uint64)
    assert (Stream.known(seed).below(several) < several).all()


@pytest.mark.parametrize("bound", [2, 3, 7, 1000, 3 * 2**62])
def test_integers_below_a_bound_are_uniform_and_a_remainder_is_not(bound: int) -> None:
    bins = min(bound, 3)

    def p_value(drawn: NDArray[np.uint64]) -> float:
        parts = np.array([int(x) * bins // bound for x in drawn.tolist()])
        sizes = np.diff([-(-i * bound // bins) for i in range(bins + 1)]) / bound
        return float(stats.chisquare(np.bincount(parts, minlength=bins), sizes * len(drawn)).pvalue)

    assert p_value(fresh_stream().below(bound, 60_000)) > SURE
    if bound > 2**62:
        planted = fresh_stream().words(60_000) % np.uint64(bound)
        assert p_value(planted) < SURE


def test_only_words_below_the_bound_are_kept(scripted: type) -> None:
    # For bound 5 words are cut to three bits: 7, 5 and 6 are drawn anew, none is folded back.
    stream = scripted([7, 4, 8 + 5, 0, 6, 8 + 3, 2])
    assert stream.below(5, 4).tolist() == [2, 4, 3, 0]
    for bad in (0, -1, 2**64):
        with pytest.raises(SfumatoError):
            fresh_stream().below(bad, 1)


# Poisson samples.


def test_a_unit_takes_part_exactly_if_its_word_is_below_the_threshold(scripted: type) -> None:
    rate = Fraction(1, 3)
    threshold = 2**64 // 3
    stream = scripted([threshold - 1, threshold, 0, 2**64 - 1])
    assert bernoulli_mask(4, rate, stream).tolist() == [True, False, True, False]
    assert bernoulli_mask(5, 1.0, scripted([])).all()
    assert not bernoulli_mask(5, 0.0, fresh_stream()).any()
    assert not bernoulli_mask(2, 2.0**-65, scripted([0, 0])).any()  # rounded down, never up


@pytest.mark.parametrize("rate", [0.001, 0.5, 0.999])
def test_units_take_part_at_their_rate_and_independently(rate: float) -> None:
    n = 200_000
    mask = bernoulli_mask(n, rate, fresh_stream())
    assert stats.binomtest(int(mask.sum()), n, rate).pvalue > SURE
    pairs = np.bincount(mask[1:] + 2 * mask[:-1].astype(int), minlength=4).reshape(2, 2)
    assert stats.fisher_exact(pairs).pvalue > SURE
    wrong = rate + 6 * math.sqrt(rate * (1 - rate) / n) * 2
    assert stats.binomtest(int(mask.sum()), n, min(wrong, 1)).pvalue < SURE


@pytest.mark.parametrize("rate", [-0.1, 1.1, math.nan, math.inf])
def test_rates_that_are_no_probability_are_refused(rate: float) -> None:
    with pytest.raises(SfumatoError):
        bernoulli_mask(3, rate, fresh_stream())
