"""The cosine basis is orthonormal and ordered by frequency."""

from __future__ import annotations

import numpy as np
import pytest

from sfumato.data.spec import PublicSpec
from sfumato.features import dct_basis


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("coefficients", [1, 40])
def test_rows_are_orthonormal(channels, coefficients):
    basis = dct_basis(PublicSpec(28, 28, channels, ()), coefficients)
    np.testing.assert_allclose(basis @ basis.T, np.eye(coefficients), atol=1e-5)


def test_first_row_is_constant_and_luma_comes_before_chroma():
    basis = dct_basis(PublicSpec(32, 32, 3, ()), 5)
    assert np.ptp(basis[0]) < 1e-6
    colours = basis.reshape(5, 3, -1)
    luma = [np.allclose(row, row[0]) for row in colours]
    assert luma[:3] == [True, True, True]


def test_no_coefficients_is_an_empty_basis():
    assert dct_basis(PublicSpec(28, 28, 1, ()), 0).shape == (0, 784)
