from __future__ import annotations

from dataclasses import replace
from statistics import stdev

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    recall_score,
    roc_auc_score,
)
from torch import Tensor, nn

from sfumato.data import LabelledImages
from sfumato.evaluation.training import FittedClassifier
from sfumato.evaluation.utility import Spread, confusion, measure, score


class FirstPixels(nn.Module):
    """Logits that are the image's first pixels, so that tests choose every prediction."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(classes))

    def forward(self, images: Tensor) -> Tensor:
        return images.flatten(1)[:, : len(self.scale)] * self.scale


def reader(classes: int, diverged: str | None = None, seed: int = 0) -> FittedClassifier:
    names = tuple(f"c{i}" for i in range(classes))
    return FittedClassifier("stub", FirstPixels(classes), names, seed, 50, "float32", 7, diverged)


def images(scores: np.ndarray, labels: np.ndarray) -> LabelledImages:
    pixels = np.zeros((len(labels), 1, 3, 3), np.uint8)
    pixels.reshape(len(labels), -1)[:, : scores.shape[1]] = scores
    names = tuple(f"c{i}" for i in range(scores.shape[1]))
    return LabelledImages(pixels, labels.astype(np.int64), names)


@st.composite
def outcomes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    classes = draw(st.integers(2, 5))
    n = draw(st.integers(1, 30))
    labels, predicted = draw(hnp.arrays(np.int64, (2, n), elements=st.integers(0, classes - 1)))
    return labels, predicted, classes


@given(outcomes())
def test_counts_and_shares_are_scikit_learn_s(outcome: tuple[np.ndarray, np.ndarray, int]) -> None:
    labels, predicted, classes = outcome
    every = list(range(classes))
    expected = confusion_matrix(labels, predicted, labels=every)
    assert (confusion(labels, predicted, classes) == expected).all()
    run = measure(reader(classes), images(200 * np.eye(classes)[predicted], labels))
    assert run.accuracy == pytest.approx(accuracy_score(labels, predicted))
    present = sorted(set(labels.tolist()))
    recall = recall_score(labels, predicted, labels=present, average=None)
    assert [run.recall[label] for label in present] == pytest.approx(list(recall))
    assert all(run.recall[label] is None for label in every if label not in present)
    assert run.balanced_accuracy == pytest.approx(np.mean(recall))
    if len(present) > 1 and set(predicted.tolist()) <= set(present):  # else scikit-learn warns
        assert run.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))


def test_auroc_is_of_the_second_class_s_probability() -> None:
    random = np.random.default_rng(0)
    scores, labels = random.integers(0, 255, (50, 2)), random.integers(0, 2, 50)
    margin = scores[:, 1] - scores[:, 0]
    expected = roc_auc_score(labels, margin)
    assert measure(reader(2), images(scores, labels)).auroc == pytest.approx(expected)
    inverted = measure(reader(2), images(scores, 1 - labels)).auroc
    assert inverted == pytest.approx(1 - expected)


@pytest.mark.parametrize(("classes", "labels"), [(3, [0, 1, 2]), (2, [1, 1, 1])])
def test_auroc_needs_two_classes_that_both_occur(classes: int, labels: list[int]) -> None:
    assert measure(reader(classes), images(np.ones((3, classes)), np.array(labels))).auroc is None


def test_diverged_runs_are_shown_and_not_averaged_in() -> None:
    labels = np.array([0, 1, 2, 2])
    test = images(200 * np.eye(3)[labels], labels)
    lost = reader(3, diverged="the training loss became infinite or NaN", seed=1)
    lost.network.scale.data.fill_(torch.nan)
    both = score([reader(3), lost], test)
    assert both.accuracy == Spread(1.0, None, 1)
    assert both.recall == (Spread(1.0, None, 1),) * 3
    assert both.diverged == 1
    assert [run.diverged is None for run in both.runs] == [True, False]
    assert both.runs[1].accuracy == 0.25
    alone = score([lost], test)
    assert (alone.accuracy, alone.balanced_accuracy, alone.auroc) == (None, None, None)
    assert alone.recall == ()


def test_spread_over_repeats_is_the_sample_standard_deviation() -> None:
    labels = np.array([0, 1])
    test = images(200 * np.eye(2)[labels], labels)
    inverted = reader(2, seed=1)
    inverted.network.scale.data.neg_()
    got = score([reader(2), inverted], test)
    assert got.accuracy == Spread(0.5, stdev([1, 0]), 2)
    assert [run.seed for run in got.runs] == [0, 1]
    assert (got.training_count, got.test_count, got.image_type) == (7, 2, "uint8")


def test_class_without_test_images_has_no_recall() -> None:
    got = score([reader(3)], images(200 * np.eye(3)[[0, 1]], np.array([0, 1])))
    assert got.recall == (Spread(1.0, None, 1), Spread(1.0, None, 1), None)
    assert got.balanced_accuracy == Spread(1.0, None, 1)


def test_stub_is_read_as_meant() -> None:
    test = images(np.array([[9, 0], [0, 9]]), np.array([0, 0]))
    assert measure(replace(reader(2), name="x"), test).accuracy == 0.5
