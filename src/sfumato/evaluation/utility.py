"""Utility: how well classifiers trained on some images label real ones.

Trained on a release this is its worth; trained on real images it is the price of privacy. Either
way the test images only ever meet finished classifiers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

import numpy as np
from jaxtyping import Float32, Int64
from sklearn.metrics import roc_auc_score

from sfumato.data.arrays import LabelledImages
from sfumato.evaluation.intervals import Intervals, of_auroc, of_mean_share, of_share
from sfumato.evaluation.training import FittedClassifier, probabilities


@dataclass(frozen=True)
class Spread:
    """A mean over repeats with its sample standard deviation (None for a single value)."""

    mean: float
    deviation: float | None
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread | None:
        """Summarise ``values``; None if there are none."""
        if not values:
            return None
        return cls(mean(values), stdev(values) if len(values) > 1 else None, len(values))


@dataclass(frozen=True)
class Run:
    """One trained classifier measured on a test set; shares in [0, 1]."""

    seed: int
    epoch: int | None
    diverged: str | None
    accuracy: float
    balanced_accuracy: float
    recall: tuple[float | None, ...]
    """By class in label order; None for a class without test images."""
    auroc: float | None
    """For two classes, of how far the second one is ahead; None otherwise."""


@dataclass(frozen=True)
class UtilityScore:
    """Repeats of one classifier; the means leave out diverged runs, which ``runs`` still shows."""

    classifier: str
    training_count: int | None
    """None for a released classifier, whose number of training records is private."""
    test_count: int
    image_type: str
    precision: str
    runs: tuple[Run, ...]
    accuracy: Spread | None
    balanced_accuracy: Spread | None
    recall: tuple[Spread | None, ...]
    auroc: Spread | None
    test_counts: tuple[int, ...] = ()
    """Test images of each class, in label order."""
    intervals: Intervals | None = None

    @property
    def diverged(self) -> int:
        """How many runs diverged."""
        return sum(run.diverged is not None for run in self.runs)


def confusion(
    labels: Int64[np.ndarray, " n"], predicted: Int64[np.ndarray, " n"], classes: int
) -> Int64[np.ndarray, "true predicted"]:
    """Counts of test images by true and predicted class."""
    counts: np.ndarray = np.bincount(labels * classes + predicted, minlength=classes**2)
    return counts.reshape(classes, classes)


def measure(classifier: FittedClassifier, test: LabelledImages) -> Run:
    """Label ``test`` by a finished classifier and count."""
    run = counted(probabilities(classifier, test.images), test)
    return replace(run, seed=classifier.seed, epoch=classifier.epoch, diverged=classifier.diverged)


def counted(shares: Float32[np.ndarray, "n classes"], test: LabelledImages) -> Run:
    """Count how often the largest of each image's ``shares`` is its class's."""
    classes = shares.shape[1]
    counts = confusion(test.labels, shares.argmax(1), classes)
    totals, right = counts.sum(1), counts.diagonal()
    recall = [float(r / t) if t else None for r, t in zip(right, totals, strict=True)]
    both = classes == 2 and bool(totals.all()) and bool(np.isfinite(shares).all())
    return Run(
        seed=0,
        epoch=None,
        diverged=None,
        accuracy=float(right.sum() / totals.sum()),
        balanced_accuracy=mean(share for share in recall if share is not None),
        recall=tuple(recall),
        auroc=float(roc_auc_score(test.labels, shares[:, 1] - shares[:, 0])) if both else None,
    )


def score(repeats: Sequence[FittedClassifier], test: LabelledImages) -> UtilityScore:
    """Measure ``repeats``, the same recipe trained from different seeds, on ``test``."""
    first = repeats[0]
    runs = [measure(classifier, test) for classifier in repeats]
    return scored(first.name, runs, test, first.training_count, first.precision)


def scored(
    name: str,
    runs: Sequence[Run],
    test: LabelledImages,
    training_count: int | None = None,
    precision: str = "float32",
) -> UtilityScore:
    """Summarise the ``runs`` of the classifier of a name on ``test``."""
    sound = [run for run in runs if run.diverged is None]
    by_class = zip(*(run.recall for run in sound), strict=True)
    classes = len(runs[0].recall)
    counts: list[int] = np.bincount(test.labels, minlength=classes).tolist()
    made = UtilityScore(
        classifier=name,
        training_count=training_count,
        test_count=len(test.labels),
        image_type=str(test.images.dtype),
        precision=precision,
        runs=tuple(runs),
        accuracy=Spread.of([run.accuracy for run in sound]),
        balanced_accuracy=Spread.of([run.balanced_accuracy for run in sound]),
        recall=tuple(Spread.of([r for r in shares if r is not None]) for shares in by_class),
        auroc=Spread.of([run.auroc for run in sound if run.auroc is not None]),
        test_counts=tuple(counts),
    )
    return replace(made, intervals=_intervals(made))


def _intervals(score: UtilityScore) -> Intervals | None:
    if score.accuracy is None:
        return None
    pairs = list(zip(score.recall, score.test_counts, strict=True))
    known = [(share.mean, count) for share, count in pairs if share is not None]
    recall = tuple(of_share(share.mean, count) if share else None for share, count in pairs)
    return Intervals(
        of_share(score.accuracy.mean, score.test_count),
        of_mean_share([share for share, _ in known], [count for _, count in known]),
        recall,
        of_auroc(score.auroc.mean, *score.test_counts) if score.auroc else None,
    )
