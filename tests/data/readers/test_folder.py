from __future__ import annotations

import os
import pickle

import numpy as np
import pytest

from sfumato.data import load_labelled, open_images
from sfumato.errors import DataError


@pytest.fixture
def tree(tmp_path, write, images):
    root = tmp_path / "set"
    data = [write.encoded(image) for image in images]
    write.tree(root, {"bee/2.png": data[2], "ant/1.PNG": data[1], "ant/deep/3.png": data[3]})
    return root


def test_labels_order_and_pixels(tree, images):
    found = load_labelled(open_images(tree, channels=1))
    np.testing.assert_array_equal(found.images, images[[1, 3, 2]])
    assert found.classes == ("ant", "bee") and found.labels.tolist() == [0, 0, 1]


def test_defaults_are_colour_and_32_pixels(tree):
    spec = open_images(tree).spec
    assert (spec.height, spec.width, spec.channels) == (32, 32, 3)


def test_mixed_sizes_become_one(tree, write):
    large = np.zeros((3, 50, 90), np.uint8)
    write.tree(tree, {"bee/large.jpg": write.encoded(large, "JPEG")})
    assert load_labelled(open_images(tree, image_size=40)).images.shape == (4, 3, 40, 40)


def test_links_and_hidden_files_are_not_followed(tree, tmp_path, write, images):
    outside = tmp_path / "outside"
    data = write.encoded(images[5])
    write.tree(outside, {"5.png": data})
    write.tree(tree, {"ant/.hidden.png": data, ".cache/5.png": data, "__MACOSX/ant/5.png": data})
    (tree / "ant" / "link.png").symlink_to(outside / "5.png")
    (tree / "wasp").symlink_to(outside)
    found = load_labelled(open_images(tree, channels=1))
    assert found.classes == ("ant", "bee") and len(found.labels) == 3


def test_a_file_swapped_for_a_link_after_opening_is_unusable(tree, tmp_path, write, images):
    (tmp_path / "outside.png").write_bytes(write.encoded(images[5]))
    source = open_images(tree)
    (tree / "ant" / "1.PNG").unlink()
    (tree / "ant" / "1.PNG").symlink_to(tmp_path / "outside.png")
    (tree / "bee" / "2.png").unlink()
    ((_, labels),) = source.batches(10)
    assert labels.tolist() == [-1, 0, -1]


def test_other_files_are_ignored(tree, write):
    write.tree(tree, {"README.md": b"read me", "ant/notes.txt": b"notes"})
    assert open_images(tree)._private_length() == 3


def test_the_splits_of_a_folder_are_different_data_sets(tree):
    (tree / "ant").rename(tree / "train")
    (tree / "bee").rename(tree / "test")
    train, test = open_images(tree), open_images(f"{tree}:test")
    assert (train._private_length(), test._private_length()) == (2, 1)
    assert train.location_key == str(tree / "train")
    assert test.location_key == str(tree / "test") == open_images(tree / "test").location_key


@pytest.mark.parametrize(
    "files",
    [{}, {"labels.csv": b"1\n2\n"}, {"images.pkl": pickle.dumps([1])}, {"a/": b""}],
    ids=["nothing", "a table", "a pickle", "an empty class"],
)
def test_that_a_folder_holds_no_image_is_private(tmp_path, write, files):
    for name, data in files.items():
        (tmp_path / name).mkdir() if name.endswith("/") else (tmp_path / name).write_bytes(data)
    source = open_images(tmp_path)
    assert source._private_length() == 0 and list(source.batches(4)) == []
    assert open_images(tmp_path, classes=["a", "b"]).spec.classes == ("a", "b")


def test_a_file_called_like_a_container_beside_class_folders_decides_nothing(tree, write):
    before = open_images(tree)
    write.tree(tree, {"x.tar": b"x", "x.parquet": b"x", "train-images-idx3-ubyte": b"x"})
    after = open_images(tree)
    assert after.spec == before.spec and after.notes == before.notes
    assert len(load_labelled(after).labels) == 3


def test_a_folder_further_down_that_cannot_be_read_is_not_named(tree, monkeypatch):
    true = os.scandir

    def scandir(path):
        if str(path).rstrip("/").endswith("deep"):
            raise PermissionError(13, "Permission denied")
        return true(path)

    monkeypatch.setattr("os.scandir", scandir)
    assert open_images(tree)._private_length() == 2


def test_links_are_not_followed(tmp_path, tree):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "ant").symlink_to(tree / "ant")
    assert open_images(tmp_path / "links").spec.classes == ()


def test_a_class_name_that_cannot_be_printed_is_refused(tree):
    (tree / "ant").rename(tree / "a\x1b[2Jnt")
    with pytest.raises(DataError, match="cannot be printed"):
        open_images(tree)
