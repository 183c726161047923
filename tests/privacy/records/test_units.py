"""docs/proofs/units.md: neighbours that differ in a whole unit, of any size, anywhere."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor, nn

from sfumato.data.source import ImageSource, Record
from sfumato.data.spec import PublicSpec
from sfumato.data.units import Key, PrivacyUnit
from sfumato.errors import DataError, UsageError
from sfumato.privacy import Budget, Curator, GradientQuery, HistogramQuery, SumQuery, make_plan
from sfumato.privacy.answering import integer_sums, sampled
from sfumato.privacy.answering.base import OpenRun
from sfumato.privacy.answering.gradient import GradientAnswering
from sfumato.privacy.grid import UNIT, max_dimension
from sfumato.privacy.ledger import Ledger
from sfumato.privacy.noise.entropy import Stream
from sfumato.privacy.records.decoded import Records
from sfumato.privacy.records.units import group
from sfumato.privacy.run import Run

SURE = 1e-6
KINDS = 12
Rows = list[tuple[Key, int, int | None]]


def spec(most: int = 3, unit: bool = True) -> PublicSpec:
    rule = PrivacyUnit(column="patient", records_per_unit=most) if unit else None
    return PublicSpec(2, 2, 1, ("a", "b", "c"), unit=rule)


class Patients(ImageSource):
    """Records (key, first pixel, label) in memory."""

    def __init__(self, rows: Rows, own: PublicSpec | None = None) -> None:
        super().__init__("patients", own or spec(), "memory:patients")
        self.rows = rows

    def _records(self) -> Iterator[Record]:
        for _, value, label in self.rows:
            image = np.zeros((1, 2, 2), np.uint8)
            image[0, 0, 0] = value
            yield image, label

    def _unit_keys(self) -> Iterator[Key]:
        return (key for key, _, _ in self.rows)

    def _private_length(self) -> int:
        return len(self.rows)

    def fingerprint(self) -> str:
        return "same"


def total(query: SumQuery | HistogramQuery, source: ImageSource) -> list[int]:
    found = integer_sums.total(query, source, 4, lambda share: None)
    return [int(value) for value in found]


def squared_distance(a: list[int], b: list[int]) -> int:
    return sum((x - y) ** 2 for x, y in zip(a, b, strict=True))


def places(keys: list[Key], most: int, key: Key) -> list[int]:
    """Which of its own records a unit keeps, by their place in it."""
    owner = group(keys, most).owner
    mine = [index for index, found in enumerate(keys) if found == key]
    return [place for place, index in enumerate(mine) if owner[index] >= 0]


values = st.floats(width=32) | st.floats(-2, 2, width=32)
member = st.tuples(st.integers(0, KINDS - 1), st.sampled_from([0, 1, 2, -1, 7, None]))
others = st.lists(st.tuples(st.sampled_from(["p", "q", "r", None]), member), max_size=10)
unit = st.lists(member, max_size=12)


def spliced(draw: st.DrawFn, rest: list, key: Key, records: list) -> Rows:
    """A unit's records put anywhere between the others."""
    rows = [(owner, *record) for owner, record in rest]
    at = 0
    for record in records:
        at = draw(st.integers(at, len(rows)))
        rows.insert(at, (key, *record))
        at += 1
    return rows


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[Rows, Rows, Rows]:
    """The same others with one unit, with another in its place, and with none."""
    rest = draw(others)
    return (
        spliced(draw, rest, "x", draw(unit)),
        spliced(draw, rest, draw(st.sampled_from(["x", "y"])), draw(unit)),
        spliced(draw, rest, "x", []),
    )


@st.composite
def sums(draw: st.DrawFn) -> SumQuery:
    width = draw(st.integers(1, 4))
    table = np.array(
        draw(st.lists(st.lists(values, min_size=width, max_size=width), min_size=KINDS,
                      max_size=KINDS)), np.float32)  # fmt: skip
    rows = torch.from_numpy(table)
    by_class = draw(st.booleans())
    return SumQuery(
        "q",
        lambda images, labels: rows[images[:, 0, 0, 0].long() % KINDS],
        width,
        draw(st.sampled_from([0.5, 1.0, 3.0])),
        by_class=by_class,
        shared=draw(st.integers(0, width - 1)) if by_class else 0,
        nonnegative=draw(st.booleans()),
    )


