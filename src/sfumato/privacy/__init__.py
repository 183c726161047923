"""The privacy core: budgets, queries with proofs, exact noise, the ledger and the curator.

These are the only rooms with noise in them. What a method needs is listed here; each query has a
section of the same name in ``docs/proofs.md``.
"""

from sfumato.privacy.accounting import Event, both_relations, epsilon, epsilon_recomputed
from sfumato.privacy.aggregate_query import AggregateQuery
from sfumato.privacy.aggregation import UnitFeatures
from sfumato.privacy.budget import RELATIONS, Budget, Relation
from sfumato.privacy.curator import Answer, Curator
from sfumato.privacy.per_example import UnitLoss
from sfumato.privacy.plan import Plan, make_plan
from sfumato.privacy.queries import ExactQuery, GradientQuery, HistogramQuery, Query, SumQuery
from sfumato.privacy.topagg import TopSigns
from sfumato.privacy.vote_query import VoteQuery
from sfumato.privacy.voting import SAVED_EVERY, Opinions, Question, ShardBatch, Teachers

__all__ = [
    "RELATIONS",
    "SAVED_EVERY",
    "AggregateQuery",
    "Answer",
    "Budget",
    "Curator",
    "Event",
    "ExactQuery",
    "GradientQuery",
    "HistogramQuery",
    "Opinions",
    "Plan",
    "Query",
    "Question",
    "Relation",
    "ShardBatch",
    "SumQuery",
    "Teachers",
    "TopSigns",
    "UnitFeatures",
    "UnitLoss",
    "VoteQuery",
    "both_relations",
    "epsilon",
    "epsilon_recomputed",
    "make_plan",
]
