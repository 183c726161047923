from __future__ import annotations

import numpy as np
import pytest

from sfumato.data import LabelledImages, load_labelled, open_images


def test_unusable_records_are_dropped(build, images, labels):
    path = build("webdataset", {2: b"broken", 7: b""})
    found = load_labelled(open_images(path, classes=3, channels=1))
    kept = [0, 1, 3, 4, 5, 6, 8]
    np.testing.assert_array_equal(found.images, images[kept])
    np.testing.assert_array_equal(found.labels, labels[kept])


def test_no_usable_record_is_an_empty_array(tmp_path, write):
    write.tree(tmp_path, {"1.png": b"broken"})
    assert load_labelled(open_images(tmp_path)).images.shape == (0, 3, 32, 32)


def test_pixels_labels_and_numbers_are_not_printed():
    found = LabelledImages(np.full((77, 1, 28, 28), 255, np.uint8), np.zeros(77, np.int64), ("a",))
    assert repr(found) == "LabelledImages(28x28x1, 1 classes)"


@pytest.mark.parametrize(
    ("images", "labels"),
    [
        (np.zeros((2, 1, 28, 28), np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 28, 28), np.uint8), np.zeros(2, np.int64)),
        (np.zeros((2, 1, 28, 28), np.uint8), np.zeros(3, np.int64)),
        (np.zeros((2, 1, 28, 28), np.uint8), np.zeros(2, np.int32)),
    ],
)
def test_wrong_shapes_and_dtypes_are_refused(images, labels):
    with pytest.raises(ValueError, match="must be"):
        LabelledImages(images, labels, ("a",))
