"""What a plan can say of a release's worth beforehand: public benchmarks, and arithmetic of noise.

No image is looked at. Accuracies are those of committed runs on public data, ``measured.json``, and
say nothing certain of other images; the rest follows from the declared size and the plan's events.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.resources import files
from typing import Any

from scipy.optimize import brentq

from sfumato.data.spec import PublicSpec
from sfumato.privacy.accounting.dominating_pairs import log_delta_gaussian
from sfumato.privacy.accounting.epsilon import epsilon_recomputed
from sfumato.privacy.accounting.events import Event, is_sampled
from sfumato.privacy.budget import Budget

TABLE = "measured.json"
SIMILAR_SIZE, SIMILAR_EPSILON = 4.0, math.sqrt(10)
"""Factors within which images a class, and ε, count as similar."""
USEFUL = 0.9
"""A release is called useful where it reaches this share of the method's best accuracy there."""
MOST_EPSILON = 10_000.0
SEVERAL = (2, 5)
"""Numbers of images of one person for which their ε is told."""


@dataclass(frozen=True)
class Measured:
    """Accuracies, of the least and the greatest of ``runs``, on one public data set at one ε.

    ``records`` were trained on in ``classes``; ``classifier`` learnt from the release, or is it.
    """

    data: str
    method: str
    records: int
    classes: int
    epsilon: float
    delta: float
    classifier: str
    accuracy: tuple[float, float]
    runs: int

    @property
    def per_class(self) -> float:
        """Images of a class."""
        return self.records / self.classes


@dataclass(frozen=True)
class Advice:
    """What to expect of a release, from public facts alone.

    Args:
        measured: the runs on public data nearest in ε, one of each data set.
        similar: which of these data sets have a similar number of images a class, at a similar ε.
        cheapest: the smallest ε that was useful on each data set, and the one that has as little
            noise beside the declared number of images; None where that is not known.
        epsilon_of_several: exact ε of so many images of one person; {} where a unit is more than a
            record, or no closed form holds.
    """

    measured: tuple[Measured, ...]
    similar: tuple[str, ...]
    cheapest: dict[str, tuple[float, float | None]]
    epsilon_of_several: dict[int, float]

    def to_dict(self) -> dict[str, Any]:
        """The advice as plain JSON values."""
        return {
            "measured": [{**asdict(row), "accuracy": list(row.accuracy)} for row in self.measured],
            "similar": list(self.similar),
            "cheapest": [
                {
                    "data": data,
                    "epsilon": there,
                    "epsilon_here": here if here and here <= MOST_EPSILON else None,
                }
                for data, (there, here) in self.cheapest.items()
            ],
            "epsilon_of_several": {str(k): value for k, value in self.epsilon_of_several.items()},
        }


@cache
def table() -> tuple[Measured, ...]:
    """All rows that ship, made from ``benchmarks/results`` by ``benchmarks/measured.py``."""
    lines = json.loads(files("sfumato.planning").joinpath(TABLE).read_text(encoding="utf-8"))
    return tuple(Measured(**{**line, "accuracy": tuple(line["accuracy"])}) for line in lines)


def advise(method: str, spec: PublicSpec, budget: Budget, events: Sequence[Event]) -> Advice:
    """What to expect of ``method`` at this budget, whose plan has these events."""
    rows = [row for row in table() if row.method == method]
    nearest: dict[str, Measured] = {}
    for row in rows:
        if row.data not in nearest or _apart(row, budget) < _apart(nearest[row.data], budget):
            nearest[row.data] = row
    here = None
    if spec.declared_size is not None:
        here = spec.declared_size / max(1, len(spec.classes))
    similar = [
        row.data
        for row in nearest.values()
        if here is not None
        and max(here / row.per_class, row.per_class / here) <= SIMILAR_SIZE
        and _apart(row, budget) <= math.log(SIMILAR_EPSILON)
    ]
    alone = len(events) == 1 and events[0].count == 1 and not is_sampled(events)
    cheapest: dict[str, tuple[float, float | None]] = {}
    for data in nearest:
        there = _cheapest([row for row in rows if row.data == data])
        as_quiet = _as_quiet(there, here, budget, events[0]) if alone and here else None
        cheapest[data] = (there.epsilon, as_quiet)
    several = {}
    if spec.unit is None and not is_sampled(events):
        several = {k: _of_several(k, budget, events) for k in SEVERAL}
    return Advice(tuple(nearest.values()), tuple(similar), cheapest, several)


def sentences(advice: Advice, method: str, spec: PublicSpec, budget: Budget) -> list[str]:
    """The advice in words, one sentence a line; each says where it comes from."""
    said = []
    for row in advice.measured:
        low, high = (f"{100 * share:.0f}" for share in row.accuracy)
        band = low if low == high else f"{low} to {high}"
        like = "similar in size and ε" if row.data in advice.similar else "not similar"
        where = f"{row.data} ({row.records:,} public images, {row.classes} classes; {like})"
        how = f"ε = {row.epsilon:g} ({row.classifier}, runs: {row.runs})"
        said.append(f"On {where} {method} reached {band} % accuracy at {how}.")
        there, here = advice.cheapest[row.data]
        tried = sorted({r.epsilon for r in table() if (r.data, r.method) == (row.data, method)})
        more = ""
        if here is not None:
            most = "no ε up to 10,000" if here > MOST_EPSILON else f"ε = {here:.3g}"
            more = f"; as little noise beside your {spec.declared_size:,} takes {most}"
        of = " and ".join(f"{epsilon:g}" for epsilon in tried)
        said.append(f"The cheapest useful ε, of {of} tried there, was {there:g}{more}.")
    if not advice.measured:
        said.append(f"No run of {method} on public data ships, so no accuracy is expected.")
    elif spec.declared_size is None:
        said.append(
            "State --declared-size, if the number of images is public, to compare with yours."
        )
    if advice.epsilon_of_several:
        costs = ", ".join(
            f"{k} images have ε = {value:.3g}" for k, value in advice.epsilon_of_several.items()
        )
        said.append(
            f"Each image is protected alone: of one person, {costs}. With --unit, --unit-pattern "
            f"or --dicom all of a person's images have ε = {budget.epsilon:g} together, at the "
            "same noise, and count as one."
        )
    return said


def _apart(row: Measured, budget: Budget) -> float:
    return abs(math.log(row.epsilon / budget.epsilon))


def _cheapest(rows: Sequence[Measured]) -> Measured:
    """The row of the smallest ε that reaches nearly the best accuracy of all."""
    best = max(row.accuracy[1] for row in rows)
    useful = [row for row in rows if row.accuracy[1] >= USEFUL * best]
    return min(useful, key=lambda row: row.epsilon)


def _as_quiet(row: Measured, per_class: float, budget: Budget, event: Event) -> float:
    """ε at which the noise beside a class's sum is that of a benchmark; it is capped at infinity.

    The sum grows with the images and the noise does not: as many images fewer, as much larger μ.
    """

    def excess(mu: float) -> float:
        return log_delta_gaussian(mu, row.epsilon) - math.log(row.delta)

    mu = float(brentq(excess, 1e-6, 1e4)) * row.per_class / per_class
    noise = event.sensitivity["add-or-remove-one"] / mu
    if mu > 1e3:
        return math.inf
    return epsilon_recomputed([replace(event, noise_std=noise)], budget.delta, budget.relation)


def _of_several(count: int, budget: Budget, events: Sequence[Event]) -> float:
    """ε of ``count`` records together: the sensitivity is so many times as large."""
    closer = [replace(event, noise_std=event.noise_std / count) for event in events]
    return epsilon_recomputed(closer, budget.delta, budget.relation)
