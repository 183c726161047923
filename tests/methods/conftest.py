"""A small real data set and the smallest useful configuration of each method."""

from __future__ import annotations

import pytest

from sfumato.data.opening import open_images
from sfumato.data.spec import PublicSpec
from sfumato.features import public_patches
from sfumato.methods import DPMEPF, Moments


@pytest.fixture(scope="session")
def small_mepf():
    """DP-MEPF that trains in a second, with changes."""
    public = public_patches(PublicSpec(28, 28, 1, ()), 100)

    def make(**changes):
        options = {
            "steps": 3,
            "batch": 20,
            "layers": (5, 8),
            "public": public,
            "start_coefficients": 10,
            "labeller_size": 20,
            "width": 16,
        }
        return DPMEPF(**{**options, **changes})

    return make


@pytest.fixture(scope="session")
def methods(small_mepf):
    """Every method, small; a new one is tested on its first day by adding it here."""
    return {"mepf": small_mepf(), "moments": Moments(coefficients=12)}


@pytest.fixture(scope="session")
def digits():
    return open_images("digits")


@pytest.fixture(scope="session")
def unlabelled():
    return open_images("digits", classes=())
