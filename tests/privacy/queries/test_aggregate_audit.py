"""A distinguishing attack on both parts of an aggregate: what it proves must not pass the claim.

As in ``test_gradient_audit.py``: canaries with a coordinate of their own in either part, put in by
fair coins, and the likelihood ratio of both parts together as evidence.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.audit import Family, epsilon_independent
from sfumato.privacy import RELATIONS, AggregateQuery
from sfumato.privacy.answering import aggregate, sampled
from sfumato.privacy.answering.aggregate import AggregateAnswering
from sfumato.privacy.answering.base import OpenRun
from sfumato.privacy.grid import UNIT
from sfumato.privacy.ledger import Ledger
from sfumato.privacy.run import Run

CANARIES, RUNS, STEPS = 1000, 24, 2  # time grows with the square of canaries
S, C, RATE, Z, DELTA = 0.7, 1.3, 0.15, 1.3, 1e-5
CHANCE = 1e-6
QUERY = AggregateQuery("c", 1, 2 * CANARIES, S, RATE, STEPS, 1.0, CANARIES, C, 1.2)
PARTS = QUERY.noise_stds(Z)
CLAIMED = Family([replace(QUERY.event(RELATIONS[0]), noise_std=Z)], DELTA, RELATIONS[0])


class Canary:
    """Features far beyond the clip; turning them away from their own axis is the gradient."""

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return ()

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        number = images[:, 0, 0, 0].long() + 256 * images[:, 0, 0, 1].long()
        number = number % CANARIES  # public images have others
        own = nn.functional.one_hot(number, CANARIES).float()
        return 10 * S * torch.cat([own, own * network(number)], dim=1)


def evidence(sums: np.ndarray, gradients: np.ndarray) -> np.ndarray:
    """Log likelihood ratio, present over absent, of ``[steps, canaries]`` answers, as claimed."""
    tilt = sum(
        (2 * answers / clip - 1) / (2 * (std / clip) ** 2)
        for answers, clip, std in zip((sums, gradients), (S, C), PARTS, strict=True)
    )
    return np.logaddexp(math.log1p(-RATE), math.log(RATE) + tilt).sum(axis=0)


def proven(make_source: Callable, place: Path, repeats: int = 1, runs: int = RUNS) -> float:
    """The ε that the attack proves, over the claim."""
    rng, scores, coins = np.random.default_rng(), [], []
    torch.manual_seed(0)
    network, canary = nn.Embedding(CANARIES, 1), Canary()
    nn.init.zeros_(network.weight)
    c = torch.zeros(1, 2 * CANARIES)
    c[:, CANARIES:] = 10 * C / S
    for number in range(runs):
        inside = rng.random(CANARIES) < 0.5
        folder = place / str(number)
        folder.mkdir()
        source = make_source([(int(unit), 0) for unit in np.flatnonzero(inside)])
        event = replace(QUERY.event(RELATIONS[0]), noise_std=Z)
        run = OpenRun(source, Run(folder, "r", hold=False), Ledger(folder))
        steps = AggregateAnswering(QUERY, event, run)
        sums, gradients = [], []
        for step in range(STEPS):
            answer = steps.forward(step, network, canary)
            sums.append(answer[0, :CANARIES].numpy())
            turned = [steps.pull_back(step, network, canary, c).numpy() for _ in range(repeats)]
            gradients.append(np.mean(turned, axis=0))
        scores.append(evidence(np.array(sums, np.float64), np.array(gradients, np.float64)))
        coins.append(inside)
    bound = epsilon_independent(np.concatenate(scores), np.concatenate(coins), CLAIMED, CHANCE)
    return bound / CLAIMED.epsilon(1.0)


@pytest.fixture(autouse=True)
def _one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "engine_that_fits", lambda *_: ("layers", 64))


def test_attack_proves_no_more_than_is_claimed_and_something(
    make_source: Callable, tmp_path: Path
) -> None:
    # Simulated, the proof lies five standard deviations above zero; with half of the runs, three.
    assert 0 < proven(make_source, tmp_path, runs=2 * RUNS) <= 1


@pytest.mark.parametrize("part", ["forward", "backward"])
def test_attack_finds_the_noise_of_either_part_left_out(
    make_source: Callable,
    tmp_path: Path,
    part: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    honest = AggregateAnswering._noised

    def noised(self: Any, total: Tensor, std: float, label: str) -> Tensor:
        return honest(self, total, 1e-9 if label.startswith(part) else std, label)

    # Without its noise a part tells by itself in whose sample it was.
    monkeypatch.setitem(
        globals(),
        "evidence",
        lambda sums, gradients: (
            sums.max(axis=0) - S / 2 if part == "forward" else gradients.max(axis=0) - C / 2
        ),
    )
    monkeypatch.setattr(AggregateAnswering, "_noised", noised)
    assert proven(make_source, tmp_path) > 1


@pytest.mark.parametrize("part", ["add_clipped", "gradient_sum"])
def test_attack_finds_either_clip_left_out(
    make_source: Callable,
    tmp_path: Path,
    part: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if part == "add_clipped":

        def unclipped(total: Tensor, rows: Tensor, clip_norm: float) -> None:
            total += (rows.sum(dim=0) * (UNIT / clip_norm)).round().long()

        monkeypatch.setattr(aggregate, part, unclipped)
    else:
        honest = aggregate.gradient_sum

        def summed(network, loss, batch, clip_norm, *engine):  # type: ignore[no-untyped-def]
            steps = honest(network, loss, batch, 1e3, *engine)
            return (steps * (1e3 / clip_norm)).round().long()

        monkeypatch.setattr(aggregate, part, summed)
    assert proven(make_source, tmp_path) > 1


def test_attack_finds_sampling_left_out(
    make_source: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled, "poisson_sample", lambda size, rate, stream: np.arange(size))
    assert proven(make_source, tmp_path) > 1


def test_attack_finds_a_second_answer(
    make_source: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Forty gradients at each step, each with fresh noise, instead of the stored one. Simulated, the
    # proof lies six standard deviations above the claim.
    honest_stored = AggregateAnswering._stored

    def stored(self: Any, step: int) -> dict[str, Tensor]:
        return {k: v for k, v in honest_stored(self, step).items() if k == "forward"}

    monkeypatch.setattr(AggregateAnswering, "_stored", stored)
    monkeypatch.setattr(AggregateAnswering, "_confirm", lambda *_: None)
    monkeypatch.setitem(
        globals(), "evidence", lambda sums, gradients: gradients.max(axis=0) - C / 2
    )
    assert proven(make_source, tmp_path, repeats=40, runs=6) > 1
