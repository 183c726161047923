"""Three lower bounds on ε: against an oracle, against exact simulations, against false claims."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.special import ndtr

from sfumato.audit import (
    Family,
    Guesses,
    epsilon_f_dp,
    epsilon_independent,
    epsilon_one_run,
    guess,
)
from sfumato.audit.one_run import p_value
from sfumato.audit.verdict import best_number, expected
from sfumato.errors import UsageError
from sfumato.privacy import RELATIONS, Budget, Event, epsilon_recomputed

RELATION = RELATIONS[0]

# By jax_privacy 2.0.0, auditing._epsilon_one_run and _epsilon_one_run_fdp at significance 0.05:
# canaries, guesses, right ones, δ, and the two bounds.
ORACLE = [
    (1000, 1000, 600, 1e-5, 0.2972269575896597, 0.5835403679239116),
    (1000, 1000, 800, 1e-5, 1.2539840913064186, 2.3332435930207667),
    (1000, 200, 180, 1e-5, 1.796285070718516, 2.9012429233094306),
    (1000, 100, 100, 1e-5, 3.465376229385333, 5.5490279999429415),
    (5000, 5000, 2800, 1e-5, 0.1936851048781391, 0.3454752006325113),
    (5000, 500, 400, 1e-5, 1.1952182024943792, 1.6831561134696322),
    (10000, 2000, 1500, 1e-5, 1.0112106139888426, 1.4451784562254564),
    (1000, 1000, 600, 1e-3, 0.2659911799179627, 0.3578127589108933),
    (1000, 100, 100, 1e-3, 0.8090137853425662, 4.043765679294901),
    (5000, 500, 400, 1e-3, 0.0, 1.1277967192071316),
    (10000, 2000, 1500, 1e-3, 0.30815493655141796, 0.9572024304929442),
]


def gaussian(mu: float, delta: float = 1e-5) -> Family:
    unit = {relation: 1.0 for relation in RELATIONS}
    return Family([Event("sum", "one", 1.0, unit, 1 / mu)], delta, RELATION)


@pytest.mark.parametrize(("canaries", "made", "correct", "delta", "one_run", "f_dp"), ORACLE)
def test_bounds_are_those_of_jax_privacy(
    canaries: int, made: int, correct: int, delta: float, one_run: float, f_dp: float
) -> None:
    guesses = Guesses(correct, made, canaries)
    assert epsilon_one_run(guesses, delta, 0.05) == pytest.approx(one_run, abs=1e-5)
    family = gaussian(1.0, delta)
    assert epsilon_f_dp(guesses, family, 0.05, 1e-6) == pytest.approx(f_dp, abs=1e-4)
    assert epsilon_f_dp(guesses, family, 0.05) <= f_dp


def test_without_delta_the_one_run_bound_is_the_binomial_tail() -> None:
    # Two of two right: P = (e^ε/(1 + e^ε))² = 0.05.
    chance = math.sqrt(0.05)
    assert p_value(Guesses(2, 2, 2), math.log(chance / (1 - chance)), 0.0) == pytest.approx(0.05)
    assert p_value(Guesses(0, 2, 2), 3.0, 0.1) == 1.0


@pytest.mark.parametrize("true", [0.5, 2.0])
def test_bound_on_randomised_response_holds_and_grows(true: float) -> None:
    rng, runs, canaries = np.random.default_rng(1), 100, 1000
    right = rng.binomial(canaries, 1 / (1 + math.exp(-true)), size=runs)
    bounds = np.array(
        [epsilon_one_run(Guesses(int(v), canaries, canaries), 0.0, 0.05) for v in right]
    )
    assert (bounds > true).mean() <= 0.05 + 3 * math.sqrt(0.05 / runs)
    assert np.median(bounds) > 0.7 * true


def gaussian_scores(rng: np.random.Generator, mu: float, canaries: int):
    present = rng.random(canaries) < 0.5
    return mu * (rng.normal(size=canaries) + mu * present - mu / 2), present


@pytest.mark.parametrize("mu", [0.3, 0.9])
def test_bounds_on_a_gaussian_hold_and_grow(mu: float) -> None:
    rng, family, runs, canaries = np.random.default_rng(2), gaussian(mu), 60, 2000
    true = family.epsilon(1.0)
    found = []
    for _ in range(runs):
        scores, present = gaussian_scores(rng, mu, canaries)
        guesses = guess(scores, present, canaries // 4)
        found.append(
            (
                epsilon_one_run(guesses, 1e-5, 0.05),
                epsilon_f_dp(guesses, family, 0.05, 0.02),
                epsilon_independent(scores, present, family, 0.05),
            )
        )
    bounds = np.array(found)
    assert ((bounds > true).mean(axis=0) <= 0.05 + 3 * math.sqrt(0.05 / runs)).all()
    one_run, f_dp, alone = np.median(bounds, axis=0) / true
    assert 0.2 < one_run < f_dp < 1
    assert 0.2 < alone < 1


@pytest.mark.parametrize("claimed", [1.0, 4.0])
def test_a_false_claim_is_refuted(claimed: float) -> None:
    # Three times less noise than was claimed.
    mu = _mu_of(claimed)
    scores, present = gaussian_scores(np.random.default_rng(3), 3 * mu, 10_000)
    guesses = guess(scores, present, 1000)
    assert epsilon_one_run(guesses, 1e-5, 0.01) > claimed
    assert epsilon_f_dp(guesses, gaussian(mu), 0.01) > claimed
    assert epsilon_independent(scores, present, gaussian(mu), 0.01) > 1.5 * claimed


def _mu_of(claimed: float) -> float:
    low, high = 1e-3, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if gaussian(middle).epsilon(1.0) < claimed else (low, middle)
    return low


def test_no_evidence_proves_nothing() -> None:
    rng = np.random.default_rng(4)
    present = rng.random(1000) < 0.5
    scores = rng.normal(size=1000)
    guesses = guess(scores, present, 1000)
    assert epsilon_one_run(guesses, 1e-5, 0.01) == 0
    assert epsilon_f_dp(guesses, gaussian(1.0), 0.01) == 0
    assert epsilon_independent(scores, present, gaussian(1.0), 0.01) == 0
    everywhere = np.ones(1000, np.bool_)
    assert epsilon_independent(scores, everywhere, gaussian(1.0), 0.01) == 0


def test_sampled_trade_off_agrees_with_the_closed_form() -> None:
    unit = dict(zip(RELATIONS, (1.0, 2.0), strict=True))
    # A sampling rate of all but one makes the general way run on what is a plain Gaussian.
    sampled = Event("gradient", "g", 1.0, unit, 2.0, count=4, sampling_rate=1 - 1e-9)
    plain = Event("gradient", "g", 1.0, unit, 2.0, count=4)
    for relation in RELATIONS:
        general = Family([sampled], 1e-5, relation).blow_up_inverse(1.0)
        closed = Family([plain], 1e-5, relation).blow_up_inverse(1.0)
        for y in (0.01, 0.1, 0.5, 0.9):
            assert general(y) == pytest.approx(closed(y), rel=0.02, abs=1e-6)
            assert general(y) <= closed(y) + 1e-4


def test_member_of_a_family_costs_what_its_events_cost() -> None:
    family = gaussian(0.5)
    assert family.epsilon(2.0) == epsilon_recomputed(family.scaled(2.0), 1e-5, RELATION)
    assert family.epsilon(2.0) < family.epsilon(1.0)


def test_guesses_are_the_surest_ones() -> None:
    scores = np.array([0.1, -3.0, 2.0, 0.0])
    present = np.array([False, False, False, True])
    assert guess(scores, present, 2) == Guesses(1, 2, 4)
    assert guess(scores, present, 4) == Guesses(1, 4, 4)


def test_number_of_guesses_comes_from_the_claim_and_fits_it() -> None:
    few = best_number(10_000, Budget(4.0, 1e-5), 0.01)
    many = best_number(10_000, Budget(0.5, 1e-5), 0.01)
    assert 0 < few < many <= 10_000
    rng, made, right = np.random.default_rng(5), 500, []
    for _ in range(50):
        right.append(guess(*gaussian_scores(rng, 0.8, 5000), made).correct)
    assert expected(5000, made, 0.8).correct == pytest.approx(np.mean(right), rel=0.02)


@pytest.mark.parametrize("wrong", [(3, 2, 5), (2, 6, 5), (-1, 2, 5)])
def test_impossible_counts_are_refused(wrong: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match="must not"):
        Guesses(*wrong)


def test_the_gaussian_of_the_tests_is_the_known_one() -> None:
    # δ(ε) of μ = 1 at ε = 1, Balle and Wang.
    assert gaussian(1.0, float(ndtr(-0.5) - math.e * ndtr(-1.5))).epsilon(1.0) == pytest.approx(1.0)
