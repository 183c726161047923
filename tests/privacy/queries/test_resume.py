"""Every query: a run that is killed goes on at one charge, and no answer is ever given twice.

``docs/proofs/index.md``: what left the curator is stored before it leaves. A run that goes on is
given what is stored, and nothing of keys or stored steps outlives the run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.privacy import (
    AggregateQuery,
    Budget,
    Curator,
    GradientQuery,
    HistogramQuery,
    NearestQuery,
    Query,
    SumQuery,
    VoteQuery,
    make_plan,
)
from sfumato.privacy.answering import sampled, vote
from sfumato.privacy.answering.vote import GeneratedBatch, TeacherBatches, TeacherGradients
from sfumato.privacy.ledger import Ledger

BUDGET = Budget(1.0, 1e-5)
STEPS = 3
SAVED_EVERY = 2


def pixels(images: Tensor, labels: Tensor | None = None) -> Tensor:
    return images[:, 0, 0, :2].float() / 100


def linear(outputs: int) -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, outputs, bias=False)


class Loss:
    """The output of a linear network, with a little noise on the pixels."""

    multiplicity = 1

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.rand(units, generator=generator),)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        return network(pixels(images, labels) + draws[0][:, None])[:, 0]


class Features(Loss):
    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, /, *draws: Tensor
    ) -> Tensor:
        return network(pixels(images, labels) + draws[0][:, None]).tanh()


class Counting:
    """Teachers that add up the pixels of all records they have seen."""

    memory, batch, at_once = 1, 3, 4

    def begin(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.rand(count, 1, generator=generator)

    def draws(
        self, count: int, generated: GeneratedBatch, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        return ()

    def vote(
        self, memory: Tensor, shard: TeacherBatches, generated: GeneratedBatch, /, *draws: Tensor
    ) -> tuple[Tensor, TeacherGradients]:
        seen = (shard.images[:, :, 0, 0, 0].float() * shard.there).sum(dim=1, keepdim=True)
        memory = memory + seen / 100
        values = (memory * torch.arange(1, 7)).sin() * shard.there.any(dim=1, keepdim=True)
        return memory, TeacherGradients(values)


SUM = SumQuery("q", pixels, 2, 1.5, by_class=True)
HISTOGRAM = HistogramQuery("q", lambda images, labels: images[:, 0, 0, 0].long() // 50, bins=4)
NEAREST = NearestQuery(name="q", features=pixels, width=2, bins=3, steps=STEPS)
GRADIENT = GradientQuery("q", 2, clip_norm=0.5, sampling_rate=0.5, steps=STEPS)
VOTE = VoteQuery("q", 6, 3, 5, STEPS)
AGGREGATE = AggregateQuery("q", 3, 4, 0.8, 0.5, STEPS, 1.0, 8, 1.5, 2.0)
GENERATED = GeneratedBatch(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]), 0.0)


def ask_sum(curator: Curator, step: int) -> list[Tensor]:
    return [torch.from_numpy(curator.sum("q").total)]


def ask_histogram(curator: Curator, step: int) -> list[Tensor]:
    return [torch.from_numpy(curator.histogram("q").total)]


def ask_nearest(curator: Curator, step: int) -> list[Tensor]:
    candidates = np.random.default_rng(step).normal(size=(3, 2)).astype(np.float32)
    return [torch.from_numpy(curator.nearest("q", step, candidates).total)]


def ask_gradient(curator: Curator, step: int) -> list[Tensor]:
    return [curator.gradient("q", step, linear(1), Loss())]


def ask_vote(curator: Curator, step: int) -> list[Tensor]:
    return [curator.vote("q", step, Counting(), GENERATED)]


def ask_aggregate(curator: Curator, step: int) -> list[Tensor]:
    network = linear(4)
    means = curator.aggregate("q", step, network, Features())
    return [means, curator.pull_back("q", step, network, Features(), means / 10)]


@dataclass(frozen=True)
class Asked:
    """A query, how a step of it is asked, its steps, and those between two steps to go on from."""

    query: Query
    ask: Callable[[Curator, int], list[Tensor]]
    steps: int = STEPS
    restarts: int = 1


CASES = {
    "sum": Asked(SUM, ask_sum, steps=1),
    "histogram": Asked(HISTOGRAM, ask_histogram, steps=1),
    "nearest": Asked(NEAREST, ask_nearest),
    "gradient": Asked(GRADIENT, ask_gradient),
    "vote": Asked(VOTE, ask_vote, restarts=SAVED_EVERY),
    "aggregate": Asked(AGGREGATE, ask_aggregate),
}


class Killed(BaseException):
    """Stands for a kill, which no handler sees."""


@pytest.fixture(params=CASES, autouse=True)
def case(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Asked:
    monkeypatch.setattr(vote, "SAVED_EVERY", SAVED_EVERY)
    # Another run may find another engine to be the fastest; its sums differ in their last bits.
    monkeypatch.setattr(sampled, "engine_that_fits", lambda *_: ("layers", 64))
    return CASES[request.param]


@pytest.fixture
def open_run(make_source: Callable, tmp_path: Path) -> Callable[..., Curator]:
    """A curator with the case's plan open; in another process, as far as its state can tell."""
    source = make_source([(7 * number, number % 3) for number in range(20)])

    def opened(case: Asked, name: str = "state", **options: object) -> Curator:
        curator = Curator(source, BUDGET, state=tmp_path / name, quiet=True, **options)
        plan = make_plan({"name": "test", "config": {}}, [case.query], BUDGET, source.spec)
        curator.open_plan(plan)
        return curator

    return opened