@given(neighbours(), sums(), st.integers(1, 6))
@settings(max_examples=120)
def test_a_whole_unit_moves_the_sum_by_its_bound(
    data: tuple[Rows, Rows, Rows], query: SumQuery, most: int
) -> None:
    with_x, with_other, without = (total(query, Patients(rows, spec(most))) for rows in data)
    assert squared_distance(with_x, without) <= UNIT**2
    assert squared_distance(with_x, with_other) <= (2 if query.nonnegative else 4) * UNIT**2


@given(neighbours(), st.integers(1, 6))
@settings(max_examples=60)
def test_a_whole_unit_moves_the_histogram_by_one_vote(
    data: tuple[Rows, Rows, Rows], most: int
) -> None:
    query = HistogramQuery("h", lambda images, labels: images[:, 0, 0, 0].long() - 2, 5)
    with_x, with_other, without = (total(query, Patients(rows, spec(most))) for rows in data)
    assert squared_distance(with_x, without) <= UNIT**2
    assert squared_distance(with_x, with_other) <= 2 * UNIT**2
    assert min(with_x) >= 0


def ones(nonnegative: bool = False) -> SumQuery:
    return SumQuery("q", lambda images, labels: torch.ones(len(images), 1), 1, 1.0,
                    nonnegative=nonnegative)  # fmt: skip


def test_the_bound_is_reached_and_would_break_without_units() -> None:
    rows: Rows = [("x", 1, 0)] * 5
    assert 0.99 * UNIT < total(ones(), Patients(rows, spec(5)))[0] <= UNIT
    assert total(ones(), Patients(rows, spec(unit=False)))[0] > 4.9 * UNIT


@pytest.mark.parametrize("columns", [1, 3])
def test_a_unit_of_thousands_of_records_moves_the_sum_by_its_bound(columns: int) -> None:
    # 2²⁰ / 4,100 is no whole number: each record's share is rounded down, never the total up.
    size = 4100
    query = SumQuery("q", lambda images, labels: torch.full((len(images), columns), 2.0), columns,
                     1.0)  # fmt: skip
    rest: Rows = [("y", 1, 0)] * 3 + [(None, 1, 1)] * 5
    unit_of = [("x", number % 256, number % 3) for number in range(size)]
    around = total(query, Patients(rest + unit_of, spec(size)))
    between = total(query, Patients(unit_of[:1234] + rest + unit_of[1234:], spec(size)))
    without = total(query, Patients(rest, spec(size)))
    assert around == between
    assert 0.9 * UNIT**2 < squared_distance(around, without) <= UNIT**2


def test_a_unit_counts_once_whatever_its_size() -> None:
    rows: Rows = [("x", 1, 0)] * 6 + [("y", 1, 0), (None, 1, 0), (None, 1, 0)]
    assert total(ones(), Patients(rows, spec(3)))[0] == pytest.approx(4 * UNIT, rel=2e-4)
    vote = HistogramQuery("h", lambda images, labels: images[:, 0, 0, 0].long(), 2)
    assert total(vote, Patients(rows, spec(4))) == [0, 4 * UNIT]


@given(st.lists(member, max_size=8), sums())
@settings(max_examples=40)
def test_units_of_one_record_give_the_same_bits(records: list, query: SumQuery) -> None:
    rows: Rows = [(f"p{number}", *record) for number, record in enumerate(records)]
    alone = total(query, Patients(rows, spec(unit=False)))
    assert total(query, Patients(rows)) == alone
    assert total(query, Patients([(None, *record) for record in records])) == alone


def test_unusable_records_take_their_share_and_add_nothing() -> None:
    rows: Rows = [("x", 1, 0), ("x", 1, -1), ("x", 1, 99), ("x", 1, 1)]
    assert total(ones(), Patients(rows, spec(4)))[0] == pytest.approx(UNIT / 2, rel=2e-4)


