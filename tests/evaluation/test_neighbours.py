from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.data import LabelledImages
from sfumato.errors import DataError
from sfumato.evaluation import neighbours
from sfumato.evaluation.neighbours import (
    exact_copies,
    manifold_scores,
    memorisation,
    nearest_distances,
)


def brute_force(real: np.ndarray, fake: np.ndarray) -> tuple[float, float, float, float]:
    """Precision, recall, density and coverage by their definitions, one pair at a time."""

    def radius(points: np.ndarray, i: int, k: int) -> float:
        others = [np.linalg.norm(points[i] - p) for j, p in enumerate(points) if j != i]
        return float(sorted(others)[k - 1])

    def within(x: np.ndarray, points: np.ndarray, k: int) -> list[bool]:
        return [bool(np.linalg.norm(x - p) <= radius(points, i, k)) for i, p in enumerate(points)]

    inside = np.array([within(f, real, 5) for f in fake])
    return (
        float(np.mean([any(within(f, real, 3)) for f in fake])),
        float(np.mean([any(within(r, fake, 3)) for r in real])),
        float(inside.sum() / (5 * len(fake))),
        float(inside.any(0).mean()),
    )


@given(
    seed=st.integers(0, 10_000),
    n=st.integers(6, 12),
    m=st.integers(6, 12),
    shift=st.floats(0, 3),
    entries=st.sampled_from([1, 17, 2**25]),
)
def test_manifold_scores_are_their_definitions(
    seed: int, n: int, m: int, shift: float, entries: int
) -> None:
    random = np.random.default_rng(seed)
    real, fake = random.normal(size=(n, 3)), random.normal(size=(m, 3)) + shift
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(neighbours, "BLOCK_ENTRIES", entries)
        got = manifold_scores(real, fake)
    exact = brute_force(real, fake)
    assert (got.precision, got.recall, got.density, got.coverage) == pytest.approx(exact, abs=1e-6)


def test_same_set_scores_one_and_a_far_one_zero() -> None:
    x = np.random.default_rng(0).normal(size=(100, 4))
    same, far = manifold_scores(x, x), manifold_scores(x, x + 100)
    assert (same.precision, same.recall, same.coverage) == (1, 1, 1)
    assert (far.precision, far.recall, far.density, far.coverage) == (0, 0, 0, 0)


def test_one_mode_has_precision_without_recall() -> None:
    x = np.random.default_rng(0).normal(size=(300, 4))
    got = manifold_scores(x, x[:1] + 1e-3 * np.random.default_rng(1).normal(size=(300, 4)))
    assert got.precision == 1
    assert got.recall < 0.05
    assert got.coverage < 0.2


def test_too_few_images_are_refused() -> None:
    with pytest.raises(DataError, match="more than 5"):
        manifold_scores(np.zeros((5, 2)), np.zeros((9, 2)))


@given(seed=st.integers(0, 1000), offset=st.sampled_from([0.0, 1e4]))
def test_nearest_distances_are_exact_and_zero_for_copies(seed: int, offset: float) -> None:
    random = np.random.default_rng(seed)
    others = (random.normal(size=(9, 3)) + offset).astype(np.float32)
    rows = np.concatenate([others[:2], random.normal(size=(5, 3)).astype(np.float32) + 3])
    exact = np.linalg.norm(rows[:, None].astype(np.float64) - others, axis=2).min(1)
    got = nearest_distances(rows, others)
    assert got == pytest.approx(exact, rel=1e-4, abs=1e-6 * (1 + offset))
    assert (got[:2] == 0).all()


def flat(images: LabelledImages) -> np.ndarray:
    return images.images.reshape(len(images.images), -1).astype(np.float32) / 255


def test_copies_are_caught_and_fresh_images_are_not(
    fashion: tuple[LabelledImages, LabelledImages],
) -> None:
    train, unseen = (flat(images) for images in fashion)
    noise = np.random.default_rng(0).normal(size=(500, 784)).astype(np.float32)
    copied = memorisation(train, unseen[500:], train[:500] + 0.01 * noise)
    assert copied.share_closer > 0.9
    assert copied.probability_closer > 0.95
    assert copied.p_value < 1e-6
    fresh = memorisation(train, unseen[500:], unseen[:500])
    assert fresh.share_closer < 0.05
    assert fresh.probability_closer == pytest.approx(0.5, abs=0.06)
    assert fresh.p_value > 0.001


def test_few_copies_among_many_fresh_images_are_counted(
    fashion: tuple[LabelledImages, LabelledImages],
) -> None:
    train, unseen = fashion
    mixed = np.concatenate([unseen.images[:400], train.images[:100]])
    assert exact_copies(train.images, mixed) == 100
    assert exact_copies(train.images, mixed[:400]) == 0
    got = memorisation(flat(train), flat(unseen)[500:], mixed.reshape(500, -1) / np.float32(255))
    assert 0.19 < got.share_closer < 0.25
