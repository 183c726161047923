"""The packed products are the outer product, each pair once."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from sfumato.methods.second_moments import SymmetricProducts


@pytest.mark.parametrize("width", [1, 2, 3, 4, 7, 10])
def test_products_are_those_of_the_outer_product(width: int) -> None:
    rows = torch.from_numpy(np.random.default_rng(width).normal(size=(5, width)))
    block = SymmetricProducts(width)
    packed = block(rows)
    assert packed.shape == (5, block.pairs)
    np.testing.assert_allclose(
        block.matrix(packed.numpy()), rows[:, :, None] * rows[:, None, :], rtol=1e-12
    )
    np.testing.assert_allclose(packed.norm(dim=1), rows.square().sum(dim=1), rtol=1e-12)


@pytest.mark.parametrize("width", [3, 6])
def test_every_symmetric_matrix_has_one_packed_form(width: int) -> None:
    block = SymmetricProducts(width)
    packed = np.random.default_rng(0).normal(size=block.pairs)
    matrix = block.matrix(packed)
    assert np.array_equal(matrix, matrix.T)
    assert np.linalg.norm(matrix) == pytest.approx(np.linalg.norm(packed))


def test_products_are_differentiable() -> None:
    rows = torch.randn(2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(SymmetricProducts(4), (rows,))
