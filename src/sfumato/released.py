"""A release as a library user holds it: model, images or classifier, and certificate."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sfumato.data import (
    ImageSource,
    LabelledImages,
    PublicSpec,
    load_labelled,
    open_images,
    stated_path,
)
from sfumato.errors import UsageError
from sfumato.evaluation.evaluate import Evaluation
from sfumato.evaluation.judging import judge, open_real, open_release
from sfumato.methods import load_fitted
from sfumato.methods.base import Batch, Classifier, Fitted, Model
from sfumato.options import EvaluationOptions, Location, RunOptions, gathered
from sfumato.release import Certificate, trusted_core
from sfumato.release.certificate import is_classifier, read_certificate
from sfumato.release.files import MODEL
from sfumato.release.verification.claim import spec_of
from sfumato.reporting import write_report
from sfumato.reporting.summary import summary


class Released:
    """A release whose claim was checked when it was opened; everything in it is public."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec: PublicSpec = spec_of(trusted_core(folder, MODEL))
        self.certificate: Certificate = read_certificate(folder)

    @cached_property
    def model(self) -> Fitted:
        """The released model, or the classifier."""
        return load_fitted(self.folder / MODEL)

    def sample(self, count: int, seed: int = 0) -> Iterator[Batch]:
        """Sample images uint8 ``[b, c, h, w]`` and labels int64 ``[b]`` from the model, in batches.

        Costs no privacy; the seed is public and repeats the sample.

        Raises:
            UsageError: the release is a classifier.
        """
        if not isinstance(self.model, Model):
            raise UsageError(f"{self!r} is a classifier and makes no images; it has predict().")
        return self.model.sample(count, seed)

    def images(self) -> LabelledImages:
        """The released images and their labels.

        Raises:
            UsageError: the release is a classifier.
        """
        if is_classifier(self.certificate):
            raise UsageError(f"{self!r} is a classifier and holds no images; it has predict().")
        return load_labelled(open_images(self.folder))

    def predict(self, images: NDArray[Any]) -> NDArray[np.int64]:
        """Labels int64 ``[b]`` that a classifier gives to images uint8 ``[b, c, h, w]``.

        Costs no privacy. A label is a number of ``spec.classes``.

        Raises:
            UsageError: the release is no classifier, or the images have another form.
        """
        if not isinstance(self.model, Classifier):
            raise UsageError(f"{self!r} holds images, no classifier; it has sample() and images().")
        return self.model.predict(images)

    def __repr__(self) -> str:
        stated: dict[str, Any] = self.certificate
        spec = self.spec
        return (
            f"Released({self.folder.name!r}, "
            f"{'classifier by ' if is_classifier(stated) else ''}{stated['method']['name']}, "
            f"{spec.height}x{spec.width}x{spec.channels}, {len(spec.classes) or 'no'} classes, "
            f"ε = {stated['epsilon']:.4g} at δ = {stated['delta']:g}, {stated['relation']})"
        )

    def _repr_html_(self) -> str:
        """The release as a notebook shows it."""
        return summary(self.folder, self.certificate)


def load(release: Location) -> Released:
    """Open a release: ``.certificate`` and ``.model``, and what its kind has.

    Images have ``.sample(n)`` and ``.images()``, a classifier has ``.predict(images)``.

    Raises:
        CertificateError: the release's claim fails, or its model was changed.
        DataError: the model cannot be read, once it is asked for.
    """
    return Released(stated_path(release, "release"))


def evaluate(
    release: Location,
    against: Location | ImageSource,
    *objects: Any,
    train: Location | ImageSource | None = None,
    **stated: Any,
) -> Evaluation:
    """Measure a release on real images; the result is not private unless these are public.

    Args:
        against: real images that the release was not made from, or a data set with a split test;
            a location, or what is open already and has the release's form.
        train: real training images for comparison.
        objects, stated: :class:`EvaluationOptions` and :class:`RunOptions`, or their fields.

    Raises:
        CertificateError, DataError, UsageError: the release, the data or an option is unusable.
    """
    folder = stated_path(release, "release")
    how, run = gathered("evaluate", [EvaluationOptions, RunOptions], objects, stated)
    real = open_real(against, open_release(folder).spec, how.train if train is None else train)
    return judge(folder, real, how, run).evaluation


def report(
    release: Location, *, metrics: Location | None = None, out: Location | None = None
) -> Path:
    """Write a release's page for people who are not experts; see :func:`write_report`."""
    return write_report(release, metrics=metrics, out=out)
