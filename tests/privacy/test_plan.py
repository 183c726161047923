"""A plan is what was calibrated for its budget, or it is refused."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from sfumato.data.spec import PublicSpec
from sfumato.errors import BudgetExceededError, UsageError
from sfumato.privacy import Budget, HistogramQuery, Plan, SumQuery, epsilon_recomputed, make_plan

SPEC = PublicSpec(height=2, width=2, channels=1, classes=("a", "b"))


def a_sum(name: str = "s", **changes: object) -> SumQuery:
    return SumQuery(name, lambda images, labels: torch.ones(1), 3, 2.0, **changes)


def a_histogram(name: str = "h", **changes: object) -> HistogramQuery:
    return HistogramQuery(name, lambda images, labels: labels, 2, **changes)


def plan(*queries: object, budget: Budget = Budget(1.0, 1e-5)) -> Plan:  # noqa: B008 (frozen)
    return make_plan({"name": "test"}, queries, budget, SPEC)


@pytest.mark.parametrize("relation", ["add-or-remove-one", "replace-one"])
def test_queries_share_the_budget_by_their_relative_noise(relation: str) -> None:
    made = plan(a_sum(), a_histogram(relative_noise=3.0), budget=Budget(2.0, 1e-6, relation))
    first, second = (event.noise_multiplier(relation) for event in made.events)
    assert second == pytest.approx(3 * first)
    assert 0.999 * 2 <= made.epsilons()[relation] <= 2
    assert first == pytest.approx(
        made.event(made.queries[0].name).noise_std / made.events[0].sensitivity[relation]
    )


def test_weaker_noise_than_the_budget_needs_is_refused() -> None:
    made = plan(a_sum())
    weaker = dataclasses.replace(made.events[0], noise_std=made.events[0].noise_std * 0.99)
    assert epsilon_recomputed([weaker], 1e-5, "add-or-remove-one") > 1
    with pytest.raises(BudgetExceededError, match="over its budget"):
        dataclasses.replace(made, events=(weaker,))


@pytest.mark.parametrize(
    "change",
    [
        {"clip_norm": 1.0},
        {"name": "other"},
        {"query": "histogram"},
        {"count": 2},
        {"sensitivity": {"add-or-remove-one": 0.1, "replace-one": 0.1}},
    ],
)
def test_an_event_that_is_not_its_querys_is_refused(change: dict) -> None:
    made = plan(a_sum())
    with pytest.raises(UsageError, match="queries' own"):
        dataclasses.replace(made, events=(dataclasses.replace(made.events[0], **change),))


def test_a_query_without_an_event_is_refused() -> None:
    made = plan(a_sum())
    with pytest.raises(UsageError):
        dataclasses.replace(made, queries=(*made.queries, a_histogram()))


@pytest.mark.parametrize("queries", [[], [a_sum("x"), a_histogram("x")]])
def test_names_are_needed_and_differ(queries: list) -> None:
    with pytest.raises(UsageError, match="different names"):
        plan(*queries)


def test_digest_follows_everything_public() -> None:
    digests = {
        plan(a_sum()).digest(),
        plan(a_sum("t")).digest(),
        plan(a_sum(nonnegative=True)).digest(),
        plan(a_sum(describes={"encoder": "e"})).digest(),
        plan(a_sum(), budget=Budget(1.0, 1e-6)).digest(),
        make_plan({"name": "other"}, [a_sum()], Budget(1.0, 1e-5), SPEC).digest(),
    }
    assert len(digests) == 6
    assert plan(a_sum()).digest() in digests


def test_a_description_cannot_restate_the_query() -> None:
    described = a_sum(describes={"clip_norm": 0.1, "dimension": 1, "encoder": "e"}).to_dict()
    assert (described["clip_norm"], described["dimension"], described["encoder"]) == (2.0, 3, "e")


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a b", ".hidden", "a\n", "a."])
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    for make in (a_sum, a_histogram):
        with pytest.raises(UsageError, match="query name"):
            make(name)


@pytest.mark.parametrize(
    "make",
    [
        lambda: SumQuery("s", torch.add, 0, 1.0),
        lambda: SumQuery("s", torch.add, 2**40, 1.0),
        lambda: SumQuery("s", torch.add, 2, 0.0),
        lambda: SumQuery("s", torch.add, 2, float("nan")),
        lambda: SumQuery("s", torch.add, 2, 1.0, relative_noise=float("inf")),
        lambda: SumQuery("s", torch.add, 2, 1.0, by_class=True, shared=2),
        lambda: HistogramQuery("h", torch.add, 0),
        lambda: a_histogram(relative_noise=-1.0),
    ],
)
def test_a_value_outside_its_rule_is_refused(make: object) -> None:
    with pytest.raises(UsageError):
        make()


@pytest.mark.parametrize(
    "values",
    [
        (0.0, 1e-5),
        (-1.0, 1e-5),
        (float("inf"), 1e-5),
        (float("nan"), 1e-5),
        (1.0, 0.0),
        (1.0, 1.0),
        (1.0, 1e-20),
        (1.0, float("nan")),
    ],
)
def test_a_budget_outside_its_rule_is_refused(values: tuple) -> None:
    with pytest.raises(UsageError):
        Budget(*values)
