"""Moments in, Gaussians out: exact without noise, better than raw with it."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.data.spec import PublicSpec
from sfumato.features import dct_basis
from sfumato.methods.gaussian import MomentBlock, shrink
from sfumato.methods.second_moments import MomentShape

SPEC = PublicSpec(28, 28, 1, ("a", "b"))


@settings(max_examples=20)
@given(st.integers(0, 2**16))
def test_a_contribution_never_exceeds_its_norm(seed):
    block = MomentBlock(dct_basis(SPEC, 30), 0.4)
    images = np.random.default_rng(seed).choice([0, 255], (5, 1, 28, 28)).astype(np.uint8)
    rows = block(torch.from_numpy(images))
    assert rows.shape == (5, MomentShape(block.size, 0.4).dimension)
    assert float(rows.norm(dim=1).max()) <= MomentShape(block.size, 0.4).norm + 1e-5


def test_noiseless_moments_are_recovered_exactly():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (400, 1, 28, 28), dtype=np.uint8)
    block = MomentBlock(dct_basis(SPEC, 12), 0.4)
    total = block(torch.from_numpy(images)).double().sum(dim=0, keepdim=True).numpy()
    fitted = block.fit(total, np.array([400.0]), 0.0)
    z = (images.reshape(400, -1) / 255 - 0.5) @ dct_basis(SPEC, 12).T.astype(float)
    np.testing.assert_allclose(fitted.means[0], z.mean(axis=0), atol=1e-3)
    covariance = fitted.roots[0] @ fitted.roots[0].T
    np.testing.assert_allclose(covariance, np.cov(z.T, bias=True), atol=2e-3)


def test_draws_have_the_fitted_moments():
    basis = dct_basis(SPEC, 6)
    rng = np.random.default_rng(1)
    from sfumato.methods.gaussian import Gaussians

    means = rng.normal(size=(2, 6)).astype(np.float32)
    roots = (0.1 * rng.normal(size=(2, 6, 6))).astype(np.float32)
    labels = torch.tensor([1] * 20000)
    generator = torch.Generator().manual_seed(0)
    flat = Gaussians(means, roots).draw(labels, torch.from_numpy(basis), generator)
    z = (flat.numpy() - 0.5) @ basis.T
    np.testing.assert_allclose(z.mean(axis=0), means[1], atol=0.01)
    np.testing.assert_allclose(np.cov(z.T), roots[1] @ roots[1].T, atol=0.01)


def test_shrinking_brings_noisy_covariances_closer_to_the_truth():
    rng = np.random.default_rng(2)
    size, std = 40, 0.05
    truth = np.diag(np.r_[np.linspace(4, 1, 8), np.full(size - 8, 0.01)])
    noise = rng.normal(size=(6, size, size)) * std / np.sqrt(2)
    noise = np.triu(noise, 1) + np.triu(noise, 1).transpose(0, 2, 1)
    noisy = truth + noise + np.stack([np.diag(rng.normal(size=size) * std) for _ in range(6)])
    better = shrink(noisy, np.full(6, std))
    assert np.linalg.norm(better - truth) < 0.8 * np.linalg.norm(noisy - truth)
    assert np.linalg.eigvalsh(better).min() >= -1e-12


def test_shrinking_without_noise_changes_nothing():
    rng = np.random.default_rng(3)
    root = rng.normal(size=(2, 5, 5))
    covariance = root @ root.transpose(0, 2, 1)
    np.testing.assert_allclose(shrink(covariance, np.zeros(2)), covariance, atol=1e-9)
