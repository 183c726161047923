"""Perceptual features are bounded whatever the image holds."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import PCA

from sfumato.data.spec import PublicSpec
from sfumato.features import PerceptualFeatures, PublicAxes, load_encoder, public_patches, to_unit

SPEC = PublicSpec(28, 28, 1, ())


@pytest.fixture(scope="module")
def public():
    return public_patches(SPEC, 64)


@pytest.fixture(scope="module", params=["norm", "clip", "per-layer"])
def bound(request):
    return request.param


@pytest.fixture(scope="module", params=[False, True], ids=["raw", "centred"])
def features(request, bound, public):
    return PerceptualFeatures.fit(load_encoder(), (3, 5), bound, public, request.param)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**16), low=st.integers(0, 255), high=st.integers(0, 255))
def test_both_moments_have_norm_at_most_one(features, seed, low, high):
    rng = np.random.default_rng(seed)
    images = rng.integers(min(low, high), max(low, high) + 1, (4, 1, 28, 28), dtype=np.uint8)
    for moment in features.moments(features.activations(to_unit(images))):
        assert float(moment.norm(dim=1).max()) <= 1 + 1e-5


def test_norm_and_per_layer_bounds_are_reached(public):
    for bound in ("norm", "per-layer"):
        features = PerceptualFeatures.fit(load_encoder(), (3, 5), bound, public)
        first, second = features.moments(features.of(public))
        torch.testing.assert_close(first.norm(dim=1), torch.ones(64), atol=1e-4, rtol=0)
        torch.testing.assert_close(second.norm(dim=1), torch.ones(64), atol=1e-4, rtol=0)


def test_centred_moments_are_bounded_rows_less_their_public_mean(bound, public):
    features = PerceptualFeatures.fit(load_encoder(), (3, 5), bound, public, centred=True)
    layers = [layer.double().numpy() for layer in features.of(public)]
    found = features.moments(features.of(public[:9]))
    for power, moment in zip((1, 2), found, strict=True):
        rows = [layer**power - (layer**power).mean(axis=0) for layer in layers]
        lengths = [np.linalg.norm(row, axis=1, keepdims=True) for row in rows]
        joint, length = np.concatenate(rows, axis=1), np.hypot(*lengths)
        expected = {
            "norm": joint / length,
            "clip": joint / np.maximum(np.quantile(length, 0.5, method="lower"), length),
            "per-layer": np.concatenate(
                [row / own / 2**0.5 for row, own in zip(rows, lengths, strict=True)], axis=1
            ),
        }[bound]
        np.testing.assert_allclose(moment.double().numpy(), expected[:9], atol=2e-4)


def test_layers_weigh_the_same_on_public_images(public):
    features = PerceptualFeatures.fit(load_encoder(), (3, 5, 8), "norm", public)
    for layer in features.of(public):
        assert float(layer.square().sum(dim=1).mean()) == pytest.approx(1, rel=1e-3)


def test_axes_recover_a_planted_subspace():
    generator = torch.Generator().manual_seed(0)
    planted = torch.linalg.qr(torch.randn(20, 3, generator=generator)).Q
    values = torch.randn(500, 3, generator=generator) * torch.tensor([5.0, 4.0, 3.0])
    rows = values @ planted.T + 0.01 * torch.randn(500, 20, generator=generator)
    axes = PublicAxes.fit(rows, 3, whiten=False)
    overlap = torch.linalg.svdvals(axes.axes.T @ planted)
    assert float(overlap.min()) > 0.999


@pytest.mark.parametrize("whiten", [True, False])
def test_coordinates_have_norm_at_most_one(whiten):
    rows = torch.randn(50, 30) * 100
    coordinates = PublicAxes.fit(rows, 10, whiten)(rows * 3)
    assert float(coordinates.norm(dim=1).max()) <= 1 + 1e-5


@pytest.mark.parametrize("whiten", [True, False])
@pytest.mark.parametrize("count", [15, 40])
def test_axes_are_those_of_scikit_learn_with_fewer_images_than_features_too(count, whiten):
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(count, 20, generator=generator) * torch.linspace(3, 1, 20)
    reference = PCA(6).fit(rows.double().numpy())
    spread = reference.singular_values_ / count**0.5
    expected = reference.components_.T / ((spread + spread[3]) if whiten else 1)
    found = PublicAxes.fit(rows, 6, whiten).axes.double().numpy()
    signs = np.sign((found * expected).sum(axis=0))
    np.testing.assert_allclose(found * signs, expected, atol=1e-5)


def test_public_patches_repeat_and_differ_by_seed():
    assert np.array_equal(public_patches(SPEC, 8), public_patches(SPEC, 8))
    assert not np.array_equal(public_patches(SPEC, 8), public_patches(SPEC, 8, seed=1))
    assert public_patches(PublicSpec(64, 64, 3, ()), 2).shape == (2, 3, 64, 64)