def test_too_few_keys_are_an_error() -> None:
    class Short(Patients):
        def _unit_keys(self) -> Iterator[Key]:
            return iter(["x"])

    for count in (2, 4, 5):
        with pytest.raises((DataError, ValueError, IndexError)):
            total(ones(), Short([("x", 1, 0)] * count))


keys = st.lists(st.sampled_from(["x", "p", "q", 7, b"b", None]), max_size=30)


@given(keys, st.integers(0, 9), st.integers(1, 5), st.randoms())
def test_what_a_unit_keeps_does_not_depend_on_other_units(
    rest: list[Key], size: int, most: int, random: object
) -> None:
    alone = places(["x"] * size, most, "x")
    mixed = [key for key in rest if key != "x"] + ["x"] * size
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert places(mixed, most, "x") == alone
    assert len(alone) == min(size, most)


@given(keys, st.integers(1, 5))
def test_grouping_counts_what_it_keeps(found: list[Key], most: int) -> None:
    units = group(found, most)
    sizes = [found.count(key) for key in {key for key in found if key is not None}]
    sizes += [1] * found.count(None)
    assert sorted(units.kept) == sorted(min(size, most) for size in sizes)
    assert sorted(np.bincount(units.owner[units.owner >= 0], minlength=len(units))) == sorted(
        units.kept
    )
    assert (units.bounds() > 0).tolist() == (units.owner >= 0).tolist()


def test_surplus_favours_no_place_of_a_unit() -> None:
    counts = np.zeros(6)
    for number in range(600):
        counts[places([f"p{number}"] * 6, 2, f"p{number}")] += 1
    assert counts.sum() == 1200 and stats.chisquare(counts).pvalue > SURE
    first = np.array([600.0, 600, 0, 0, 0, 0])
    assert stats.chisquare(first).pvalue < SURE


def test_too_coarse_a_share_is_refused_before_anything_is_charged() -> None:
    for most, limit in ((1, max_dimension()), (100, max_dimension(100))):
        assert limit == int((UNIT // most / 50) ** 2)
    query = SumQuery("q", lambda images, labels: torch.zeros(1), 50_000, 1.0)
    make_plan({"name": "t"}, [query], Budget(1.0, 1e-5), spec(16))
    with pytest.raises(UsageError, match="records-per-unit"):
        make_plan({"name": "t"}, [query], Budget(1.0, 1e-5), spec(100))
    make_plan({"name": "t"}, [query], Budget(1.0, 1e-5), spec(unit=False))


# gradient: one record of a sampled unit


class Linear:
    """A loss whose gradient is a record's first pixel over 100."""

    multiplicity = 1

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.rand(units, generator=generator),)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        return network(images[:, 0, 0, :1].float() / 100)[:, 0]


@pytest.fixture(autouse=True)
def _one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampled, "engine_that_fits", lambda *_: ("layers", 64))


def answers(source: ImageSource, folder: Path, query: GradientQuery, seed: int = 0) -> np.ndarray:
    event = replace(query.event("add-or-remove-one"), noise_std=1e-9)
    run = OpenRun(source, Run(folder, "r", hold=False), Ledger(folder), insecure_seed=seed)
    steps = GradientAnswering(query, event, run)
    network = nn.Linear(1, 1, bias=False)
    return np.array([steps.answer(step, network, Linear()).item() for step in range(query.steps)])


def test_a_whole_unit_moves_a_gradient_by_the_clip_norm(tmp_path: Path) -> None:
    rest: Rows = [("p", 30, 0), ("q", 40, 0), ("p", 50, 1), (None, 60, 2), ("q", 10, -1)]
    query = GradientQuery("s", 1, 0.7, sampling_rate=1.0, steps=6)
    without = answers(Patients(rest), tmp_path / "without", query)
    for size in (1, 3, 40):
        # The new unit comes last, so that the others draw the same.
        more = answers(Patients(rest + [("x", 255, 0)] * size), tmp_path / f"{size}", query)
        assert (np.abs(more - without) <= 0.7).all() and (np.abs(more - without) > 0.69).all()
    everything = spec(unit=False)
    alone = answers(Patients(rest, everything), tmp_path / "a", query)
    more = answers(Patients(rest + [("x", 255, 0)] * 3, everything), tmp_path / "b", query)
    assert (np.abs(more - alone) > 2).all()  # what record level promises a unit of three


