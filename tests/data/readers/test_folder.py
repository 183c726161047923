from __future__ import annotations

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


def test_an_empty_folder_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"no images here .* one subfolder of images per class"):
        open_images(tmp_path)


def test_labels_without_images_are_refused(tmp_path, write):
    write.tree(tmp_path, {"labels.csv": b"1\n2\n"})
    with pytest.raises(DataError, match="no images here"):
        open_images(tmp_path)


@pytest.mark.parametrize("name", ["data_batch_1", "images.pkl", "images.npy"])
def test_a_folder_of_pickles_is_refused_and_named_so(tmp_path, write, name):
    write.tree(tmp_path, {name: pickle.dumps([1, 2])})
    with pytest.raises(DataError, match="A pickle is never loaded"):
        open_images(tmp_path)


def test_a_folder_of_links_says_so(tmp_path, tree):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "ant").symlink_to(tree / "ant")
    with pytest.raises(DataError, match="Links are not followed"):
        open_images(tmp_path / "links")


def test_a_class_name_that_cannot_be_printed_is_refused(tree):
    (tree / "ant").rename(tree / "a\x1b[2Jnt")
    with pytest.raises(DataError, match="cannot be printed"):
        open_images(tree)
