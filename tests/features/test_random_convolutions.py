"""Networks of random weights: what a row is, whose it is, and what it is made of."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from sfumato.features import RandomConvolutions
from sfumato.features.shipped import random_length


@pytest.mark.parametrize(("channels", "height", "width"), [(1, 28, 28), (3, 32, 32), (1, 30, 21)])
def test_a_row_has_norm_root_two_and_its_length_is_known(channels, height, width) -> None:
    random = RandomConvolutions(2, channels)
    public = np.random.default_rng(0).integers(0, 256, (5, channels, height, width), np.uint8)
    rows = random.centre(public)(torch.rand(4, channels, height, width))
    assert rows.shape == (4, random_length(2, height, width))
    torch.testing.assert_close(rows.norm(dim=1), torch.full((4,), 2**0.5))


def test_it_is_what_plain_layers_compute_less_the_public_mean() -> None:
    random = RandomConvolutions(1, 1, seed=3)
    layers: list[nn.Module] = []
    for number, (before, after) in enumerate([(1, 32), (32, 64), (64, 128)]):
        layer = nn.Conv2d(before, after, 3, padding=1)
        state = {"weight": getattr(random, f"weight_0_{number}")}
        layer.load_state_dict({**state, "bias": getattr(random, f"bias_0_{number}")})
        layers.append(nn.Sequential(layer, nn.MaxPool2d(2), nn.ReLU()))
    public = np.random.default_rng(1).integers(0, 256, (300, 1, 16, 16), np.uint8)
    images = torch.rand(3, 1, 16, 16)

    def both(x: torch.Tensor) -> list[torch.Tensor]:
        second = layers[1](layers[0](2 * x - 1))
        return [second.flatten(1), layers[2](second).flatten(1)]

    means = [rows.mean(dim=0) for rows in both(torch.from_numpy(public).float() / 255)]
    parts = [rows - mean for rows, mean in zip(both(images), means, strict=True)]
    wanted = torch.cat([part / part.norm(dim=1, keepdim=True) for part in parts], dim=1)
    torch.testing.assert_close(random.centre(public)(images), wanted, atol=1e-4, rtol=1e-4)


def test_weights_follow_from_the_seed_and_rows_from_their_own_image() -> None:
    first, again, other = (RandomConvolutions(1, 3, seed) for seed in (0, 0, 1))
    images = torch.rand(6, 3, 32, 32)
    assert torch.equal(first(images), again(images))
    assert (first(images) - other(images)).norm(dim=1).min() > 0.1
    torch.testing.assert_close(first(images[2:3])[0], first(images)[2], atol=1e-5, rtol=1e-4)
    black = first(torch.zeros(1, 3, 32, 32))
    assert torch.isfinite(black).all() and black.norm() <= 2**0.5 + 1e-5
