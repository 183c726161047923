"""The privacy core: budgets, queries with proofs, exact noise, the ledger and the curator.

These are the only rooms with noise in them. What a method needs is listed here; each query has a
section of the same name in ``docs/proofs.md``.
"""

from sfumato.privacy.accounting import Event, both_relations, epsilon, epsilon_closed_form
from sfumato.privacy.budget import RELATIONS, Budget, Relation
from sfumato.privacy.curator import Answer, Curator
from sfumato.privacy.plan import Plan, make_plan
from sfumato.privacy.queries import HistogramQuery, Query, SumQuery

__all__ = [
    "RELATIONS",
    "Answer",
    "Budget",
    "Curator",
    "Event",
    "HistogramQuery",
    "Plan",
    "Query",
    "Relation",
    "SumQuery",
    "both_relations",
    "epsilon",
    "epsilon_closed_form",
    "make_plan",
]
