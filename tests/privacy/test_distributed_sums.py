"""Sums and histograms are split between ranks: the same release for any number of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

# Runs on each rank, and in this process too; ``seen`` is what it saw.
COMMON = """
import hashlib, os, sys
from pathlib import Path

import numpy as np
import torch

from sfumato.data.source import ImageSource
from sfumato.data.spec import PublicSpec
from sfumato.data.units import PrivacyUnit
from sfumato.errors import DataError, SfumatoError
from sfumato.privacy import (
    Budget, Curator, HistogramQuery, NearestQuery, SumQuery, distributed, make_plan
)

torch.set_num_threads(1)
BUDGET = Budget(1.0, 1e-5)


class Source(ImageSource):
    def __init__(self, count, unit=None, content=0):
        spec = PublicSpec(2, 2, 1, ("a", "b"), unit=unit)
        super().__init__("memory", spec, "memory:world")
        self.count, self.content = count, content

    def _records(self):
        rng = np.random.default_rng(0)
        for number in range(self.count):
            yield rng.integers(0, 256, (1, 2, 2), dtype=np.uint8), (0, 1, -1)[number % 3]

    def _unit_keys(self):
        return iter([number // 5 for number in range(self.count)])

    def _private_length(self):
        return self.count

    def fingerprint(self):
        return hashlib.sha256(f"{self.count} {self.content}".encode()).hexdigest()


asked = []


def pixels(images, labels):
    asked.append(len(images))
    return images.flatten(1).float() / 255


QUERIES = [
    SumQuery("sum", pixels, 4, 1.0, by_class=True),
    HistogramQuery("histogram", lambda images, labels: labels, 2),
    NearestQuery("nearest", lambda images: images.flatten(1).float() - 99, 4, 8),
]


def opened(source, state, **options):
    curator = Curator(source, BUDGET, state=state, quiet=True, **options)
    method = {"name": "world", "config": {}}
    curator.open_plan(make_plan(method, QUERIES, BUDGET, source.spec))
    return curator


def totals(state):
    seen = {}
    # Another rank's candidates differ: those of the first count.
    corners = np.random.default_rng(distributed.rank()).normal(size=(8, 4)).astype(np.float32)
    for name, count, unit in [
        ("many", 1000, None), ("few", 5, None), ("none", 0, None),
        ("units", 900, PrivacyUnit(column="who", records_per_unit=3)),
    ]:
        with opened(Source(count, unit), state / name, insecure_seed=7) as curator:
            asked.clear()
            seen[name] = torch.from_numpy(np.concatenate(
                [curator.sum("sum").total.ravel(), curator.histogram("histogram").total.ravel(),
                 curator.nearest("nearest", 0, corners).total.ravel()]
            ))
            seen[f"asked {name}"] = list(asked)
    return seen
"""

RANKS = (
    COMMON
    + """
place = Path(sys.argv[1])
distributed.join()
seen = totals(place / "state")
torch.save(seen, place / f"seen-{distributed.rank()}.pt")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""
)

FAILING = (
    COMMON
    + """
place = Path(sys.argv[1])
distributed.join()
rank, state = distributed.rank(), place / "state"
seen = {"refused": ""}
try:
    opened(Source(1000, content=rank), state)
except DataError as error:
    seen["refused"] = str(error)
seen["ledger"] = list(state.glob("*/ledger.jsonl")) != []
curator = opened(Source(1000), state)
if rank == 1 and not (place / "killed").exists():
    torch.save(seen, place / "seen-1.pt")
    (place / "killed").touch()
    os._exit(0)  # as a kill does
try:
    seen["total"] = torch.from_numpy(curator.sum("sum").total)
except SfumatoError as error:
    seen["gone"] = str(error)
if "total" in seen:
    seen["runs"] = curator.record()["data_set_total"]["runs"]
torch.save(seen, place / f"seen-{rank}.pt")
"""
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict:
    names: dict = {"__name__": "world"}
    exec(COMMON, names)
    return names["totals"](tmp_path_factory.mktemp("alone"))


@pytest.fixture(scope="module")
def worlds(run_ranks: Callable, tmp_path_factory: pytest.TempPathFactory) -> list[list[dict]]:
    return [run_ranks(RANKS, tmp_path_factory.mktemp("world"), ranks) for ranks in (2, 3)]


@pytest.mark.parametrize("name", ["many", "few", "none", "units"])
def test_answers_are_equal_bit_for_bit_for_any_number_of_ranks(
    alone: dict, worlds: list[list[dict]], name: str
) -> None:
    assert bool(alone[name].abs().max() > 0)  # noise at least
    for seen in (seen for world in worlds for seen in world):
        assert torch.equal(seen[name], alone[name])


def test_each_rank_does_its_part_and_no_record_counts_twice(
    alone: dict, worlds: list[list[dict]]
) -> None:
    def read(seen: dict) -> int:
        """Rows that the function was asked about, without those of probing on public images."""
        return sum(seen["asked many"]) - sum(seen["asked none"])

    whole = read(alone)
    for world in worlds:
        parts = [read(seen) for seen in world]
        assert sum(parts) == whole and 0 < min(parts) and max(parts) <= whole / 2 + 128


def test_a_rank_that_sees_other_data_or_dies_ends_the_run_and_it_goes_on(
    run_ranks: Callable, tmp_path: Path
) -> None:
    first, second = run_ranks(FAILING, tmp_path, 2)
    for seen in (first, second):
        assert "rank 1 of 2 sees other data than rank 0" in seen["refused"]
        assert not seen["ledger"]  # nothing was charged
    assert "run the same command again" in first["gone"] and "total" not in first
    again = run_ranks(FAILING, tmp_path, 2)
    assert [seen["runs"] for seen in again] == [1, 1]
    assert np.array_equal(again[0]["total"].numpy(), again[1]["total"].numpy())
