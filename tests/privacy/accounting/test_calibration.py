"""Calibration of sampled events: the noise costs the budget, and two accountants agree on it."""

from __future__ import annotations

import pytest
from dp_accounting.pld import privacy_loss_distribution

from sfumato.errors import SfumatoError
from sfumato.privacy import RELATIONS, Budget, GradientQuery
from sfumato.privacy.accounting import epsilon as accounting_module
from sfumato.privacy.accounting.calibration import calibrate
from sfumato.privacy.accounting.dominating_pairs import Pair, reach
from sfumato.privacy.accounting.epsilon import NEIGHBOURS, epsilon, epsilon_recomputed

ADD, REPLACE = RELATIONS


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize(("budget_epsilon", "q", "steps"), [(1.0, 0.02, 400)])
def test_calibration_of_sampled_events_spends_the_budget(
    relation: str, budget_epsilon: float, q: float, steps: int
) -> None:
    budget = Budget(budget_epsilon, 1e-5, relation)
    query = GradientQuery("g", 10, 0.7, q, steps)
    events = calibrate([query.event(relation)], budget)
    spent = epsilon(events, budget.delta, relation)
    assert 0.999 * budget.epsilon <= spent <= budget.epsilon
    # Far from the package: the library's distribution for the noise in clip norms.
    theirs = privacy_loss_distribution.from_gaussian_mechanism(
        events[0].noise_std / 0.7,
        sampling_prob=q,
        neighboring_relation=NEIGHBOURS[relation],
        value_discretization_interval=1e-4 * min(1.0, budget_epsilon),
    ).self_compose(steps)
    assert theirs.get_epsilon_for_delta(1e-5) == pytest.approx(budget.epsilon, rel=3e-3)
    other = REPLACE if relation == ADD else ADD
    assert (epsilon(events, budget.delta, other) > spent) == (relation == ADD)


def test_calibration_of_sampled_and_unsampled_events_together() -> None:
    budget = Budget(2.0, 1e-5)
    sampled = GradientQuery("g", 10, 1.0, 0.05, 100).event(ADD)
    whole = GradientQuery("h", 10, 1.0, 1.0, 1, relative_noise=6.0).event(ADD)
    events = calibrate([sampled, whole], budget)
    assert events[1].noise_std == pytest.approx(6 * events[0].noise_std)
    assert 0.999 * 2.0 <= epsilon(events, 1e-5, ADD) <= 2.0
    assert epsilon_recomputed(events, 1e-5, ADD) == pytest.approx(2.0, rel=2e-3)


def test_a_wrong_second_accountant_stops_the_calibration(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = accounting_module.epsilon_by_convolution
    monkeypatch.setattr(
        accounting_module, "epsilon_by_convolution", lambda pairs, delta: 1.1 * honest(pairs, delta)
    )
    with pytest.raises(SfumatoError):
        calibrate([GradientQuery("g", 10, 1.0, 0.05, 100).event(ADD)], Budget(2.0, 1e-5))


@pytest.mark.parametrize(
    ("budget_epsilon", "q", "steps"),
    [(1e-3, 0.2, 100_000), (1e3, 0.01, 2000), (1e4, 1e-3, 1_000_000)],
)
def test_calibration_of_sampled_events_ends_at_the_edges(
    budget_epsilon: float, q: float, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = []
    honest = accounting_module._by_pld

    def counted(pairs: tuple[Pair, ...], delta: float, relation: str, interval: float) -> float:
        points.append(2 * reach(pairs) / interval)
        return honest(pairs, delta, relation, interval)

    monkeypatch.setattr(accounting_module, "_by_pld", counted)
    events = calibrate([GradientQuery("g", 10, 1.0, q, steps).event(ADD)], Budget(budget_epsilon))
    assert 0.999 * budget_epsilon <= epsilon(events, 1e-5, ADD) <= budget_epsilon
    assert epsilon_recomputed(events, 1e-5, ADD) == pytest.approx(budget_epsilon, rel=2e-3)
    # What it takes is memory and time for the grid, a few times.
    assert len(points) < 15 and max(points) < 8e6
