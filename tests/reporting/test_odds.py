from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest

from sfumato.privacy import Budget, Event
from sfumato.privacy.accounting import epsilon as accounting
from sfumato.privacy.accounting.calibration import calibrate
from sfumato.reporting.odds import Odds, loss_variance, make_odds


def odds(epsilon: float, mu: float = 1.0) -> Odds:
    return make_odds("add-or-remove-one", epsilon, [gaussian(1 / mu)])


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


@pytest.mark.parametrize("records", [2, 5])
def test_several_records_cost_what_card_and_page_say(records: int) -> None:
    (one,) = calibrate([gaussian(1.0)], Budget(1.0, 1e-5))
    many = gaussian(one.noise_std / records)  # as if each record moved the answer as far again
    delta = 1e-5 * sum(math.exp(i) for i in range(records))
    assert accounting.epsilon([many], delta, "add-or-remove-one") <= records
    assert accounting.epsilon([many], 1e-5, "add-or-remove-one") > records


def test_shares_of_the_budget_go_by_the_square_of_the_noise_multiplier() -> None:
    assert loss_variance(gaussian(2.0), "add-or-remove-one") == 0.25
    assert loss_variance(gaussian(2.0), "replace-one") == 1.0


@pytest.mark.parametrize("relation", ["add-or-remove-one", "replace-one"])
def test_the_average_and_the_misses_are_what_sampled_steps_show(relation: str) -> None:
    event = dataclasses.replace(gaussian(0.8), query="gradient", count=6, sampling_rate=0.3)
    stated = make_odds(relation, 1.0, [event])
    rng = np.random.default_rng(0)
    other = 0.0 if relation == "add-or-remove-one" else -1.0
    loss = np.zeros((2, 300_000))
    for _ in range(event.count):
        for truth, centre in enumerate((other, 1.0)):
            there = rng.random(loss.shape[1]) < event.sampling_rate
            seen = rng.normal(centre * there, event.noise_std)
            odds_of = [
                0.7 + 0.3 * np.exp((2 * seen * c - c * c) / (2 * event.noise_std**2))
                for c in (other, 1.0)
            ]
            loss[truth] += np.log(odds_of[1] / odds_of[0])
    right = ((loss[0] < 0).mean() + (loss[1] > 0).mean()) / 2
    assert right == pytest.approx(stated.best_guess, abs=0.005)
    # The larger of the two directions: losing a unit, or gaining one.
    missed = max((loss[1] > 1.0).mean(), (loss[0] < -1.0).mean())
    assert missed == pytest.approx(stated.missed, abs=0.005)
