"""What a run will ask and what it will cost, fixed before any private byte is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar, runtime_checkable

from sfumato.data.spec import PublicSpec
from sfumato.errors import BudgetExceededError, UsageError
from sfumato.privacy.accounting.calibration import calibrate
from sfumato.privacy.accounting.epsilon import both_relations, epsilon_recomputed
from sfumato.privacy.accounting.events import Event
from sfumato.privacy.budget import Budget, Relation
from sfumato.privacy.grid import max_dimension
from sfumato.privacy.ledger import digest
from sfumato.privacy.queries.base import Query
from sfumato.privacy.queries.histogram import HistogramQuery
from sfumato.privacy.queries.sum import SumQuery

_ASKED_ONCE = (SumQuery.mechanism, HistogramQuery.mechanism)
_CHARGED_FOR = ("budget", "spec", "queries", "events")

AnyQuery = TypeVar("AnyQuery", bound=Query)


@runtime_checkable
class Asker(Protocol):
    """What a plan is made for: a method, or anything else that says its queries beforehand."""

    @property
    def name(self) -> str:
        """What the plan and the certificate call it."""

    def config(self) -> dict[str, Any]:
        """Its public configuration, as plain JSON values."""

    def queries(self, spec: PublicSpec) -> list[Query]:
        """What it will ask about a data set of this public specification."""


@dataclass(frozen=True)
class Plan:
    """A method's queries with their calibrated noise; everything in it is public.

    Args:
        budget: what the user is willing to spend.
        method: name and configuration of the method, as plain JSON values.
        spec: the data set's public specification.
        queries: what will be asked.
        events: the same queries with the noise they will get, in the same order.

    Raises:
        UsageError: the events are not those of the queries, or a name occurs twice.
        BudgetExceededError: the events cost more than the budget.
    """

    budget: Budget
    method: Mapping[str, Any]
    spec: PublicSpec
    queries: tuple[Query, ...]
    events: tuple[Event, ...]

    def __post_init__(self) -> None:
        _check_names(self.queries)
        relation, delta = self.budget.relation, self.budget.delta
        unscaled = [replace(query.event(relation), noise_std=1.0) for query in self.queries]
        if [replace(event, noise_std=1.0) for event in self.events] != unscaled:
            raise UsageError("a plan's events must be its queries' own. Use make_plan.")
        _check_grid(self.queries, self.spec)
        cost = epsilon_recomputed(self.events, delta, relation)
        if not cost <= self.budget.epsilon:
            raise BudgetExceededError(
                f"the plan costs epsilon={cost:.6g}, over its budget of {self.budget.epsilon}. "
                "Use make_plan, which calibrates the noise."
            )

    def epsilons(self) -> dict[Relation, float]:
        """What the plan costs at the budget's δ, under every relation."""
        return both_relations(self.events, self.budget.delta)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON values."""
        return {
            "budget": self.budget.to_dict(),
            "method": dict(self.method),
            "spec": self.spec.to_dict(),
            "queries": [query.to_dict() for query in self.queries],
            "events": [event.to_dict() for event in self.events],
        }

    def digest(self) -> str:
        """SHA-256 that tells whether two runs would ask the same at the same price."""
        return digest(questions_of(self.to_dict()))

    def query(self, name: str, kind: type[AnyQuery]) -> AnyQuery:
        """The plan's query of that name.

        Raises:
            BudgetExceededError: the plan has none of that name and kind, so nobody has paid for it.
        """
        for query in self.queries:
            if query.name == name and isinstance(query, kind):
                return query
        planned = ", ".join(f"{query.name} ({query.mechanism})" for query in self.queries)
        raise BudgetExceededError(
            f"{kind.mechanism} {name!r} is not in the plan that was paid for: {planned}. "
            "Put it into the method's queries()."
        )

    def event(self, name: str) -> Event:
        """The calibrated event of the plan's query of that name."""
        return next(event for event in self.events if event.name == name)


def questions_of(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What is charged for of a plan as plain JSON values: questions, noise, budget, data.

    How a method is configured belongs to it where a query is asked step by step, because each step
    asks at what training has reached. A sum or histogram is described by the query alone, so what
    becomes of the answer afterwards may change at no cost.
    """
    stepwise = any(query.get("query") not in _ASKED_ONCE for query in plan["queries"])
    method = plan["method"] if stepwise else plan["method"]["name"]
    return {**{key: plan[key] for key in _CHARGED_FOR}, "method": method}


def plan_for(asker: Asker, budget: Budget, spec: PublicSpec) -> Plan:
    """What ``asker`` would ask of a data set, and the noise that fits the budget."""
    description = {"name": asker.name, "config": asker.config()}
    return make_plan(description, asker.queries(spec), budget, spec)


def make_plan(
    method: Mapping[str, Any], queries: Sequence[Query], budget: Budget, spec: PublicSpec
) -> Plan:
    """Calibrate one common noise scale so that ``queries`` together cost exactly ``budget``.

    Raises:
        UsageError: there is no query, or two share a name.
    """
    _check_names(queries)
    events = calibrate([query.event(budget.relation) for query in queries], budget)
    return Plan(budget, method, spec, tuple(queries), tuple(events))


def _check_grid(queries: Sequence[Query], spec: PublicSpec) -> None:
    """Refuse exact sums in which a share of a unit would be too coarse."""
    if spec.unit is None:
        return
    for query in queries:
        most = spec.unit.records_per_unit
        if isinstance(query, SumQuery) and query.dimension > max_dimension(most):
            raise UsageError(
                f"query {query.name!r}: {query.dimension} coordinates and {most} records per unit "
                "lose over a hundredth of the bound to rounding. Lower --records-per-unit "
                "(records_per_unit=)."
            )


def _check_names(queries: Sequence[Query]) -> None:
    names = [query.name for query in queries]
    if not names or len(set(names)) != len(names):
        raise UsageError(f"a plan needs queries with different names, got {names}.")
