"""docs/proofs/vote.md: one record moves one teacher, a teacher moves the sum by at most 2√k."""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from sfumato.data.source import ImageSource
from sfumato.errors import DataError, LedgerError, SfumatoError, UsageError
from sfumato.privacy import (
    RELATIONS,
    Budget,
    Curator,
    GeneratedBatch,
    Plan,
    TeacherBatches,
    TeacherGradients,
    Teachers,
    VoteQuery,
    epsilon_recomputed,
    make_plan,
)
from sfumato.privacy.answering import vote
from sfumato.privacy.answering.base import OpenRun
from sfumato.privacy.answering.vote import VoteAnswering
from sfumato.privacy.gradients.topagg import VOTE_BITS
from sfumato.privacy.ledger import Ledger
from sfumato.privacy.noise.entropy import Stream, fresh_stream
from sfumato.privacy.noise.integer_gaussian import NOISE_PATH
from sfumato.privacy.noise.keys import RunKey
from sfumato.privacy.records.decoded import Records
from sfumato.privacy.records.shards import Shards
from sfumato.privacy.run import Run

SURE = 1e-6
D, K, N, STEPS = 12, 3, 5, 4
QUERY = VoteQuery("v", D, K, N, STEPS)
ASKED = GeneratedBatch(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1]), 0.0)


