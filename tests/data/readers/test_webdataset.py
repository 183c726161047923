from __future__ import annotations

import io
import json
import tarfile

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.data import load_labelled, open_images
from sfumato.errors import DataError


@pytest.fixture
def cells(write, images):
    return [write.encoded(image) for image in images]


@pytest.mark.parametrize("place", ["file", "folder", "pattern"])
def test_shards_in_order(tmp_path, write, cells, images, labels, place):
    for index, part in enumerate((range(0, 4), range(4, 9))):
        files = {}
        for i in part:
            files |= {f"{i}.cls": str(labels[i]).encode(), f"{i}.png": cells[i]}
        write.tar(tmp_path / f"train-{index:06d}.tar", files)
    location = {
        "file": tmp_path / "train-000000.tar",
        "folder": tmp_path,
        "pattern": f"{tmp_path}/train-*.tar",
    }[place]
    found = load_labelled(open_images(location, classes=3, channels=1))
    count = 4 if place == "file" else 9
    np.testing.assert_array_equal(found.images, images[:count])
    np.testing.assert_array_equal(found.labels, labels[:count])


def test_splits_by_shard_name(tmp_path, write, cells):
    write.tar(tmp_path / "train-0.tar", {"a.png": cells[0]})
    write.tar(tmp_path / "test-0.tar", {"a.png": cells[1], "b.png": cells[2]})
    assert open_images(tmp_path, classes=0)._private_length() == 1
    assert open_images(tmp_path, split="test", classes=0)._private_length() == 2


def test_labels_in_many_forms(tmp_path, write, cells):
    forms = [b"1", b"1\n", b"bee", b"wasp", b"", b"\xff", b"9", b"-1", b"9" * 5000]
    files = {}
    for i, form in enumerate(forms):
        files |= {f"{i}.png": cells[i], f"{i}.cls": form}
    write.tar(tmp_path / "set.tar", files)
    ((_, labels),) = open_images(tmp_path / "set.tar", classes=["ant", "bee"]).batches(9)
    assert labels.tolist() == [1, 1, 1, -1, -1, -1, -1, -1, -1]


def test_a_number_is_an_index_even_where_class_names_are_numbers(tmp_path, write, cells):
    write.tar(tmp_path / "set.tar", {"0.png": cells[0], "0.cls": b"1"})
    ((_, labels),) = open_images(tmp_path / "set.tar", classes=["1", "0"]).batches(9)
    assert labels.tolist() == [1]


def test_labels_in_json(tmp_path, write, cells):
    forms = [{"label": 1}, {"cls": "bee"}, {"class": 0}, {"other": 1}, [1], {"label": None}]
    files = {}
    for i, form in enumerate(forms):
        files |= {f"{i}.png": cells[i], f"{i}.json": json.dumps(form).encode()}
    files |= {"8.png": cells[8], "8.json": b"[" * 100_000}
    write.tar(tmp_path / "set.tar", files)
    ((_, labels),) = open_images(tmp_path / "set.tar", classes=["ant", "bee"]).batches(9)
    assert labels.tolist() == [1, 1, 0, -1, -1, -1, -1]


def test_cls_wins_over_json(tmp_path, write, cells):
    files = {"0.cls": b"1", "0.json": b'{"label": 0}', "0.png": cells[0]}
    write.tar(tmp_path / "set.tar", files)
    ((_, labels),) = open_images(tmp_path / "set.tar", classes=2).batches(9)
    assert labels.tolist() == [1]


def test_records_with_a_part_missing_are_unusable(tmp_path, write, cells):
    files = {"0.cls": b"0", "1.png": cells[1], "2.png": cells[2], "2.cls": b"1", "3.txt": b"text"}
    write.tar(tmp_path / "set.tar", files)
    ((images, labels),) = open_images(tmp_path / "set.tar", classes=2).batches(9)
    assert labels.tolist() == [-1, -1, 1] and not images[:2].any()


def test_the_same_name_in_two_folders_is_two_records(tmp_path, write, cells):
    write.tar(tmp_path / "set.tar", {"a/0.png": cells[0], "b/0.png": cells[1]})
    assert open_images(tmp_path / "set.tar", classes=0)._private_length() == 2


def test_that_there_is_no_image_or_no_label_is_private(tmp_path, write, cells):
    for files in ({"0.cls": b"0"}, {"0.txt": b"0"}, {"0.png": cells[0]}):
        write.tar(tmp_path / "set.tar", files)
        source = open_images(tmp_path / "set.tar", classes=2)
        assert not any((labels >= 0).any() for _, labels in source.batches(4))


def test_classes_must_be_stated_whether_there_are_labels_or_not(tmp_path, write, cells):
    said = []
    for files in ({"0.png": cells[0], "0.cls": b"0"}, {"0.png": cells[0]}):
        write.tar(tmp_path / "set.tar", files)
        with pytest.raises(DataError, match="carries no class names") as refused:
            open_images(tmp_path / "set.tar")
        said.append(str(refused.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("name", ["../0.png", "/0.png", "a/../../0.png"])
def test_a_path_that_climbs_out_is_no_record(tmp_path, write, cells, name):
    write.tar(tmp_path / "set.tar", {"1.png": cells[1], name: cells[0]})
    assert open_images(tmp_path / "set.tar", classes=0)._private_length() == 1


def test_links_inside_are_not_followed(tmp_path, cells):
    with tarfile.open(tmp_path / "set.tar", "w") as tar:
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo(f"{kind.decode()}.png")
            member.type, member.linkname = kind, "/etc/hostname"
            tar.addfile(member)
        member = tarfile.TarInfo("9.png")
        member.size = len(cells[0])
        tar.addfile(member, io.BytesIO(cells[0]))
    assert open_images(tmp_path / "set.tar", classes=0)._private_length() == 1


def test_cut_off_and_damaged_tars_are_refused(tmp_path, write, cells):
    path = tmp_path / "set.tar"
    write.tar(path, {"0.png": cells[0], "1.png": cells[1]})
    whole = path.read_bytes()
    path.write_bytes(whole[: 512 + len(cells[0]) // 2])
    with pytest.raises(DataError, match="not a readable tar"):
        open_images(path)
    second = whole.index(b"1.png")
    path.write_bytes(whole[:second] + b"\xff" * 200 + whole[second + 200 :])
    with pytest.raises(DataError, match="not a readable tar"):
        open_images(path)


@given(st.data())
def test_damaged_tars_raise_nothing_but_data_errors(tmp_path_factory, write, data):
    path = tmp_path_factory.getbasetemp() / "damaged.tar"
    write.tar(path, {"0.png": b"zero", "0.cls": b"0", "1.png": b"one"})
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, 3000))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged[: data.draw(st.integers(0, len(damaged)))])
    try:
        list(open_images(path, classes=2).batches(4))
    except DataError:
        pass
