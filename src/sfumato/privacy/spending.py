"""What a data set has been charged so far, and what its cap leaves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from scipy import optimize

from sfumato.data import ImageSource
from sfumato.privacy import RELATIONS, Budget, Event, Relation
from sfumato.privacy.family import DataSetLedger
from sfumato.privacy.ledger import Entry, Ledger, charges_of, total_epsilon, units_of_runs


@dataclass(frozen=True)
class Spending:
    """The charges of a data set's family: all entries, their total, and the cap that binds most."""

    entries: list[Entry]
    delta: float
    by_relation: dict[Relation, float]
    cap: Budget | None
    left: float | None

    @property
    def runs(self) -> list[Entry]:
        """One entry for each run that was charged."""
        return [entry for entry in self.entries if entry["kind"] == "plan"]

    @property
    def mixed_units(self) -> str | None:
        """For whom the totals hold where runs have different privacy units; else None."""
        units = units_of_runs(self.entries)
        if len(units) < 2:
            return None
        return (
            f"The runs have different privacy units ({'; '.join(units)}): totals hold for whoever "
            "is exactly one unit in each run, such as somebody with a single record."
        )

    def to_dict(self) -> dict[str, Any]:
        """Total, cap and rest as plain JSON values."""
        return {
            "epsilon_by_relation": self.by_relation,
            "delta": self.delta,
            "runs": len(self.runs),
            "units": units_of_runs(self.entries),
            "cap": self.cap.to_dict() if self.cap else None,
            "left": self.left,
        }


def ledger_of(source: ImageSource, state: Path | None) -> DataSetLedger:
    """The ledger of a data set, which counts its whole family."""
    return DataSetLedger(source, state)


def spending(ledger: Ledger, delta: float, planned: Sequence[Event] = ()) -> Spending:
    """Read a ledger; ``planned`` events are added to what has been charged.

    Raises:
        LedgerError: the ledger is damaged.
    """
    with ledger.locked():
        entries, caps = ledger.family_entries(), ledger.caps()
    charges = charges_of(entries) + ([list(planned)] if planned else [])
    totals = {relation: total_epsilon(charges, delta, relation) for relation in RELATIONS}
    lefts = [(epsilon_left(charges, cap), number) for number, cap in enumerate(caps)]
    left, tightest = min(lefts, default=(None, -1))
    return Spending(entries, delta, totals, None if left is None else caps[tightest], left)


def epsilon_left(charges: Sequence[Sequence[Event]], cap: Budget) -> float:
    """The ε, at the cap's δ and relation, of the largest further Gaussian that the cap allows.

    More than the difference of the two ε: Gaussians compose by the squares of their μ.
    """

    def further(noise: float) -> list[Event]:
        return [Event("sum", "", 1.0, {relation: 1.0 for relation in RELATIONS}, noise)]

    def over(noise: float) -> float:
        return total_epsilon([*charges, further(noise)], cap.delta, cap.relation) - cap.epsilon

    low, high = 1e-3, 1e9
    if over(high) > 0:
        return 0.0
    noise = high if over(low) <= 0 else float(optimize.brentq(over, low, high, rtol=1e-12))
    return total_epsilon([further(noise)], cap.delta, cap.relation)
