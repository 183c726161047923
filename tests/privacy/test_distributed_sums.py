"""What ranks split beside gradients: sums, sampling, evaluation; the same on any number of them."""

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

SAMPLING = """
from sfumato.methods.base import Sampling
from sfumato.methods.model import GeneratorModel, make_generator

FORM = PublicSpec(28, 28, 1, ("a", "b", "c"))
COUNTS = np.array([3.0, 2.0, 0.001])
made = []


class Watched(GeneratorModel):
    def draw(self, labels, random):
        made.append(len(labels))
        return super().draw(labels, random)


class Other(GeneratorModel):
    def draw(self, labels, random):
        images, labels = super().draw(labels, random)
        return images ^ distributed.rank(), labels


def model(kind):
    torch.manual_seed(distributed.rank())  # the first rank's weights count
    return kind(FORM, make_generator(FORM, 4, 4).eval(), 4, COUNTS)


def joined(batches):
    images, labels = zip(*batches, strict=True)
    return torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels))


def sampled():
    seen = {}
    for name, kind, wanted in [
        ("sampled", Watched, Sampling(1100, 3)),
        ("balanced", Watched, Sampling(30, 4, balance=True)),
        ("other machines", Other, Sampling(600, 3)),
    ]:
        made.clear()
        batches = list(model(kind).sampled_by_all(wanted))
        seen[name] = joined(batches) if distributed.is_first() else len(batches)
        seen[f"made {name}"] = list(made)
    return seen
"""

EVALUATING = """
from sfumato.data.arrays import LabelledImages
from sfumato.evaluation import evaluate
from sfumato.evaluation.extractors import Extractor


def evaluated(cache):
    seen = {}
    rng = np.random.default_rng(0)
    sets = []
    for count in (210, 160, 130):
        labels = rng.integers(0, 2, count)
        images = rng.integers(0, 200, (count, 1, 8, 8)) + labels[:, None, None, None] * 40
        sets.append(LabelledImages(images.astype(np.uint8), labels, ("a", "b")))
    passes = []

    def features(images):
        passes.append(len(images))
        return images[:, 0].float().flatten(1)[:, :20]

    extractor = Extractor("few pixels", "0" * 64, features, 50, torch.device("cpu"))
    for part in ("evaluated", "from the cache"):
        passes.clear()
        how = {"classifiers": ("logistic",), "quiet": True}
        seen[part] = evaluate(*sets, extractor=extractor, cache=cache, **how).to_dict()
        seen[f"passes {part}"] = sum(passes)
    if distributed.size() > 1:
        sets[2].images[0] ^= distributed.rank()
        try:
            evaluate(*sets, extractor=extractor, **how)
        except DataError as error:
            seen["refused"] = str(error)
    return seen
"""

READING = """
from safetensors.numpy import load_file

from sfumato.methods.guided.pieces import in_pieces
from sfumato.methods.training import Session
from sfumato.privacy import sketch


def sketched(state):
    # The smallest 500 of 2,000 hashes, read before the first answer, and once.
    hashed, honest = [], sketch.blake2b
    sketch.SIZE, size = 500, sketch.SIZE
    sketch.blake2b = lambda *pixels, **options: hashed.append(1) or honest(*pixels, **options)
    if distributed.is_first():
        state.mkdir(exist_ok=True)
        (state / "sketch.key").write_bytes(bytes(32))
    for count in (2000, 1990, 2000):  # the last has been read
        with opened(Source(count), state, fresh=True) as curator:
            curator.sum("sum")
    sketch.SIZE, sketch.blake2b = size, honest
    (path,) = state.glob("*/sketch.safetensors")
    kept = torch.from_numpy(load_file(path)["hashes"].view(np.int64))
    return {"sketch": kept, "hashed": len(hashed)}


def pieced(place):
    made = []

    def make(number):
        made.append(number)
        return np.full((2, 1, 2, 2), number, np.uint8)

    for count in (3, 8):  # the first three are kept
        found = in_pieces("pieces", "0" * 64, count, Session(place, True), make)
    return {"pieces": torch.from_numpy(np.concatenate(found)), "made pieces": made}
"""

