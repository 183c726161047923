"""The privacy core: budgets, queries with proofs, exact noise, the ledger and the curator.

These are the only rooms with noise in them. What a method needs is listed here; each query has a
section of the same name in ``docs/proofs.md``.
"""

from sfumato.privacy.accounting.epsilon import both_relations, epsilon, epsilon_recomputed
from sfumato.privacy.accounting.events import Event
from sfumato.privacy.answering.aggregate import UnitFeatures
from sfumato.privacy.answering.vote import SAVED_EVERY, Opinions, Question, ShardBatch, Teachers
from sfumato.privacy.budget import RELATIONS, Budget, Relation
from sfumato.privacy.curator import Answer, Curator
from sfumato.privacy.gradients.per_example import UnitLoss
from sfumato.privacy.gradients.topagg import TopSigns
from sfumato.privacy.plan import Asker, Plan, make_plan
from sfumato.privacy.queries.aggregate import AggregateQuery
from sfumato.privacy.queries.gradient import GradientQuery
from sfumato.privacy.queries.histogram import HistogramQuery
from sfumato.privacy.queries.kinds import ExactQuery, Query
from sfumato.privacy.queries.sum import SumQuery
from sfumato.privacy.queries.vote import VoteQuery

__all__ = [
    "RELATIONS",
    "SAVED_EVERY",
    "AggregateQuery",
    "Answer",
    "Asker",
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
