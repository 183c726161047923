from .accounting.epsilon import both_relations, epsilon, epsilon_recomputed
from .accounting.events import Event
from .answering.aggregate import UnitFeatures
from .answering.vote import SAVED_EVERY, Opinions, Question, ShardBatch, Teachers
from .budget import RELATIONS, Budget, Relation
from .curator import Answer, Curator
from .gradients.per_example import UnitLoss
from .gradients.topagg import TopSigns
from .plan import Asker, Plan, make_plan
from .queries.aggregate import AggregateQuery
from .queries.gradient import GradientQuery
from .queries.histogram import HistogramQuery
from .queries.kinds import ExactQuery, Query
from .queries.sum import SumQuery
from .queries.vote import VoteQuery

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
