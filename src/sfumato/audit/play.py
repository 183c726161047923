"""Play the game of a method's queries through the real curator, in the worst case."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sfumato.audit.canaries import NumberedCanaries, toss
from sfumato.audit.games import GAMES, QueryAudit
from sfumato.data.units import PrivacyUnit
from sfumato.errors import UsageError
from sfumato.privacy import Budget, Curator, Event, Plan, Query, make_plan


@dataclass(frozen=True)
class Attacked:
    """What an attack has to show: its evidence for each canary, and the coins.

    scores float64 ``[canaries]``, positive for present; present bool ``[canaries]``; independent:
    whether under the claim the canaries are independent experiments.
    """

    name: str
    sees: str
    scores: NDArray[np.float64]
    present: NDArray[np.bool_]
    independent: bool = False


def play(
    queries: Sequence[Query],
    budget: Budget,
    canaries: int,
    classes: tuple[str, ...] = (),
    games: Mapping[str, QueryAudit] = GAMES,
    unit: PrivacyUnit | None = None,
) -> tuple[Attacked, Plan]:
    """Ask worst-case twins of ``queries`` about canaries alone; returns the claim as a plan too.

    Nothing private is read: there are canaries only, with ``unit`` each a unit of several records.
    The ledger is thrown away.

    Raises:
        UsageError: a query has no audit yet.
    """
    for query in queries:
        if query.mechanism not in games:
            raise UsageError(
                f"query {query.name!r}: there is no audit of {query.mechanism!r} queries, only of "
                f"{', '.join(games)}."
            )
    relation, rows = budget.relation, len(classes)
    twins = [games[q.mechanism].twin(q, canaries, relation, rows) for q in queries]
    present = toss(canaries)
    source = NumberedCanaries(present, relation, classes, unit)
    with tempfile.TemporaryDirectory() as state:
        with Curator(source, budget, state=Path(state), quiet=True) as curator:
            plan = curator.open_plan(make_plan({"name": "audit"}, twins, budget, source.spec))
            scores = np.zeros(canaries)
            for twin in twins:
                event: Event = plan.event(twin.name)
                game = games[twin.mechanism]
                scores += game.scores(curator, twin, event, canaries, relation)
            curator.close()
    asked = " and ".join(f"{q.name} ({q.mechanism})" for q in queries)
    sees = f"noisy answers to {asked}, canaries alone"
    return Attacked("queries", sees, scores, present, independent=True), plan