class Adders:
    """Teachers whose gradient is a fixed random function of all they have ever seen."""

    memory, batch, at_once = 2, 3, 4

    def begin(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.rand(count, 2, generator=generator)

    def draws(
        self, count: int, generated: GeneratedBatch, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        return ()

    def vote(
        self, memory: Tensor, shard: TeacherBatches, generated: GeneratedBatch, /, *draws: Tensor
    ) -> tuple[Tensor, TeacherGradients]:
        value = shard.images[:, :, 0, 0, 0].float() + 256 * shard.images[:, :, 0, 0, 1].float()
        seen = ((value + 1) * (shard.labels + 1) * shard.there).sum(dim=1)
        memory = memory + torch.stack([seen, seen * seen], dim=1) * 1e-3
        phase = memory.sum(dim=1, keepdim=True) * torch.arange(1, D + 1)
        return memory, TeacherGradients(phase.sin() * shard.there.any(dim=1, keepdim=True))


class Some(Adders):
    """The same, on three coordinates that depend on the shard."""

    def vote(
        self, memory: Tensor, shard: TeacherBatches, generated: GeneratedBatch, /, *draws: Tensor
    ) -> tuple[Tensor, TeacherGradients]:
        memory, gradients = super().vote(memory, shard, generated, *draws)
        index = gradients.values.argsort(dim=1)[:, :3]
        return memory, TeacherGradients(gradients.values.gather(1, index), index)


def ballot(
    source: object,
    folder: Path,
    query: VoteQuery = QUERY,
    noise: float = 20.0,
    seed: int = 11,
) -> VoteAnswering:
    event = replace(query.event(RELATIONS[0]), noise_std=noise)
    run = OpenRun(source, Run(folder, "r", hold=False), Ledger(folder), insecure_seed=seed)
    return VoteAnswering(query, event, run)


def plain_total(
    source: ImageSource, folder: Path, query: VoteQuery = QUERY, teachers: Teachers | None = None
) -> Tensor:
    """The votes of the first steps without noise, int64 ``[2, d]``."""
    asked = ballot(source, folder, query)
    totals = [asked._total(step, teachers or Adders(), ASKED) for step in range(2)]
    return torch.stack(totals) >> VOTE_BITS


records = st.lists(st.tuples(st.integers(0, 999), st.integers(-1, 2)), min_size=1, max_size=12)


class Given(Stream):
    """Shards by a given list instead of chance: couples two runs, as the proof does."""

    def __init__(self, shards: list[int]) -> None:
        super().__init__(bytes(32))
        self.shards = shards

    def below(self, bound: Any, n: int | None = None) -> np.ndarray:
        return np.array(self.shards[:n], dtype=np.uint64)


@settings(max_examples=40, deadline=None)
@given(
    data=records,
    shards=st.lists(st.integers(0, N - 1), min_size=13, max_size=13),
    kind=st.sampled_from(["add", "replace", "relabel"]),
    other=st.tuples(st.integers(0, 999), st.integers(-1, 2)),
    parts=st.sampled_from([1, 3]),
    stochastic=st.booleans(),
    teachers=st.sampled_from([Adders(), Some()]),
)
def test_one_record_changes_one_teacher_and_the_sum_by_at_most_two_root_k(
    make_source: Callable,
    tmp_path_factory: pytest.TempPathFactory,
    data: list[tuple[int, int]],
    shards: list[int],
    kind: str,
    other: tuple[int, int],
    parts: int,
    stochastic: bool,
    teachers: Adders,
) -> None:
    neighbour = list(data)
    if kind == "add":
        neighbour.append(other)
    elif kind == "replace":
        neighbour[-1] = other
    else:
        neighbour[-1] = (data[-1][0], other[1])
    query = replace(QUERY, parts=1 if isinstance(teachers, Some) else parts, stochastic=stochastic)
    place = tmp_path_factory.mktemp("pair")
    with pytest.MonkeyPatch.context() as patch:
        given_shards = lambda own, teachers, _: Shards(own, teachers, Given(shards))  # noqa: E731
        patch.setattr(vote, "Shards", given_shards)
        one = plain_total(make_source(data), place / "a", query, teachers=teachers)
        two = plain_total(make_source(neighbour), place / "b", query, teachers=teachers)
    before, after = (
        Shards(Records(make_source(part), place), N, Given(shards)) for part in (data, neighbour)
    )
    changed = [t for t in range(N) if _content(before, t) != _content(after, t)]
    assert len(changed) <= 1
    moved = (one - two).to(torch.float64)
    assert float(moved.norm(dim=1).max()) <= 2 * math.sqrt(K) + 1e-9
    assert int(one.abs().max()) <= N


def _content(shards: Shards, teacher: int) -> list[tuple[bytes, int]]:
    images, labels = shards._records.take(shards.members(teacher))
    return [(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)]


def test_the_bound_is_reached(make_source: Callable, tmp_path: Path) -> None:
    """√k would be too small under add-or-remove-one: a teacher can turn its whole vote around."""
    query = VoteQuery("v", D, D, 1, 1)

    class Turning(Adders):
        memory = 0

        def begin(self, count: int, generator: torch.Generator) -> Tensor:
            return torch.zeros(count, 0)

        def vote(
            self,
            memory: Tensor,
            shard: TeacherBatches,
            generated: GeneratedBatch,
            /,
            *draws: Tensor,
        ) -> tuple[Tensor, TeacherGradients]:
            sign = 1.0 - 2.0 * (shard.there.sum(dim=1) % 2)
            return memory, TeacherGradients(sign[:, None].expand(-1, D))

    one = ballot(make_source([(1, 0)]), tmp_path / "a", query)._total(0, Turning(), ASKED)
    two = ballot(make_source([(1, 0), (2, 0)]), tmp_path / "b", query)._total(0, Turning(), ASKED)
    moved = float((one - two).double().norm()) / 2**VOTE_BITS
    assert moved == pytest.approx(query.sensitivity()[RELATIONS[0]])


def test_shards_are_uniform_independent_and_disjoint(make_source: Callable, tmp_path: Path) -> None:
    data = [(number % 1000, number % 3) for number in range(3000)]
    own = Records(make_source(data), tmp_path)
    shards = Shards(own, 10, fresh_stream())
    members = [shards.members(teacher) for teacher in range(10)]
    assert sorted(np.concatenate(members).tolist()) == list(range(3000))
    assert stats.chisquare([len(part) for part in members]).pvalue > SURE
    by_class = np.array([np.bincount(own.labels[part], minlength=3) for part in members])
    assert stats.chi2_contingency(by_class).pvalue > SURE
    round_robin = [len(range(start, 3000, 10)) for start in range(10)]
    # Balanced shards, as published code makes them, are too even to be independent draws.
    assert stats.chi2.cdf(stats.chisquare(round_robin).statistic, 9) < SURE


def test_a_teacher_sees_its_records_each_at_most_once(
    make_source: Callable, tmp_path: Path
) -> None:
    data = [(number, 0) for number in range(40)] + [(999, None)]
    shards = Shards(Records(make_source(data), tmp_path), 4, fresh_stream())
    teachers = np.array([0, 1, 2, 3, -1])
    seen: list[set[int]] = [set() for _ in teachers]
    for draw in np.linspace(0, 0.999, 40):
        images, _, there = shards.batch(teachers, 6, np.full(5, draw))
        for row in range(5):
            values = images[row, there[row], 0, 0, 0].tolist()
            size = len(shards.members(row)) if row < 4 else 0
            assert len(values) == len(set(values)) == min(6, size)
            seen[row] |= set(values)
    assert [len(part) for part in seen[:4]] == [len(shards.members(t)) for t in range(4)]
    assert seen[4] == set()


@pytest.mark.parametrize(("factor", "accepted"), [(1.0, True), (2 / 3, False), (1.5, False)])
def test_the_noise_is_what_was_paid_for(
    make_source: Callable, tmp_path: Path, factor: float, accepted: bool
) -> None:
    query = VoteQuery("v", 3000, 1, 1, 1)

    class Silent(Adders):
        memory = 0

        def begin(self, count: int, generator: torch.Generator) -> Tensor:
            return torch.zeros(count, 0)

        def vote(
            self,
            memory: Tensor,
            shard: TeacherBatches,
            generated: GeneratedBatch,
            /,
            *draws: Tensor,
        ) -> tuple[Tensor, TeacherGradients]:
            return memory, TeacherGradients(torch.zeros(len(memory), 3000))

    answer = ballot(make_source([(1, 0)]), tmp_path, query, 40.0 * factor).answer(
        0, Silent(), ASKED
    )
    p = stats.kstest(answer.numpy(), stats.norm(scale=40).cdf).pvalue
    assert (p > SURE) == accepted


def test_any_grouping_gives_the_same_votes(make_source: Callable, tmp_path: Path) -> None:
    """The slow exact oracle: teacher by teacher, with the records of its own shard only."""
    data = [(number * 7, number % 3) for number in range(30)]
    source = make_source(data)

    class One(Adders):
        at_once, batch = 1, 30  # the whole shard: where a batch starts is drawn by group

        def begin(self, count: int, generator: torch.Generator) -> Tensor:
            return torch.full((count, 2), 0.25)

    class Four(One):
        at_once = 4

    alone = plain_total(source, tmp_path / "b", teachers=One())
    assert torch.equal(alone, plain_total(source, tmp_path / "c", teachers=Four()))
    key = RunKey.of_run(tmp_path, 11)
    shards = Shards(Records(source, tmp_path), N, key.stream("shards v", 0))
    expected = torch.zeros(D, dtype=torch.int64)
    for teacher in range(N):
        start = key.stream(f"records v {teacher}", 0).uniform(1)
        parts = (torch.from_numpy(part) for part in shards.batch(np.array([teacher]), 30, start))
        _, gradients = One().vote(torch.full((1, 2), 0.25), TeacherBatches(*parts), ASKED)
        for place in gradients.values[0].abs().argsort(descending=True)[:K]:
            expected[place] += int(gradients.values[0, place].sign())
    assert torch.equal(alone[0], expected) and expected.any()


def test_teachers_that_influence_one_another_are_asked_one_by_one(
    make_source: Callable, tmp_path: Path
) -> None:
    class Mixing(Adders):
        def vote(
            self,
            memory: Tensor,
            shard: TeacherBatches,
            generated: GeneratedBatch,
            /,
            *draws: Tensor,
        ) -> tuple[Tensor, TeacherGradients]:
            memory, gradients = super().vote(memory, shard, generated, *draws)
            return memory, TeacherGradients(gradients.values - 1e-7 * gradients.values.mean(dim=0))

    asked = ballot(make_source([(1, 0)]), tmp_path)
    assert asked._lone_size(Mixing(), ASKED) == 1
    assert asked._lone_size(Adders(), ASKED) == 4


def test_a_teacher_with_a_nan_votes_nothing(make_source: Callable, tmp_path: Path) -> None:
    class Broken(Adders):
        def vote(
            self,
            memory: Tensor,
            shard: TeacherBatches,
            generated: GeneratedBatch,
            /,
            *draws: Tensor,
        ) -> tuple[Tensor, TeacherGradients]:
            memory, gradients = super().vote(memory, shard, generated, *draws)
            return memory, TeacherGradients(
                torch.where(torch.arange(D) == 1, math.nan, gradients.values)
            )

    assert not ballot(make_source([(1, 0), (2, 1)]), tmp_path)._total(0, Broken(), ASKED).any()


@pytest.fixture
def plan(make_source: Callable) -> Plan:
    return make_plan({"name": "t", "config": {}}, [QUERY], Budget(1.0, 1e-5), make_source([]).spec)


def test_the_price_is_that_of_gaussians(plan: Plan) -> None:
    """T steps of 2√k cost one Gaussian of 2√(kT), whatever the parts, under both relations."""
    (event,) = plan.events
    for relation in RELATIONS:
        assert event.sensitivity[relation] == 2 * math.sqrt(K)
        once = replace(event, sensitivity={r: 2 * math.sqrt(K * STEPS) for r in RELATIONS}, count=1)
        assert epsilon_recomputed([event], 1e-5, relation) == pytest.approx(
            epsilon_recomputed([once], 1e-5, relation)
        )
        assert epsilon_recomputed([event], 1e-5, relation) <= 1.0
    cut = replace(QUERY, parts=3)
    assert cut.sensitivity() == QUERY.sensitivity()


def test_a_stored_step_is_answered_as_before_and_no_step_out_of_turn(
    make_source: Callable, make_curator: Callable[..., Curator], plan: Plan
) -> None:
    source = make_source([(number, 0) for number in range(20)])
    with make_curator(source) as curator:
        curator.open_plan(plan)
        first = curator.vote("v", 0, Adders(), ASKED)
        other = GeneratedBatch(torch.ones(2, 1, 2, 2), torch.tensor([1, 1]), 0.5)
        assert torch.equal(curator.vote("v", 0, Adders(), other), first)
        with pytest.raises(UsageError, match="step=2"):
            curator.vote("v", 2, Adders(), ASKED)
        curator.vote("v", 1, Adders(), ASKED)
        folder = curator.run_folder
    with make_curator(source) as curator:  # killed before the teachers' memory was stored
        curator.open_plan(plan)
        with pytest.raises(LedgerError, match="states of step 1"):
            curator.vote("v", 1, Adders(), ASKED)
    (folder / "steps-v" / "00000001.safetensors").write_bytes(b"broken")
    with make_curator(source) as curator:
        curator.open_plan(plan)
        with pytest.raises(LedgerError, match="never answered twice"):
            curator.vote("v", 1, Adders(), ASKED)


def test_nothing_of_the_teachers_outlives_the_run(
    make_source: Callable,
    make_curator: Callable[..., Curator],
    plan: Plan,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(vote, "SAVED_EVERY", 1)
    with make_curator(make_source([(5, 0)])) as curator:
        curator.open_plan(plan)
        for step in range(STEPS):
            curator.vote("v", step, Adders(), ASKED)
        folder = curator.run_folder
        stored = [path.name for path in folder.rglob("memory-*")]
        assert curator.record()["noise"] == NOISE_PATH
        curator.close()
    assert len(stored) == STEPS
    assert not list(folder.rglob("memory-*")) and not (folder / "key").exists()


class Loud(Adders):
    """Teachers whose ``vote`` says what a record holds."""

    def vote(
        self, memory: Tensor, shard: TeacherBatches, generated: GeneratedBatch, /, *draws: Tensor
    ) -> tuple[Tensor, TeacherGradients]:
        if int(shard.images.max()) == 77:
            raise ValueError("patient Doe has 77")
        return super().vote(memory, shard, generated, *draws)


class LoudWhenSampling(Adders):
    """Teachers whose ``draws`` fail once they are asked about private records."""

    def __init__(self) -> None:
        self.votes = 0

    def vote(
        self, memory: Tensor, shard: TeacherBatches, generated: GeneratedBatch, /, *draws: Tensor
    ) -> tuple[Tensor, TeacherGradients]:
        self.votes += int(shard.images.max()) == 77
        return super().vote(memory, shard, generated, *draws)

    def draws(self, *given: Any) -> tuple[Tensor, ...]:
        if self.votes:
            raise DataError("patient Doe was among them")
        return super().draws(*given)


@pytest.mark.parametrize("loud", [Loud, LoudWhenSampling])
def test_what_teachers_say_about_records_is_withheld(
    loud: Callable[[], Adders],
    make_source: Callable,
    make_curator: Callable[..., Curator],
    plan: Plan,
) -> None:
    teachers = loud()
    with make_curator(make_source([(77, 0)])) as curator:
        curator.open_plan(plan)
        with pytest.raises(SfumatoError, match=r"ValueError|DataError") as caught:
            for step in range(STEPS):
                curator.vote("v", step, teachers, ASKED)
    assert "Doe" not in "".join(traceback.format_exception(caught.value))


RANKS = """
import sys, torch
sys.path.insert(0, {tests!r})
from pathlib import Path
from test_vote import Adders, ASKED, QUERY, STEPS
from sfumato.data import open_images
from sfumato.privacy import Budget, Curator, VoteQuery, distributed, make_plan
from sfumato.privacy.answering import base
distributed.join()
place = Path(sys.argv[1])
draws = []
original = base.add_noise
base.add_noise = lambda *a: draws.append(1) or original(*a)
source = open_images(str(place.parent / "data.npz"), image_size=28, channels=1, classes=3)
plan = make_plan({{"name": "t"}}, [QUERY], Budget(1.0, 1e-5), source.spec)
asked = type(ASKED)(torch.zeros(2, 1, 28, 28), ASKED.labels, 0.0)
budget, state = Budget(1.0, 1e-5), place / "state"
with Curator(source, budget, state=state, quiet=True, insecure_seed=1) as curator:
    curator.open_plan(plan)
    answers = torch.stack([curator.vote("v", step, Adders(), asked) for step in range(STEPS)])
torch.save({{"answers": answers, "draws": len(draws)}}, place / f"seen-{{distributed.rank()}}.pt")
"""


def test_two_ranks_give_the_same_votes_and_one_noise(
    run_ranks: Callable[..., list[list[dict]]], tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 28, 28), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=np.ones(40, np.int64))
    script = RANKS.format(tests=str(Path(__file__).parent))
    (alone,), (first, second) = run_ranks(script, tmp_path, 1, 2)
    assert torch.equal(first["answers"], alone["answers"])
    assert torch.equal(second["answers"], alone["answers"])
    assert (first["draws"], second["draws"]) == (STEPS, 0)
