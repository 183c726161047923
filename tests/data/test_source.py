"""What every format has in common: the contract of ``ImageSource``."""

from __future__ import annotations

import io
import logging
import os
import struct
import warnings
import zlib

import numpy as np
import pytest
from PIL import Image

from sfumato.data import open_images
from sfumato.data.decoding.decode import quiet
from sfumato.errors import UsageError

CLASSES = ("ant", "bee", "cat")


def opened(path, **options):
    """Open with the options that make every format agree."""
    return open_images(path, image_size=32, channels=1, classes=CLASSES, **options)


def gathered(source, size=4):
    batches = list(source.batches(size))
    return (
        np.concatenate([images for images, _ in batches]),
        np.concatenate([labels for _, labels in batches]),
    )


def png_claiming(width: int, height: int) -> bytes:
    """Return a tiny PNG whose header claims the given size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100_000)))
        + chunk(b"IEND", b"")
    )


def secret_tiff() -> bytes:
    """Return a TIFF that Pillow logs an error about, with a private text in it."""
    buffer = io.BytesIO()
    Image.new("L", (40, 40)).save(buffer, "TIFF", tiffinfo={270: "PRIVATE-PATIENT-NAME"})
    return buffer.getvalue()[:-30]


def test_every_format_yields_the_same_records(build, any_format, images, labels):
    found, found_labels = gathered(opened(build(any_format)))
    np.testing.assert_array_equal(found, images)
    np.testing.assert_array_equal(found_labels, labels)
    assert found.dtype == np.uint8 and found_labels.dtype == np.int64


@pytest.mark.parametrize("size", [1, 3, 4, 9, 100])
def test_all_but_the_last_batch_are_full(build, any_format, size):
    sizes = [len(labels) for _, labels in opened(build(any_format)).batches(size)]
    assert sum(sizes) == 9
    assert all(here == size for here in sizes[:-1]) and 0 < sizes[-1] <= size


def test_batches_may_be_walked_twice_and_abandoned(build, any_format, images):
    source = opened(build(any_format))
    next(source.batches(2))
    np.testing.assert_array_equal(gathered(source)[0], images)


def test_batch_size_below_one_is_refused(build):
    with pytest.raises(UsageError, match="batch size 0"):
        next(opened(build("folder")).batches(0))


def test_classes_zero_reads_any_format_without_labels(build, any_format, images):
    source = open_images(build(any_format), image_size=32, channels=1, classes=0)
    found, labels = gathered(source)
    assert source.spec.classes == () and set(labels) == {0}
    np.testing.assert_array_equal(found, images)


def test_only_public_things_are_printed(build, any_format):
    source = opened(build(any_format), declared_size=1234)
    assert repr(source) == str(source)
    assert "32x32x1, 3 classes" in repr(source)
    assert "9" not in repr(source).replace(source.name, "")


def test_private_length(build, any_format):
    assert opened(build(any_format))._private_length() == 9


def test_fingerprint_notices_a_changed_file_and_nothing_else(build, any_format):
    path = build(any_format)
    before = opened(path).fingerprint()
    assert opened(path).fingerprint() == before
    changed = path / "ant" / "0.png" if path.is_dir() else path
    os.utime(changed, ns=(1, 1))
    assert opened(path).fingerprint() != before


def test_location_key_is_the_same_however_the_path_is_written(build, any_format, monkeypatch):
    path = build(any_format)
    monkeypatch.chdir(path.parent)
    assert opened(path.name).location_key == opened(path).location_key == str(path)


BROKEN = {
    "empty": b"",
    "text": b"this is no image",
    "truncated": None,  # filled in from a true image
    "bomb": png_claiming(30_000, 30_000),
    "absurd": png_claiming(2**31 - 1, 1),
    "tiff": secret_tiff(),
    "pickle": b"\x80\x04\x95\x0c\x00\x00\x00\x00\x00\x00\x00.",
}


@pytest.mark.parametrize("damage", BROKEN)
def test_a_broken_record_is_zeros_and_says_nothing(
    build, encoded_format, images, labels, write, damage, capfd, caplog
):
    caplog.set_level(logging.DEBUG)
    data = BROKEN[damage]
    path = build(encoded_format, {4: write.encoded(images[4])[:-100] if data is None else data})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found, found_labels = gathered(opened(path))
    assert found_labels[4] == -1 and not found[4].any()
    others = np.arange(9) != 4
    np.testing.assert_array_equal(found[others], images[others])
    np.testing.assert_array_equal(found_labels[others], labels[others])
    assert capfd.readouterr() == ("", "")
    assert not caplog.records


def test_pillow_does_log_outside_quiet(caplog):
    """The test above would pass for nothing if Pillow had nothing to say."""
    caplog.set_level(logging.DEBUG)
    with pytest.raises(OSError):
        Image.open(io.BytesIO(secret_tiff())).load()
    assert "PRIVATE-PATIENT-NAME" in caplog.text


def test_quiet_nests_and_restores():
    logger = logging.getLogger("PIL")
    before = logger.level, list(warnings.filters)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        with quiet():
            with quiet():
                warnings.warn("inner", stacklevel=1)
            warnings.warn("outer", stacklevel=1)
            assert not logger.isEnabledFor(logging.CRITICAL)
        assert not seen
        warnings.warn("after", stacklevel=1)
    assert [str(warning.message) for warning in seen] == ["after"]
    assert (logger.level, list(warnings.filters)) == before


@pytest.mark.parametrize("kind", ["webdataset", "idx", "npz"])  # which carry no class names
def test_labels_outside_the_classes_are_unusable(build, kind):
    source = open_images(build(kind), image_size=32, channels=1, classes=2)
    found, labels = gathered(source)
    assert labels.tolist() == [0, 0, 0, 1, 1, 1, -1, -1, -1]
    assert not found[6:].any()
