"""What is said of the shipped encoder and axes without loading them is what they are."""

from __future__ import annotations

import pytest
import torch

from sfumato.errors import UsageError
from sfumato.features import PerceptualFeatures, PooledCoordinates, load_encoder
from sfumato.features.shipped import (
    CHANNELS,
    ENCODER,
    HALVINGS,
    ShippedCoordinates,
    encoder_digest,
    layer_lengths,
)


@pytest.mark.parametrize(("height", "width", "channels"), [(28, 28, 1), (37, 64, 3), (100, 81, 3)])
def test_lengths_of_layers_are_those_of_the_encoder(height: int, width: int, channels: int) -> None:
    layers = range(len(CHANNELS))
    encoder = load_encoder()
    features = PerceptualFeatures(encoder, layers, "norm", [1.0] * (len(CHANNELS) + 2))
    found = features.activations(torch.zeros(1, channels, height, width))
    assert [layer.shape[1] for layer in found] == layer_lengths(layers, height, width)
    assert len(HALVINGS) == len(encoder.blocks) and encoder.digest == encoder_digest()


def test_shipped_coordinates_are_those_that_are_loaded() -> None:
    known = ShippedCoordinates(ENCODER, 32, 20)
    loaded = known.loaded()
    assert isinstance(loaded, PooledCoordinates)
    assert (known.width, known.digest) == (loaded.width, loaded.digest)
    assert loaded.loaded() is loaded
    for wrong in ((ENCODER, 32, 601), ("other", 32, 20)):
        with pytest.raises(UsageError):
            ShippedCoordinates(*wrong)
