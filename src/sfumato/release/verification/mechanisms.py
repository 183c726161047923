"""The mechanisms' table of ``docs/proofs``, written a second time: what ``verify`` goes by.

Nothing here comes from the queries' own code, so that a mistake there is noticed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from sfumato.privacy import RELATIONS, Relation
from sfumato.release.strict_json import mismatches

NOISE_PATHS = dict.fromkeys(
    ("sum", "histogram", "nearest", "gradient", "aggregate", "vote"),
    "discrete Gaussian on integers, exact, operating-system entropy (ChaCha20)",
)
"""How each mechanism samples the noise whose proof is in ``docs/proofs``."""

_EARLIER_NOISE_PATHS = {
    "0.1.0": {
        **dict.fromkeys(
            ("sum", "histogram", "vote"),
            "discrete Gaussian, exact, operating-system entropy (OpenDP)",
        ),
        **dict.fromkeys(
            ("gradient", "aggregate"),
            "Gaussian in float64, ChaCha20 keyed by the operating system (randomgen)",
        ),
    },
}


def noise_paths(version: str) -> Mapping[str, str]:
    """How the mechanisms of a version of sfumato draw their noise."""
    return _EARLIER_NOISE_PATHS.get(version, NOISE_PATHS)


STEPWISE = ("nearest", "gradient", "aggregate", "vote")
"""Mechanisms that are asked step by step; some of them over samples of the units."""

LARGEST = 1e12

STEPS_OF_A_CLIP_NORM = 2**20
"""Answers of a ``sum`` are whole numbers of steps of this share of its clip norm."""


def sensitivity(query: Mapping[str, Any], clip_norm: float) -> dict[Relation, float] | None:
    """The bounds of a query whose event states ``clip_norm``; None for what has no row here."""
    mechanism, stated = query["query"], query.get("clip_norm")
    if mechanism == "sum" and stated == clip_norm and isinstance(query.get("nonnegative"), bool):
        return _bounds(clip_norm, (math.sqrt(2) if query["nonnegative"] else 2.0) * clip_norm)
    if mechanism == "gradient" and "compress" in query:
        shape = {"entries": int, "stochastic": bool}
        whole = not any(mismatches(query["compress"], shape, "compress")) and stated is None
        stated = _root_of(query["compress"]["entries"]) if whole else None
    if mechanism == "gradient" and stated == clip_norm:
        return _bounds(clip_norm, 2 * clip_norm)
    if mechanism == "aggregate" and clip_norm == 1:
        return _bounds(1.0, 2.0)
    if mechanism == "vote" and _root_of(query.get("entries")) == clip_norm:
        return _bounds(2 * clip_norm, 2 * clip_norm)
    if mechanism in ("histogram", "nearest") and clip_norm == 1:
        return _bounds(1.0, math.sqrt(2))
    return None


def relative_noise(query: Mapping[str, Any]) -> float | None:
    """A query's noise multiplier relative to the others': of an aggregate's two parts together."""
    stated = query.get("relative_noise")
    if query["query"] == "aggregate":
        parts, clips = [query.get("forward_noise")], [query.get("clip_norm")]
        if "gradient_dimension" in query:
            parts.append(query.get("backward_noise"))
            clips.append(query.get("gradient_clip_norm"))
        if not all(_is_positive(value) for value in [*parts, *clips]):
            return None
        together = 1 / math.sqrt(sum(float(part) ** -2 for part in parts if part))
        if not (_is_positive(stated) and math.isclose(float(stated or 0), together)):
            return None
    return float(stated) if stated is not None and _is_positive(stated) else None


def _bounds(*values: float) -> dict[Relation, float]:
    return dict(zip(RELATIONS, values, strict=True))


def _root_of(entries: Any) -> float | None:
    """√k, the norm of a vote of k signs."""
    whole = isinstance(entries, int) and not isinstance(entries, bool)
    return math.sqrt(entries) if whole and 1 <= entries < LARGEST else None


def _is_positive(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and 1 / LARGEST < value < LARGEST
