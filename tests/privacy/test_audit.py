"""A distinguishing attack on the mechanism as it runs: what it proves must not pass the claim.

An attacker sees the noisy sum and says whether the canary was in the data. Each coordinate of one
large answer is an independent run of that game. The lower bound on ε is sound with all but one
chance in a million, and the attack finds a broken mechanism, so passing it means something.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfumato.audit import Family, epsilon_independent
from sfumato.data.spec import PublicSpec
from sfumato.privacy import RELATIONS, Budget, SumQuery, make_plan
from sfumato.privacy.grid import UNIT
from sfumato.privacy.noise.entropy import fresh_stream
from sfumato.privacy.noise.integer_gaussian import add_noise

GAMES = 20_000
CHANCE = 1e-6
CANARY = 10.0  # ten clip norms
SPEC = PublicSpec(height=2, width=2, channels=1, classes=())
QUERY = SumQuery("q", lambda images, labels: images[:, 0, 0, :1], 1, clip_norm=1.0)


def audited(relation: str, noise_factor: float = 1.0, clip: bool = True) -> tuple[float, float]:
    """The claimed ε, and the one that the attack proves."""
    plan = make_plan({"name": "audit"}, [QUERY], Budget(1.0, 1e-5, relation), SPEC)
    event = plan.event(QUERY.name)

    def answers(canary: float) -> np.ndarray:
        row = torch.tensor([[canary]])
        steps = QUERY.bounded_sums(row, None, [0])[0] if clip else (row[0] * UNIT).round()
        total = np.full(GAMES, int(steps.item()), np.int64)
        std = noise_factor * event.noise_std / (event.clip_norm / UNIT)
        return add_noise(total, std, fresh_stream())

    other, middle = (0.0, UNIT / 2) if relation == "add-or-remove-one" else (-CANARY, 0.0)
    scores = np.concatenate([answers(other), answers(CANARY)]) - middle
    family = Family(plan.events, plan.budget.delta, relation)
    bound = epsilon_independent(scores, np.repeat([False, True], GAMES), family, CHANCE)
    return plan.epsilons()[relation], bound


@pytest.mark.parametrize("relation", RELATIONS)
def test_attack_proves_no_more_than_is_claimed(relation: str) -> None:
    claimed, proven = audited(relation)
    assert 0 < proven <= claimed


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize("broken", [{"noise_factor": 0.25}, {"clip": False}])
def test_attack_finds_a_broken_mechanism(relation: str, broken: dict) -> None:
    claimed, proven = audited(relation, **broken)
    assert proven > claimed
