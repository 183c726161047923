"""Rules that all queries share."""

from __future__ import annotations

import math
import re

from sfumato.errors import UsageError
from sfumato.privacy.clipping import max_dimension


def check_name(name: str) -> None:
    """Raise UsageError unless ``name`` can name a query and its stored answers."""
    if not re.fullmatch(r"[\w-]+(\.[\w-]+)*", name):
        raise UsageError(
            f"query name {name!r} must be letters, digits, '_', '-' or inner dots; "
            "answers are stored under it."
        )


def check_dimension(name: str, **values: int) -> None:
    """Raise UsageError unless all ``values`` are possible numbers of coordinates."""
    for key, value in values.items():
        if not isinstance(value, int) or not 0 < value <= max_dimension():
            raise UsageError(
                f"query {name!r}: {key}={value} must be an integer in [1, {max_dimension()}]. "
                "Compress the features."
            )


def check_positive(name: str, **values: float) -> None:
    """Raise UsageError unless all ``values`` are positive and finite."""
    for key, value in values.items():
        if not 0 < value < math.inf:
            raise UsageError(f"query {name!r}: {key}={value} must be a positive number.")


def check_sampled(name: str, sampling_rate: float, **counts: int) -> None:
    """Raise UsageError unless the rate is a probability and all ``counts`` are at least 1."""
    if not 0 < sampling_rate <= 1:
        raise UsageError(
            f"query {name!r}: sampling_rate={sampling_rate} must lie in (0, 1]. It is the expected "
            "batch over the declared number of records: lower the batch."
        )
    for key, value in counts.items():
        if value < 1:
            raise UsageError(f"query {name!r}: {key}={value} must be at least 1.")
