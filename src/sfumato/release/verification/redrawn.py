"""Whether the images are those of the model: some, or all, are made again from the public seed.

Each image has a random stream of its own, so a few of many can be made again alone. On another
machine floats are rounded otherwise: an image may differ by a few grey levels, but not by many
times what the others differ by.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import sfumato
from sfumato.errors import SfumatoError, UsageError
from sfumato.methods.base import Model, Sampling
from sfumato.methods.registry import load_model, method_names
from sfumato.release.certificate import is_classifier
from sfumato.release.files import MODEL
from sfumato.release.images import numbered_images, pixels_of
from sfumato.release.versions import writer_of

ALL = "all"

MOST_LEVELS = 4.0
"""Largest median difference in grey levels: bfloat16 makes about one, other noise makes tens."""
LEAST_LEVELS, TIMES_THE_MEDIAN = 0.5, 10.0
"""An image may differ by the first, and by so many times the median, in grey levels."""
RENAMED = 0.02
"""Share of the images that a labeller may call otherwise where pixels differ too."""
SHOWN = 5


@dataclass(frozen=True)
class Redrawn:
    """How many images were made again, a sentence on it, and what is wrong with them."""

    images: int
    sentence: str
    problems: tuple[str, ...] = ()


def redraw(folder: Path, certificate: Mapping[str, Any], most: int | str | None) -> Redrawn:
    """Make images of a release again and compare them, a random choice that nobody can foresee.

    Only for a release in which nothing else was found.

    Args:
        most: how many images; ``"all"``, or None for what the model makes in some seconds.

    Raises:
        UsageError: ``most`` is no such number.
    """
    if most is not None and most != ALL and (isinstance(most, str) or most < 0):
        raise UsageError(f"redraw={most!r} must be a number of images from 0 up, or 'all'.")
    if is_classifier(certificate):
        return Redrawn(0, "It holds no images.")
    why = "none was asked for" if most == 0 else _obstacle(certificate)
    if why:
        return Redrawn(0, f"No image was made again from the model: {why}.")
    wanted = sampling_of(certificate)
    try:
        model = load_model(folder / MODEL)
        number = model.redrawn if most is None else wanted.count if most == ALL else int(most)
        among = range(wanted.count)
        chosen = sorted(random.SystemRandom().sample(among, min(number, wanted.count)))
        compared = _compare(folder, certificate, model, np.array(chosen, np.int64))
    except (SfumatoError, RuntimeError, ValueError, LookupError, TypeError, ArithmeticError):
        return Redrawn(0, "", ("no image can be sampled from the model",))
    problems = tuple(_problems(model.labels_of(wanted), compared))
    return Redrawn(len(chosen), _sentence(wanted.count, compared), problems)


def sampling_of(certificate: Mapping[str, Any]) -> Sampling:
    """What was sampled into a release, as its certificate states it."""
    made = certificate["release"]
    label = certificate["classes"].index(made["label"]) if "label" in made else None
    return Sampling(made["samples"], made["seed_public"], label, made.get("balance", False))


def _obstacle(certificate: Mapping[str, Any]) -> str | None:
    name, writer = certificate["method"]["name"], writer_of(certificate)
    if name not in method_names():
        return f"the method {name!r:.60} is not installed here"
    if writer != sfumato.__version__:
        return f"sfumato {writer} wrote the release, and samples of a seed change with versions"
    return None


@dataclass(frozen=True)
class _Compared:
    """``labels`` of all images; of the ``chosen`` what they are called and how much they differ.

    ``differences`` are mean absolute differences in grey levels.
    """

    labels: NDArray[np.int64]
    chosen: NDArray[np.int64]
    named: NDArray[np.int64]
    differences: NDArray[np.float64]

    @property
    def exact(self) -> bool:
        return not self.differences.any()


def _compare(
    folder: Path, certificate: Mapping[str, Any], model: Model, chosen: NDArray[np.int64]
) -> _Compared:
    wanted, among = sampling_of(certificate), set(chosen.tolist())
    labels = np.zeros(wanted.count, np.int64)

    def stored() -> Iterator[NDArray[np.uint8]]:
        """The chosen images as they are in the release, whose labels are noted on the way."""
        for number, (label, png) in enumerate(numbered_images(folder, certificate)):
            labels[number] = label
            if number in among:
                yield pixels_of(png)

    named, differences, shown = [np.zeros(0, np.int64)], [np.zeros(0)], stored()
    for again, names in model.redraw(wanted, chosen):
        apart = np.abs(np.stack(list(islice(shown, len(again)))).astype(np.int16) - again)
        differences.append(apart.mean(axis=(1, 2, 3)))
        named.append(names)
    deque(shown, maxlen=0)  # the labels behind the last chosen image
    found = _Compared(labels, chosen, np.concatenate(named), np.concatenate(differences))
    if len(found.named) != len(chosen):
        raise ValueError("the model makes another number of images")
    return found


def _problems(known: NDArray[np.int64] | None, found: _Compared) -> Iterator[str]:
    """What is wrong; ``known`` are the labels of all images where the model names none itself."""
    median = float(np.median(found.differences))
    if median > MOST_LEVELS:
        yield (
            "the model makes other images of the public seed: half of those made again differ by "
            f"more than {median:.0f} grey levels on average"
        )
        return
    allowed = LEAST_LEVELS + TIMES_THE_MEDIAN * median
    if numbers := found.chosen[found.differences > allowed].tolist():
        yield f"{_shown(numbers)} not what the model makes of the public seed"
    if known is not None:
        wrong = np.flatnonzero(found.labels != known)
    else:
        # The only image of a class may have been called so for the sake of loaders.
        sizes = np.bincount(found.labels)
        stated = found.labels[found.chosen]
        wrong = found.chosen[(found.named != stated) & (sizes[stated] > 1)]
        if not found.exact and len(wrong) <= RENAMED * len(found.chosen):
            return
    if len(wrong):
        yield f"{_shown(wrong.tolist())} of another class than the model makes of the public seed"


def _shown(numbers: list[int]) -> str:
    listed = ", ".join(str(number) for number in numbers[:SHOWN])
    more = f" and {len(numbers) - SHOWN} more" if len(numbers) > SHOWN else ""
    return f"image {listed} is" if len(numbers) == 1 else f"images {listed}{more} are"


def _sentence(count: int, found: _Compared) -> str:
    if found.exact:
        how = "the same, pixel by pixel"
    else:
        how = f"the same within {found.differences.max():.2g} grey levels on average"
    again = len(found.chosen)
    if again == count:
        return f"All {count:,} images were made again from the model: {how}."
    return (
        f"{again:,} of {count:,} images, chosen at random, were made again from the model: {how}. "
        "The others were not; --redraw all makes all of them again."
    )
