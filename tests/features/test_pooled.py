"""Pooled features see each image by itself, and the axes that ship are what their card says."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfumato.data.spec import PublicSpec
from sfumato.features import (
    PooledCoordinates,
    PooledFeatures,
    load_encoder,
    photograph_card,
    public_patches,
)

NAME = "efficientnet-lite0"


@pytest.fixture(scope="module")
def patches():
    return public_patches(PublicSpec(32, 32, 3, ()), 24)


def test_features_are_block_averages_of_the_enlarged_image(patches):
    pixels = torch.from_numpy(patches[:3]).float() / 255
    features = PooledFeatures(load_encoder(NAME), 48)(pixels)
    large = torch.nn.functional.interpolate(pixels, (48, 48), mode="bilinear")
    blocks = [layer.mean(dim=(2, 3)) for layer in load_encoder(NAME)(large)]
    torch.testing.assert_close(features, torch.cat(blocks, dim=1))
    as_it_is = PooledFeatures(load_encoder(NAME), 32)(pixels)
    assert not torch.allclose(features, as_it_is)


@pytest.mark.parametrize("channels", [1, 3])
def test_coordinates_have_norm_at_most_one_whatever_the_image_holds(channels):
    rng = np.random.default_rng(0)
    images = rng.choice([0, 255], (4, channels, 28, 28)).astype(np.float32) / 255
    images[0] = 0
    coordinates = PooledCoordinates.of(NAME, 32, 600)
    assert float(coordinates(torch.from_numpy(images)).norm(dim=1).max()) <= 1 + 1e-5


def test_axes_ship_with_a_card_and_belong_to_the_encoder():
    card = photograph_card()
    assert card["encoder_sha256"] == load_encoder(card["encoder"]).digest
    assert len(card["images_sha256"]) == 64 and card["images"] > 10_000
    assert PooledCoordinates.of(NAME, 64, 600).width == 600


def test_photographs_spread_most_along_the_first_axes_that_ship(patches):
    coordinates = PooledCoordinates.of(NAME, 64, 600)
    raw = (coordinates.features.of(patches) - coordinates.axes.mean) @ coordinates.axes.axes
    spread = raw.std(dim=0)
    # Half-whitened: about 1 along the first axes, 1/2 along the middle one. Axes whose rows were
    # mixed up spread everything alike.
    assert spread[:20].mean() > 1.5 * spread[300:].mean()


def test_coordinates_are_rebuilt_from_what_was_saved(patches):
    pixels = torch.from_numpy(patches[:2]).float() / 255
    for made in (
        PooledCoordinates.of(NAME, 32, 20),
        PooledCoordinates.of(NAME, 32, 20, public=patches),
    ):
        again = PooledCoordinates.load(made.config(), made.tensors())
        torch.testing.assert_close(made(pixels), again(pixels))
    for wrong in (
        {"axes": made.axes.axes[1:]},
        {"axes": made.axes.axes * torch.nan},
        {"mean": made.axes.mean.double()},
    ):
        with pytest.raises(ValueError, match="axes"):
            PooledCoordinates.load(made.config(), {**made.tensors(), **wrong})
    with pytest.raises(ValueError, match="enlarged"):
        PooledCoordinates.load({**made.config(), "encoder_size": 10**6}, made.tensors())
