from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sfumato.data.writers import FORMATS, encode_png, write_images
from sfumato.release.certificate import NAME
from sfumato.release.images import first_pictures
from sfumato.release.writing.grid import MOST_ROWS, PER_CLASS

CLASSES = ("a/b", "c", "d e")


def written(
    place: Path, form: str, labels: np.ndarray, classes: tuple[str, ...]
) -> tuple[list[list[bytes]], np.ndarray]:
    images = np.random.default_rng(0).integers(0, 256, (len(labels), 1, 28, 28), dtype=np.uint8)
    write_images([(images, labels)], classes, place, form)
    certificate = {"classes": list(classes), "release": {"format": form}}
    (place / NAME).write_text(json.dumps(certificate))
    return first_pictures(place, certificate), images


@pytest.mark.parametrize("form", FORMATS)
def test_the_first_images_of_each_class_are_taken_as_they_are(tmp_path: Path, form: str) -> None:
    labels = np.array([2, 0] * 12, np.int64)
    rows, images = written(tmp_path, form, labels, CLASSES)
    of_class = [images[labels == label][:PER_CLASS] for label in range(3)]
    assert rows == [[encode_png(image) for image in images] for images in of_class]
    assert [len(row) for row in rows] == [PER_CLASS, 0, PER_CLASS]


@pytest.mark.parametrize("form", FORMATS)
def test_unlabelled_images_are_one_row(tmp_path: Path, form: str) -> None:
    rows, images = written(tmp_path, form, np.zeros(120, np.int64), ())
    assert rows == [[encode_png(image) for image in images[: PER_CLASS**2]]]


@pytest.mark.parametrize("form", FORMATS)
def test_many_classes_do_not_make_a_page_without_end(tmp_path: Path, form: str) -> None:
    classes = tuple(f"class {label:03d}" for label in range(MOST_ROWS + 5))
    rows, _ = written(tmp_path, form, np.arange(MOST_ROWS + 5), classes)
    assert [len(row) for row in rows] == [1] * MOST_ROWS
