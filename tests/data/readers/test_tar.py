"""Class folders packed in a tar, and what a tar with gzip has in common with a plain one."""

from __future__ import annotations

import tarfile

import numpy as np
import pytest

from sfumato.data import load_labelled, open_images
from sfumato.errors import DataError


@pytest.fixture
def tree(tmp_path, write, images):
    root = tmp_path / "set"
    cells = [write.encoded(image) for image in images]
    write.tree(
        root, {"bee/a.2.png": cells[2], "ant/a.1.png": cells[1], "ant/deep/a.3.png": cells[3]}
    )
    (root / "cat").mkdir()
    return root


@pytest.fixture(params=["set.tar", "set.tar.gz", "set.tgz"])
def packed(tmp_path, tree, request):
    with tarfile.open(tmp_path / request.param, "w:gz" if "gz" in request.param else "w") as tar:
        tar.add(tree, "top")
    return tmp_path / request.param


def test_folders_that_are_listed_are_the_classes(packed, images):
    source = open_images(packed, channels=1)
    found = load_labelled(source)
    assert found.classes == ("ant", "bee", "cat") and "names of the folders" in source.notes[0]
    order = np.lexsort((found.images[:, 0, 0, 0], found.labels))
    expected = images[[1, 3, 2]]
    order_expected = np.lexsort((expected[:, 0, 0, 0], [0, 0, 1]))
    np.testing.assert_array_equal(found.images[order], expected[order_expected])
    assert sorted(found.labels) == [0, 0, 1]


def test_an_image_in_a_folder_that_is_not_listed_makes_no_class(packed, tree, write, images):
    before = open_images(packed).spec
    with (
        tarfile.open(packed, "w")
        if packed.suffix == ".tar"
        else tarfile.open(packed, "w:gz") as tar
    ):
        tar.add(tree, "top")
        tar.add(tree / "bee" / "a.2.png", "top/wasp/1.png")
        tar.add(tree / "bee" / "a.2.png", "beside/1.png")
    assert open_images(packed).spec == before


def test_without_listed_folders_the_stated_classes_are_found_on_the_paths(tmp_path, write, images):
    files = {f"s/{name}/{name}.png": write.encoded(images[0]) for name in ("ant", "bee", "wasp")}
    write.tar(tmp_path / "set.tar", files)
    ((_, labels),) = open_images(tmp_path / "set.tar", classes=["ant", "bee"]).batches(4)
    assert labels.tolist() == [0, 1, -1]
    with pytest.raises(DataError, match="classes=10"):
        open_images(tmp_path / "set.tar")


def test_a_webdataset_may_be_packed(tmp_path, write, images, labels):
    files = {}
    for i, image in enumerate(images):
        files |= {f"{i}.cls": str(labels[i]).encode(), f"{i}.png": write.encoded(image)}
    write.tar(tmp_path / "set.tar", files)
    with (
        tarfile.open(tmp_path / "p.tar.gz", "w:gz") as tar,
        tarfile.open(tmp_path / "set.tar") as old,
    ):
        for member in old:
            tar.addfile(member, old.extractfile(member))
    found = load_labelled(open_images(tmp_path / "p.tar.gz", classes=3, channels=1))
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels)


def test_splits_may_be_folders_or_shards(packed, tree, tmp_path):
    for split in ("train", "test"):
        with tarfile.open(tmp_path / f"{split}-0.tar", "w") as tar:
            tar.add(tree, "top")
    assert open_images(f"{tmp_path}/t*.tar", split="test")._private_length() == 3
    with tarfile.open(tmp_path / "both.tar", "w") as tar:
        tar.add(tree, "top/train")
        tar.add(tree / "bee", "top/val/bee")
    assert open_images(tmp_path / "both.tar")._private_length() == 3
    assert open_images(tmp_path / "both.tar", split="val")._private_length() == 1
