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


def test_constants_come_first_and_low_luma_before_chroma():
    basis = dct_basis(PublicSpec(32, 32, 3, ()), 8).reshape(8, 3, -1)
    assert np.ptp(basis[:3], axis=2).max() < 1e-6
    luma = [bool(np.allclose(row, row[0], atol=1e-6)) for row in basis]
    assert luma == [True, False, False, True, True, True, True, True]


def test_no_coefficients_is_an_empty_basis():
    assert dct_basis(PublicSpec(28, 28, 1, ()), 0).shape == (0, 784)
