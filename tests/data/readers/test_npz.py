from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.data import load_labelled, open_images
from sfumato.errors import DataError


@pytest.fixture
def saved(tmp_path):
    def save(**arrays):
        np.savez(tmp_path / "set.npz", **arrays)
        return tmp_path / "set.npz"

    return save


@pytest.mark.parametrize(
    ("images_key", "labels_key"),
    [("images", "labels"), ("x", "y"), ("X", "Y"), ("data", "targets"), ("arr_0", "arr_1")],
)
def test_usual_names(saved, images, labels, images_key, labels_key):
    path = saved(**{images_key: images[:, 0], labels_key: labels})
    found = load_labelled(open_images(path, classes=3))
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels)


@pytest.mark.parametrize(
    "keys",
    [
        ("x_train", "y_train", "x_test", "y_test"),
        ("train_images", "train_labels", "test_images", "test_labels"),
    ],
)
def test_splits(saved, images, labels, keys):
    arrays = (images, labels, images[:4], labels[:4, None])
    path = saved(**dict(zip(keys, arrays, strict=True)))
    train, test = open_images(path, classes=3), open_images(f"{path}:test", classes=3)
    np.testing.assert_array_equal(load_labelled(train).images, images)
    np.testing.assert_array_equal(load_labelled(test).labels, labels[:4])
    assert train.location_key == f"{path}:train" and test.location_key == f"{path}:test"
    with pytest.raises(DataError, match="no split 'val'; it has the splits test, train"):
        open_images(path, classes=3, split="val")


@pytest.mark.parametrize("axes", ["nhwc", "nchw"])
def test_colour_in_either_order(saved, axes):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 3, 40, 36), np.uint8)
    source = open_images(
        saved(images=pixels if axes == "nchw" else pixels.transpose(0, 2, 3, 1).copy()),
        image_size=36,
    )
    assert source.spec.channels == 3
    np.testing.assert_array_equal(load_labelled(source).images, pixels[:, :, 2:38])


def test_the_header_declares_the_side_within_the_limits(saved):
    assert open_images(saved(images=np.zeros((2, 40, 50), np.uint8))).spec.height == 40
    assert open_images(saved(images=np.zeros((2, 8, 8), np.uint8))).spec.height == 28
    assert open_images(saved(images=np.zeros((2, 200, 300, 3), np.uint8))).spec.height == 128


VALUES = np.arange(28 * 28).reshape(1, 28, 28) % 256


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (VALUES.astype(np.int64), VALUES),
        (VALUES.astype(np.float32) / 255, VALUES),
        (VALUES / 255, VALUES),
        ((VALUES * 257).astype(np.uint16), VALUES),
        (VALUES > 100, (VALUES > 100) * 255),
    ],
    ids=["int64", "float32", "float64", "uint16", "bool"],
)
def test_the_dtype_says_what_a_value_means(saved, array, expected):
    found = load_labelled(open_images(saved(images=array)))
    np.testing.assert_array_equal(found.images[0], expected)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -0.1, 1.1, 255.0])
@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_one_value_out_of_range_makes_that_record_unusable(saved, bad, dtype):
    array = np.full((3, 28, 28), 0.5, dtype)
    array[1, 3, 4] = bad
    ((images, labels),) = open_images(saved(images=array)).batches(5)
    assert labels.tolist() == [0, -1, 0] and not images[1].any() and images[0].all()


@pytest.mark.parametrize("bad", [-1, 256, 2**40])
def test_integers_out_of_range_too(saved, bad):
    array = np.zeros((2, 28, 28), np.int64)
    array[0, 0, 0] = bad
    ((_, labels),) = open_images(saved(images=array)).batches(5)
    assert labels.tolist() == [-1, 0]


def test_odd_labels_are_unusable(saved, images):
    labels = np.array([0, 1, 2, 3, -1, -(2**62), 2**62, 0, 1])
    ((_, found),) = open_images(saved(images=images, labels=labels), classes=3).batches(9)
    assert found.tolist() == [0, 1, 2, -1, -1, -1, -1, 0, 1]


@pytest.mark.parametrize(
    ("labels", "expected", "options"),
    [
        (np.array(["bee", "ant", "wasp", "x" * 5000]), [1, 0, -1, -1], {"classes": ["ant", "bee"]}),
        (np.array([b"bee", b"ant", b"\xff", b""]), [1, 0, -1, -1], {"classes": ["ant", "bee"]}),
        (np.array(["1", "0", "2", ""]), [1, 0, -1, -1], {"classes": 2}),
        (np.array([True, False, True, True]), [1, 0, 1, 1], {}),
        (np.array([1.0, 0.0, 0.5, np.nan]), [1, 0, -1, -1], {"classes": 2}),
        (np.array([1e300, -np.inf, -1.0, 1.0]), [-1, -1, -1, 1], {"classes": 2}),
        (np.array([[0, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0]]), [1, 0, -1, -1], {}),
        (np.array([[0, 1.0], [1, 0], [0.5, 0.5], [np.nan, 0]]), [1, 0, -1, -1], {"classes": 2}),
        (np.eye(4, dtype=bool), [0, 1, 2, 3], {"classes": list("abcd")}),
    ],
)
def test_labels_in_many_forms(saved, images, labels, expected, options):
    ((_, found),) = open_images(saved(images=images[:4], labels=labels), **options).batches(9)
    assert found.tolist() == expected