def answers(curator: Curator, case: Asked, steps: range) -> list[list[Tensor]]:
    return [case.ask(curator, step) for step in steps]


def kinds(curator: Curator) -> list[str]:
    return [entry["kind"] for entry in curator.record()["ledger"]]


def same(found: list[list[Tensor]], expected: list[list[Tensor]]) -> bool:
    return all(
        torch.equal(one, other)
        for step, wanted in zip(found, expected, strict=True)
        for one, other in zip(step, wanted, strict=True)
    )


def test_a_killed_run_ends_as_an_unbroken_one_at_one_charge(
    case: Asked, open_run: Callable[..., Curator]
) -> None:
    with open_run(case, "unbroken", insecure_seed=7) as curator:
        expected = answers(curator, case, range(case.steps))
        assert kinds(curator) == ["plan", "answer"]
    for stop in range(case.steps + 1):
        name = f"killed after {stop}"
        with open_run(case, name, insecure_seed=7) as curator:
            assert same(answers(curator, case, range(stop)), expected[:stop])
            # The last step confirms the answer.
            assert kinds(curator) == ["plan"] + ["answer"] * (stop == case.steps)
        start = stop // case.restarts * case.restarts
        with open_run(case, name, insecure_seed=7) as curator:
            assert same(answers(curator, case, range(start, case.steps)), expected[start:])
            assert kinds(curator) == ["plan", "answer"]


def test_an_answer_that_left_is_given_again_and_never_sampled_anew(
    case: Asked, open_run: Callable[..., Curator]
) -> None:
    first_steps = range(min(case.restarts, case.steps))
    with open_run(case) as curator:
        given = answers(curator, case, first_steps)
        assert same([case.ask(curator, first_steps[-1])], given[-1:])
        folder = curator.run_folder
    with open_run(case, "another") as curator:
        assert not same(answers(curator, case, first_steps), given)
    if case.steps == 1:
        with open_run(case) as curator:
            assert same(answers(curator, case, first_steps), given)
    assert folder.exists()


def test_killed_between_the_stored_answer_and_the_ledger(
    case: Asked, open_run: Callable[..., Curator], monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Ledger.append

    def killed(self: Ledger, kind: str, **content: object) -> object:
        if kind == "answer":
            raise Killed
        return append(self, kind, **content)

    until = range(case.steps - 1)
    with open_run(case, insecure_seed=7) as curator:
        answers(curator, case, until)
        with monkeypatch.context() as patch, pytest.raises(Killed):
            patch.setattr(Ledger, "append", killed)
            case.ask(curator, case.steps - 1)
        assert kinds(curator) == ["plan"]
    with open_run(case, "unbroken", insecure_seed=7) as curator:
        expected = answers(curator, case, range(case.steps))
    start = (case.steps - 1) // case.restarts * case.restarts
    with open_run(case, insecure_seed=7) as curator:
        found = answers(curator, case, range(start, case.steps))
        assert same(found, expected[start:]) and kinds(curator) == ["plan", "answer"]


def test_a_closed_run_keeps_no_key_and_no_steps_and_the_next_is_charged(
    case: Asked, open_run: Callable[..., Curator]
) -> None:
    with open_run(case) as curator:
        answers(curator, case, range(case.steps))
        folder = curator.run_folder
        curator.close()
    left = {path.name.split("-")[0] for path in folder.rglob("*")}
    assert not left & {"key", "steps", "memory"}
    with open_run(case) as curator:
        assert kinds(curator)[-1] == "plan" and curator.run_folder != folder
