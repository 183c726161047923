"""Several processes, one run: the same sums, one ledger, one noise."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from sfumato.privacy import distributed

# Each rank runs this; it writes what it saw to a file of its own.
SCRIPT = """
import hashlib
from dataclasses import replace, sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sfumato.data.source import ImageSource
from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.privacy import Budget, Curator, GradientQuery, SumQuery, distributed, make_plan
from sfumato.privacy.answering import gradient as answering
from sfumato.privacy import curator as curator_module
from sfumato.privacy.answering.gradient import GradientAnswering
from sfumato.privacy.answering import base
from sfumato.privacy.answering.base import OpenRun
from sfumato.privacy.ledger import Ledger
from sfumato.privacy.run import Run

torch.set_num_threads(1)
SPEC = PublicSpec(height=2, width=2, channels=1, classes=("a", "b"))


class Source(ImageSource):
    def __init__(self, count):
        super().__init__("memory", SPEC, "memory:world")
        self.count = count

    def _records(self):
        rng = np.random.default_rng(0)
        for number in range(self.count):
            label = (0, 1, -1)[number % 3]
            yield rng.integers(0, 256, (1, 2, 2), dtype=np.uint8), label

    def _private_length(self):
        return self.count

    def fingerprint(self):
        return hashlib.sha256(str(self.count).encode()).hexdigest()


class Loss:
    multiplicity = 2

    def draws(self, units, generator):
        return (torch.randn(units, 2, generator=generator),)

    def __call__(self, network, images, labels, *draws):
        x = images.float().flatten(1)[:, None] / 255 + draws[0][..., None]
        return network(x.flatten(0, 1)).square().sum(dim=1).unflatten(0, (-1, 2)).mean(dim=1)


def network():
    torch.manual_seed(0)
    return nn.Linear(4, 3)


noises, sums = [], []
honest_stream, honest_sum = base.Answering._noise_stream, answering.gradient_sum


def stream(self, label):
    noises.append(label)
    return honest_stream(self, label)


def gradient_sum(network, loss, batch, clip_norm, *engine):
    sums.append(len(batch))
    return honest_sum(network, loss, batch, clip_norm, *engine)


base.Answering._noise_stream, answering.gradient_sum = stream, gradient_sum
distributed.join()
distributed.join()  # at most once
place = Path(sys.argv[1])
seen = {"rank": distributed.rank(), "size": distributed.size(), "is first": distributed.is_first()}

for name, count, rate, noise_std in [
    ("many", 60, 0.5, 1e-12),
    ("one", 1, 1.0, 1e-12),
    ("none", 0, 1.0, 1e-12),
    ("noisy", 60, 0.5, 3.0),
]:
    noises.clear(), sums.clear()
    folder = place / name
    folder.mkdir(exist_ok=True)
    query = GradientQuery("g", 15, 0.7, rate, 3)
    event = replace(query.event("add-or-remove-one"), noise_std=noise_std)
    run = Run(folder, "r", hold=False)
    steps = GradientAnswering(query, event, OpenRun(Source(count), run, Ledger(folder), True, 5))
    steps._engine = ("loop", 64)
    answers = [steps.answer(step, network(), Loss()) for step in range(3)]
    again = [steps.answer(step, network(), Loss()) for step in range(3)]
    steps.forget(2)
    seen[name] = {
        "answers": torch.stack(answers), "again": torch.stack(again),
        "noises": list(noises), "units": list(sums),
        "files": sorted(path.name for path in folder.glob("runs/r/steps-g/*")),
    }

# The whole path, with the ledger, and a way that is chosen by timing.
noises.clear()
source, budget = Source(50), Budget(4.0, 1e-5)
query = GradientQuery("g", 15, 0.7, 1.0, 3)  # unsampled, so that its price is quick
total = SumQuery("t", lambda images, labels: images.flatten(1).float() / 255, 4, 1.0)
plan = make_plan({"name": "world"}, [query, total], budget, SPEC)
for part in ("first", "resumed"):
    with Curator(source, budget, state=place / "state", quiet=True) as curator:
        curator.open_plan(plan)
        answers = [curator.gradient(query.name, step, network(), Loss()) for step in range(3)]
        seen[part] = {
            "run": curator.run_folder.name, "answers": torch.stack(answers),
            "sum": torch.from_numpy(curator.sum(total.name).total),
        }
        if part == "resumed":
            record = curator.record()
            seen["entries"] = [entry["kind"] for entry in record["ledger"]]
            seen["runs"] = record["data_set_total"]["runs"]
            seen["epsilon"] = record["data_set_total"]["epsilon"]
            torch.distributed.barrier() if distributed.size() > 1 else None
            folder = curator.run_folder
            curator.close()
            torch.distributed.barrier() if distributed.size() > 1 else None
            seen["left"] = (folder / "key").exists() or (folder / "steps-g").exists()
seen["curator noises"] = list(noises)
torch.save(seen, place / f"seen-{distributed.rank()}.pt")
if distributed.size() > 1:
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""


