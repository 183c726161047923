from __future__ import annotations

import gzip
import hashlib
from pathlib import Path

import numpy as np
import pytest

from sfumato.data import load_labelled, open_images
from sfumato.data.readers import named
from sfumato.errors import DataError


def test_digits_train_and_test_are_all_digits_once():
    train, test = load_labelled(open_images("digits")), load_labelled(open_images("digits:test"))
    assert train.images.shape == (1438, 1, 28, 28) and test.images.shape == (359, 1, 28, 28)
    assert train.classes == tuple("0123456789")
    assert set(train.labels) == set(test.labels) == set(range(10))


def test_digits_know_their_names_and_splits():
    source = open_images("digits", split="test")
    assert source.location_key == "named:digits:test" and source._private_length() == 359
    assert source.fingerprint() == open_images("digits:test").fingerprint()
    assert source.fingerprint() != open_images("digits").fingerprint()
    assert open_images("digits", classes=10).spec.classes == tuple("0123456789")
    with pytest.raises(DataError, match="no split 'validation'"):
        open_images("digits:validation")
    with pytest.raises(DataError, match="another order"):
        open_images("digits", classes=list("9876543210"))


def test_a_digit_looks_like_the_one_scikit_learn_ships():
    from sklearn.datasets import load_digits

    images, _ = load_digits(return_X_y=True)
    found = load_labelled(open_images("digits")).images[0, 0].astype(float)
    small = found.reshape(4, 7, 4, 7).mean((1, 3)).ravel()
    assert np.corrcoef(small, images[0].reshape(4, 2, 4, 2).mean((1, 3)).ravel())[0, 1] > 0.95


@pytest.fixture
def upstream(tmp_path, write, images, labels, monkeypatch):
    """A small stand-in for the official address, without Debian's folder."""
    contents = {
        "train-images-idx3-ubyte": write.idx(images[:, 0]),
        "train-labels-idx1-ubyte": write.idx(labels.astype(np.uint8)),
        "t10k-images-idx3-ubyte": write.idx(images[:2, 0]),
        "t10k-labels-idx1-ubyte": write.idx(labels[:2].astype(np.uint8)),
    }
    folder = tmp_path / "upstream"
    write.tree(folder, {f"{name}.gz": gzip.compress(data) for name, data in contents.items()})
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}
    monkeypatch.setattr(named, "FASHION_MNIST_FILES", digests)
    monkeypatch.setattr(named, "FASHION_MNIST_URL", f"{folder.as_uri()}/")
    monkeypatch.setattr(named, "_DEBIAN_FOLDER", tmp_path / "absent")
    monkeypatch.setattr(named, "user_cache_path", lambda name: tmp_path / "cache" / name)
    monkeypatch.delenv("SFUMATO_FASHION_MNIST", raising=False)
    return folder


def test_fashion_mnist_is_downloaded_once_and_kept(upstream, images, monkeypatch):
    source = open_images("fashion-mnist")
    assert source.spec.classes[0] == "T-shirt/top" and source.spec.classes[9] == "Ankle boot"
    assert source.location_key == "named:fashion-mnist:train"
    np.testing.assert_array_equal(load_labelled(source).images, images)
    monkeypatch.setattr(named, "FASHION_MNIST_URL", "file:///nowhere/")
    assert open_images("fashion-mnist:test")._private_length() == 2


def test_offline_the_error_says_what_to_fetch_and_which_variable_to_set(upstream, monkeypatch):
    monkeypatch.setattr(named, "FASHION_MNIST_URL", "file:///nowhere/")
    with pytest.raises(DataError) as refused:
        open_images("fashion-mnist")
    for part in ("t10k-labels-idx1-ubyte.gz", "file:///nowhere/", "SFUMATO_FASHION_MNIST"):
        assert part in str(refused.value)


# Named, since gzip writes the time and workers that collect tests must agree on their names.
@pytest.mark.parametrize(
    "damage",
    [b"no gzip", gzip.compress(b"other"), gzip.compress(b"x")[:-4]],
    ids=["no gzip", "another file", "cut off"],
)
def test_a_download_with_a_wrong_checksum_is_not_kept(upstream, tmp_path, damage):
    (upstream / "train-images-idx3-ubyte.gz").write_bytes(damage)
    with pytest.raises(DataError, match=r"wrong checksum|cannot download"):
        open_images("fashion-mnist")
    assert not list((tmp_path / "cache").rglob("*ubyte*"))


def test_the_variable_names_a_folder(upstream, tmp_path, monkeypatch):
    monkeypatch.setenv("SFUMATO_FASHION_MNIST", str(upstream))
    monkeypatch.setattr(named, "FASHION_MNIST_URL", "file:///nowhere/")
    assert open_images("fashion-mnist", classes=0).spec.classes == ()
    monkeypatch.setenv("SFUMATO_FASHION_MNIST", str(tmp_path))
    with pytest.raises(DataError, match="the folder must hold train-images-idx3-ubyte"):
        open_images("fashion-mnist")


REAL = Path("/usr/share/datasets/fashion-mnist")


@pytest.mark.skipif(not REAL.is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_real_fashion_mnist(monkeypatch):
    monkeypatch.delenv("SFUMATO_FASHION_MNIST", raising=False)
    found = load_labelled(open_images("fashion-mnist:test"))
    assert found.images.shape == (10_000, 1, 28, 28)
    assert np.bincount(found.labels).tolist() == [1000] * 10
    for name, digest in named.FASHION_MNIST_FILES.items():
        if name.startswith("t10k"):
            payload = gzip.decompress((REAL / f"{name}.gz").read_bytes())
            assert hashlib.sha256(payload).hexdigest() == digest
