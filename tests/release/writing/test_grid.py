from __future__ import annotations

import io

import numpy as np
from PIL import Image

from sfumato.data.spec import PublicSpec
from sfumato.release.verification.pictures import png_problem
from sfumato.release.writing.grid import MOST_ROWS, PER_CLASS, SampleGrid


def drawn(grid: SampleGrid) -> np.ndarray:
    data = grid.to_png()
    assert png_problem(data, None) is None
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def test_each_class_has_a_row_with_its_first_images() -> None:
    grid = SampleGrid(PublicSpec(28, 28, 3, ("a", "b")))
    green = np.array([10, 200, 30], np.uint8)  # no shade of the text
    image = np.broadcast_to(green[:, None, None], (3, 28, 28))
    for _ in range(2):
        images = np.stack([image * np.uint8(label) for label in (0, 1)] * 8)
        grid.add(images, np.array([0, 1] * 8, np.int64))
    sheet = drawn(grid)
    top, bottom = sheet[: len(sheet) // 2], sheet[len(sheet) // 2 :]
    # Class b lies in the lower row, with ten of its sixteen images.
    assert not (top == green).all(axis=2).any()
    assert (bottom == green).all(axis=2).sum() == PER_CLASS * 56 * 56


def test_unlabelled_images_fill_rows_of_ten() -> None:
    grid = SampleGrid(PublicSpec(28, 28, 3, ()))
    grid.add(np.full((25, 3, 28, 28), 77, np.uint8), np.zeros(25, np.int64))
    assert (drawn(grid) == 77).all(axis=2).sum() == 25 * 56 * 56


def test_many_classes_and_long_names_stay_bounded() -> None:
    classes = tuple(f"{number} {'x' * 190}" for number in range(1000))
    grid = SampleGrid(PublicSpec(128, 128, 1, classes))
    grid.add(np.zeros((2, 1, 128, 128), np.uint8), np.array([0, 999], np.int64))
    height, width, _ = drawn(grid).shape
    assert height < MOST_ROWS * 140
    assert width < 2000
