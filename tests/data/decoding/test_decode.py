from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from sfumato.data import PublicSpec
from sfumato.data.decoding import decode as decoding
from sfumato.data.decoding.decode import decode, fit_pixels, quiet

GREY = PublicSpec(32, 32, 1, ())
COLOUR = PublicSpec(32, 32, 3, ())


def saved(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def photo() -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (32, 32, 3), np.uint8)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_give_the_pixels_back(photo, kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    found = decode(saved(Image.fromarray(photo), kind, **options), COLOUR)
    np.testing.assert_array_equal(found, photo.transpose(2, 0, 1))


def test_jpeg_gives_what_pillow_gives(photo):
    data = saved(Image.fromarray(photo), "JPEG")
    expected = np.asarray(Image.open(io.BytesIO(data))).transpose(2, 0, 1)
    np.testing.assert_array_equal(decode(data, COLOUR), expected)


def test_other_formats_are_unusable(photo):
    assert decode(saved(Image.fromarray(photo), "GIF"), COLOUR) is None
    assert decode(saved(Image.fromarray(photo), "PPM"), COLOUR) is None


@pytest.mark.parametrize("shape", [(60, 40), (40, 60), (61, 40), (20, 20), (28, 28)])
def test_centre_crop_then_lanczos(shape):
    pixels = np.random.default_rng(2).integers(0, 256, shape, np.uint8)
    side = min(shape)
    top, left = (shape[0] - side) // 2, (shape[1] - side) // 2
    square = Image.fromarray(np.ascontiguousarray(pixels[top : top + side, left : left + side]))
    expected = np.asarray(square.resize((32, 32), Image.Resampling.LANCZOS))
    np.testing.assert_array_equal(decode(saved(Image.fromarray(pixels)), GREY)[0], expected)
    np.testing.assert_array_equal(fit_pixels(pixels, GREY)[0], expected)


def test_grey_and_colour_convert_by_rec_601(photo):
    red, green, blue = photo.astype(float).transpose(2, 0, 1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    found = decode(saved(Image.fromarray(photo)), GREY)
    assert np.abs(found[0] - luma).max() <= 1
    grey = decode(saved(Image.fromarray(found[0])), COLOUR)
    np.testing.assert_array_equal(grey, np.repeat(found, 3, axis=0))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied(orientation, kind):
    upright = np.zeros((32, 32), np.uint8)
    upright[:16, :16] = 255  # top left is white ...
    upright[:16, 16:] = 128  # ... and top right is grey, so all eight turns differ
    undo = {1: None, 6: "ROTATE_90", 8: "ROTATE_270", 5: "TRANSPOSE", 7: "TRANSVERSE"}
    undo |= {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM"}
    image = Image.fromarray(upright)
    if undo[orientation]:
        image = image.transpose(Image.Transpose[undo[orientation]])
    exif = Image.Exif()
    exif[0x0112] = orientation
    found = decode(saved(image, kind, exif=exif), GREY)
    assert np.abs(found[0].astype(int) - upright).max() < 40  # JPEG is lossy


def test_an_odd_orientation_is_ignored(photo):
    exif = Image.Exif()
    exif[0x0112] = 99
    assert decode(saved(Image.fromarray(photo), exif=exif), COLOUR) is not None


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparency_becomes_black(mode):
    rgba = np.full((32, 32, 4), 200, np.uint8)
    rgba[:16, :, 3] = 0
    rgba[16:, :, 3] = 255
    found = decode(saved(Image.fromarray(rgba).convert(mode)), COLOUR)
    assert (found[:, :16] == 0).all() and (found[:, 16:] == 200).all()


def test_a_transparent_palette_colour_becomes_black():
    pixels = np.zeros((32, 32), np.uint8)
    pixels[:16] = 1
    image = Image.fromarray(pixels).convert("P")
    image.putpalette([255, 0, 0, 0, 255, 0])
    found = decode(saved(image, transparency=0), COLOUR)
    assert (found[1, :16] == 255).all() and not found[:, 16:].any()


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_sixteen_bit_greys_are_scaled(kind):
    wide = np.linspace(0, 65535, 32 * 32).round().astype(np.uint16).reshape(32, 32)
    found = decode(saved(Image.fromarray(wide), kind), GREY)[0]
    assert found[0, 0] == 0 and found[-1, -1] == 255
    assert np.abs(found - wide / 257).max() <= 0.5 + 1e-9


def test_one_bit_cmyk_and_palette_images_are_read(photo):
    white = Image.new("1", (32, 32), 1)
    assert (decode(saved(white), COLOUR) == 255).all()
    assert decode(saved(Image.fromarray(photo).convert("CMYK"), "JPEG"), COLOUR) is not None
    assert decode(saved(Image.fromarray(photo).quantize(16)), GREY) is not None


def test_floating_point_images_have_no_range_and_are_unusable():
    image = Image.fromarray(np.ones((32, 32), np.float32))
    assert decode(saved(image, "TIFF"), GREY) is None


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_the_first_frame_of_an_animation_is_taken(kind):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("#00ff00", "#ff0000")]
    data = saved(frames[0], kind, save_all=True, append_images=frames[1:], lossless=True)
    found = decode(data, COLOUR)
    assert (found[1] == 255).all() and not found[0].any()


def test_a_long_file_and_a_large_area_are_unusable(photo, monkeypatch):
    data = saved(Image.fromarray(photo))
    assert decode(data, COLOUR) is not None
    monkeypatch.setattr(decoding, "LARGEST_AREA", 32 * 32 - 1)
    assert decode(data, COLOUR) is None
    monkeypatch.undo()
    monkeypatch.setattr(decoding, "LARGEST_FILE", len(data) - 1)
    assert decode(data, COLOUR) is None
    monkeypatch.undo()
    monkeypatch.setattr(decoding, "LONGEST_SIDE", 31)
    assert decode(data, COLOUR) is None


SEEDS = [
    saved(Image.fromarray(np.arange(3 * 1024, dtype=np.uint8).reshape(32, 32, 3)), kind)
    for kind in decoding.FORMATS
]


@given(st.sampled_from(SEEDS), st.data())
def test_damaged_bytes_never_raise(seed, data):
    damaged = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(seed) - 1))] = data.draw(st.integers(0, 255))
    damaged = damaged[: data.draw(st.integers(0, len(seed)))]
    with quiet():
        found = decode(bytes(damaged), COLOUR)
    assert found is None or (found.shape == (3, 32, 32) and found.dtype == np.uint8)
