from __future__ import annotations

import gzip
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.data import load_labelled, open_images
from sfumato.errors import DataError


@pytest.fixture
def pair(tmp_path, write, images, labels):
    def make(prefix="train", packed=True, pixels=images[:, 0], numbers=labels):
        pack = gzip.compress if packed else bytes
        end = ".gz" if packed else ""
        write.tree(
            tmp_path,
            {
                f"{prefix}-images-idx3-ubyte{end}": pack(write.idx(pixels)),
                f"{prefix}-labels-idx1-ubyte{end}": pack(write.idx(numbers.astype(np.uint8))),
            },
        )
        return tmp_path

    return make


@pytest.mark.parametrize("packed", [True, False])
def test_a_folder_with_train_and_test(pair, images, labels, packed):
    folder = pair("train", packed)
    pair("t10k", packed, images[:4, 0], labels[:4])
    train = load_labelled(open_images(folder, classes=3))
    np.testing.assert_array_equal(train.images, images)
    np.testing.assert_array_equal(train.labels, labels)
    assert train.classes == ("0", "1", "2")
    test = open_images(folder, classes=3, split="test")
    np.testing.assert_array_equal(load_labelled(test).images, images[:4])
    assert "t10k" in test.location_key


def test_the_header_declares_size_and_one_channel(pair):
    folder = pair(pixels=np.zeros((9, 40, 50), np.uint8))
    spec = open_images(folder, classes=3).spec
    assert (spec.height, spec.width, spec.channels) == (40, 40, 1)


def test_a_file_alone_is_unlabelled(pair, images):
    folder = pair()
    (folder / "train-labels-idx1-ubyte.gz").unlink()
    source = open_images(folder / "train-images-idx3-ubyte.gz")
    assert source.spec.classes == () and load_labelled(source).labels.tolist() == [0] * 9
    with pytest.raises(DataError, match="no labels file"):
        open_images(folder, classes=3)


def test_labels_beside_an_unpacked_file_may_be_packed(pair, images, labels, write):
    folder = pair()
    packed = folder / "train-images-idx3-ubyte.gz"
    (folder / "train-images-idx3-ubyte").write_bytes(gzip.decompress(packed.read_bytes()))
    source = open_images(folder, classes=3)
    assert source.location_key.endswith("idx3-ubyte")
    np.testing.assert_array_equal(load_labelled(source).labels, labels)


def test_labels_are_numbers_so_classes_must_be_stated(pair):
    with pytest.raises(DataError, match=r"carries no class names.*classes=10.*classes=0"):
        open_images(pair())


def test_labels_without_images(pair):
    folder = pair()
    (folder / "train-images-idx3-ubyte.gz").unlink()
    with pytest.raises(DataError, match="labels without images"):
        open_images(folder, classes=3)
    with pytest.raises(DataError, match="these are labels"):
        open_images(folder / "train-labels-idx1-ubyte.gz", classes=3)


def test_pairs_that_disagree_name_the_files_and_not_the_numbers(pair, labels):
    folder = pair(numbers=labels[:8])
    with pytest.raises(DataError, match="different numbers of records") as refused:
        open_images(folder, classes=3)
    text = str(refused.value).replace(str(folder), "")
    assert "train-images" in text and "train-labels" in text
    assert "9" not in text and "8" not in text


@pytest.mark.parametrize("packed", [True, False])
def test_wrong_magic(pair, write, images, packed):
    folder = pair(packed=packed)
    images_file, labels_file = sorted(folder.glob("*ubyte*"))
    data = labels_file.read_bytes()
    images_file.write_bytes(data)
    with pytest.raises(DataError, match="magic number 0x00000801"):
        open_images(folder, classes=3)


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("kept", [0, 3, 15, 16, 200, -1])
def test_cut_off_files_are_refused_before_any_image_is_read(pair, packed, kept):
    folder = pair(packed=packed)
    path = next(folder.glob("*images*"))
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(DataError, match=r"cut off|shorter"):
        open_images(folder, classes=3)


def test_trailing_bytes_are_refused(pair):
    folder = pair(packed=False)
    with next(folder.glob("*images*")).open("ab") as file:
        file.write(b"x")
    with pytest.raises(DataError, match="shorter or longer"):
        open_images(folder, classes=3)


def test_gzip_in_several_members_is_valid(pair, images):
    folder = pair()
    path = folder / "train-images-idx3-ubyte.gz"
    data = gzip.decompress(path.read_bytes())
    path.write_bytes(gzip.compress(data[:500]) + gzip.compress(data[500:]))
    np.testing.assert_array_equal(load_labelled(open_images(folder, classes=3)).images, images)


def test_a_damaged_payload_is_a_format_error(pair):
    folder = pair()
    path = folder / "train-images-idx3-ubyte.gz"
    data = bytearray(path.read_bytes())
    data[-8] ^= 1  # the checksum
    path.write_bytes(data)
    with pytest.raises(DataError, match="cut off or damaged"):
        list(open_images(folder, classes=3).batches(4))


@pytest.mark.parametrize("shape", [(1, 2**31, 2**31), (2**32 - 1, 2**16, 2**16), (3, 0, 28)])
def test_absurd_headers(tmp_path, shape):
    path = tmp_path / "images-idx3-ubyte"
    path.write_bytes(struct.pack(">4I", 0x803, *shape) + bytes(100))
    with pytest.raises(DataError, match="header is damaged"):
        open_images(path)


def test_a_header_that_claims_terabytes_is_read_no_further_than_the_file(tmp_path):
    path = tmp_path / "images-idx3-ubyte.gz"
    path.write_bytes(gzip.compress(struct.pack(">4I", 0x803, 2**32 - 1, 4096, 4096)))
    with pytest.raises(DataError, match="shorter or longer"):
        open_images(path)


@given(st.binary(max_size=40), st.booleans(), st.booleans())
def test_any_bytes_raise_nothing_but_data_errors(tmp_path_factory, data, packed, magic):
    data = (b"\0\0\x08\x03" if magic else b"") + data
    end = ".gz" if packed else ""
    path = tmp_path_factory.getbasetemp() / f"images-idx3-ubyte{end}"
    path.write_bytes(gzip.compress(data) if packed else data)
    try:
        list(open_images(path).batches(4))
    except DataError:
        pass