def test_units_are_sampled_and_not_records(tmp_path: Path) -> None:
    rows: Rows = [(f"p{number % 20}", 100, 0) for number in range(200)]
    query = GradientQuery("s", 1, 1.0, sampling_rate=0.3, steps=300)
    sizes = np.rint(answers(Patients(rows, spec(16)), tmp_path / "s", query)).astype(int)
    expected = stats.binom(20, 0.3)
    seen = np.bincount(sizes, minlength=21)[2:11]
    inside = expected.pmf(np.arange(2, 11))
    assert sizes.max() <= 20
    assert stats.chisquare(seen, inside * seen.sum() / inside.sum()).pvalue > SURE
    wrong = stats.binom(200, 0.3).pmf(np.arange(2, 11)) + 1e-300
    assert stats.chisquare(seen, wrong * seen.sum() / wrong.sum()).pvalue < SURE


def test_each_kept_record_of_a_unit_takes_its_turn(tmp_path: Path) -> None:
    rows: Rows = [("x", 10 * place, 0) for place in range(1, 7)]
    query = GradientQuery("s", 1, 1.0, sampling_rate=1.0, steps=200)
    drawn = np.rint(answers(Patients(rows, spec(4)), tmp_path / "s", query) * 10).astype(int) - 1
    counts = np.bincount(drawn, minlength=6)
    kept = places(["x"] * 6, 4, "x")
    assert np.flatnonzero(counts).tolist() == kept
    assert stats.chisquare(counts[kept]).pvalue > SURE
    assert stats.chisquare([200, 0, 0, 0]).pvalue < SURE


def test_records_know_their_units(tmp_path: Path) -> None:
    rows: Rows = [("p", 1, 0), (None, 2, 0), ("p", 3, 1), ("p", 4, 1), (None, 5, 2)]
    records = Records(Patients(rows, spec(2)), tmp_path)
    assert records.units == 3 and records.shape == (1, 2, 2)
    assert sorted(records.owner) == [-1, 0, 0, 1, 2]
    drawn = records.one_each(np.array([0, 1, 2]), Stream.known(0))
    assert records.owner[drawn].tolist() == [0, 1, 2]
    plain = Records(Patients(rows, spec(unit=False)), tmp_path)
    assert plain.units == 5 and plain.owner.tolist() == [0, 1, 2, 3, 4]
    stream = Stream.known(0)
    assert plain.one_each(np.array([3, 1]), stream).tolist() == [3, 1]
    assert stream.bytes(8) == Stream.known(0).bytes(8)  # nothing was drawn


# the ledger


def charge(source: ImageSource, make_curator: Callable[..., Curator]) -> dict:
    with make_curator(source) as curator:
        plan = make_plan({"name": "t", "config": {}}, [ones()], curator.budget, curator.spec)
        curator.open_plan(plan)
        curator.sum(plan.queries[0].name)
        record = curator.record()
        curator.close()
    return record


def test_runs_with_other_units_share_the_ledger_and_say_so(
    make_curator: Callable[..., Curator],
) -> None:
    rows: Rows = [("p", 1, 0), ("q", 2, 0)]
    first = charge(Patients(rows, spec()), make_curator)
    assert "units" not in first["data_set_total"] and "patient" in first["ledger"][0]["unit"]
    second = charge(Patients(rows, spec(unit=False)), make_curator)
    assert "unit" not in second["ledger"][0] and "unit" not in second["spec"]
    total = second["data_set_total"]
    assert total["runs"] == 2 and total["epsilon"] > first["data_set_total"]["epsilon"]
    assert total["units"] == [spec().unit_in_words, "record"]
