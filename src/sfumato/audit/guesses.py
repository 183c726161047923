"""What an attacker's scores come to: so many guesses about coins, so many of them right."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfumato.errors import UsageError


@dataclass(frozen=True)
class Guesses:
    """The result of an attack on fair coins.

    Args:
        correct: guesses that were right.
        made: all guesses; a number fixed before the answer was seen.
        canaries: all coins, guessed or not.

    Raises:
        UsageError: unless 0 ≤ correct ≤ made ≤ canaries.
    """

    correct: int
    made: int
    canaries: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.made <= self.canaries:
            raise UsageError(
                f"correct={self.correct}, made={self.made}, canaries={self.canaries}: must not "
                "decrease, and none may be negative."
            )


def guess(scores: NDArray[np.float64], present: NDArray[np.bool_], made: int) -> Guesses:
    """Guess the ``made`` coins whose scores lie furthest from zero: positive means present.

    Args:
        scores: float64 ``[canaries]``, an attacker's evidence; computed without the coins.
        present: bool ``[canaries]``, the coins.
        made: how many guesses; it must not depend on scores or coins.
    """
    chosen = np.argsort(-np.abs(scores), kind="stable")[:made]
    correct = int((present[chosen] == (scores[chosen] > 0)).sum())
    return Guesses(correct, made, len(scores))
