"""Evaluate a release against a data set; what is kept stays in that data set's private folder."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from sfumato.data import ImageSource, LabelledImages, PublicSpec, load_labelled, open_images
from sfumato.devices import computing_device
from sfumato.disk import private_folder, write_atomically
from sfumato.errors import CertificateError, DataError, UsageError
from sfumato.evaluation.evaluate import Evaluation, evaluate, evaluate_classifier
from sfumato.evaluation.extractors import SHIPPED, load_extractor
from sfumato.methods import load_fitted
from sfumato.methods.base import Classifier
from sfumato.options import EvaluationOptions, Location, RunOptions, check_seed, gathered
from sfumato.privacy import distributed
from sfumato.privacy.ledger import digest
from sfumato.privacy.run import data_set_folder, state_of
from sfumato.release.certificate import Certificate, core_of, is_classifier, read_certificate
from sfumato.release.files import IMAGES, MODEL
from sfumato.release.verification.claim import spec_of

CACHE = "evaluation-cache"


@dataclass(frozen=True)
class Released:
    """A release's certificate, believed as far as it stands, and its images."""

    folder: Path
    certificate: Certificate
    spec: PublicSpec

    @property
    def digest(self) -> str:
        """SHA-256 of the claim's core and the images' digest; a report or metrics leave it.

        Of a classifier's release, which has no images, the model's digest.
        """
        held = MODEL if is_classifier(self.certificate) else IMAGES
        return digest({**core_of(self.certificate), held: self.certificate["files"][held]})

    def images(self) -> LabelledImages:
        """All released images."""
        return load_labelled(open_in_form(str(self.folder), self.spec))

    def facts(self) -> dict[str, Any]:
        """What was claimed for which method, as plain JSON values."""
        stated = self.certificate
        keys = ("epsilon", "delta", "relation", "epsilon_by_relation")
        return {
            "name": self.folder.name,
            "digest": self.digest,
            "method": stated["method"]["name"],
            **{key: stated[key] for key in keys},
        }


@dataclass(frozen=True)
class Real:
    """The real images of an evaluation: held-out ones, and training ones where there are any."""

    test: ImageSource
    train: ImageSource | None

    def folder(self, state: Path | None) -> Path:
        """The private folder below ``state`` of everything that is measured on them."""
        folder = data_set_folder(state_of(self.test, state), self.test.location_key)
        return private_folder(folder)

    def without_training(self) -> Real:
        """The held-out images alone: no baseline and no memorisation check."""
        return replace(self, train=None)


@dataclass(frozen=True)
class Judged:
    """A release and what was measured of it on real images."""

    release: Released
    real: Real
    evaluation: Evaluation

    def keep(self, state: Path | None = None) -> Path:
        """Write the result into the private folder of the real images; the newest one counts."""
        path = self.real.folder(state) / "evaluations" / f"{self.release.digest}.json"
        train = self.real.train
        against = {"test": self.real.test.name, "train": train.name if train else None}
        result = {
            **self.evaluation.to_dict(),
            "release": self.release.facts(),
            "against": against,
        }
        text = json.dumps(result, indent=1).encode()
        private_folder(path.parent)
        write_atomically(path, text)
        return path


def open_release(folder: Path) -> Released:
    """Open a release to evaluate it; ``sfumato verify`` judges its claim.

    Raises:
        CertificateError: it has no certificate, or that lacks what an evaluation needs.
    """
    certificate = read_certificate(folder)
    try:
        released = Released(folder, certificate, spec_of(certificate))
        released.facts()
    except (KeyError, TypeError, ValueError, DataError) as error:
        raise CertificateError(
            f"{folder}: its certificate is damaged. Run: sfumato verify {folder}"
        ) from error
    return released


def open_in_form(
    location: Location | ImageSource,
    spec: PublicSpec,
    split: str | None = None,
    rule: Mapping[str, Any] | None = None,
) -> ImageSource:
    """Open images in the form of ``spec``: its size, channels and classes in its label order.

    rule: fields of :class:`sfumato.DataOptions` that say how the images are read, and which
    records are one privacy unit.

    Raises:
        DataError, UsageError: the images cannot be read; or they are open already in another form.
    """
    if isinstance(location, ImageSource):
        has, wants = (
            f"{one.height}x{one.width}x{one.channels} with the classes {', '.join(one.classes)}"
            for one in (location.spec, spec)
        )
        if has != wants:
            raise UsageError(
                f"{location.name}: these images are {has[:200]}, and the release's {wants[:200]}. "
                "Open them with its image_size=, channels= and classes=."
            )
        return location
    return open_images(
        location,
        # Images that are not square have the size of their file format's header.
        image_size=spec.height if spec.height == spec.width else None,
        channels=spec.channels,
        classes=spec.classes,
        split=split,
        **(rule or {}),
    )


