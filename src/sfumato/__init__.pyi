import typing

from .data.memory import from_arrays, from_dataset
from .data.opening import open_images
from .data.options import DataOptions
from .options import (
    ClassifierOptions,
    EvaluationOptions,
    MethodOptions,
    ReleaseOptions,
    RunOptions,
)
from .privacy.budget import Budget
from .privacy.curator import Curator
from .privacy.ledger import Ledger
from .privacy.queries.aggregate import AggregateQuery
from .privacy.queries.gradient import GradientQuery
from .privacy.queries.histogram import HistogramQuery
from .privacy.queries.nearest import NearestQuery
from .privacy.queries.sum import SumQuery
from .privacy.queries.vote import VoteQuery
from .release.verification.verify import verify
from .released import evaluate, load, report
from .synthesis import classify, convert, fit_embedding, mock, sample, synthesize

__all__ = [
    "AggregateQuery",
    "Budget",
    "ClassifierOptions",
    "Curator",
    "DataOptions",
    "EvaluationOptions",
    "GradientQuery",
    "HistogramQuery",
    "Ledger",
    "MethodOptions",
    "NearestQuery",
    "ReleaseOptions",
    "RunOptions",
    "SumQuery",
    "VoteQuery",
    "classify",
    "convert",
    "evaluate",
    "fit_embedding",
    "from_arrays",
    "from_dataset",
    "load",
    "mock",
    "open_images",
    "report",
    "sample",
    "synthesize",
    "verify",
]

# The methods come from the registry: DPMEPF, Moments, DPDM, DPGAN, DPAF, DataLens, DPMERF, DPNTK,
# DPSGD, LeastSquares, PrivateEvolution, Guided.

__version__: str

def __getattr__(name: str) -> typing.Any: ...
