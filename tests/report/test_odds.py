from __future__ import annotations

import math

import numpy as np
import pytest

from sfumato.privacy import Budget, Event
from sfumato.privacy.accounting import calibrate
from sfumato.report.odds import Odds, make_odds, percent, scientific, squared_mu


def odds(epsilon: float, mu: float = 1.0) -> Odds:
    return Odds("add-or-remove-one", epsilon, mu)


def gaussian(noise: float) -> Event:
    sensitivity = {"add-or-remove-one": 1.0, "replace-one": 2.0}
    return Event("sum", "answer", 1.0, sensitivity, noise)


@pytest.mark.parametrize(
    ("epsilon", "prior", "most"),
    [
        (math.log(3), 0.5, 3 / 4),  # even odds become 3 to 1
        (math.log(3), 0.25, 1 / 2),  # 1 to 3 become 3 to 3
        (1.0, 0.5, math.e / (1 + math.e)),
        (10.0, 0.5, 0.9999546021),
        (10.0, 0.01, 0.9955247),  # e^10 / (99 + e^10) = 22026.47 / 22125.47
        (1e6, 0.5, 1.0),
    ],
)
def test_a_guess_is_moved_by_the_odds_and_no_further(
    epsilon: float, prior: float, most: float
) -> None:
    assert odds(epsilon).most(prior) == pytest.approx(most, rel=1e-6)
    assert odds(epsilon).least(1 - prior) == pytest.approx(1 - most, abs=1e-6)


@pytest.mark.parametrize(
    ("epsilon", "factor"),
    [(math.log(3), "3"), (1.0, "2.72"), (10.0, "22,026"), (20.0, "4.85·10⁸"), (1e4, "10⁴³⁴³")],
)
def test_the_factor_is_e_to_the_epsilon(epsilon: float, factor: str) -> None:
    assert odds(epsilon).factor == factor


@pytest.mark.parametrize(
    ("epsilon", "strength"), [(0.2, "strong"), (1.0, "strong"), (2.2, "moderate"), (10.0, "weak")]
)
def test_a_large_epsilon_is_called_weak(epsilon: float, strength: str) -> None:
    assert odds(epsilon).strength == strength


@pytest.mark.parametrize("relation", ["add-or-remove-one", "replace-one"])
def test_the_average_and_the_misses_are_what_gaussian_noise_shows(relation: str) -> None:
    # Two answers to a guesser who knows everything else: noise around 0, or around the sensitivity.
    events = [gaussian(2.0), gaussian(3.0)]
    stated = make_odds(relation, 1.5, events)
    rng = np.random.default_rng(0)
    loss = np.zeros((2, 400_000))
    for event in events:
        shift = event.sensitivity[relation]
        for truth in (0, 1):
            seen = rng.normal(shift * truth, event.noise_std, loss.shape[1])
            loss[truth] += (seen * shift - shift**2 / 2) / event.noise_std**2
    right = ((loss[0] < 0).mean() + (loss[1] > 0).mean()) / 2
    # Five standard deviations of 400,000 coin tosses: true code fails once in a million.
    assert right == pytest.approx(stated.best_guess, abs=0.004)
    assert (loss[1] > 1.5).mean() == pytest.approx(stated.missed, abs=0.004)


def test_delta_is_not_the_probability_that_the_bound_is_missed() -> None:
    events = calibrate([gaussian(1.0)], Budget(1.0, 1e-5))
    stated = make_odds("add-or-remove-one", 1.0, events)
    assert 5e-5 < stated.missed < 5e-4


def test_shares_of_the_budget_go_by_the_square_of_the_noise_multiplier() -> None:
    assert squared_mu(gaussian(2.0), "add-or-remove-one") == 0.25
    assert squared_mu(gaussian(2.0), "replace-one") == 1.0


@pytest.mark.parametrize(
    ("share", "text"),
    [
        (0.5, "50"),
        (0.01, "1"),
        (0.7310585, "73.1"),
        (0.99331, "99.33"),
        (0.9999546, "99.9955"),
        (4.54e-5, "0.0045"),
        (1.0, "practically 100"),
        (0.0, "practically 0"),
    ],
)
def test_a_percentage_shows_how_far_it_is_from_certainty(share: float, text: str) -> None:
    assert percent(share) == f"{text}\u202f%"


@pytest.mark.parametrize(
    ("value", "text"),
    [(1e-5, "10⁻⁵"), (2.5e-6, "2.5·10⁻⁶"), (0.01, "0.01"), (1.6e9, "1.6·10⁹")],
)
def test_numbers_read_as_people_write_them(value: float, text: str) -> None:
    assert scientific(value) == text