RANKS = (
    COMMON
    + SAMPLING
    + EVALUATING
    + READING
    + """
distributed.join()
place = Path(sys.argv[1])
seen = totals(place / "state") | sampled() | evaluated(place / "cache") | sketched(place / "kept")
seen |= pieced(place)
torch.save(seen, place / f"seen-{distributed.rank()}.pt")
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""
)

FAILING = (
    COMMON
    + SAMPLING
    + """
class Mortal(Watched):
    def draw(self, labels, random):
        if rank == 1 and made:
            os._exit(0)
        return super().draw(labels, random)


distributed.join()
place = Path(sys.argv[1])
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
    try:
        list(model(Mortal).sampled_by_all(Sampling(1100, 3)))
    except SfumatoError as error:
        seen["gone"] = str(error)
torch.save(seen, place / f"seen-{rank}.pt")
"""
)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict:
    names: dict = {"__name__": "world"}
    exec(COMMON + SAMPLING + EVALUATING + READING, names)
    place = tmp_path_factory.mktemp("alone")
    seen = names["totals"](place) | names["sampled"]() | names["evaluated"](place / "cache")
    return seen | names["sketched"](place / "kept") | names["pieced"](place)


@pytest.fixture(scope="module")
def worlds(run_ranks: Callable, tmp_path_factory: pytest.TempPathFactory) -> list[list[dict]]:
    return run_ranks(RANKS, tmp_path_factory.mktemp("worlds"), 2, 3)


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


@pytest.mark.parametrize("name", ["sampled", "balanced", "other machines"])
def test_images_are_equal_bit_for_bit_for_any_number_of_ranks(
    alone: dict, worlds: list[list[dict]], name: str
) -> None:
    images, labels = alone[name]
    assert len(images.flatten(1).unique(dim=0)) > len(images) / 2
    assert labels.unique().tolist() == [0, 1, 2]
    for first, *others in worlds:
        assert torch.equal(first[name][0], images) and torch.equal(first[name][1], labels)
        assert [other[name] for other in others] == [0] * len(others)


def test_batches_are_sampled_in_turns(alone: dict, worlds: list[list[dict]]) -> None:
    """Each rank makes the first one, by which they are compared."""
    assert alone["made sampled"] == [250, 250, 250, 250, 100]
    two, three = ([seen["made sampled"] for seen in world] for world in worlds)
    assert two == [[250, 250, 100], [250, 250, 250]]
    assert three == [[250, 250], [250, 250, 100], [250, 250]]


def test_an_evaluation_is_the_same_on_any_number_of_ranks(
    alone: dict, worlds: list[list[dict]]
) -> None:
    assert alone["passes evaluated"] == 2 * 130 + 160 and not alone["passes from the cache"]
    for world in worlds:
        for seen in world:
            assert seen["evaluated"] == seen["from the cache"]
            _close(seen["evaluated"], alone["evaluated"])
            assert "evaluates other images" in seen["refused"]
        passes = [seen["passes evaluated"] for seen in world]
        assert sum(passes) == alone["passes evaluated"] and min(passes) > 0
        assert not any(seen["passes from the cache"] for seen in world)


def test_the_sketch_of_many_ranks_is_that_of_one_and_each_hashes_its_part(
    alone: dict, worlds: list[list[dict]]
) -> None:
    assert len(alone["sketch"]) == 500 and alone["hashed"] == 3990
    for world in worlds:
        assert all(torch.equal(seen["sketch"], alone["sketch"]) for seen in world)
        parts = [seen["hashed"] for seen in world]
        assert sum(parts) == alone["hashed"] and max(parts) - min(parts) <= 4 * 256


def test_images_of_pieces_are_made_in_turns_and_all_ranks_have_them(
    alone: dict, worlds: list[list[dict]]
) -> None:
    assert alone["made pieces"] == list(range(8))
    two, three = ([seen["made pieces"] for seen in world] for world in worlds)
    assert two == [[0, 2, 3, 5, 7], [1, 4, 6]]
    assert three == [[0, 3, 6], [1, 4, 7], [2, 5]]
    assert all(torch.equal(seen["pieces"], alone["pieces"]) for world in worlds for seen in world)


def _close(found: object, expected: object) -> None:
    if isinstance(expected, dict):
        assert isinstance(found, dict) and found.keys() == expected.keys()
        for key, value in expected.items():
            _close(found[key], value)
    elif isinstance(expected, (list, tuple)):
        assert isinstance(found, (list, tuple)) and len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            _close(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-5)
    else:
        assert found == expected


def test_a_rank_that_sees_other_data_or_dies_ends_the_run_and_it_goes_on(
    run_ranks: Callable, tmp_path: Path
) -> None:
    ((first, second),) = run_ranks(FAILING, tmp_path, 2)
    for seen in (first, second):
        assert "rank 1 of 2 sees other data than rank 0" in seen["refused"]
        assert not seen["ledger"]  # nothing was charged
    assert "run the same command again" in first["gone"] and "total" not in first
    (again,) = run_ranks(FAILING, tmp_path, 2)
    assert [seen["runs"] for seen in again] == [1, 1]
    assert np.array_equal(again[0]["total"].numpy(), again[1]["total"].numpy())
    assert "run the same command again" in again[0]["gone"]  # it died while images were sampled
