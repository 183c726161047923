"""Private records in any order, from a file that has no name."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.data import open_images
from sfumato.data.source import ImageSource
from sfumato.privacy.records.decoded import READ_BATCH, Records


def in_order(source: ImageSource) -> tuple[np.ndarray, np.ndarray]:
    parts = list(source.batches(7))
    return tuple(np.concatenate(column) for column in zip(*parts, strict=True))  # type: ignore


def folder_with_a_corrupt_image(place: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (place / name).mkdir(parents=True)
        for number in range(4):
            pixels = rng.integers(0, 256, (8, 8), dtype=np.uint8)
            Image.fromarray(pixels).save(place / name / f"{number}.png")
    (place / "ant" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n no picture")
    return place


@pytest.fixture(params=["digits", "folder"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> ImageSource:
    if request.param == "digits":
        return open_images("digits")
    return open_images(folder_with_a_corrupt_image(tmp_path / "private"), image_size=28, channels=1)


def test_records_are_the_sources(source: ImageSource, tmp_path: Path) -> None:
    images, labels = in_order(source)
    records = Records(source, tmp_path)
    assert records.units == len(labels) > 0
    taken = records.take(np.arange(len(labels)))
    assert taken[0].dtype == np.uint8 and taken[1].dtype == np.int64
    assert np.array_equal(taken[0], images) and np.array_equal(taken[1], labels)


def test_records_come_in_any_order_and_as_often_as_asked(
    source: ImageSource, tmp_path: Path
) -> None:
    images, labels = in_order(source)
    records = Records(source, tmp_path)
    index = np.random.default_rng(1).integers(0, len(labels), 50)
    taken, classes = records.take(index)
    assert np.array_equal(taken, images[index]) and np.array_equal(classes, labels[index])
    taken[:] = 0  # a copy: the records stay
    assert np.array_equal(records.take(index)[0], images[index])


def test_a_record_that_cannot_be_read_is_there_and_black(tmp_path: Path) -> None:
    place = folder_with_a_corrupt_image(tmp_path / "private")
    records = Records(open_images(place, image_size=28, channels=1), tmp_path)
    images, labels = records.take(np.arange(8))
    assert sorted(labels.tolist()) == [-1, 0, 0, 0, 1, 1, 1, 1]
    assert not images[labels == -1].any()
    assert all(image.any() for image in images[labels >= 0])


def test_an_empty_selection_has_its_shape(source: ImageSource, tmp_path: Path) -> None:
    images, labels = Records(source, tmp_path).take(np.zeros(0, np.int64))
    spec = source.spec
    assert images.shape == (0, spec.channels, spec.height, spec.width)
    assert images.dtype == np.uint8 and labels.shape == (0,)


def test_no_records_at_all(make_source: Callable, tmp_path: Path) -> None:
    records = Records(make_source([]), tmp_path)
    images, labels = records.take(np.zeros(0, np.int64))
    assert records.units == 0 and images.shape == (0, 1, 2, 2) and len(labels) == 0


@pytest.mark.parametrize("count", [READ_BATCH - 1, READ_BATCH, READ_BATCH + 1])
def test_batches_join_without_a_seam(make_source: Callable, tmp_path: Path, count: int) -> None:
    records = Records(make_source([(number, number % 3) for number in range(count)]), tmp_path)
    images, labels = records.take(np.arange(count))
    assert np.array_equal(images[:, 0, 0, 0] + 256 * images[:, 0, 0, 1].astype(int), range(count))
    assert np.array_equal(labels, np.arange(count) % 3)


def test_no_file_has_a_name_while_the_records_are_open(tmp_path: Path) -> None:
    place = tmp_path / "run"
    place.mkdir()
    records = Records(open_images("digits"), place)
    assert list(place.iterdir()) == []
    if Path("/proc/self/fd").exists():  # it lies in the folder that was named, and nowhere else
        open_files = [
            os.readlink(entry)
            for entry in Path("/proc/self/fd").iterdir()
            if entry.is_symlink() and os.path.lexists(entry)
        ]
        mine = [name for name in open_files if name.startswith(str(place))]
        assert mine and all("(deleted)" in name for name in mine)
    records.take(np.arange(3))
    assert list(place.iterdir()) == []


def test_a_failing_source_leaves_nothing_behind(make_source: Callable, tmp_path: Path) -> None:
    source = make_source([(1, 0)] * 600)

    def failing() -> object:
        yield np.zeros((1, 2, 2), np.uint8), 0
        raise OSError("gone")

    source._records = failing
    place = tmp_path / "run"
    place.mkdir()
    with pytest.raises(OSError, match="gone"):
        Records(source, place)
    assert list(place.iterdir()) == []