@pytest.fixture(scope="module")
def worlds(run_ranks: Callable, tmp_path_factory: pytest.TempPathFactory) -> list[list[dict]]:
    return run_ranks(SCRIPT, tmp_path_factory.mktemp("worlds"), 1, 2)


@pytest.fixture
def alone(worlds: list[list[dict]]) -> dict:
    return worlds[0][0]


@pytest.fixture
def both(worlds: list[list[dict]]) -> list[dict]:
    return worlds[1]


def test_ranks_know_their_place(alone: dict, both: list[dict]) -> None:
    assert (alone["rank"], alone["size"], alone["is first"]) == (0, 1, True)
    assert [(s["rank"], s["size"], s["is first"]) for s in both] == [(0, 2, True), (1, 2, False)]


@pytest.mark.parametrize("name", ["many", "one", "none"])
def test_the_sum_does_not_depend_on_the_number_of_ranks(
    alone: dict, both: list[dict], name: str
) -> None:
    expected = alone[name]["answers"]
    assert expected.shape == (3, 15)
    assert bool(expected.abs().max() > 0.1) == (name != "none")
    for seen in both:
        # Integers and one noise from a known seed: not a bit depends on who added what.
        assert torch.equal(seen[name]["answers"], expected)
    if name == "many":
        assert not torch.allclose(expected[0], expected[1], rtol=1e-2)  # fresh samples


@pytest.mark.parametrize("name", ["many", "one", "none", "noisy", "first", "resumed"])
def test_all_ranks_see_the_same_answer(both: list[dict], name: str) -> None:
    first, second = both
    assert torch.equal(first[name]["answers"], second[name]["answers"])


def test_noise_is_drawn_once_and_by_one(alone: dict, both: list[dict]) -> None:
    once = [f"sum {step}" for step in range(3)]
    for name in ("many", "one", "none", "noisy"):
        assert alone[name]["noises"] == both[0][name]["noises"] == once
        assert both[1][name]["noises"] == []
    expected = [*once[:1], *once[1:], "grid 0"]
    assert both[0]["curator noises"] == expected and both[1]["curator noises"] == []
    # The same key, sample and noise: the noisy answers agree, and noise is in them once.
    assert torch.equal(alone["noisy"]["answers"], both[0]["noisy"]["answers"])
    noise = both[0]["noisy"]["answers"] - both[0]["many"]["answers"]
    assert 1.5 < noise.std() < 4.5  # 45 draws of standard deviation 3


def test_the_work_is_shared_and_a_slice_may_be_empty(alone: dict, both: list[dict]) -> None:
    for step in range(3):
        parts = [seen["many"]["units"][step] for seen in both]
        # Unusable records are dropped after the sharing, so parts may differ by more than one.
        assert sum(parts) == alone["many"]["units"][step] > 4 and min(parts) > 0
        assert sorted(seen["one"]["units"][step] for seen in both) == [0, 1]
        assert [seen["none"]["units"][step] for seen in both] == [0, 0]


def test_answers_are_stored_by_one_and_repeated_to_all(both: list[dict]) -> None:
    for name in ("many", "one", "none", "noisy"):
        for seen in both:
            assert torch.equal(seen[name]["again"], seen[name]["answers"])
        assert both[0][name]["files"] == ["00000002.safetensors"]  # the others were forgotten


def test_the_curator_charges_once_and_all_ranks_go_on_with_one_run(both: list[dict]) -> None:
    first, second = both
    assert first["first"]["run"] == second["first"]["run"] == first["resumed"]["run"]
    for seen in both:
        assert seen["entries"] == ["plan", "answer", "answer"] and seen["runs"] == 1
        assert 3.99 < seen["epsilon"] <= 4.0
        assert torch.equal(seen["first"]["answers"], seen["resumed"]["answers"])
        assert torch.equal(seen["first"]["sum"], seen["resumed"]["sum"])
        assert not seen["left"]
    assert torch.equal(first["first"]["sum"], second["first"]["sum"])


@given(st.integers(0, 10_000), st.integers(1, 64))
def test_shares_are_a_partition(count: int, ranks: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distributed, "size", lambda: ranks)
        parts = []
        for rank in range(ranks):
            patch.setattr(distributed, "rank", lambda rank=rank: rank)
            parts.append(range(count)[distributed.share(count)])
    assert [unit for part in parts for unit in part] == list(range(count))
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1


def test_alone_everything_is_ones_own() -> None:
    tensor = torch.arange(3.0)
    assert (distributed.rank(), distributed.size(), distributed.is_first()) == (0, 1, True)
    assert torch.equal(distributed.add_up(tensor.clone()), tensor)
    assert torch.equal(distributed.tensor_from_first(tensor.clone()), tensor)
    assert distributed.from_first("value") == "value" and distributed.share(7) == slice(0, 7)


def test_a_world_of_one_is_not_joined(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "1")
    distributed.join()
    assert not torch.distributed.is_initialized()
