"""Shrinking noisy class means: nothing without noise, nearer to the truth with it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import ortho_group

from sfumato.data.spec import PublicSpec
from sfumato.features import dct_basis
from sfumato.methods.gaussian import MomentBlock
from sfumato.methods.shrinkage import Known, bands, shrunk, shrunk_counts

WIDTH, CLASSES = 60, 5
LENGTHS = 1.0 / np.arange(1, WIDTH + 1)


@given(st.integers(0, 5000))
def test_bands_hold_each_coordinate_once_and_double(count):
    found = bands(count)
    assert [i for band in found for i in range(count)[band]] == list(range(count))
    widths = [band.stop - band.start for band in found[:-1]]
    assert widths == [4 * 2**i for i in range(len(widths))]


@settings(max_examples=30)
@given(st.integers(0, 2**16), st.integers(1, 6))
def test_without_noise_nothing_changes(seed, classes):
    values = np.random.default_rng(seed).normal(size=(classes, WIDTH))
    found = shrunk(values, np.zeros(classes), bands(WIDTH))
    np.testing.assert_allclose(found.values, values, rtol=1e-9, atol=1e-12)
    assert found.variances.max() < 1e-200
    counts = 1000 * np.abs(values[:, 0])
    np.testing.assert_allclose(shrunk_counts(counts, 0.0), counts, rtol=1e-9)


def noisy(seed, deviations):
    """Truths that are shorter along later axes, and the same under noise of these deviations."""
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=WIDTH) * LENGTHS + 0.5 * rng.normal(size=(CLASSES, WIDTH)) * LENGTHS
    return truth, truth + deviations[:, None] * rng.normal(size=truth.shape)


@pytest.mark.parametrize("level", [0.02, 0.2, 2.0])
def test_it_is_nearer_to_the_truth_and_says_how_much_noise_is_left(level):
    deviations = level * np.array([1.0, 1.0, 1.5, 0.7, 1.0])
    raw = better = 0.0
    for seed in range(20):
        truth, seen = noisy(seed, deviations)
        found = shrunk(seen, deviations**2, bands(WIDTH))
        raw += ((seen - truth) ** 2).sum()
        better += ((found.values - truth) ** 2).sum()
        assert (found.variances <= deviations**2 * (1 + 1e-9)).all()
    assert better < {0.02: 0.97, 0.2: 0.5, 2.0: 0.1}[level] * raw


def test_one_class_in_noise_takes_after_the_others_and_does_not_spoil_them():
    deviations = np.array([0.01, 0.01, 0.01, 0.01, 100.0])
    truth, seen = noisy(0, deviations)
    found = shrunk(seen, deviations**2, bands(WIDTH)).values
    np.testing.assert_allclose(found[:4], truth[:4], atol=0.05)
    assert np.abs(found[4] - truth[:4].mean(axis=0)).max() < 1.0


def test_pure_noise_leaves_next_to_nothing():
    seen = np.random.default_rng(1).normal(size=(CLASSES, 4000))
    found = shrunk(seen, np.ones(CLASSES), bands(4000)).values
    assert (found**2).sum() < 0.05 * (seen**2).sum()


def test_along_axes_it_is_the_same_in_turned_coordinates():
    turn = ortho_group.rvs(WIDTH, random_state=2)
    variances = 0.04 * np.arange(1.0, CLASSES + 1)
    _, seen = noisy(3, np.sqrt(variances))
    turned = Known(seen @ turn, variances, turn)(torch.from_numpy(seen @ turn).float())
    plain = shrunk(seen, variances, bands(WIDTH)).values
    np.testing.assert_allclose(turned.numpy(), plain @ turn, atol=1e-5)


def test_what_lies_along_no_public_axis_is_weighed_as_one():
    variances = 0.04 * np.arange(1.0, CLASSES + 1)
    _, seen = noisy(4, np.sqrt(variances))
    found = Known(seen, variances, np.eye(WIDTH)[:12])(torch.from_numpy(seen).float())
    groups = [*bands(12), slice(12, WIDTH)]
    wanted = shrunk(seen, variances, groups).values
    np.testing.assert_allclose(found.numpy(), wanted, atol=1e-5)


@settings(max_examples=20)
@given(st.integers(0, 2**16), st.floats(-3, 3))
def test_weighing_is_linear_and_without_noise_changes_nothing(seed, factor):
    rng = np.random.default_rng(seed)
    axes = ortho_group.rvs(WIDTH, random_state=seed)[:20]
    deviations = np.full(CLASSES, 0.3)
    _, seen = noisy(seed, deviations)
    one, other = torch.from_numpy(rng.normal(size=(2, CLASSES, WIDTH))).float()
    weigh = Known(seen, deviations**2, axes)
    torch.testing.assert_close(
        weigh(one + factor * other), weigh(one) + factor * weigh(other), atol=1e-4, rtol=1e-4
    )
    sure = Known(seen, np.zeros(CLASSES), axes)
    torch.testing.assert_close(sure(one), one, atol=1e-4, rtol=1e-4)


def test_noisy_sizes_come_nearer_to_the_true_ones_and_keep_their_sum():
    rng, raw, better = np.random.default_rng(5), 0.0, 0.0
    true = np.array([120.0, 150, 140, 160, 130])
    for _ in range(50):
        seen = true + 55 * rng.normal(size=5)
        found = shrunk_counts(seen, 55.0)
        assert found.sum() == pytest.approx(seen.sum())
        raw += ((seen - true) ** 2).sum()
        better += ((found - true) ** 2).sum()
    assert better < 0.6 * raw
    assert shrunk_counts(np.array([40.0]), 55.0) == pytest.approx([40.0])


def test_gaussians_of_few_records_come_nearer_to_those_of_many():
    rng, spec = np.random.default_rng(6), PublicSpec(28, 28, 1, tuple("abcde"))
    block = MomentBlock(dct_basis(spec, 40), 0.4)
    means = rng.normal(size=(5, 40)) * np.linspace(1, 0.1, 40)
    root = rng.normal(size=(40, 40)) * np.linspace(1, 0.1, 40)[:, None] * 0.1
    z = (means[:, None] + rng.normal(size=(5, 150, 40)) @ root.T) / block.radius
    products = np.stack([block.products(torch.from_numpy(rows)).numpy() for rows in z])
    total = np.concatenate([z.sum(axis=1) * 0.4, products.sum(axis=1)], axis=1)
    errors = {True: 0.0, False: 0.0}
    for _ in range(5):
        std = 0.5
        seen = total + std * rng.normal(size=total.shape)
        for shrink_moments in errors:
            fitted = block.fit(seen, np.full(5, 150.0), std, shrink_moments)
            covariances = fitted.roots.numpy() @ fitted.roots.numpy().transpose(0, 2, 1)
            errors[shrink_moments] += float(np.linalg.norm(covariances - root @ root.T))
            errors[shrink_moments] += float(np.linalg.norm(fitted.means.numpy() - means))
    assert errors[True] < 0.8 * errors[False]
