"""A small real data set and the smallest useful configuration of each method."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from sfumato.data.opening import open_images
from sfumato.data.spec import PublicSpec
from sfumato.features import public_patches
from sfumato.methods import (
    DPAF,
    DPDM,
    DPGAN,
    DPMEPF,
    DPMERF,
    DPNTK,
    DPSGD,
    DataLens,
    Guided,
    LeastSquares,
    Moments,
    PrivateEvolution,
)
from sfumato.methods.dpdm.diffusion import Denoiser, DiffusionModel, network_of
from sfumato.methods.dpdm.settings import Shape
from sfumato.methods.public_model import PublicModel


def few_patches():
    return public_patches(PublicSpec(28, 28, 1, ()), 100)


@pytest.fixture(scope="session")
def small_mepf():
    """DP-MEPF that trains in a second, with changes."""
    public = few_patches()

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
def small_dpdm():
    """DPDM that trains in a second, with changes."""

    def make(**changes):
        options = {
            "steps": 3,
            "batch": 30,
            "multiplicity": 2,
            "width": 8,
            "blocks": 1,
            "patch": 4,
            "sampling_steps": 2,
            "warm_up_steps": 3,
        }
        return DPDM(**{**options, **changes})

    return make


@pytest.fixture(scope="session")
def small_dpgan():
    """DP-GAN that trains in a second, with changes."""

    def make(**changes):
        options = {
            "steps": 3,
            "batch": 30,
            "critic_steps": 2,
            "discriminator_width": 4,
            "generator_width": 4,
            "latent": 8,
        }
        return DPGAN(**{**options, **changes})

    return make


@pytest.fixture(scope="session")
def small_dpaf():
    """DPAF that trains in a second, with changes."""

    def make(**changes):
        options = {
            "steps": 3,
            "batch": 30,
            "every": 2,
            "width": 4,
            "maps": 4,
            "upper_width": 4,
            "generator_width": 4,
            "latent": 8,
            "generator_steps": 1,
            "generated": 2,
            "memory": 2,
            "first_layer_steps": 2,
        }
        return DPAF(**{**options, **changes})

    return make


@pytest.fixture(scope="session")
def public_dpaf():
    """DPAF above public layers, one release over a thousand records, with changes."""

    def make(**changes):
        options = {
            "first_layer": "public",
            "layers": (5, 8),
            "start_coefficients": 6,
            "steps": 1,
            "batch": 1000,
            "generator_steps": 3,
            "generated": 2,
            "moving_average": 0.5,
            "memory": 2,
            "upper_width": 4,
            "generator_width": 8,
            "public": few_patches(),
        }
        return DPAF(**{**options, **changes})

    return make


@pytest.fixture(scope="session")
def small_datalens():
    """DataLens that trains in a second, with changes."""

    def make(**changes):
        options = {
            "teachers": 40,
            "steps": 3,
            "images_per_class": 2,
            "entries": 8,
            "dimension": 10,
            "student_steps": 2,
            "width": 4,
        }
        return DataLens(**{**options, **changes})

    return make


@pytest.fixture(scope="session")
def small_guided():
    """The guided method with some patches as public images, with changes."""
    public = few_patches()

    class SmallGuided(Guided):
        """With a small joint release."""

        def matching(self):
            small = {"layers": (5, 8), "public": public, "start_coefficients": 10, "width": 16}
            return replace(super().matching(), batch=20, **small)

    def make(**changes):
        options = {
            "kept": 4,
            "matching_steps": 2,
            "pull_steps": 1,
            "sampling_steps": 2,
            "labeller_size": 20,
            "encoder_size": 0,
            "public": public,
        }
        return SmallGuided(**{**options, **changes})

    return make


@pytest.fixture(scope="session")
def public_denoiser():
    """A public model of dpdm that has learnt nothing, of 28 pixels and four public classes."""
    shape, spec = Shape(8, (1, 2), 1, 8, 4), PublicSpec(28, 28, 1, ("w", "x", "y", "z"))
    denoiser = Denoiser.of(network_of(shape, spec).eval(), "edm")
    model = DiffusionModel(spec, denoiser, shape, "edm", np.ones(4), "quick", 2)
    return PublicModel("dpdm", model, {})


@pytest.fixture(scope="session")
def methods(small_mepf, small_dpdm, small_dpgan, small_dpaf, small_datalens, small_guided):
    """Every method, small; a new one is tested on its first day by adding it here."""
    return {
        "mepf": small_mepf(),
        "moments": Moments(coefficients=12),
        "dpdm": small_dpdm(),
        "dpgan": small_dpgan(),
        "dpaf": small_dpaf(),
        "datalens": small_datalens(),
        "merf": DPMERF(steps=3, batch=20, width=4, latent=8, frequencies=20),
        "pe": PrivateEvolution(
            iterations=3, candidates=4, kept=6, near="pixels", public=few_patches()
        ),
        "guided": small_guided(),
        "ntk": DPNTK(steps=3, batch=20, width=4, latent=8, hidden=3),
        "dp-sgd": DPSGD(steps=3, batch=30, width=2),
        "least-squares": LeastSquares(axes=30, encoder_size=32),
    }


@pytest.fixture(scope="module", autouse=True)
def _few_probes(few_probes):
    """In every test of a method."""


@pytest.fixture(scope="session")
def digits(few_digits):
    return open_images(few_digits, classes=10, declared_size=400)


@pytest.fixture(scope="session")
def all_digits():
    """For what has to be learnt."""
    return open_images("digits", declared_size=1500)


@pytest.fixture(scope="session")
def unlabelled(few_digits):
    return open_images(few_digits, classes=(), declared_size=400)
