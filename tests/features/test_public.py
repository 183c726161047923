"""Public images at hand: what grey data get, and that figures are figures."""

from __future__ import annotations

import numpy as np
import pytest

from sfumato.data.spec import PublicSpec
from sfumato.features import public_images, public_patches
from sfumato.features.figures import _ellipses, _polygons, _strokes, drawn_figures

GREY = PublicSpec(28, 28, 1, ())


def test_half_of_the_images_of_grey_data_are_figures():
    images = public_images(GREY, figures=True)
    assert images.shape == (4000, 1, 28, 28) and images.dtype == np.uint8
    assert np.array_equal(images[:2000], public_patches(GREY, 2000))
    assert np.array_equal(images[2000:], drawn_figures(GREY, 2000))


@pytest.mark.parametrize(("channels", "figures"), [(3, True), (1, False)])
def test_colour_and_who_wants_none_get_photographs_alone(channels, figures):
    spec = PublicSpec(8, 8, channels, ())
    assert np.array_equal(public_images(spec, figures), public_patches(spec))


def test_figures_repeat_and_differ_by_seed():
    assert np.array_equal(drawn_figures(GREY, 300), drawn_figures(GREY, 300))
    assert not np.array_equal(drawn_figures(GREY, 8), drawn_figures(GREY, 8, seed=1))


@pytest.mark.parametrize(("height", "width", "channels"), [(28, 28, 1), (20, 96, 1), (128, 64, 3)])
def test_figures_stand_on_an_even_ground_of_any_size(height, width, channels):
    images = drawn_figures(PublicSpec(height, width, channels, ()), 200)
    assert images.shape == (200, channels, height, width)
    assert (images == images[:, :1]).all()
    ground = np.isin(images[:, 0], (0, 255)).mean(axis=(1, 2))
    assert (ground < 1).all()  # something is drawn in each
    assert np.median(ground) > 0.5
    # A quarter is dark on white: 50 of 200, standard deviation 6.
    light = (images[:, 0] == 255).mean(axis=(1, 2)) > 0.5
    assert 25 <= light.sum() <= 80


@pytest.mark.parametrize("outside", [_strokes, _ellipses, _polygons])
def test_a_figure_is_bounded_and_moves_by_no_more_than_a_pixel_does(outside):
    rng = np.random.default_rng(0)
    pixels = rng.uniform(0, 1, (100, 2))
    far = np.array([[-9.0, -9.0], [9.0, 9.0]])
    place = np.concatenate([pixels, pixels + np.array([0.01, 0]), far])
    distances = outside(np.random.default_rng(1), place, 40)
    assert (distances[:, 200:] > 0).all()
    moved = np.abs(distances[:, :100] - distances[:, 100:200])
    assert moved.max() <= 0.01 + 1e-9
    assert (distances[:, :100] < 0).any()
