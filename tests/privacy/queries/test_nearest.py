"""docs/proofs/nearest.md: a vote a unit, whatever the features and candidates are."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy import stats
from torch import Tensor

from sfumato.data.units import PrivacyUnit
from sfumato.errors import BudgetExceededError, SfumatoError, UsageError
from sfumato.privacy import Budget, Curator, NearestQuery, make_plan
from sfumato.privacy.answering import nearest
from sfumato.privacy.answering.nearest import LONGEST, Voters, whole_rows
from sfumato.privacy.grid import UNIT

BUDGET = Budget(4.0, 1e-5)


def corner(images: Tensor) -> Tensor:
    """The first two pixels about their middle: a direction in the plane."""
    return images[:, 0, 0, :2].float() - 100


def query(**changes: object) -> NearestQuery:
    return NearestQuery(**{"name": "near", "features": corner, "width": 2, "bins": 4, **changes})


def opened(curator: Curator, asked: NearestQuery) -> Curator:
    curator.open_plan(make_plan({"name": "m", "config": {}}, [asked], BUDGET, curator.spec))
    return curator


AXES = np.array([[1, 0], [0, 1], [-1, 0], [0, -1]], np.float32)
finite = st.floats(-1e6, 1e6, width=32)
wild = finite | st.sampled_from([np.nan, np.inf, -np.inf, 1e-38, 3e38])


def rows(most: int, width: int = 3, elements: st.SearchStrategy = wild) -> st.SearchStrategy:
    shape = st.tuples(st.integers(1, most), st.just(width))
    return hnp.arrays(np.float32, shape, elements=elements)


@given(features=hnp.arrays(np.float32, st.tuples(st.integers(1, 4), st.integers(1, 700)),
                           elements=wild))  # fmt: skip
def test_whole_rows_are_short_enough_for_exact_products(features: np.ndarray) -> None:
    whole = whole_rows(features).astype(np.int64)
    assert ((whole**2).sum(axis=1) <= LONGEST**2).all() and LONGEST**2 < 2**24
    for row, kept in zip(features.astype(np.float64), whole, strict=True):
        usable = np.isfinite(row).all() and row.any()
        if usable:
            unit = row / np.abs(row).max()
            unit /= np.linalg.norm(unit)
            assert np.abs(kept / np.linalg.norm(kept) - unit).max() < 2e-2
        assert usable == bool(kept.any())


def votes(voters: tuple, candidates: np.ndarray, labels: np.ndarray | None) -> np.ndarray:
    return Voters(*voters).votes(candidates, labels).numpy()


@given(data=st.data())
@settings(max_examples=150)
def test_a_record_moves_one_vote_and_a_unit_of_several_one_in_all(data: st.DataObject) -> None:
    features, candidates = whole_rows(data.draw(rows(7))), whole_rows(data.draw(rows(5)))
    count = len(features)
    labels = np.array(data.draw(st.lists(st.integers(-1, 2), min_size=count, max_size=count)))
    parts = data.draw(st.integers(1, 5))
    bounds = np.full(count, UNIT // parts)
    of = data.draw(st.none() | st.just(np.arange(len(candidates)) % 3))
    whole = votes((features, labels, bounds), candidates, of)
    for place in range(count):
        rest = np.arange(count) != place
        without = votes((features[rest], labels[rest], bounds[rest]), candidates, of)
        moved = whole - without
        assert (moved >= 0).all() and moved.sum() in (0, UNIT // parts)
        assert np.count_nonzero(moved) <= 1
        if labels[place] < 0 or not features[place].any():
            assert not moved.any()
        if of is not None and moved.any():
            assert of[np.flatnonzero(moved)[0]] == labels[place]


@given(features=rows(6, elements=finite), candidates=rows(6, elements=finite))
def test_votes_are_those_of_exact_arithmetic(features: np.ndarray, candidates: np.ndarray) -> None:
    whole, others = whole_rows(features), whole_rows(candidates)
    counted = votes((whole, np.zeros(len(whole), int), np.full(len(whole), UNIT)), others, None)

    def score(row: np.ndarray, candidate: np.ndarray) -> Fraction:
        """The signed square of the cosine times the row's norm, in Python integers."""
        dot = sum(int(a) * int(b) for a, b in zip(row, candidate, strict=True))
        return Fraction(dot * abs(dot), max(sum(int(c) ** 2 for c in candidate), 1))

    voted = [row for row in whole if row.any()]
    assert counted.sum() == UNIT * len(voted)
    allowed = np.zeros(len(others), int)
    for row in voted:
        scores = [score(row, candidate) for candidate in others]
        near = max(scores) - abs(max(scores)) * Fraction(1, 10**6)
        allowed += np.array([value >= near for value in scores])
    assert (counted <= allowed * UNIT).all()


