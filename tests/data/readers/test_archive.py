from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.data import load_labelled, open_images
from sfumato.data.readers import archive
from sfumato.errors import DataError


@pytest.fixture
def cells(write, images):
    return [write.encoded(image) for image in images]


def test_splits_and_a_common_top_folder(tmp_path, write, cells, images):
    path = tmp_path / "set.zip"
    write.zip(
        path,
        {
            "set/train/b/1.png": cells[1],
            "set/train/a/2.png": cells[2],
            "set/test/a/3.png": cells[3],
        },
    )
    train = load_labelled(open_images(path, channels=1))
    np.testing.assert_array_equal(train.images, images[[2, 1]])
    assert train.classes == ("a", "b") and train.labels.tolist() == [0, 1]
    test = open_images(path, split="test", channels=1)
    np.testing.assert_array_equal(load_labelled(test).images, images[[3]])
    assert test.location_key == f"{path}:test"


def test_hidden_members_are_not_read(tmp_path, write, cells):
    write.zip(
        tmp_path / "set.zip",
        {
            "a/1.png": cells[1],
            "__MACOSX/a/._1.png": b"",
            "a/.2.png": cells[2],
            "a/": b"",
            "b/": b"",
        },
    )
    source = open_images(tmp_path / "set.zip")
    assert source._private_length() == 1 and source.spec.classes == ("a", "b")


@pytest.mark.parametrize("name", ["../1.png", "a/../../1.png", "/1.png", "C:/1.png", "..\\1.png"])
def test_a_path_that_climbs_out_is_no_record(tmp_path, write, cells, images, name):
    write.zip(tmp_path / "set.zip", {"a/": b"", "a/1.png": cells[1], name: cells[2]})
    found = load_labelled(open_images(tmp_path / "set.zip", classes=["a"], channels=1))
    np.testing.assert_array_equal(found.images, images[[1]])
    assert list(tmp_path.rglob("*.png")) == []


def test_names_with_colons_dots_and_backslashes_are_read(tmp_path, write, cells):
    names = ["a/12:30.png", "./a/2.png", "a\\3.png", "a/..4.png", "a/t:5.png"]
    write.zip(tmp_path / "set.zip", dict(zip(names, cells, strict=False)))
    source = open_images(tmp_path / "set.zip", classes=["a"])
    # Only what is called like a hidden file is left out.
    assert load_labelled(source).labels.tolist() == [0] * 4


def test_a_listed_folder_is_a_class_and_an_image_makes_none(tmp_path, write, cells):
    files = {"s/": b"", "s/b/": b"", "s/a/": b"", "s/b/1.png": cells[1]}
    write.zip(tmp_path / "set.zip", files)
    source = open_images(tmp_path / "set.zip")
    assert source.spec.classes == ("a", "b") and "names of the folders" in source.notes[0]
    write.zip(tmp_path / "set.zip", files | {"s/new/2.png": cells[2], "t/3.png": cells[3]})
    assert open_images(tmp_path / "set.zip").spec == source.spec


def test_a_zip_that_lists_no_folders_says_where_class_names_come_from(tmp_path, write, cells):
    write.zip(tmp_path / "set.zip", {"s/b/1.png": cells[1], "s/a/2.png": cells[2]})
    source = open_images(tmp_path / "set.zip")
    assert source.spec.classes == ("a", "b") and "declares them public" in source.notes[0]
    stated = open_images(tmp_path / "set.zip", classes=["a", "b"])
    assert stated.spec == source.spec and len(stated.notes) == len(source.notes) - 1
    with pytest.raises(DataError, match="State their names"):
        open_images(tmp_path / "set.zip", classes=2)


def test_no_zip_and_a_cut_off_zip_are_refused(tmp_path, write, cells):
    (tmp_path / "text.zip").write_bytes(b"no zip")
    with pytest.raises(DataError, match="not a readable zip"):
        open_images(tmp_path / "text.zip")
    write.zip(tmp_path / "set.zip", {"a/1.png": cells[1]})
    (tmp_path / "cut.zip").write_bytes((tmp_path / "set.zip").read_bytes()[:-30])
    with pytest.raises(DataError, match="not a readable zip"):
        open_images(tmp_path / "cut.zip")


def test_a_zip_without_images_and_an_encrypted_one_hold_nothing_usable(tmp_path, write, cells):
    write.zip(tmp_path / "none.zip", {"data.pkl": b"\x80\x04."})
    assert list(open_images(tmp_path / "none.zip").batches(4)) == []
    path = tmp_path / "set.zip"
    write.zip(path, {"a/1.png": cells[1]})
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    ((_, labels),) = open_images(path, classes=["a"]).batches(5)
    assert labels.tolist() == [-1]


def test_a_member_that_is_too_long_or_oddly_packed_is_unusable(tmp_path, cells, monkeypatch):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as written:
        written.writestr("a/1.png", cells[1])
        written.writestr("a/2.png", cells[2], zipfile.ZIP_LZMA)
        written.writestr("a/3.png", cells[3] + bytes(5000))
    monkeypatch.setattr(archive, "LARGEST_FILE", len(cells[3]) + 4000)
    ((_, labels),) = open_images(path).batches(5)
    assert labels.tolist() == [0, -1, -1]


def test_a_member_with_a_wrong_checksum_is_unusable(tmp_path, cells):
    path = tmp_path / "set.zip"
    with zipfile.ZipFile(path, "w") as written:
        written.writestr("a/1.png", cells[1])
        written.writestr("a/2.png", cells[2])
    data = bytearray(path.read_bytes())
    data[data.index(cells[1]) + 200] ^= 1
    path.write_bytes(data)
    ((_, labels),) = open_images(path).batches(5)
    assert labels.tolist() == [-1, 0]


def small_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        written.writestr("a/1.png", b"one")
        written.writestr("b/2.png", b"two")
    return buffer.getvalue()


@given(st.data())
def test_damaged_archives_raise_nothing_but_data_errors(tmp_path_factory, data):
    damaged = bytearray(small_zip())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "damaged.zip"
    path.write_bytes(damaged[: data.draw(st.integers(len(damaged) // 2, len(damaged)))])
    try:
        list(open_images(path).batches(4))
    except DataError:
        pass


def test_which_splits_there_are_is_known_where_folders_are_listed(tmp_path, write, cells):
    stated = {"classes": ["a"], "split": "test"}
    write.zip(tmp_path / "set.zip", {"test/a/1.png": cells[1]})
    assert not open_images(tmp_path / "set.zip", **stated).knows_splits
    write.zip(tmp_path / "set.zip", {"test/": b"", "test/a/": b"", "test/a/1.png": cells[1]})
    assert open_images(tmp_path / "set.zip", **stated).knows_splits
