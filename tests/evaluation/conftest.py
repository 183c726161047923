"""Small real data sets for the evaluation's tests."""

from __future__ import annotations

import pytest

from sfumato.data import LabelledImages, load_labelled, open_images
from sfumato.errors import DataError


def subset(images: LabelledImages, start: int, stop: int) -> LabelledImages:
    return LabelledImages(images.images[start:stop], images.labels[start:stop], images.classes)


@pytest.fixture(scope="session")
def digits() -> LabelledImages:
    """1,437 grey 28x28 digits."""
    return load_labelled(open_images("digits", image_size=28, channels=1))


@pytest.fixture(scope="session")
def fashion() -> tuple[LabelledImages, LabelledImages]:
    """2,000 training and 1,000 test images."""
    try:
        train, test = open_images("fashion-mnist"), open_images("fashion-mnist:test")
    except DataError as error:
        pytest.skip(str(error))
    return subset(load_labelled(train), 0, 2000), subset(load_labelled(test), 0, 1000)
