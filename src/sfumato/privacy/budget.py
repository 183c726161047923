"""What a user is willing to spend, and under which neighbouring relation it is measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from sfumato.errors import UsageError

LARGEST_DELTA = 1e-3
"""A release with a larger δ is made and verified only where somebody allows it in so many words."""

Relation = Literal["add-or-remove-one", "replace-one"]
RELATIONS: tuple[Relation, ...] = get_args(Relation)

SMALLEST_EPSILON, LARGEST_EPSILON = 1e-3, 1e4
"""Between these both accountants are right to a thousandth; beyond them no ε means anything: below,
no image can be learned, above, nothing is protected."""

SMALLEST_DELTA = 1e-12
"""The accountant cuts tails of 1e-15, which a smaller δ would feel."""


def delta_problem(delta: float, declared_size: int | None) -> str | None:
    """What a δ means that is too large for a release to be called private, or None.

    δ must be at most 1/1,000, and below 1/N where N records or units are declared.
    """
    if declared_size is not None and delta * declared_size >= 1:
        return (
            f"δ = {delta:g} is not below 1/{declared_size:,}, one over the declared number: a "
            "method that publishes each record, whole, with probability δ would satisfy this "
            f"guarantee, and would publish {delta * declared_size:,.3g} of them on average"
        )
    if delta > LARGEST_DELTA:
        return (
            f"δ = {delta:g} is above 1/1,000: with probability δ the guarantee may fail "
            "altogether, and a method that then publishes every record would satisfy it"
        )
    return None


def check_delta(delta: float, declared_size: int | None, allowed: bool) -> None:
    """Refuse a δ that is too large, unless it is ``allowed`` in so many words.

    Raises:
        UsageError: it is; see :func:`delta_problem`.
    """
    problem = delta_problem(delta, declared_size)
    if problem and not allowed:
        raise UsageError(
            f"{problem}. Choose a smaller --delta (delta=), or pass --allow-large-delta "
            "(allow_large_delta=True)."
        )


@dataclass(frozen=True)
class Budget:
    """An (ε, δ) under a neighbouring relation: the most a plan may cost.

    Args:
        epsilon: privacy budget ε of this run, from 0.001 to 10,000; 0.2 to 10 are usual.
        delta: privacy budget δ in [1e-12, 1), well below 1/(number of records).
        relation: neighbouring relation: ``add-or-remove-one`` (data sets differ by one record
            more or less) or ``replace-one`` (equal size, one record differs). ε under one is not ε
            under the other.

    Raises:
        UsageError: a value is outside its rule.
    """

    epsilon: float
    delta: float = 1e-5
    relation: Relation = "add-or-remove-one"

    def __post_init__(self) -> None:
        if not SMALLEST_EPSILON <= self.epsilon <= LARGEST_EPSILON:
            raise UsageError(
                f"epsilon={self.epsilon} must be a number from {SMALLEST_EPSILON:g} to "
                f"{LARGEST_EPSILON:,.0f}. Usual values are 0.2 to 10."
            )
        if not SMALLEST_DELTA <= self.delta < 1:
            raise UsageError(
                f"delta={self.delta} must lie in [{SMALLEST_DELTA}, 1). Choose it well below "
                "1/(number of records), for example 1e-5."
            )
        if self.relation not in RELATIONS:
            raise UsageError(f"relation={self.relation!r} must be one of {', '.join(RELATIONS)}.")

    def to_dict(self) -> dict[str, Any]:
        """The budget as plain JSON values."""
        return asdict(self)
