"""Every query's true code passes the audit, and every planted fault of the curator is found.

The game is judged by the bound for independent canaries at a chance of error of 1e-4. What the
game cannot see is found elsewhere; :data:`ELSEWHERE` names those tests, and they must exist.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from sfumato.audit import Family, epsilon_independent, play
from sfumato.audit.games import GAMES
from sfumato.data.units import PrivacyUnit
from sfumato.privacy import (
    RELATIONS,
    AggregateQuery,
    Budget,
    GradientQuery,
    HistogramQuery,
    NearestQuery,
    Query,
    Relation,
    SumQuery,
    VoteQuery,
    clipping,
)
from sfumato.privacy.answering import aggregate, base, gradient, integer_sums, sampled
from sfumato.privacy.grid import UNIT
from sfumato.privacy.records import decoded, shards, units

CANARIES, FEW, WRONG, CLASSES = 1500, 500, 1e-4, ("a", "b", "c")
DELTA = 1e-5
SAMPLED = {GradientQuery: 6000, AggregateQuery: 3000}
"""Canaries where few are sampled: in some runs each fault lay five or more deviations off."""
QUERIES: dict[str, Query] = {
    "sum": SumQuery("s", lambda images, labels: images, 9, 0.7, by_class=True, shared=2),
    "histogram": HistogramQuery("h", lambda images, labels: labels, 9),
    "nearest": NearestQuery("n", lambda images: images, 9, 9, steps=2),
    "gradient": GradientQuery("g", 9, 0.7, 0.5, 2),
    "aggregate": AggregateQuery("a", 3, 9, 0.7, 1.0, 2, gradient_dimension=9),
    "vote": VoteQuery("v", 9, 1, 9, 40),
}

ROOT = Path(__file__).parents[1]
ELSEWHERE = {
    "seeded noise": ("privacy/noise/test_integer_gaussian.py", "test_nobody_can_seed_the_noise"),
    "noise used twice": (
        "privacy/noise/test_integer_gaussian.py",
        "test_every_coordinate_and_every_call_has_noise",
    ),
    "same noise at two steps": (
        "privacy/queries/test_gradient_audit.py",
        "test_attack_finds_noise_that_re",
    ),
    "streams repeat": (
        "privacy/noise/test_keys.py",
        "test_streams_repeat_and_have_nothing_in_common",
    ),
    "answered twice": ("privacy/test_curator.py", "test_second_ask_gives_the_first_answer"),
    "noise on two ranks": ("privacy/test_distributed.py", "test_noise_is_drawn_once_and_by_one"),
    "two answers on two ranks": (
        "privacy/test_distributed.py",
        "test_all_ranks_see_the_same_answer",
    ),
}


def proven(
    query: Query,
    relation: Relation = RELATIONS[0],
    games: Any = GAMES,
    unit: PrivacyUnit | None = None,
    canaries: int | None = None,
) -> float:
    """The ε that the game proves of one query, over the claim."""
    # Canaries that meet in a shard are lost, which limits what can be proven of a large ε.
    budget = Budget(4.0 if isinstance(query, VoteQuery) else 8.0, DELTA, relation)
    canaries = canaries or SAMPLED.get(type(query), CANARIES)
    attacked, plan = play([query], budget, canaries, CLASSES, games, unit)
    family = Family(plan.events, budget.delta, relation)
    bound = epsilon_independent(attacked.scores, attacked.present, family, WRONG)
    return bound / plan.epsilons()[relation]


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("kind", QUERIES)
def test_the_true_code_passes_and_something_is_proven(kind: str, relation: Relation) -> None:
    least = {"vote": 0.1, "gradient": 0.15}.get(kind, 0.5)
    if kind == "vote" and relation == "add-or-remove-one":
        least = -1.0  # a canary moves the votes half as far as is paid for: too little to see
    assert least < proven(QUERIES[kind], relation) <= 1


def proven_of_units(query: Query, records_per_unit: int) -> float:
    """The same where each canary is a unit of three records."""
    unit = PrivacyUnit("patient", records_per_unit=records_per_unit)
    return proven(query, "replace-one", unit=unit, canaries=FEW)


@pytest.mark.parametrize("kind", QUERIES)
def test_units_that_count_as_records(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    least = -1.0 if kind == "vote" else 0.1  # few canaries, of which some share a shard
    assert least < proven_of_units(QUERIES[kind], 2) <= 1
    for module in (integer_sums, decoded):
        monkeypatch.setattr(module, "units_of", lambda source: None)
    assert proven_of_units(QUERIES[kind], 2) > 1


@pytest.mark.parametrize("kind", ["sum", "histogram", "nearest"])
def test_a_surplus_of_records_that_is_used(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert proven_of_units(QUERIES[kind], 1) <= 1
    monkeypatch.setattr(units, "_surplus", lambda *_: [])
    assert proven_of_units(QUERIES[kind], 1) > 1


true_noise = base.add_noise
NOISE_FAULTS: dict[str, Callable] = {
    "noise dropped": lambda total, std, stream: total,
    "noise halved": lambda total, std, stream: true_noise(total, std / 2, stream),
    "sensitivity doubled": lambda total, std, stream: true_noise(2 * total, std, stream),
}


@pytest.mark.parametrize("fault", NOISE_FAULTS)
@pytest.mark.parametrize("kind", QUERIES)
def test_faults_of_the_noise(kind: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    relation = RELATIONS[0] if kind in ("sum", "histogram", "nearest") else "replace-one"
    monkeypatch.setattr(base, "add_noise", NOISE_FAULTS[fault])
    assert proven(QUERIES[kind], relation) > 1


def test_a_clip_left_out_of_a_sum(monkeypatch: pytest.MonkeyPatch) -> None:
    def unclipped(rows, clip_norm, bounds, starts):  # type: ignore[no-untyped-def]
        steps = (rows * UNIT / clip_norm).round().long()
        return torch.stack([part.sum(0) for part in steps.tensor_split(starts[1:])])

    monkeypatch.setattr(clipping, "clipped_sums", unclipped)
    assert proven(QUERIES["sum"]) > 1


true_sum = gradient.gradient_sum


def unclipped_gradients(network, loss, batch, clip_norm, *rest):  # type: ignore[no-untyped-def]
    return (true_sum(network, loss, batch, 1e3, *rest) * (1e3 / clip_norm)).round().long()


def unclipped_features(total, rows, clip_norm):  # type: ignore[no-untyped-def]
    total += (rows.sum(dim=0) * UNIT / clip_norm).round().long()


def test_a_clip_left_out_of_a_gradient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradient, "gradient_sum", unclipped_gradients)
    assert proven(QUERIES["gradient"], "replace-one") > 1


@pytest.mark.parametrize(
    ("clip", "left_out"),
    [("add_clipped", unclipped_features), ("gradient_sum", unclipped_gradients)],
)
def test_either_clip_left_out_of_an_aggregate(
    clip: str, left_out: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregate, clip, left_out)
    assert proven(QUERIES["aggregate"], "replace-one") > 1


def test_sampling_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "poisson_sample", lambda size, rate, stream: np.arange(size))
    assert proven(QUERIES["gradient"], "replace-one") > 1


def test_an_answer_that_is_drawn_again_when_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    class Insisting:
        """Asks the same question nine times; the likelihoods of new draws would add up."""

        def __getattr__(self, name: str) -> Any:
            return getattr(GAMES["histogram"], name)

        def twin(self, *arguments: Any) -> Any:
            return GAMES["histogram"].twin(*arguments)

        def scores(self, *arguments: Any) -> np.ndarray:
            return np.mean([GAMES["histogram"].scores(*arguments) for _ in range(9)], axis=0)

    games = {"histogram": Insisting()}
    assert proven(QUERIES["histogram"], games=games) <= 1
    monkeypatch.setattr(base.Answering, "_stored", lambda *_: {})
    assert proven(QUERIES["histogram"], games=games) > 1


def test_a_record_put_into_two_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    true = shards.Shards.batch

    def twice(self, teachers, size, uniform):  # type: ignore[no-untyped-def]
        images, labels, there = true(self, teachers, size, uniform)
        mates = np.where(teachers % 2 == 0, teachers + 1, teachers - 1)
        others = true(self, np.where(teachers >= 0, mates % self.teachers, -1), size, uniform)
        empty = ~there[:, 0]
        images[empty], labels[empty], there[empty] = (part[empty] for part in others)
        return images, labels, there

    monkeypatch.setattr(shards.Shards, "batch", twice)
    assert proven(QUERIES["vote"], "replace-one") > 1


@pytest.mark.parametrize("fault", ELSEWHERE)
def test_what_the_game_cannot_see_is_tested_elsewhere(fault: str) -> None:
    file, name = ELSEWHERE[fault]
    assert f"def {name}" in (ROOT / file).read_text(encoding="utf-8")


def test_every_query_has_an_audit() -> None:
    assert set(GAMES) == set(QUERIES)
