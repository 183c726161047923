from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.data import load_labelled, open_images
from sfumato.errors import DataError


@pytest.fixture
def cells(write, images):
    return [write.encoded(image) for image in images]


def test_class_names_come_from_the_schema(tmp_path, write, cells, labels):
    write.parquet(tmp_path / "set.parquet", cells, labels.tolist())
    assert open_images(tmp_path / "set.parquet").spec.classes == ("ant", "bee", "cat")


def test_declared_names_reorder_the_labels(tmp_path, write, cells, labels):
    write.parquet(tmp_path / "set.parquet", cells, labels.tolist())
    found = load_labelled(open_images(tmp_path / "set.parquet", classes=["cat", "bee", "ant"]))
    np.testing.assert_array_equal(found.labels, 2 - labels)
    with pytest.raises(DataError, match="'ant' is none of those"):
        open_images(tmp_path / "set.parquet", classes=["bee", "cat"])


def test_shards_of_splits(tmp_path, write, cells, images, labels):
    for index, part in enumerate((slice(0, 4), slice(4, 9))):
        name = f"train-{index:05d}-of-00002.parquet"
        write.parquet(tmp_path / name, cells[part], labels[part].tolist())
    write.parquet(tmp_path / "test-00000-of-00001.parquet", cells[:2], [0, 0])
    train, test = open_images(tmp_path, channels=1), open_images(tmp_path, split="test")
    np.testing.assert_array_equal(load_labelled(train).images, images)
    assert test._private_length() == 2
    assert train.location_key == f"{tmp_path}:train"
    assert test.location_key == str(tmp_path / "test-00000-of-00001.parquet")
    by_pattern = open_images(f"{tmp_path}/train-*.parquet", channels=1)
    np.testing.assert_array_equal(load_labelled(by_pattern).labels, labels)


def test_a_repository_keeps_its_shards_in_data(tmp_path, write, cells, labels):
    (tmp_path / "data").mkdir()
    write.parquet(tmp_path / "data" / "train.parquet", cells, labels.tolist())
    assert open_images(tmp_path)._private_length() == 9


def test_missing_cells_and_labels_are_unusable(tmp_path, write, cells):
    cells = [None, *cells[1:]]
    write.parquet(tmp_path / "set.parquet", cells, [0, -1, None, 7, 2, 2, 2, 2, 2])
    ((_, labels),) = open_images(tmp_path / "set.parquet").batches(9)
    assert labels.tolist() == [-1, -1, -1, -1, 2, 2, 2, 2, 2]


def test_plain_columns_need_class_names(tmp_path, cells, images, labels):
    path = tmp_path / "set.parquet"
    pq.write_table(pa.table({"img": pa.array(cells), "label": labels}), path)
    with pytest.raises(DataError, match="carries no class names"):
        open_images(path)
    found = load_labelled(open_images(path, classes=3, channels=1))
    np.testing.assert_array_equal(found.images, images)
    np.testing.assert_array_equal(found.labels, labels)


def test_text_labels_are_matched_by_name(tmp_path, cells):
    path = tmp_path / "set.parquet"
    texts = ["ant", "bee", "wasp", None, "ant", "ant", "ant", "ant", "ant"]
    pq.write_table(pa.table({"image": pa.array(cells), "label": texts}), path)
    ((_, labels),) = open_images(path, classes=["ant", "bee"]).batches(9)
    assert labels.tolist() == [0, 1, -1, -1, 0, 0, 0, 0, 0]


def test_without_labels(tmp_path, write, cells):
    write.parquet(tmp_path / "set.parquet", cells, None)
    assert open_images(tmp_path / "set.parquet").spec.classes == ()
    with pytest.raises(DataError, match="no column of labels"):
        open_images(tmp_path / "set.parquet", classes=3)


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"text": ["a"]}, "no column of encoded images among text"),
        ({"image": [[1, 2]]}, "no column of encoded images"),
        ({"image": [{"path": "a.png"}]}, "no column of encoded images"),
        ({"image": [b"x"], "label": [0.5]}, "column label has type double"),
    ],
)
def test_unknown_schemas_are_refused(tmp_path, columns, said):
    pq.write_table(pa.table(columns), tmp_path / "set.parquet")
    with pytest.raises(DataError, match=said):
        open_images(tmp_path / "set.parquet", classes=2)


def test_shards_with_different_schemas_are_refused(tmp_path, write, cells, labels):
    write.parquet(tmp_path / "a.parquet", cells, labels.tolist())
    write.parquet(tmp_path / "b.parquet", cells, None)
    with pytest.raises(DataError, match=r"b\.parquet: its schema differs from a\.parquet's"):
        open_images(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_cut_off_file_is_refused(tmp_path, write, cells, labels, keep):
    path = tmp_path / "set.parquet"
    write.parquet(path, cells, labels.tolist())
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(DataError, match="not a readable Parquet file"):
        open_images(path)


@given(st.data())
def test_damaged_pages_raise_nothing_but_data_errors(tmp_path_factory, write, images, data):
    path = tmp_path_factory.getbasetemp() / "damaged.parquet"
    write.parquet(path, [write.encoded(image) for image in images[:3]], [0, 1, 2])
    damaged = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 3))):
        damaged[data.draw(st.integers(4, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(damaged)
    try:
        list(open_images(path).batches(4))
    except DataError:
        pass


SHARED = Path(__file__).parents[4] / "shared" / "data"
CIFAR10 = Path(os.environ.get("SFUMATO_TEST_DATA", SHARED)) / "cifar10"


@pytest.mark.skipif(not CIFAR10.is_dir(), reason="CIFAR-10 is not in SFUMATO_TEST_DATA")
def test_cifar10():
    source = open_images(CIFAR10, split="test")
    assert source.spec.classes[:2] == ("airplane", "automobile") and source.spec.height == 32
    found = load_labelled(source)
    assert np.bincount(found.labels).tolist() == [1000] * 10
    assert 120 < found.images.mean() < 123  # the known mean of its pixels is 121.5