def test_one_long_text_does_not_change_what_is_known_of_the_others(saved, images):
    """An array of texts is as wide as its longest, so its width is one record's."""
    for text in ("x" * 5000, "\0" * 5 + "x"):
        path = saved(images=images[:3], patient=np.array(["a", text, "a"]))
        keys = list(open_images(path, unit="patient")._unit_keys())
        assert keys[0] == keys[2] == "a"


def test_class_names_may_be_an_array(saved, images, labels):
    path = saved(images=images, labels=labels, classes=np.array(["ant", "bee", "cat"]))
    assert open_images(path).spec.classes == ("ant", "bee", "cat")
    with pytest.raises(DataError, match="another order"):
        open_images(path, classes=["cat", "bee", "ant"])


def test_an_array_of_objects_is_a_pickle_and_is_never_loaded(saved, tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "exploded"), "w"))

    path = saved(images=np.array([Bomb(), Bomb()], dtype=object))
    with pytest.raises(DataError, match=r"pickled objects.*np\.asarray"):
        open_images(path)
    path = saved(images=np.zeros((2, 28, 28), np.uint8), labels=np.array([Bomb(), 1], object))
    with pytest.raises(DataError, match="labels holds pickled objects"):
        open_images(path, classes=2)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"labels": np.zeros(3, int)}, "labels without images"),
        ({"pictures": np.zeros((3, 28, 28))}, "no array of images; it holds pictures"),
        ({"images": np.zeros((3, 784))}, r"images have 2 axes \[n, 784\]"),
        ({"images": np.zeros((3, 4, 28, 28))}, "c 1 or 3"),
        ({"images": np.zeros((3, 28, 28), complex)}, "dtype complex128"),
        ({"images": np.asfortranarray(np.zeros((3, 28, 28)))}, "Fortran order"),
        ({"images": np.zeros((3, 28, 28)), "labels": np.zeros((3, 9), int)}, "have 9 columns"),
        ({"images": np.zeros((3, 28, 28)), "labels": np.zeros((3, 2, 2), int)}, "have 3 axes"),
        ({"images": np.zeros((3, 28, 28)), "labels": np.zeros(3, complex)}, "numbers or texts"),
        ({"images": np.zeros((3, 28, 28)), "labels": np.zeros(4, int)}, "different numbers"),
        ({"images": np.zeros((3, 28, 28))}, "no array of labels"),
    ],
)
def test_unknown_schemas_are_refused(saved, arrays, said):
    with pytest.raises(DataError, match=said):
        open_images(saved(**arrays), classes=10)


def test_different_numbers_are_not_told(saved):
    path = saved(images=np.zeros((731, 28, 28), np.uint8), labels=np.zeros(642, int))
    with pytest.raises(DataError) as refused:
        open_images(path, classes=3)
    assert "731" not in str(refused.value) and "642" not in str(refused.value)


def test_class_names_of_no_character_are_refused(saved, images, labels):
    classes = np.array(["ant", "bee", "cat"])
    classes.view(np.uint32)[4] = 0x110000  # above the last character that there is
    with pytest.raises(DataError, match="no text"):
        open_images(saved(images=images, labels=labels, classes=classes))


def test_a_text_of_no_character_names_no_class_and_no_unit(saved, images):
    names = np.array(["ant", "bee", "cat"] * 3)
    names.view(np.uint32)[4] = 0x110000
    path = saved(images=images, labels=names, who=names)
    source = open_images(path, classes=["ant", "bee", "cat"], unit="who")
    assert [label for _, label in source._records()] == [0, None, 2, 0, 1, 2, 0, 1, 2]
    assert len(list(source._unit_keys())) == 9


def test_numbers_need_class_names(saved, images, labels):
    with pytest.raises(DataError, match="carries no class names"):
        open_images(saved(images=images, labels=labels))


def test_a_cut_off_file_is_refused(saved, images):
    path = saved(images=images)
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(DataError, match="not a readable zip"):
        open_images(path)


def test_a_member_shorter_than_its_header_is_refused(tmp_path):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros((4, 28, 28), np.uint8))
    with zipfile.ZipFile(tmp_path / "set.npz", "w") as archive:
        archive.writestr("images.npy", buffer.getvalue()[:-1])
    with pytest.raises(DataError, match="cut off"):
        open_images(tmp_path / "set.npz")


def small_npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.ones((3, 28, 28), np.uint8), labels=np.arange(3))
    return buffer.getvalue()


@given(st.data())
def test_damaged_files_raise_nothing_but_data_errors(tmp_path_factory, data):
    damaged = bytearray(small_npz())
    # Headers and the directory are where damage is interesting; pixels are in between.
    places = [*range(200), *range(len(damaged) - 700, len(damaged))]
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.sampled_from(places))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    path.write_bytes(damaged)
    try:
        list(open_images(path, classes=3).batches(4))
    except DataError:
        pass


@given(st.text("{}'()[],:descrfotanhp<>u1|O0123456789 LTrue", max_size=80))
def test_any_array_header_raises_nothing_but_data_errors(tmp_path_factory, header):
    text = header.encode()
    magic = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little")
    path = tmp_path_factory.getbasetemp() / "header.npz"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("images.npy", magic + text + bytes(50))
    with pytest.raises(DataError):
        open_images(path)
