from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression

from sfumato.data import LabelledImages
from sfumato.errors import DataError
from sfumato.evaluation import classifiers, training
from sfumato.evaluation.training import FittedClassifier, fit, predict, probabilities


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three epochs for every network."""
    for name in ("mlp", "cnn", "resnet"):
        how = replace(classifiers.RECIPES[name], epochs=3)
        monkeypatch.setitem(classifiers.RECIPES, name, how)


def quicken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many small steps instead of many epochs."""
    how = replace(classifiers.RECIPES[name], epochs=4, batch_size=32, learning_rate=1e-3)
    monkeypatch.setitem(classifiers.RECIPES, name, how)


def weights(classifier: FittedClassifier) -> dict[str, torch.Tensor]:
    return classifier.network.state_dict()


def same(a: FittedClassifier, b: FittedClassifier) -> bool:
    return all(torch.equal(x, weights(b)[name]) for name, x in weights(a).items())


def take(images: LabelledImages, count: int) -> LabelledImages:
    return LabelledImages(images.images[:count], images.labels[:count], images.classes)


def test_logistic_regression_is_scikit_learn_s(digits: LabelledImages) -> None:
    # A strong penalty makes the optimum sharp, so that two optimisers end in the same place.
    images = take(digits, 300)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "PENALTY", 100.0)
        ours = probabilities(fit(images, "logistic"), digits.images[300:])
    pixels = digits.images.reshape(len(digits.images), -1) / 255
    theirs = LogisticRegression(C=1 / 100, max_iter=2000, tol=1e-8)
    theirs.fit(pixels[:300], images.labels)
    assert ours == pytest.approx(theirs.predict_proba(pixels[300:]), abs=5e-3)


def test_logistic_regression_reads_real_images(
    fashion: tuple[LabelledImages, LabelledImages],
) -> None:
    train, test = fashion
    right = predict(fit(train, "logistic"), test.images) == test.labels
    assert right.mean() > 0.78  # 84 % with all 60,000: benchmarks/evaluate_speed.py


@pytest.mark.parametrize("name", ["mlp", "cnn", "resnet"])
def test_networks_learn_digits(
    name: str, digits: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    quicken(name, monkeypatch)
    classifier = fit(take(digits, 500), name)
    assert classifier.diverged is None
    right = predict(classifier, digits.images[1000:]) == digits.labels[1000:]
    assert right.mean() > 0.7


@pytest.mark.usefixtures("short")
def test_seed_decides_everything_and_the_caller_s_random_state_nothing(
    digits: LabelledImages,
) -> None:
    images = take(digits, 200)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    first = fit(images, "cnn", seed=1)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(6)
    assert same(first, fit(images, "cnn", seed=1))
    assert not same(first, fit(images, "cnn", seed=2))


def test_bfloat16_costs_no_accuracy(
    digits: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Wherever the tests run: bfloat16 is correct on every CPU, only not fast.
    quicken("cnn", monkeypatch)
    right = {}
    for dtype in (torch.float32, torch.bfloat16):
        monkeypatch.setattr(
            training, "fast_bfloat16", lambda device, dtype=dtype: dtype == torch.bfloat16
        )
        classifier = fit(take(digits, 500), "cnn")
        assert classifier.precision == str(dtype).removeprefix("torch.")
        right[dtype] = predict(classifier, digits.images[1000:]) == digits.labels[1000:]
    assert right[torch.float32].mean() > 0.7
    assert right[torch.bfloat16].mean() == pytest.approx(right[torch.float32].mean(), abs=0.08)


def no_training(*arguments: object) -> None:
    raise AssertionError("trained again")


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", ["logistic", "resnet"])
def test_cached_classifier_is_not_trained_again(
    name: str, digits: LabelledImages, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = take(digits, 200)
    first = fit(images, name, cache=tmp_path)
    monkeypatch.setattr(training, "_train", no_training)
    again = fit(images, name, cache=tmp_path)
    assert same(first, again)
    assert (again.epoch, again.diverged) == (first.epoch, first.diverged)
    for changed in (
        lambda: fit(images, name, seed=1, cache=tmp_path),
        lambda: fit(take(digits, 199), name, cache=tmp_path),
        lambda: fit(replace(images, labels=images.labels[::-1].copy()), name, cache=tmp_path),
        lambda: fit(images, "mlp", cache=tmp_path),
    ):
        with pytest.raises(AssertionError, match="trained again"):
            changed()


def test_overflowing_training_is_reported(
    digits: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    how = replace(classifiers.RECIPES["mlp"], learning_rate=1e30)
    monkeypatch.setitem(classifiers.RECIPES, "mlp", how)
    diverged = fit(take(digits, 300), "mlp").diverged
    assert diverged is not None
    assert "infinite or NaN" in diverged


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", ["logistic", "cnn"])
def test_learning_nothing_is_reported(name: str, digits: LabelledImages) -> None:
    blank = replace(digits, images=np.zeros_like(digits.images))
    diverged = fit(take(blank, 500), name).diverged
    assert diverged is not None
    assert "chance" in diverged


def test_majority_guess_on_unbalanced_images_counts_as_chance(digits: LabelledImages) -> None:
    labels = np.zeros(500, np.int64)
    labels[:25] = 1  # A constant answer is 95 % accurate here and still knows nothing.
    blank = LabelledImages(np.zeros_like(digits.images[:500]), labels, ("a", "b"))
    assert fit(blank, "logistic").diverged is not None


def test_images_sorted_by_class_are_judged_on_all_classes(
    digits: LabelledImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = np.argsort(digits.labels, kind="stable")
    ordered = LabelledImages(digits.images[order], digits.labels[order], digits.classes)
    judged: list[torch.Tensor] = []
    monkeypatch.setattr(training, "CHECKED_IMAGES", 100)
    monkeypatch.setattr(training, "_at_chance", lambda n, p, labels: bool(judged.append(labels)))
    fit(ordered, "logistic")
    assert len(judged[0]) <= 100
    assert len(judged[0].unique()) == 10


def test_one_class_is_no_divergence(digits: LabelledImages) -> None:
    zeros = digits.images[digits.labels == 0]
    alone = LabelledImages(zeros, np.zeros(len(zeros), np.int64), ("0",))
    assert fit(alone, "logistic").diverged is None


def test_an_image_s_prediction_is_its_own(digits: LabelledImages) -> None:
    classifier = fit(take(digits, 300), "logistic")
    together = predict(classifier, digits.images[300:320])
    alone = [int(predict(classifier, digits.images[i : i + 1])[0]) for i in range(300, 320)]
    assert together.tolist() == alone


@pytest.mark.parametrize("count", [0, 5])
def test_unlabelled_or_missing_images_are_refused(count: int, digits: LabelledImages) -> None:
    images = take(digits, count)
    with pytest.raises(DataError, match="labelled images"):
        fit(images if count == 0 else replace(images, classes=()), "logistic")
