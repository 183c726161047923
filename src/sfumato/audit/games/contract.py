"""What an audit of a query is: the worst case of the query, asked through the real curator."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from sfumato.privacy import Curator, Event, Query, Relation

OVER = 2.0
"""Canaries contribute so many clip norms, so that a clip that is left out shows."""


@runtime_checkable
class QueryAudit(Protocol):
    """The audit of one kind of query; one file each, named in ``games.GAMES``.

    The data hold :class:`NumberedCanaries` and nothing else. The attacker knows everything but
    the coins, so each canary is given a part of the answer that is its own.
    """

    def twin(self, query: Any, canaries: int, relation: Relation, classes: int) -> Query:
        """The same query (noise, sampling, bound, steps) with worst-case canaries in it.

        Its noise multiplier, sampling rate and steps must be those of ``query``.
        """

    def scores(
        self, curator: Curator, twin: Any, event: Event, canaries: int, relation: Relation
    ) -> NDArray[np.float64]:
        """Ask the curator, and return each canary's log likelihood ratio of being present.

        The curator has a plan open that holds ``twin``; ``event`` is the twin's, calibrated.
        """
