from __future__ import annotations

import json
import pickle

import numpy as np
import pytest

from sfumato.data import PublicSpec, load_labelled, open_images, opening, write_images
from sfumato.errors import DataError, UsageError


def test_a_missing_location_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nothing: no such file or folder.*fashion-mnist, digits"):
        open_images(tmp_path / "nothing")
    with pytest.raises(DataError, match="no such file or folder"):
        open_images(f"{tmp_path}/*.tar")


@pytest.mark.parametrize("suffix", [".pkl", ".pickle", ".pt", ".pth", ".npy", ".bin", ""])
def test_pickles_are_refused_whatever_they_are_called(tmp_path, suffix):
    path = tmp_path / f"images{suffix}"
    path.write_bytes(pickle.dumps([1, 2, 3]))
    with pytest.raises(DataError, match=r"never loaded.*np\.savez"):
        open_images(path)


@pytest.mark.parametrize("suffix", [".csv", ".docx", ".tar.xz", ""])
def test_unknown_files_are_refused(tmp_path, suffix):
    path = tmp_path / f"images{suffix}"
    path.write_bytes(b"something")
    with pytest.raises(DataError, match="no kind that is read here"):
        open_images(path)


def test_one_image_is_no_data_set(tmp_path, write, images):
    (tmp_path / "a.png").write_bytes(write.encoded(images[0]))
    with pytest.raises(DataError, match="is one image"):
        open_images(tmp_path / "a.png")


@pytest.mark.parametrize("end", ["zip", "npz", "parquet", "tar", "idx3-ubyte", "idx3-ubyte.gz"])
def test_a_file_of_another_kind_than_its_name_is_refused(tmp_path, end):
    path = tmp_path / (f"images-{end}" if "idx" in end else f"images.{end}")
    path.write_bytes(b"\x80\x04 this is something else" * 50)
    with pytest.raises(DataError) as refused:
        open_images(path)
    assert str(path) in str(refused.value)


def test_a_split_is_stated_once(build):
    with pytest.raises(UsageError, match="already names a split"):
        open_images("digits:test", split="test")


def test_a_colon_in_a_path_is_no_split(tmp_path, write, images):
    write.tree(tmp_path / "a:test", {"1.png": write.encoded(images[0])})
    assert open_images(tmp_path / "a:test")._private_length() == 1


def test_a_pattern_with_a_split_is_looked_up_once(tmp_path, write, images, monkeypatch):
    for part in ("train", "test"):
        cells = [write.encoded(image) for image in images]
        write.parquet(tmp_path / f"{part}-0.parquet", cells, None)
    asked = []
    honest = opening.matching
    monkeypatch.setattr(opening, "matching", lambda text: asked.append(text) or honest(text))
    assert open_images(f"{tmp_path}/*.parquet:test")._private_length() == len(images)
    assert asked == [f"{tmp_path}/*.parquet"]


def test_a_folder_called_like_a_named_set_is_not_passed_over(tmp_path, write, images, monkeypatch):
    write.tree(tmp_path / "digits", {"1.png": write.encoded(images[0])})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match=r"\./digits for what .* digits:train for the"):
        open_images("digits")
    for said in (open_images("digits:train"), open_images("digits", split="train")):
        assert said.location_key == "named:digits:train"
    assert open_images("./digits").location_key == str(tmp_path / "digits")


@pytest.mark.parametrize("format", ["folder", "parquet", "webdataset"])
def test_a_release_states_its_form_in_its_certificate(tmp_path, images, labels, format):
    classes = ("zebra", "T-shirt/top", "ant")
    write_images([(images, labels)], classes, tmp_path, format)
    spec = {"height": 32, "width": 32, "channels": 1, "classes": classes, "declared_size": 9}
    (tmp_path / "certificate.json").write_text(json.dumps({"spec": spec}))
    source = open_images(tmp_path)
    # The number of private records says nothing about that of the released ones.
    assert source.spec == PublicSpec(32, 32, 1, classes)
    found = load_labelled(source)
    assert found.classes == classes
    order = np.lexsort((found.images[:, 0, 0, 0], found.labels))
    expected = np.lexsort((images[:, 0, 0, 0], labels))
    np.testing.assert_array_equal(found.images[order], images[expected])
    np.testing.assert_array_equal(found.labels[order], labels[expected])


def test_what_the_user_states_of_a_release_goes_before_its_certificate(tmp_path, images, labels):
    write_images([(images, labels)], ("a", "b", "c"), tmp_path)
    spec = {"height": 40, "width": 40, "channels": 1, "classes": ["a", "b", "c"]}
    (tmp_path / "certificate.json").write_text(json.dumps({"spec": spec}))
    assert open_images(tmp_path).spec == PublicSpec(40, 40, 1, ("a", "b", "c"))
    assert open_images(tmp_path, image_size=28).spec.height == 28
    assert open_images(tmp_path, channels=3).spec.channels == 3
    assert open_images(tmp_path, classes=["c", "b", "a"]).spec.classes == ("c", "b", "a")
    assert open_images(tmp_path, classes=0).spec == PublicSpec(40, 40, 1, ())


@pytest.mark.parametrize(
    "stated", [{}, {"channels": 2}, {"height": 5, "width": 5}, {"classes": "abc"}]
)
def test_a_release_without_a_form_says_so(tmp_path, images, stated):
    write_images([(images, np.zeros(9, np.int64))], (), tmp_path)
    spec = {"height": 32, "width": 32, "channels": 1, "classes": [], **stated}
    (tmp_path / "certificate.json").write_text(json.dumps({"spec": spec} if stated else {}))
    with pytest.raises(DataError, match=r"does not say of what size.*classes="):
        open_images(tmp_path)
    # Somebody else's certificate: what is stated suffices to read the images, or their ledger.
    assert open_images(tmp_path, classes=0)._private_length() == 9
