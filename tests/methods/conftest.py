"""A small real data set and the smallest useful configuration of each method."""

from __future__ import annotations

import pytest

from sfumato.data.opening import open_images
from sfumato.methods import DPMEPF, Moments


def small_mepf(**changes):
    """DP-MEPF that trains in a second."""
    options = {
        "steps": 3,
        "batch": 20,
        "layers": (3, 5),
        "start_coefficients": 10,
        "labeller_size": 20,
        "width": 16,
    }
    return DPMEPF(**{**options, **changes})


@pytest.fixture(scope="session")
def digits():
    return open_images("digits")


@pytest.fixture(scope="session")
def unlabelled():
    return open_images("digits", classes=())


METHODS = {"mepf": small_mepf(), "moments": Moments(coefficients=12)}
