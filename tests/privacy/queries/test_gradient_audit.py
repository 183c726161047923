"""A distinguishing attack on the steps of a gradient query: what it proves must not pass the claim.

Thousands of canaries, each with a parameter of its own, are put in or left out by a fair coin. The
attacker sees all noisy sums and knows everything else; coordinates are independent games. It asks
for the likelihood ratio of all steps together, the best question there is. The lower bound on ε is
the audit's for independent canaries, and a right mechanism fails with a chance of one in a million.
The attack finds broken mechanisms, so passing means something.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.audit import Family, epsilon_independent
from sfumato.privacy import RELATIONS, GradientQuery, TopSigns
from sfumato.privacy.answering import base, gradient, sampled
from sfumato.privacy.answering.base import OpenRun
from sfumato.privacy.answering.gradient import GradientAnswering
from sfumato.privacy.ledger import Ledger
from sfumato.privacy.noise.entropy import Stream
from sfumato.privacy.run import Run

CANARIES, RUNS, STEPS = 2000, 27, 3  # time grows with the square of canaries
CLIP, RATE, Z, DELTA = 0.7, 0.15, 1.5, 1e-5
CHANCE = 1e-6
QUERY = GradientQuery("canaries", CANARIES, CLIP, RATE, STEPS)
# Votes of one sign have the same event but for their unit, and so the same trade-off.
CLAIMED = Family([replace(QUERY.event(RELATIONS[0]), noise_std=Z * CLIP)], DELTA, RELATIONS[0])


class Canary:
    """Each unit's gradient is ten clip norms in its own direction."""

    multiplicity = 1

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return ()

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        number = images[:, 0, 0, 0].long() + 256 * images[:, 0, 0, 1].long()
        return 10 * CLIP * network(number % CANARIES)[:, 0]


def evidence(answers: np.ndarray) -> np.ndarray:
    """Log likelihood ratio, present over absent, of ``[steps, canaries]`` sums, as claimed."""
    tilt = (2 * answers / CLIP - 1) / (2 * Z**2)
    return np.logaddexp(math.log1p(-RATE), math.log(RATE) + tilt).sum(axis=0)


def proven(make_source: Callable, place: Path, noise_factor: float = 1.0) -> float:
    """The ε that the attack proves, over the claim."""
    rng, scores, coins = np.random.default_rng(), [], []
    torch.manual_seed(0)
    network = nn.Embedding(CANARIES, 1)
    for number in range(RUNS):
        inside = rng.random(CANARIES) < 0.5
        folder = place / str(number)
        folder.mkdir()
        event = replace(QUERY.event(RELATIONS[0]), noise_std=max(noise_factor, 1e-9) * Z * CLIP)
        source = make_source([(int(unit), 0) for unit in np.flatnonzero(inside)])
        run = OpenRun(source, Run(folder, "r", hold=False), Ledger(folder))
        steps = GradientAnswering(QUERY, event, run)
        answers = [steps.answer(step, network, Canary()).numpy() for step in range(STEPS)]
        scores.append(evidence(np.array(answers, dtype=np.float64)))
        coins.append(inside)
    bound = epsilon_independent(np.concatenate(scores), np.concatenate(coins), CLAIMED, CHANCE)
    return bound / CLAIMED.epsilon(1.0)


@pytest.fixture(autouse=True)
def _one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "engine_that_fits", lambda *_: ("layers", 64))


def test_attack_proves_no_more_than_is_claimed_and_something(
    make_source: Callable, tmp_path: Path
) -> None:
    assert 0 < proven(make_source, tmp_path) <= 1


@pytest.mark.parametrize("factor", [0.0, 0.3])
def test_attack_finds_noise_that_is_too_weak(
    make_source: Callable, tmp_path: Path, factor: float
) -> None:
    assert proven(make_source, tmp_path, factor) > 1


def test_attack_finds_noise_that_repeats(
    make_source: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The same noise at every step cancels in the difference of two steps.
    def spread(answers: np.ndarray) -> np.ndarray:
        return np.ptp(answers, axis=0) - CLIP / 2

    seeds = {}

    def same() -> Stream:
        return Stream.known(seeds.setdefault("only", int(np.random.default_rng().integers(2**62))))

    monkeypatch.setattr(base, "fresh_stream", same)
    monkeypatch.setitem(globals(), "evidence", spread)
    assert proven(make_source, tmp_path) > 1


def test_attack_finds_a_clip_left_out(
    make_source: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unclipped(network, loss, batch, clip_norm, *engine):  # type: ignore[no-untyped-def]
        steps = honest(network, loss, batch, 1e3, *engine)
        return (steps * (1e3 / clip_norm)).round().long()

    honest = gradient.gradient_sum
    monkeypatch.setattr(gradient, "gradient_sum", unclipped)
    assert proven(make_source, tmp_path) > 1


def test_attack_finds_a_unit_counted_three_times(
    make_source: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = gradient.gradient_sum
    monkeypatch.setattr(gradient, "gradient_sum", lambda *arguments: 3 * honest(*arguments))
    assert proven(make_source, tmp_path) > 1


def test_attack_finds_sampling_left_out(
    make_source: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampled, "poisson_sample", lambda size, rate, stream: np.arange(size))
    assert proven(make_source, tmp_path) > 1


@pytest.fixture
def _votes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each canary votes for its own parameter: one sign, so a norm of one."""
    query = GradientQuery("canaries", CANARIES, None, RATE, STEPS, compress=TopSigns(1))
    monkeypatch.setitem(globals(), "QUERY", query)
    monkeypatch.setitem(globals(), "CLIP", query.bound)


@pytest.mark.usefixtures("_votes")
def test_attack_on_votes_proves_no_more_than_is_claimed_and_something(
    make_source: Callable, tmp_path: Path
) -> None:
    assert 0 < proven(make_source, tmp_path) <= 1


@pytest.mark.usefixtures("_votes")
def test_attack_finds_a_unit_with_three_votes(
    make_source: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = gradient.vote_sum
    monkeypatch.setattr(gradient, "vote_sum", lambda *arguments: 3 * honest(*arguments))
    assert proven(make_source, tmp_path) > 1