def open_real(
    against: Location | ImageSource,
    spec: PublicSpec,
    train: Location | ImageSource | None = None,
    rule: Mapping[str, Any] | None = None,
) -> Real:
    """Open the real images in the form of a release.

    The test split of ``against`` is the held-out set, or all of it if it has no splits. Training
    images are ``train`` if given, else the train split of ``against``, if it has one. ``rule`` says
    how both are read, and which held-out records are one privacy unit (:func:`open_in_form`).

    Raises:
        DataError: there is nothing that can be read.
        UsageError: ``against`` has training images and no test images.
    """
    units = ("unit", "unit_pattern", "records_per_unit")
    reading = {name: value for name, value in (rule or {}).items() if name not in units}
    test = _split(against, "test", spec, reading)
    training = _split(against, "train", spec, reading)
    if test is None and training is not None:
        raise UsageError(
            f"--against {against}: has a split train and no split test. An evaluation needs images "
            "that no release was made from: name them, for example with --against "
            f"{against}:validation."
        )
    if train is not None:
        training = _split(train, "train", spec, reading)
        training = training or open_in_form(train, spec, None, reading)
    if rule or test is None:
        test = open_in_form(against, spec, None if test is None else "test", rule)
    return Real(test, training)


def _split(
    location: Location | ImageSource, split: str, spec: PublicSpec, reading: Mapping[str, Any]
) -> ImageSource | None:
    if isinstance(location, ImageSource):
        return None
    try:
        found = open_in_form(location, spec, split, reading)
        return found if found.knows_splits else None
    except (DataError, UsageError):
        return None  # No such split, or one is named already; other faults show when it is opened.


def judge(release: Path, real: Real, *objects: Any, seed: int = 0, **stated: Any) -> Judged:
    """Evaluate ``release`` against ``real``.

    Under ``torchrun`` all ranks work, and all have the result. Trained classifiers and features are
    kept in the private folder of ``real``, by digest, and never computed twice.

    Args:
        objects, stated: :class:`EvaluationOptions` and :class:`RunOptions`, or their fields.
        seed: as in :func:`evaluate`.

    Raises:
        CertificateError, DataError, UsageError: the release, the data or an option is unusable.
    """
    distributed.join()
    how, run = gathered("judge", [EvaluationOptions, RunOptions], objects, stated)
    run = replace(run, quiet=run.quiet or not distributed.is_first())
    check_seed(seed)
    released = open_release(release)
    device = computing_device(run.device, run.quiet)
    if is_classifier(released.certificate):
        return Judged(released, real, _judge_classifier(released, real, how, run, seed, device))
    evaluation = evaluate(
        released.images(),
        None if real.train is None else load_labelled(real.train),
        load_labelled(real.test),
        how,
        seed=seed,
        extractor=load_extractor(how.network or SHIPPED, device),
        cache=real.folder(run.folder) / CACHE,
        quiet=run.quiet,
    )
    return Judged(released, real, evaluation)


def open_classifier(released: Released) -> Classifier:
    """The classifier of a release that is one.

    Raises:
        CertificateError, DataError: there is none.
    """
    classifier = load_fitted(released.folder / MODEL)
    if not isinstance(classifier, Classifier):
        raise CertificateError(
            f"{released.folder}: its model is no classifier. Run: sfumato verify {released.folder}"
        )
    return classifier


def _judge_classifier(
    released: Released,
    real: Real,
    how: EvaluationOptions,
    run: RunOptions,
    seed: int,
    device: torch.device,
) -> Evaluation:
    return evaluate_classifier(
        open_classifier(released),
        released.certificate["method"]["name"],
        None if real.train is None else load_labelled(real.train),
        load_labelled(real.test),
        how,
        seed=seed,
        cache=real.folder(run.folder) / CACHE,
        quiet=run.quiet,
        device=device,
    )
