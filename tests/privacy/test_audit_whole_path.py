"""An audit of the whole path, from Curator.open to the answer, and of what it would catch.

Two thousand canaries, each in a coordinate of its own, are put in or left out by a fair coin; the
attacker guesses each from one answer. Coordinates are independent, so the true and false positive
rates bound μ from below (Clopper and Pearson), and with it ε (arXiv 2302.07956, f-DP of a
Gaussian). A right curator stays under the ε that it claims; one with less noise is found out.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from sfumato.privacy import (
    Answer,
    Budget,
    Curator,
    Event,
    SumQuery,
    clipping,
    epsilon_recomputed,
    make_plan,
)
from sfumato.privacy.answering import base
from sfumato.privacy.grid import UNIT

CANARIES = 2000
BUDGET = Budget(8.0, 1e-5)
WRONG = 1e-4  # probability that the bound lies above the truth


def contribution(images: Tensor, labels: Tensor) -> Tensor:
    number = images[:, 0, 0, 0].long() + 256 * images[:, 0, 0, 1].long()
    # Twice the clip norm, so that a clip that is left out shows.
    return 2.0 * torch.nn.functional.one_hot(number % CANARIES, CANARIES).float()


QUERY = SumQuery("canaries", contribution, CANARIES, 1.0, nonnegative=True)


def lower_bound(answer: Answer, present: np.ndarray) -> float:
    """ε that the answer betrays, right but for a chance of ``WRONG``."""
    guessed = answer.total[0] > 0.5

    def rate(hits: np.ndarray, upper: bool) -> float:
        count, total = int(hits.sum()), len(hits)
        if upper:
            return stats.beta.ppf(1 - WRONG / 2, count + 1, total - count) if count < total else 1
        return stats.beta.ppf(WRONG / 2, count, total - count + 1) if count else 0

    true_positive, false_positive = rate(guessed[present], False), rate(guessed[~present], True)
    mu = stats.norm.ppf(true_positive) - stats.norm.ppf(false_positive)
    if mu <= 0:
        return 0.0
    event = Event("sum", "audit", 1.0, {"add-or-remove-one": 1.0, "replace-one": 2.0}, 1 / mu)
    return epsilon_recomputed([event], BUDGET.delta, "add-or-remove-one")


def audited(make_curator: Callable[..., Curator], make_source: type) -> float:
    present = np.random.default_rng().random(CANARIES) < 0.5
    records = [(int(number), 0) for number in np.flatnonzero(present)]
    curator = make_curator(make_source(records), BUDGET, fresh=True)
    curator.open_plan(make_plan({"name": "audit"}, [QUERY], BUDGET, curator.spec))
    return lower_bound(curator.sum(QUERY.name), present)


def test_the_audit_finds_no_more_than_is_claimed_and_not_much_less(
    make_curator: Callable, make_source: type
) -> None:
    assert 0.6 * BUDGET.epsilon < audited(make_curator, make_source) <= BUDGET.epsilon


honest_noise = base.add_noise


@pytest.mark.parametrize(
    "mutation",
    [
        lambda total, std, seed: total,
        lambda total, std, seed: honest_noise(total, std / 2, seed),
        lambda total, std, seed: honest_noise(total, std * 2 / 3, seed),
        lambda total, std, seed: honest_noise(total, std / UNIT, seed),
        lambda total, std, seed: honest_noise(2 * total, std, seed),
    ],
    ids=["dropped", "halved", "two-thirds", "wrong-unit", "counted-twice"],
)
def test_the_audit_finds_noise_that_is_too_weak(
    make_curator: Callable,
    make_source: type,
    monkeypatch: pytest.MonkeyPatch,
    mutation: Callable,
) -> None:
    monkeypatch.setattr(base, "add_noise", mutation)
    assert audited(make_curator, make_source) > BUDGET.epsilon


def test_the_audit_finds_a_clip_left_out(
    make_curator: Callable, make_source: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unclipped(rows: Tensor, clip_norm: float, bounds: None, starts: list[int]) -> Tensor:
        steps = (rows * UNIT / clip_norm).round().long()
        return torch.stack([part.sum(0) for part in steps.tensor_split(starts[1:])])

    monkeypatch.setattr(clipping, "clipped_sums", unclipped)
    assert audited(make_curator, make_source) > BUDGET.epsilon
