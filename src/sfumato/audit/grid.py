"""A bit-pattern audit: every answer must be a whole number of its query's grid steps.

Floating-point noise leaves patterns in the last bits of an answer that can tell neighbours apart
(Mironov, CCS 2012). Integer sums with integer noise leave none;
``docs/proofs/integer-gaussian.md``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.privacy import AggregateQuery, GradientQuery, Query, VoteQuery
from sfumato.privacy.gradients.topagg import VOTE_BITS
from sfumato.privacy.grid import UNIT


def grid_step(query: Query, pulled_back: bool = False) -> float:
    """The step of the grid on which a query's answers lie, in the units of the answer.

    Args:
        query: what was asked.
        pulled_back: of the second part of an ``aggregate``.
    """
    compressed = isinstance(query, GradientQuery) and query.compress is not None
    if isinstance(query, VoteQuery) or compressed:
        return 2.0**-VOTE_BITS
    if isinstance(query, AggregateQuery):
        return (query.gradient_clip_norm if pulled_back else query.clip_norm) / UNIT
    return query.bound / UNIT


def is_on_grid(values: Tensor, step: float) -> bool:
    """Whether each value is the float64 nearest to a whole number of ``step``."""
    exact = values.detach().to(torch.float64)
    return bool((torch.round(exact / step) * step == exact).all())
