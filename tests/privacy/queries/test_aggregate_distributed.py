"""Several processes, one aggregate: the same sums and gradients, one noise for each part."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

SCRIPT = """
import hashlib
from dataclasses import replace, sys
from pathlib import Path

import numpy as np
import torch
from torch import nn

from sfumato.data.source import ImageSource
from sfumato.data.spec import PublicSpec
from sfumato.privacy import AggregateQuery, distributed
from sfumato.privacy.answering.aggregate import AggregateAnswering
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
            yield rng.integers(0, 256, (1, 2, 2), dtype=np.uint8), (0, 1, -1)[number % 3]

    def _private_length(self):
        return self.count

    def fingerprint(self):
        return hashlib.sha256(str(self.count).encode()).hexdigest()


class Features:
    def draws(self, units, generator):
        return (torch.rand(units, generator=generator),)

    def __call__(self, network, images, labels, *draws):
        return network(images.float().flatten(1) / 255 + draws[0][:, None]).tanh()


noises = []
honest = base.Answering._noise_stream
def stream(self, label):
    noises.append(label)
    return honest(self, label)
base.Answering._noise_stream = stream
distributed.join()
torch.manual_seed(0)
place = Path(sys.argv[1])
network, seen = nn.Linear(4, 3), {}
for name, count, rate, z in [("many", 60, 0.5, 1e-12), ("none", 0, 1.0, 1e-12), ("noisy", 60, 0.5, 3.0)]:
    noises.clear()
    folder = place / name
    folder.mkdir(exist_ok=True)
    query = AggregateQuery("g", 2, 3, 0.7, rate, 2, 1.0, 15, 0.9, 1.0)
    event = replace(query.event("add-or-remove-one"), noise_std=z)
    run = Run(folder, "r", hold=False)
    steps = AggregateAnswering(query, event, OpenRun(Source(count), run, Ledger(folder), True, 5))
    steps._engine = ("loop", 64)
    c = torch.arange(6.0).view(2, 3) - 2
    parts = [(steps.forward(s, network, Features()), steps.pull_back(s, network, Features(), c)) for s in range(2)]
    again = [(steps.forward(s, network, Features()), steps.pull_back(s, network, Features(), c)) for s in range(2)]
    flat = [torch.cat([p.flatten() for pair in pairs for p in pair]) for pairs in (parts, again)]
    seen[name] = {"answers": flat[0], "again": flat[1], "noises": list(noises)}
torch.save(seen, place / f"seen-{distributed.rank()}.pt")
if distributed.size() > 1:
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()
"""  # noqa: E501


@pytest.fixture(scope="module")
def seen(run_ranks: Callable, tmp_path_factory: pytest.TempPathFactory) -> list[dict]:
    """Alone, then the two ranks."""
    alone, both = run_ranks(SCRIPT, tmp_path_factory.mktemp("worlds"), 1, 2)
    return alone + both


@pytest.mark.parametrize("name", ["many", "none"])
def test_neither_part_depends_on_the_number_of_ranks(seen: list[dict], name: str) -> None:
    alone, first, second = (s[name]["answers"] for s in seen)
    assert alone.shape == (2 * (6 + 15),)
    assert bool(alone.abs().max() > 0.1) == (name != "none")
    # Integers and one noise from a known seed: not a bit depends on who added what.
    assert torch.equal(first, alone) and torch.equal(first, second)


def test_each_part_has_one_noise_that_all_ranks_see(seen: list[dict]) -> None:
    expected = [f"{part} {step}" for step in (0, 1) for part in ("forward", "backward")]
    for name in ("many", "none", "noisy"):
        alone, first, second = (s[name] for s in seen)
        assert alone["noises"] == first["noises"] == expected and second["noises"] == []
        assert torch.equal(first["answers"], second["answers"])
        assert all(torch.equal(s["answers"], s["again"]) for s in (alone, first, second))
    alone, first, _ = (s["noisy"]["answers"] for s in seen)
    assert torch.equal(alone, first)
