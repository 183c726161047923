from __future__ import annotations

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.data import load_labelled, open_images
from sfumato.errors import DataError


@pytest.fixture
def saved(tmp_path):
    def save(**arrays):
        with h5py.File(tmp_path / "set.h5", "w") as file:
            for name, values in arrays.items():
                file.create_dataset(name, data=values, chunks=True, compression="gzip")
        return tmp_path / "set.h5"

    return save


@pytest.mark.parametrize(("x", "y"), [("images", "labels"), ("x", "y"), ("X", "Y")])
def test_usual_names(saved, images, labels, x, y):
    found = load_labelled(open_images(saved(**{x: images, y: labels}), classes=3))
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels)


def test_stated_names_groups_and_units(tmp_path, images, labels):
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["train/pixels"] = images[:, 0].astype(np.float32)
        file["train/what"] = np.array([b"ant", b"bee", b"\xff"] * 3)
        file["who"] = np.array([b"a", b"b", b""] * 3)
        file["varying"] = np.array(["a", "b", ""] * 3, dtype=h5py.string_dtype())
    stated = {"image_key": "train/pixels", "label_key": "train/what", "classes": ["ant", "bee"]}
    stated |= {"value_range": (0.0, 255.0), "unit": "who"}
    source = open_images(tmp_path / "set.h5", **stated)
    assert list(source._unit_keys()) == ["a", "b", None] * 3
    ((found, found_labels),) = source.batches(9)
    assert found_labels.tolist() == [0, 1, -1] * 3
    np.testing.assert_array_equal(found[0], images[0])
    with pytest.raises(DataError, match="holds train, varying, who"):
        open_images(tmp_path / "set.h5")
    with pytest.raises(DataError, match="varying length"):
        open_images(tmp_path / "set.h5", **{**stated, "unit": "varying"})
    with pytest.raises(DataError, match="no array 'nobody'"):
        open_images(tmp_path / "set.h5", **{**stated, "image_key": "nobody"})


def test_one_hot_and_boolean_labels_count_their_classes(saved, images):
    onehot = open_images(saved(x=images[:3], y=np.eye(3)))
    assert load_labelled(onehot).labels.tolist() == [0, 1, 2]
    assert open_images(saved(x=images[:3], y=[True, False, True])).spec.classes == ("0", "1")


def test_nothing_outside_the_file_is_read(tmp_path, images):
    other = tmp_path / "other.h5"
    with h5py.File(other, "w") as file:
        file["images"] = images
    (tmp_path / "raw").write_bytes(bytes(28 * 28))
    layout = h5py.VirtualLayout(images.shape, np.uint8)
    layout[:] = h5py.VirtualSource(str(other), "images", images.shape)
    with h5py.File(tmp_path / "set.h5", "w") as file:
        file["link"] = h5py.ExternalLink(str(other), "images")
        file["soft"] = h5py.SoftLink("/link")
        file.create_virtual_dataset("virtual", layout)
        file.create_dataset(
            "raw", (1, 28, 28), np.uint8, external=[(str(tmp_path / "raw"), 0, 28 * 28)]
        )
    for key in ("link", "soft", "virtual", "raw"):
        with pytest.raises(DataError, match=f"'{key}'"):
            open_images(tmp_path / "set.h5", image_key=key)


@given(st.data())
def test_damaged_files_raise_nothing_but_data_errors(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.h5"
    with h5py.File(path, "w") as file:
        file["x"], file["y"] = np.ones((3, 28, 28), np.uint8), np.arange(3)
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.integers(len(damaged) // 2, len(damaged)))])
    try:
        list(open_images(path, classes=3).batches(4))
    except DataError:
        pass
