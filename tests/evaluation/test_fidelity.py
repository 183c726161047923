from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torchmetrics.image.fid import FrechetInceptionDistance
from torchmetrics.image.kid import KernelInceptionDistance

from sfumato.data import LabelledImages
from sfumato.errors import DataError
from sfumato.evaluation.fidelity import (
    frechet_distance,
    gaussian_frechet_distance,
    kernel_distance,
    squared_mmd,
)


def rotation(size: int, seed: int) -> np.ndarray:
    return np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))[0]


@given(
    seed=st.integers(0, 1000),
    variances=st.lists(st.tuples(st.floats(0, 9), st.floats(0, 9)), min_size=1, max_size=6),
)
def test_covariances_that_commute_have_a_closed_form(
    seed: int, variances: list[tuple[float, float]]
) -> None:
    # For Σ = Q diag(a) Qᵀ and Σ' = Q diag(b) Qᵀ the trace term is Σ (√a − √b)², singular or not.
    a, b = np.array(variances).T
    q, shift = rotation(len(a), seed), np.random.default_rng(seed).normal(size=len(a))
    exact = shift @ shift + ((np.sqrt(a) - np.sqrt(b)) ** 2).sum()
    got = gaussian_frechet_distance(shift, (q * a) @ q.T, np.zeros(len(a)), (q * b) @ q.T)
    assert got == pytest.approx(exact, abs=1e-6)


def test_covariances_that_do_not_commute_agree_with_the_product_s_eigenvalues() -> None:
    random = np.random.default_rng(0)
    a, b = (m @ m.T for m in random.normal(size=(2, 5, 5)))
    root_trace = np.sqrt(np.linalg.eigvals(a @ b).real).sum()
    got = gaussian_frechet_distance(np.zeros(5), a, np.zeros(5), b)
    assert got == pytest.approx(np.trace(a) + np.trace(b) - 2 * root_trace)


@given(seed=st.integers(0, 1000), n=st.integers(2, 30), d=st.integers(1, 8))
def test_a_shift_costs_its_squared_length(seed: int, n: int, d: int) -> None:
    random = np.random.default_rng(seed)
    x, shift = random.normal(size=(n, d)), random.normal(size=d)
    assert frechet_distance(x, x + shift) == pytest.approx(shift @ shift, abs=1e-5)


def test_more_dimensions_than_images_stay_finite_and_symmetric() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(20, 200)), random.normal(size=(30, 200)) + 1
    assert frechet_distance(x, y) == pytest.approx(frechet_distance(y, x), rel=1e-6)
    assert frechet_distance(x, x) == pytest.approx(0, abs=1e-4)


class Pooled(nn.Module):
    """49 features for torchmetrics: mean intensities of 4x4 tiles."""

    num_features = 49

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.avg_pool2d(images.double() / 255, 4).flatten(1)


def tensors(
    fashion: tuple[LabelledImages, LabelledImages],
) -> tuple[Tensor, Tensor, np.ndarray, np.ndarray]:
    x, y = (torch.from_numpy(images.images) for images in fashion)
    return x, y, Pooled()(x).numpy(), Pooled()(y).numpy()


def test_frechet_distance_is_torchmetrics(fashion: tuple[LabelledImages, LabelledImages]) -> None:
    x, y, ours, theirs = tensors(fashion)
    metric = FrechetInceptionDistance(feature=Pooled())
    metric.set_dtype(torch.float64)
    metric.update(x, real=True)
    metric.update(255 - y, real=False)
    inverted = Pooled()(255 - y).numpy()
    assert frechet_distance(ours, inverted) == pytest.approx(metric.compute().item(), rel=1e-5)
    assert frechet_distance(ours, theirs) < 0.01 * frechet_distance(ours, inverted)


def test_kernel_distance_is_torchmetrics(fashion: tuple[LabelledImages, LabelledImages]) -> None:
    # One subset that is the whole of both sides leaves no randomness to differ in.
    x, y, ours, theirs = tensors(fashion)
    metric = KernelInceptionDistance(feature=Pooled(), subsets=1, subset_size=1000)
    metric.update(x[:1000], real=True)
    metric.update(y, real=False)
    expected, _ = metric.compute()
    got = kernel_distance(ours[:1000], theirs, subsets=1)
    assert got.value == pytest.approx(expected.item(), rel=1e-5)


def test_squared_mmd_is_its_double_sum() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(4, 3)), random.normal(size=(5, 3))

    def k(a: np.ndarray, b: np.ndarray) -> float:
        return float((a @ b / 3 + 1) ** 3)

    exact = (
        sum(k(x[i], x[j]) for i in range(4) for j in range(4) if i != j) / 12
        + sum(k(y[i], y[j]) for i in range(5) for j in range(5) if i != j) / 20
        - 2 * sum(k(a, b) for a in x for b in y) / 20
    )
    assert squared_mmd(x, y) == pytest.approx(exact)


def test_kernel_distance_is_unbiased_and_its_spread_covers_zero() -> None:
    random = np.random.default_rng(0)
    estimates = [
        squared_mmd(random.normal(size=(20, 2)), random.normal(size=(20, 2))) for _ in range(500)
    ]
    error = np.std(estimates) / len(estimates) ** 0.5
    assert abs(np.mean(estimates)) < 4 * error
    # The biased estimate would add about E[k(x, x)]·2/20 − …, hundreds of standard errors.
    assert error < 0.05


def test_subsets_shrink_to_the_smaller_side_and_follow_the_seed() -> None:
    random = np.random.default_rng(0)
    x, y = random.normal(size=(50, 3)), random.normal(size=(20, 3)) + 1
    first = kernel_distance(x, y, subsets=10, seed=1)
    assert first.subset_size == 20
    assert first.deviation > 0
    assert first == kernel_distance(x, y, subsets=10, seed=1)
    assert first != kernel_distance(x, y, subsets=10, seed=2)


@pytest.mark.parametrize("distance", [frechet_distance, kernel_distance])
def test_one_image_is_no_distribution(distance: object) -> None:
    with pytest.raises(DataError, match="at least 2"):
        distance(np.zeros((1, 3)), np.zeros((5, 3)))  # type: ignore[operator]
