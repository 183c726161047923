"""Least squares from sums equals least squares from data."""

from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import Ridge

from sfumato.methods.second_moments import LEAST_RIDGE, SecondMoments


def _sums(block, rows, labels, classes):
    extended = block.extend(torch.from_numpy(rows).float())
    products = block.products(extended).double().sum(dim=0).numpy()
    targets = np.stack([extended[labels == c].double().sum(dim=0) for c in range(classes)])
    return extended.numpy(), products, targets


def test_equals_scikit_learns_ridge_without_noise():
    rows, labels = load_digits(return_X_y=True)
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    block = SecondMoments(64)
    extended, products, targets = _sums(block, rows, labels, 10)
    weights = block.solve(products, targets, noise_std=0.0)
    one_hot = np.eye(10)[labels]
    oracle = Ridge(alpha=LEAST_RIDGE * len(rows), fit_intercept=False, solver="cholesky")
    oracle.fit(extended.astype(float), one_hot - 0.1)
    agree = (extended @ weights).argmax(1) == oracle.predict(extended).argmax(1)
    assert agree.mean() > 0.99
    assert ((extended @ weights).argmax(1) == labels).mean() > 0.93


def test_contributions_have_norm_at_most_one():
    block = SecondMoments(20)
    rows = torch.randn(50, 20)
    rows = rows / rows.norm(dim=1, keepdim=True)
    extended = block.extend(rows)
    assert float(extended.norm(dim=1).max()) <= 1 + 1e-6
    assert float(block.products(extended).norm(dim=1).max()) <= 1 + 1e-6


def test_noise_is_answered_with_more_ridge():
    rng = np.random.default_rng(0)
    block = SecondMoments(10)
    products, targets = rng.normal(size=block.pairs), rng.normal(size=(3, 11))
    calm = block.solve(products, targets, noise_std=1.0)
    loud = block.solve(products, targets, noise_std=100.0)
    assert np.linalg.norm(loud) < np.linalg.norm(calm)
