"""The audits of the queries, by mechanism; a new query is audited by adding its file here."""

from __future__ import annotations

from sfumato.audit.games.aggregate import AggregateAudit
from sfumato.audit.games.contract import QueryAudit
from sfumato.audit.games.gradient import GradientAudit
from sfumato.audit.games.histogram import HistogramAudit
from sfumato.audit.games.nearest import NearestAudit
from sfumato.audit.games.sum import SumAudit
from sfumato.audit.games.vote import VoteAudit

GAMES: dict[str, QueryAudit] = {
    "sum": SumAudit(),
    "histogram": HistogramAudit(),
    "nearest": NearestAudit(),
    "gradient": GradientAudit(),
    "aggregate": AggregateAudit(),
    "vote": VoteAudit(),
}

__all__ = [
    "GAMES",
    "AggregateAudit",
    "GradientAudit",
    "HistogramAudit",
    "NearestAudit",
    "QueryAudit",
    "SumAudit",
    "VoteAudit",
]
