from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d

from sfumato.data import LabelledImages
from sfumato.evaluation.classifiers import RECIPES
from sfumato.evaluation.extractors import Extractor, extract
from sfumato.evaluation.fidelity import gaussian_frechet_distance
from sfumato.evaluation.metric_queries import AXES, CLIPPED_SHARE, FrechetQuery, RecallQuery
from sfumato.evaluation.training import FittedClassifier, fit, predict
from sfumato.privacy import Answer


def tiles(images: torch.Tensor) -> torch.Tensor:
    return avg_pool2d(images[:, 0].float() / 255, 4).flatten(1)


TILES = Extractor("tiles", "0" * 64, tiles, 100, torch.device("cpu"))


def take(images: LabelledImages, start: int, stop: int) -> LabelledImages:
    return LabelledImages(images.images[start:stop], images.labels[start:stop], images.classes)


def contributions(query: RecallQuery | FrechetQuery, images: LabelledImages) -> np.ndarray:
    pixels, labels = torch.from_numpy(images.images), torch.from_numpy(images.labels)
    rows: np.ndarray = query.query.contribution(pixels, labels).double().numpy()
    return rows


def by_class(rows: np.ndarray, images: LabelledImages) -> np.ndarray:
    return np.stack(
        [rows[images.labels == label].sum(axis=0) for label in range(len(images.classes))]
    )


def answer(total: np.ndarray, noise_std: float = 1e-9) -> Answer:
    return Answer(np.atleast_2d(total), np.zeros(0), noise_std)


@pytest.fixture(scope="module")
def fitted(digits: LabelledImages) -> list[FittedClassifier]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RECIPES, "mlp", replace(RECIPES["mlp"], epochs=3, batch_size=32))
        return [fit(take(digits, 0, 500), name) for name in ("logistic", "mlp")]


@pytest.fixture(scope="module")
def test_images(digits: LabelledImages) -> LabelledImages:
    return take(digits, 500, 900)


def test_recall_without_noise_is_recall(
    fitted: list[FittedClassifier], test_images: LabelledImages
) -> None:
    query = RecallQuery(fitted, {})
    rows = contributions(query, test_images)
    assert rows.min() == 0
    assert np.linalg.norm(rows, axis=1).max() <= query.query.clip_norm + 1e-12
    results = query.read(answer(by_class(rows, test_images)))
    assert [result["classifier"] for result in results] == ["logistic", "mlp"]
    for classifier, result in zip(fitted, results, strict=True):
        right = predict(classifier, test_images.images) == test_images.labels
        assert result["accuracy"]["value"] == pytest.approx(right.mean())
        for label, measured in enumerate(result["recall"]):
            assert measured["value"] == pytest.approx(right[test_images.labels == label].mean())


def test_a_vote_depends_on_its_image_alone(
    fitted: list[FittedClassifier], test_images: LabelledImages
) -> None:
    query = RecallQuery(fitted, {})
    rows = contributions(query, test_images)
    assert np.array_equal(contributions(query, take(test_images, 100, 107)), rows[100:107])


def test_stated_deviations_are_those_of_the_noise(
    fitted: list[FittedClassifier], test_images: LabelledImages
) -> None:
    query = RecallQuery(fitted[:1], {})
    exact = by_class(contributions(query, test_images), test_images)
    rng, std = np.random.default_rng(0), 1.5
    draws = [
        query.read(answer(exact + rng.normal(scale=std, size=exact.shape), std))[0]
        for _ in range(400)
    ]
    seen = np.std([draw["accuracy"]["value"] for draw in draws])
    assert query.read(answer(exact, std))[0]["accuracy"]["deviation"] == pytest.approx(
        seen, rel=0.15
    )


def test_a_share_that_noise_drowns_is_not_stated(fitted: list[FittedClassifier]) -> None:
    counts = np.zeros((10, 2))
    counts[0] = 80.0, 20.0
    counts[1] = 8.0, 2.0
    result = RecallQuery(fitted[:1], {}).read(answer(counts, 2.0))[0]
    assert result["recall"][0]["value"] == pytest.approx(0.8)
    assert result["recall"][0]["deviation"] == pytest.approx(2 / 100 * math.hypot(0.2, 0.8))
    assert result["recall"][1] == {"value": None, "deviation": None}


def test_frechet_without_noise_is_the_distance_of_clipped_coordinates(
    digits: LabelledImages, test_images: LabelledImages
) -> None:
    synthetic = extract(TILES, digits.images[:500])
    query = FrechetQuery(TILES, synthetic, {})
    rows = contributions(query, test_images)
    assert rows.shape[1] == query.query.dimension
    assert np.linalg.norm(rows, axis=1).max() <= query.query.clip_norm + 1e-6
    result = query.read(answer(rows.sum(axis=0)))

    own = synthetic.astype(np.float64)
    _, _, axes = np.linalg.svd(own - own.mean(axis=0), full_matrices=False)
    radius = np.quantile(
        np.linalg.norm((own - own.mean(axis=0)) @ axes[:AXES].T, axis=1), 1 - CLIPPED_SHARE
    )

    def gaussian(features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        z = (features - own.mean(axis=0)) @ axes[:AXES].T
        z *= np.minimum(1, radius / np.linalg.norm(z, axis=1))[:, None]
        return z.mean(axis=0), np.cov(z.T, bias=True)

    theirs = extract(TILES, test_images.images).astype(np.float64)
    expected = gaussian_frechet_distance(*gaussian(theirs), *gaussian(own))
    assert result["value"] == pytest.approx(expected, rel=1e-3)
    assert result["floor"] == pytest.approx(0, abs=1e-3 * expected)
    assert result["deviation"] < 1e-3 * expected
    assert (result["axes"], result["synthetic_count"]) == (AXES, 500)


def test_frechet_states_its_noise_and_what_noise_alone_would_show(
    digits: LabelledImages, test_images: LabelledImages
) -> None:
    query = FrechetQuery(TILES, extract(TILES, digits.images[:500]), {})
    exact = contributions(query, test_images).sum(axis=0)
    rng, std = np.random.default_rng(0), 2.0

    def noisy(sums: np.ndarray) -> dict[str, np.ndarray]:
        draws = rng.normal(scale=std, size=(25, len(sums)))
        results = [query.read(answer(sums + draw, std)) for draw in draws]
        return {
            name: np.array([result[name] for result in results])
            for name in ("value", "deviation", "floor")
        }

    differs = noisy(exact)
    assert 0.5 < differs["deviation"].mean() / differs["value"].std() < 2
    same = noisy(contributions(query, take(digits, 0, 500)).sum(axis=0))
    assert same["floor"].mean() == pytest.approx(same["value"].mean(), rel=0.15)
    assert differs["value"].mean() > 2 * differs["floor"].mean()


def test_whatever_an_image_holds_its_contribution_is_bounded(digits: LabelledImages) -> None:
    query = FrechetQuery(TILES, extract(TILES, digits.images[:500]), {})
    far = LabelledImages(np.full((2, 1, 28, 28), 255, np.uint8), np.zeros(2, np.int64), ("0",))
    rows = contributions(query, far)
    assert np.linalg.norm(rows, axis=1).max() <= query.query.clip_norm + 1e-6
