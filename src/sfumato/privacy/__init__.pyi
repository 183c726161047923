from .accounting.epsilon import both_relations, epsilon, epsilon_recomputed
from .accounting.events import Event
from .answering.aggregate import UnitFeatures
from .answering.total import Answer
from .answering.vote import SAVED_EVERY, GeneratedBatch, TeacherBatches, TeacherGradients, Teachers
from .budget import RELATIONS, Budget, Relation
from .curator import Curator
from .gradients.per_example import UnitLoss
from .plan import Asker, Plan, make_plan
from .queries.aggregate import AggregateQuery
from .queries.base import Query, TotalQuery
from .queries.gradient import GradientQuery, TopSigns
from .queries.histogram import HistogramQuery
from .queries.nearest import NearestQuery
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
    "GeneratedBatch",
    "GradientQuery",
    "HistogramQuery",
    "NearestQuery",
    "Plan",
    "Query",
    "Relation",
    "SumQuery",
    "TeacherBatches",
    "TeacherGradients",
    "Teachers",
    "TopSigns",
    "TotalQuery",
    "UnitFeatures",
    "UnitLoss",
    "VoteQuery",
    "both_relations",
    "epsilon",
    "epsilon_recomputed",
    "make_plan",
]