def test_votes_do_not_depend_on_the_block_that_a_record_is_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rng = np.random.default_rng(0)
    features = whole_rows(rng.normal(size=(600, 40)).astype(np.float32))
    near = np.repeat(rng.normal(size=(30, 40)), 10, axis=0) + 1e-4 * rng.normal(size=(300, 40))
    candidates = whole_rows(near.astype(np.float32))
    voters = (features, np.zeros(600, int), np.full(600, UNIT))
    expected = votes(voters, candidates, None)
    order = rng.permutation(600)
    for memory in (1, 300 * 7, 2**24):
        monkeypatch.setattr(nearest, "SCORES_IN_MEMORY", memory)
        assert np.array_equal(expected, votes([part[order] for part in voters], candidates, None))


def test_the_answer_counts_the_nearest_and_its_noise_is_the_plans(
    make_curator: Callable[..., Curator], make_source: type
) -> None:
    data = [(200 + 256 * 100, 0)] * 5 + [(100 + 256 * 200, 1)] * 3 + [(0 + 256 * 100, 2), (7, -1)]
    with opened(make_curator(make_source(data), BUDGET), query(bins=40, steps=60)) as curator:
        # Of equal candidates the first gets the votes.
        answers = [curator.nearest("near", step, np.tile(AXES, (10, 1))) for step in range(60)]
    spread = answers[0].noise_std
    noise = (np.stack([answer.total[0] for answer in answers]) - [5, 3, 1, *[0] * 37]).ravel()
    for factor, fits in [(1.0, True), (2 / 3, False), (1.5, False)]:
        chance = stats.kstest(noise / (spread * factor), "norm").pvalue
        assert (chance > 1e-6) == fits, factor


def test_only_units_of_a_candidates_label_vote_for_it(
    make_curator: Callable[..., Curator], make_source: type
) -> None:
    data = [(200 + 256 * 100, number % 2) for number in range(4000)]
    with opened(make_curator(make_source(data), BUDGET), query()) as curator:
        total = curator.nearest("near", 0, AXES, np.array([2, 0, 0, 1])).total[0]
    assert np.abs(total - [0, 2000, 0, 2000]).max() < 60


def test_a_unit_of_several_records_has_one_vote(make_source: type) -> None:
    from dataclasses import replace

    from sfumato.privacy.answering.integer_sums import contributed

    unit = PrivacyUnit("patient", records_per_unit=3)
    source = make_source([(200 + 256 * 100, 0)] * 4)
    source.spec = replace(source.spec, unit=unit)
    source._unit_keys = lambda: iter(["p"] * 4)
    parts = list(contributed(query(), source, 3, lambda share: None))
    bounds = np.concatenate([part.bounds for part in parts])
    assert sorted(bounds.tolist()) == [0, *[UNIT // 3] * 3]
    labels = np.concatenate([part.labels for part in parts])
    features = np.concatenate([whole_rows(part.values.numpy()) for part in parts])
    counted = votes((features, labels, bounds), whole_rows(AXES), None)
    assert counted.tolist() == [3 * (UNIT // 3), 0, 0, 0]


def test_a_step_is_answered_once_and_goes_on_after_a_stop(
    make_curator: Callable[..., Curator], make_source: type
) -> None:
    source = make_source([(200 + 256 * 100, 0)] * 5)
    with opened(make_curator(source, BUDGET), query(steps=2)) as first:
        seen = first.nearest("near", 0, AXES)
        with pytest.raises(UsageError, match="must be the next one"):
            first.nearest("near", 2, AXES)
    with opened(make_curator(source, BUDGET), query(steps=2)) as second:
        again = second.nearest("near", 0, -AXES)
        assert np.array_equal(seen.total, again.total)
        reads = source.reads
        second.nearest("near", 1, AXES)
        assert source.reads > reads and not list(second.run_folder.glob("tmp*"))
        kinds = [entry["kind"] for entry in second.record()["ledger"]]
    assert kinds == ["plan", "answer"]


def test_what_was_not_planned_is_refused(make_curator: Callable[..., Curator]) -> None:
    with opened(make_curator(budget=BUDGET), query()) as curator:
        for wrong in (AXES[:3], AXES[:, :1]):
            with pytest.raises(UsageError, match="4 candidates of 2"):
                curator.nearest("near", 0, wrong)
        with pytest.raises(UsageError, match="4 candidates of 2"):
            curator.nearest("near", 0, AXES, np.zeros(3, int))
        with pytest.raises(BudgetExceededError, match="nearest 'other'"):
            curator.nearest("other", 0, AXES)
    for changes in ({"bins": 0}, {"width": 0}, {"steps": 0}, {"relative_noise": 0.0}):
        with pytest.raises(UsageError):
            query(**changes)


def test_features_that_fail_quote_no_record(
    make_curator: Callable[..., Curator], tmp_path: Path
) -> None:
    def failing(images: Tensor) -> Tensor:
        if (images[:, 0, 0, 0] == 9).any() and not images[:, 0, 1, 1].any():
            raise ValueError(f"secret {images.sum()}")
        return torch.ones(len(images), 2)

    with opened(make_curator(budget=BUDGET), query(features=failing)) as curator:
        with pytest.raises(SfumatoError, match="withheld") as caught:
            curator.nearest("near", 0, AXES)
    assert "secret" not in str(caught.value) and caught.value.__context__ is None
