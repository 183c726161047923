"""docs/proofs/sum.md and histogram.md: neighbours move the integer answer by at most Δ."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from sfumato.data.spec import PublicSpec
from sfumato.errors import SfumatoError
from sfumato.features import load_encoder
from sfumato.privacy import HistogramQuery, Query, SumQuery
from sfumato.privacy.answering import integer_sums
from sfumato.privacy.clipping import clipped_sum
from sfumato.privacy.grid import UNIT

KINDS = 12  # records differ by a number in [0, KINDS), which picks their contribution
SPEC = PublicSpec(height=2, width=2, channels=1, classes=("a", "b", "c"))


def number(images: Tensor) -> Tensor:
    return images[:, 0, 0, 0].long() + 256 * images[:, 0, 0, 1].long()


def looked_up(table: np.ndarray) -> Callable[[Tensor, Tensor], Tensor]:
    """A contribution function that may return anything at all, each row from its own record."""
    rows = torch.from_numpy(table)
    return lambda images, labels: rows[number(images) % len(rows)]


def total(query: Query, source: object, size: int = 4) -> np.ndarray:
    return integer_sums.total(query, source, size, lambda share: None).numpy()


def squared_distance(first: np.ndarray, second: np.ndarray) -> int:
    """In Python integers, so that nothing overflows or rounds."""
    return sum((int(a) - int(b)) ** 2 for a, b in zip(first.ravel(), second.ravel(), strict=True))


tables = hnp.arrays(
    np.float32,
    st.tuples(st.just(KINDS), st.integers(1, 6)),
    elements=st.floats(width=32) | st.floats(-2, 2, width=32),
)
record = st.tuples(st.integers(0, KINDS - 1), st.sampled_from([0, 1, 2, -1, 7, None]))
records = st.lists(record, max_size=14)


@st.composite
def sums(draw: st.DrawFn) -> SumQuery:
    table = draw(tables)
    by_class = draw(st.booleans())
    return SumQuery(
        "q",
        looked_up(table),
        table.shape[1],
        draw(st.floats(1e-3, 1e3)),
        by_class=by_class,
        shared=draw(st.integers(0, table.shape[1] - 1)) if by_class else 0,
        nonnegative=draw(st.booleans()),
    )


def replace_bound(query: SumQuery) -> int:
    return (2 if query.nonnegative else 4) * UNIT**2


@given(query=sums(), data=records, extra=record, place=st.integers(0, 14), size=st.integers(1, 5))
@settings(max_examples=150)
def test_sum_moves_by_at_most_the_bound_when_a_record_is_added_or_removed(
    make_source: type, query: SumQuery, data: list, extra: tuple, place: int, size: int
) -> None:
    more = [*data[:place], extra, *data[place:]]
    moved = squared_distance(
        total(query, make_source(data), size), total(query, make_source(more), size)
    )
    assert moved <= UNIT**2


@given(query=sums(), data=records, old=record, new=record, size=st.integers(1, 5))
@settings(max_examples=150)
def test_sum_moves_by_at_most_the_bound_when_a_record_is_replaced(
    make_source: type, query: SumQuery, data: list, old: tuple, new: tuple, size: int
) -> None:
    first, second = make_source([*data, old]), make_source([*data, new])
    assert squared_distance(total(query, first, size), total(query, second, size)) <= (
        replace_bound(query)
    )


@pytest.mark.parametrize(("nonnegative", "least"), [(True, 1.99), (False, 3.99)])
def test_the_replace_bounds_are_reached(make_source: type, nonnegative: bool, least: float) -> None:
    table = np.array([[1, 0], [0, 1] if nonnegative else [-1, 0]], np.float32)
    query = SumQuery("q", looked_up(table), 2, 1.0, nonnegative=nonnegative)
    first, second = (total(query, make_source([(kind, 0)])) for kind in (0, 1))
    assert least * UNIT**2 < squared_distance(first, second) <= replace_bound(query)


@given(votes=st.lists(st.integers(-3, 6), min_size=KINDS, max_size=KINDS), data=records, new=record)
def test_histogram_moves_by_at_most_one_vote(
    make_source: type, votes: list[int], data: list, new: tuple
) -> None:
    choice = torch.tensor(votes)
    query = HistogramQuery("h", lambda images, labels: choice[number(images)], bins=4)
    before, after = total(query, make_source(data)), total(query, make_source([*data, new]))
    assert squared_distance(before, after) in (0, UNIT**2)
    swapped = total(query, make_source([new, *data[1:]]))
    assert squared_distance(before, swapped) <= (2 if data else 1) * UNIT**2
    counted = np.bincount(
        [votes[kind] for kind, label in data if label in (0, 1, 2) and 0 <= votes[kind] < 4],
        minlength=4,
    )
    assert np.array_equal(before, counted * UNIT)  # a vote is a whole vote


def test_a_vote_that_is_no_whole_number_never_counts_twice(make_source: type) -> None:
    strange = torch.tensor([float("nan"), float("inf"), 2.0**24 + 1, -1e30, 1.5])
    query = HistogramQuery("h", lambda images, labels: strange[number(images)], bins=2**24 + 8)
    rows = query.values(torch.zeros(1, 1, 2, 2, dtype=torch.uint8), torch.zeros(1).long())
    assert rows.sum() == 0
    for kind in range(5):
        image = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
        image[0, 0, 0, 0] = kind
        assert query.values(image, torch.zeros(1).long()).sum() <= 1


@given(query=sums(), data=records, order=st.randoms(), size=st.integers(1, 20))
@settings(max_examples=60)
def test_sum_is_the_oracles_whatever_order_and_batch_size(
    make_source: type, query: SumQuery, data: list, order: object, size: int
) -> None:
    shuffled = list(data)
    order.shuffle(shuffled)
    answer = total(query, make_source(shuffled), size)
    assert answer.tolist() == slow_total(query, data)


def slow_total(query: SumQuery, data: list[tuple[int, int | None]]) -> list[int]:
    """The sum record by record, in Python integers, with norms as fractions."""
    rows, columns = query.shape(len(SPEC.classes))
    answer = [0] * (rows * columns + query.shared)
    for kind, label in data:
        if label not in (0, 1, 2):
            continue
        image = torch.zeros(1, 1, 2, 2, dtype=torch.uint8)
        image[0, 0, 0, 0] = kind
        values = query.contribution(image, torch.tensor([label]))
        bounded = values.clamp(min=0) if query.nonnegative else values
        steps = clipped_sum(bounded, query.clip_norm).tolist()
        assert sum(Fraction(x) ** 2 for x in steps) <= UNIT**2
        start = label * columns if query.by_class else 0
        for column, step in enumerate(steps):
            place = start + column if column < columns else rows * columns + column - columns
            answer[place] += step
    return answer


def test_a_sum_that_float32_would_round_is_exact(make_source: type) -> None:
    table = np.array([[1.0, 3e-6], [-1.0, 3e-6]], np.float32)
    query = SumQuery("q", looked_up(table), 2, 1.0)
    big, small = slow_total(query, [(0, 0)])
    answer = total(query, make_source([(0, 0)] * 999 + [(1, 0)]), 64)
    assert answer.tolist() == [998 * big, 1000 * small]
    assert 998 * big > 2**24


def test_an_empty_data_set_sums_to_nothing(make_source: type) -> None:
    query = SumQuery("q", looked_up(np.ones((1, 2), np.float32)), 2, 1.0, by_class=True)
    assert total(query, make_source([])).tolist() == [0] * 6


def test_progress_says_the_same_whatever_the_number_of_records(make_source: type) -> None:
    query = SumQuery("q", looked_up(np.ones((1, 2), np.float32)), 2, 1.0)
    seen = {}
    for count in (0, 1, 3, 40, 333):
        seen[count] = []
        integer_sums.total(query, make_source([(0, 0)] * count), 4, seen[count].append)
    assert all(shares == [step / 100 for step in range(1, 101)] for shares in seen.values())


def probe(function: Callable[[Tensor], Tensor]) -> int:
    spec = PublicSpec(height=6, width=6, channels=1, classes=("a", "b"))

    def contribution(images: Tensor, labels: Tensor) -> Tensor:
        return function(images.float() / 255)

    return integer_sums.independent_batch_size(SumQuery("q", contribution, 36, 1.0), spec)


def test_probe_accepts_independent_rows() -> None:
    assert probe(lambda x: x.flatten(1).sqrt()) == integer_sums.BATCH


def batch_norm(x: Tensor) -> Tensor:
    return nn.BatchNorm2d(1).train()(x).flatten(1)


@pytest.mark.parametrize(
    "leak",
    [
        batch_norm,
        lambda x: (x - x.mean(0)).flatten(1),
        lambda x: x.flatten(1) + torch.arange(len(x))[:, None],  # the position
        lambda x: x.flatten(1).roll(1, 0),  # somebody else's row
        lambda x: x.flatten(1) * (1 + 2.0**-22 * (x.sum() > x.numel() / 2)),  # in the last bits
        lambda x: x.flatten(1).cumsum(0) - x.flatten(1).cumsum(0).roll(1, 0),
    ],
    ids=["batch-norm", "centred", "position", "mate", "last-bits", "rounding"],
)
def test_probe_takes_dependent_rows_one_by_one(leak: Callable[[Tensor], Tensor]) -> None:
    assert probe(leak) == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.flatten(1) + torch.rand(len(x), 1),
        nn.Sequential(nn.Flatten(), nn.Dropout(0.5)).train(),
    ],
    ids=["random", "dropout"],
)
def test_probe_refuses_a_random_function(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(SfumatoError, match="different bits for the same image"):
        probe(function)


def test_probe_ignores_that_a_nan_differs_from_itself() -> None:
    assert probe(lambda x: x.flatten(1) / 0 - x.flatten(1) / 0) == integer_sums.BATCH


def encoded(images: Tensor, labels: Tensor) -> Tensor:
    features = load_encoder()(images.float() / 255, last=3)
    return torch.cat([layer.mean(dim=(2, 3)) for layer in features] + [features[-1].flatten(1)], 1)


@pytest.mark.parametrize(("side", "channels"), [(28, 1), (32, 3)])
def test_real_encoders_rows_keep_their_bits_among_other_mates(side: int, channels: int) -> None:
    with torch.inference_mode():
        rng = torch.Generator().manual_seed(3)
        images = torch.randint(0, 256, (80, channels, side, side), generator=rng, dtype=torch.uint8)
        images[40:50] = 0
        images[50:60] = 255
        first = encoded(images[:32], torch.zeros(32))
        for _ in range(3):
            order = torch.randperm(80, generator=rng)[:32]
            again, known = encoded(images[order], torch.zeros(32)), order < 32
            assert torch.equal(again[known], first[order[known]])
        padded = torch.zeros_like(images[:32])
        padded[:5] = images[27:32]
        assert torch.equal(encoded(padded, torch.zeros(32))[:5], first[27:])
    query = SumQuery("q", encoded, first.shape[1], 1.0)
    spec = PublicSpec(height=side, width=side, channels=channels, classes=())
    assert integer_sums.independent_batch_size(query, spec) == integer_sums.BATCH


SECRET = "patient 0042"


def test_an_error_of_the_function_tells_nothing_of_the_records(make_source: type) -> None:
    def contribution(images: Tensor, labels: Tensor) -> Tensor:
        if (number(images) == 5).any():
            raise SfumatoError(SECRET)
        return torch.ones(len(images), 2)

    query = SumQuery("q", contribution, 2, 1.0)
    with pytest.raises(SfumatoError, match="withheld") as caught:
        total(query, make_source([(1, 0), (5, 0)]))
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert caught.value.__context__ is None and caught.value.__cause__ is None


def test_a_shape_that_depends_on_the_records_is_not_printed(make_source: type) -> None:
    query = SumQuery("q", lambda images, labels: torch.ones(int(number(images).sum()), 2), 2, 1.0)
    with pytest.raises(SfumatoError) as caught:
        total(query, make_source([(77, 0), (100, 0)]))
    assert "177" not in str(caught.value)


def test_a_wrong_shape_is_explained_before_anything_is_read() -> None:
    query = SumQuery("q", lambda images, labels: torch.ones(len(images), 3), 2, 1.0)
    with pytest.raises(SfumatoError, match=r"shape \(128, 3\).*must be \(128, 2\)"):
        integer_sums.independent_batch_size(query, SPEC)
