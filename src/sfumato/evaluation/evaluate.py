"""Judge a set of synthetic images against real ones: utility, fidelity, memorisation.

Everything here reads real images without noise. Unless those images are public, the results are
private: they belong under ``private/``, marked as not private in the sense of the certificate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from sfumato.data.arrays import LabelledImages
from sfumato.devices import resolve_device
from sfumato.errors import DataError
from sfumato.evaluation.cache import images_digest, key
from sfumato.evaluation.classifiers import quick, recipe
from sfumato.evaluation.extractors import GREY_RULE, Extractor, extract, load_extractor
from sfumato.evaluation.fidelity import frechet_distance, kernel_distance
from sfumato.evaluation.neighbours import (
    DENSITY_K,
    MANIFOLD_K,
    Memorisation,
    exact_copies,
    manifold_scores,
    memorisation,
)
from sfumato.evaluation.training import FittedClassifier, fit
from sfumato.evaluation.utility import UtilityScore, counted, score, scored
from sfumato.methods.base import Classifier
from sfumato.options import EvaluationOptions, gathered
from sfumato.privacy import distributed
from sfumato.progress import stage

FIDELITY_IMAGES = 10_000
"""Images of each side that fidelity is computed on, or all of the smaller side."""

NOT_PRIVATE = "NOT PRIVATE: computed from real images without noise; not covered by the certificate"


@dataclass(frozen=True)
class Setting:
    """What a score depends on beside the images; only scores of equal settings compare."""

    extractor: str
    weights_digest: str
    synthetic_count: int
    real_count: int
    image_type: str
    grey_rule: str | None


@dataclass(frozen=True)
class FidelityScore:
    """One score of synthetic against real test images; ``better`` is "lower" or "higher"."""

    name: str
    value: float
    deviation: float | None
    better: str
    detail: str
    setting: Setting


@dataclass(frozen=True)
class MemorisationScore:
    """The memorisation check in the features of ``setting``, whose real images are the held-out."""

    result: Memorisation
    exact_copies: int
    """Synthetic images of those checked that equal a training image in every pixel."""
    training_count: int
    setting: Setting


@dataclass(frozen=True)
class Evaluation:
    """Every score with what it depends on; ``private`` unless the real images were declared public.

    ``baseline`` holds the same classifiers trained on real images without privacy. It and
    ``memorisation`` are empty where no real training images were given. Of a release that is a
    classifier ``utility`` has that one alone, and ``fidelity`` is empty.
    """

    private: bool
    classes: tuple[str, ...]
    utility: tuple[UtilityScore, ...]
    baseline: tuple[UtilityScore, ...]
    fidelity: tuple[FidelityScore, ...]
    memorisation: MemorisationScore | None

    def to_dict(self) -> dict[str, Any]:
        """Plain dictionaries, lists and numbers, ready for ``json.dumps``."""
        watermark = {"watermark": NOT_PRIVATE} if self.private else {}
        return {**watermark, **asdict(self)}


def evaluate(
    synthetic: LabelledImages,
    real_train: LabelledImages | None,
    real_test: LabelledImages,
    how: EvaluationOptions | None = None,
    *,
    seed: int = 0,
    extractor: Extractor | None = None,
    cache: Path | None = None,
    quiet: bool = False,
    **stated: Any,
) -> Evaluation:
    """Train on ``synthetic``, test on ``real_test``, and compare the two in feature space.

    Ranks of one run share trainings and extractor passes, and all have the result.

    Args:
        synthetic: the released images.
        real_train: real images for the baseline and the memorisation check, or None.
        real_test: real images that neither release nor baseline was trained on.
        how, stated: :class:`EvaluationOptions`, or its fields; no ``classifiers``, or unlabelled
            images, leave utility out.
        seed: of the first training of each classifier, the next has ``seed + 1``; also picks the
            images that fidelity is computed on.
        extractor: feature space of the fidelity scores; the shipped encoder by default. The
            classifiers are trained on its device.
        cache: folder for trained classifiers and features; under ``private/`` unless the images
            are public.
        quiet: show no progress.

    Raises:
        DataError: the sets differ in image shape or class names, or are too small.
        UsageError: a classifier is not known, or ``repeats`` is below 1.
    """
    (how,) = gathered("evaluate", [EvaluationOptions], [how] if how else [], stated)
    if min(len(synthetic.images), len(real_test.images)) <= DENSITY_K:
        raise DataError(f"An evaluation needs more than {DENSITY_K} images on each side.")
    real_test = _matched(real_test, synthetic, "test")
    real_train = None if real_train is None else _matched(real_train, synthetic, "training")

    quiet = quiet or not distributed.is_first()
    extractor = extractor or load_extractor()
    _check_ranks_agree([synthetic, real_train, real_test], how, seed, extractor.digest)
    train = _Trainer(how, seed, cache, quiet, extractor.device)
    on_synthetic = train.scores(synthetic, "synthetic", real_test)
    on_real = () if real_train is None else train.scores(real_train, "real", real_test)
    compared = _fidelity(synthetic, real_train, real_test, extractor, seed, cache, quiet)
    found = Evaluation(not how.public, synthetic.classes, on_synthetic, on_real, *compared)
    return distributed.from_first(found)


def evaluate_classifier(
    classifier: Classifier,
    name: str,
    real_train: LabelledImages | None,
    real_test: LabelledImages,
    how: EvaluationOptions | None = None,
    *,
    seed: int = 0,
    cache: Path | None = None,
    quiet: bool = False,
    device: torch.device | None = None,
) -> Evaluation:
    """Test a released classifier on ``real_test``; there is no fidelity and no memorisation check.

    Args:
        classifier: the released one, called ``name`` in the result.
        real_train: real images that the classifiers of ``how`` are trained on for a baseline.
        real_test, how, seed, cache, quiet: as of :func:`evaluate`.
        device: where everything is computed; a GPU where there is one by default.

    Raises:
        DataError: the sets differ in image shape or class names, or there is no test image.
        UsageError: a classifier of ``how`` is not known.
    """
    how = how or EvaluationOptions()
    spec = classifier.spec
    form = np.zeros((0, spec.channels, spec.height, spec.width), np.uint8)
    own = LabelledImages(form, np.zeros(0, np.int64), spec.classes)
    real_test = _matched(real_test, own, "test")
    if len(real_test.images) == 0:
        raise DataError("An evaluation needs at least one real test image.")
    quiet = quiet or not distributed.is_first()
    _check_ranks_agree([real_train, real_test], how, seed, name)
    place = device or resolve_device()
    train = _Trainer(how, seed, cache, quiet, place)
    classifier.move(place)
    with stage(f"{name} on real test images", quiet):
        mine = scored(name, [counted(classifier.scores(real_test.images), real_test)], real_test)
    on_real: tuple[UtilityScore, ...] = ()
    if real_train is not None:
        on_real = train.scores(_matched(real_train, own, "training"), "real", real_test)
    return distributed.from_first(
        Evaluation(not how.public, spec.classes, (mine,), on_real, (), None)
    )


def _check_ranks_agree(sets: Sequence[LabelledImages | None], *others: object) -> None:
    """Raise DataError where ranks of one run see other images or options."""
    if distributed.size() > 1:
        seen = [None if images is None else images_digest(images) for images in sets]
        value = key(*seen, *map(repr, others))
        distributed.check_agreement(value, "evaluates other images, or with other options,")


class _Trainer:
    """Trains the classifiers of an evaluation, or finds them in its cache."""

    def __init__(
        self,
        how: EvaluationOptions,
        seed: int,
        cache: Path | None,
        quiet: bool,
        device: torch.device,
    ) -> None:
        for name in how.classifiers:
            recipe(name)
        self.names = [quick(name) for name in how.classifiers] if how.quick else how.classifiers
        self.repeats, self.seed, self.cache, self.quiet = how.repeats, seed, cache, quiet
        self.device = device

    def scores(
        self, training: LabelledImages, of: str, test: LabelledImages
    ) -> tuple[UtilityScore, ...]:
        """Each classifier trained on ``training`` images of a kind, measured on ``test``."""
        # An optimum does not depend on the seed, so it is found once.
        runs = {name: self.repeats if recipe(name).epochs else 1 for name in self.names}
        tasks = [(name, repeat) for name in runs for repeat in range(runs[name])]

        def one(number: int) -> FittedClassifier:
            name, repeat = tasks[number]
            shown = f"{name} on {of} images, run {repeat + 1} of {runs[name]}"
            with stage(shown, self.quiet) as say:
                seed = self.seed + repeat
                fitted = fit(training, name, seed, self.cache, say, self.device)
            if distributed.size() > 1:  # it travels
                fitted.network.cpu()
            return fitted

        found = list(distributed.in_turns(len(tasks) if training.classes else 0, one))
        for fitted in found:
            fitted.network.to(self.device)
        of_name = {name: [each for each in found if each.name == name] for name in runs}
        return tuple(score(fitted, test) for fitted in of_name.values() if fitted)


def _matched(real: LabelledImages, synthetic: LabelledImages, which: str) -> LabelledImages:
    """``real`` with its labels in the order of ``synthetic.classes``, if there are any."""
    ours, theirs = synthetic.images.shape[1:], real.images.shape[1:]
    if ours != theirs:
        raise DataError(
            f"Synthetic images are {ours} (channels, height, width), the real {which} images "
            f"{theirs}. Read the real ones at the release's image size and channels."
        )
    if real.classes == synthetic.classes:
        return real
    if not synthetic.classes:
        return replace(real, classes=())
    if sorted(real.classes) != sorted(synthetic.classes):
        raise DataError(
            f"Synthetic classes {list(synthetic.classes)} are not the real {which} classes "
            f"{list(real.classes)}. Evaluate against data with the release's classes."
        )
    order = np.array([synthetic.classes.index(name) for name in real.classes])
    return replace(real, labels=order[real.labels], classes=synthetic.classes)


def _fidelity(
    synthetic: LabelledImages,
    real_train: LabelledImages | None,
    real_test: LabelledImages,
    extractor: Extractor,
    seed: int,
    cache: Path | None,
    quiet: bool,
) -> tuple[tuple[FidelityScore, ...], MemorisationScore | None]:
    """Compare equally many synthetic and real test images, drawn at random from ``seed``."""
    count = min(FIDELITY_IMAGES, len(synthetic.images), len(real_test.images))
    random = np.random.default_rng(seed)
    drawn, held_out = (
        images.images[np.sort(random.choice(len(images.images), count, replace=False))]
        for images in (synthetic, real_test)
    )

    def features(images: np.ndarray, of: str) -> np.ndarray:
        with stage(f"features of {of} images", quiet) as report:
            return extract(extractor, images, cache, report)

    fake, real = features(drawn, "synthetic"), features(held_out, "real test")
    train = None if real_train is None else features(real_train.images, "real training")
    if not distributed.is_first():
        return (), None
    setting = Setting(
        extractor=extractor.name,
        weights_digest=extractor.digest,
        synthetic_count=count,
        real_count=count,
        image_type=str(drawn.dtype),
        grey_rule=GREY_RULE if drawn.shape[1] == 1 else None,
    )
    with stage("distances", quiet):
        frechet = frechet_distance(fake, real)
        kernel = kernel_distance(fake, real, seed=seed)
        manifold = manifold_scores(real, fake)
        subsets = f"{kernel.subsets} subsets of {kernel.subset_size}"
        rows: tuple[tuple[str, float, float | None, str, str], ...] = (
            ("Fréchet distance", frechet, None, "lower", "unbiased covariances"),
            ("kernel distance", kernel.value, kernel.deviation, "lower", subsets),
            ("precision", manifold.precision, None, "higher", f"k = {MANIFOLD_K}"),
            ("recall", manifold.recall, None, "higher", f"k = {MANIFOLD_K}"),
            ("density", manifold.density, None, "higher", f"k = {DENSITY_K}"),
            ("coverage", manifold.coverage, None, "higher", f"k = {DENSITY_K}"),
        )
    scores = tuple(FidelityScore(*row, setting) for row in rows)
    if real_train is None or train is None:
        return scores, None
    with stage("nearest neighbours", quiet):
        result = memorisation(train, real, fake)
        copies = exact_copies(real_train.images, drawn)
    return scores, MemorisationScore(result, copies, len(train), setting)
