"""DP-MERF and DP-NTK: their features against slow oracles, and what a generator learns of them."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from sfumato.data.spec import PublicSpec
from sfumato.methods import DPMERF, DPNTK
from sfumato.methods.pixel_features.features import (
    GREY,
    Features,
    FourierFeatures,
    TangentFeatures,
)
from sfumato.methods.pixel_features.matching import Matching
from sfumato.methods.training import Session
from sfumato.privacy import Answer

SPEC = PublicSpec(28, 28, 1, ("a", "b"))
KINDS = {"merf": FourierFeatures(784, 40, 8.0, 0), "ntk": TangentFeatures(784, 6, 0)}


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 784, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("features", KINDS.values(), ids=KINDS)
def test_features_are_bounded_and_means_are_means_of_rows(features: Features) -> None:
    extremes = torch.stack([torch.zeros(784), torch.ones(784), torch.full((784,), GREY)])
    rows = features.rows(torch.cat([images(20), extremes]))
    assert rows.shape == (23, features.dimension)
    assert rows.norm(dim=1).max() <= 1 + 1e-5
    grouped = images(12).view(3, 4, 784)
    expected = features.rows(grouped.flatten(0, 1)).view(3, 4, -1).mean(dim=1)
    assert torch.allclose(features.means(grouped), expected, atol=1e-6)


def test_inner_products_of_fourier_features_tend_to_the_gaussian_kernel() -> None:
    x, scale = images(6), 8.0
    rows = FourierFeatures(784, 40_000, scale, 0).rows(x)
    kernel = torch.exp(-torch.cdist(x, x).square() / (2 * scale**2))
    assert torch.allclose(rows @ rows.T, kernel, atol=5 / math.sqrt(20_000))
    assert not torch.allclose(rows @ rows.T, kernel**2, atol=5 / math.sqrt(20_000))


def test_tangent_features_are_gradients_of_the_network() -> None:
    features = TangentFeatures(784, 20, 0)
    hidden, outer = nn.Linear(784, 20), nn.Linear(20, 1, bias=False)
    with torch.no_grad():
        hidden.weight.copy_(features.weights.T)
        hidden.bias.zero_()
        outer.weight.fill_(1.0)
    for x, row in zip(images(5), features.rows(images(5)), strict=True):
        output = outer(hidden(x - GREY).relu()).squeeze()
        by_weight, by_bias, by_outer = torch.autograd.grad(
            output, [hidden.weight, hidden.bias, outer.weight]
        )
        extended = torch.cat([by_weight, by_bias[:, None]], dim=1)
        gradient = torch.cat([by_outer.flatten(), extended.flatten()])
        assert torch.allclose(row, gradient / gradient.norm(), atol=1e-5)


@pytest.mark.parametrize("kind", [DPMERF, DPNTK])
def test_a_generator_comes_nearer_to_what_was_released(kind: type) -> None:
    method = kind(steps=60, batch=40, width=4, latent=4)
    dark, light = torch.full((1, 5, 784), 0.1), torch.full((1, 5, 784), 0.9)
    means = method.features(SPEC).means(torch.cat([dark, light])).double().numpy()
    ones = np.full((2, 1), method.count_weight)
    answer = Answer(100 * np.concatenate([ones, means], axis=1), np.zeros(0), 0.1)
    model = Matching(method, SPEC, answer, Session(quiet=True)).run()
    drawn, labels = next(model.sample(40))
    assert drawn[labels == 0].mean() + 20 < drawn[labels == 1].mean()


@pytest.mark.parametrize(
    ("kind", "wrong"),
    [(DPMERF, {"frequencies": 0}), (DPMERF, {"length_scale": -1.0}), (DPNTK, {"hidden": 0})],
)
def test_values_outside_their_rules_are_named(kind: type, wrong: dict) -> None:
    from sfumato.errors import UsageError

    with pytest.raises(UsageError, match=next(iter(wrong))):
        kind(**wrong)
