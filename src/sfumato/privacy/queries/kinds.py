"""What kinds of query there are, by how they are answered."""

from __future__ import annotations

from sfumato.privacy.queries.aggregate import AggregateQuery
from sfumato.privacy.queries.gradient import GradientQuery
from sfumato.privacy.queries.histogram import HistogramQuery
from sfumato.privacy.queries.sum import SumQuery
from sfumato.privacy.queries.vote import VoteQuery

ExactQuery = SumQuery | HistogramQuery
"""Answered once, exactly, over all units."""

SampledQuery = GradientQuery | AggregateQuery
"""Asked step by step, each step over a Poisson sample of the units."""

StepQuery = SampledQuery | VoteQuery
"""Asked step by step; ``steps`` answers."""

Query = ExactQuery | StepQuery
