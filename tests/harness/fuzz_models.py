"""A small model of each method, as a release would hold it: facts, and tensors by name."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
import torch

from sfumato.data import PublicSpec
from sfumato.methods.chosen_images import ChosenImages
from sfumato.methods.dpdm.diffusion import Denoiser, DiffusionModel, network_of
from sfumato.methods.dpdm.settings import Shape
from sfumato.methods.gaussian import Gaussians
from sfumato.methods.mepf.generator import StartedGenerator, refiner
from sfumato.methods.mepf.model import MEPFModel
from sfumato.methods.model import GeneratorModel, make_generator

SPEC = PublicSpec(28, 28, 1, ("a", "b"))
COUNTS = np.array([3.0, 4.0])
Facts = dict[str, Any]
Tensors = dict[str, Any]


def started(method: str) -> tuple[Facts, Tensors]:
    """A generator that starts from Gaussians, of either method that releases such."""
    start = Gaussians(np.zeros((2, 5), np.float32), np.zeros((2, 5, 5), np.float32))
    model = MEPFModel(SPEC, COUNTS, StartedGenerator(SPEC, start, refiner(SPEC, 16)), None)
    return {"method": method, "spec": asdict(SPEC), "config": model.config()}, model.tensors()


def mepf() -> tuple[Facts, Tensors]:
    """A generator that was matched to an embedding."""
    return started("mepf")


def public_dpaf() -> tuple[Facts, Tensors]:
    """A GAN by noisy aggregates of public activations."""
    return started("dpaf")


def dpdm() -> tuple[Facts, Tensors]:
    """A diffusion model."""
    shape = Shape(width=8, multipliers=(1, 2), blocks=1, attention=8, patch=4)
    denoiser = Denoiser.of(network_of(shape, SPEC).eval(), "edm")
    model = DiffusionModel(SPEC, denoiser, shape, "edm", COUNTS, "fid", 2)
    return {"method": "dpdm", "spec": asdict(SPEC), "config": model.config()}, model.tensors()


def gan(method: str) -> tuple[Facts, Tensors]:
    """A model of either adversarial method."""
    model = GeneratorModel(SPEC, make_generator(SPEC, 4, 8), 4, COUNTS)
    return {"method": method, "spec": asdict(SPEC), "config": model.config()}, model.tensors()


def dpgan() -> tuple[Facts, Tensors]:
    """A GAN by noisy gradients."""
    return gan("dpgan")


def dpaf() -> tuple[Facts, Tensors]:
    """A GAN by noisy aggregates."""
    return gan("dpaf")


def datalens() -> tuple[Facts, Tensors]:
    """A student of teachers."""
    model = GeneratorModel(SPEC, make_generator(SPEC, 4, 16), 4, COUNTS, torch.randn(6, 16), 0.5)
    return {"method": "datalens", "spec": asdict(SPEC), "config": model.config()}, model.tensors()


def chosen(method: str) -> tuple[Facts, Tensors]:
    """Chosen images of either method that releases such."""
    images = np.arange(6 * 784, dtype=np.int64).astype(np.uint8).reshape(6, 1, 28, 28)
    model = ChosenImages(SPEC, images, COUNTS, 3)
    return {"method": method, "spec": asdict(SPEC), "config": model.config()}, model.tensors()


def pe() -> tuple[Facts, Tensors]:
    """Images that were voted for."""
    return chosen("pe")


def guided() -> tuple[Facts, Tensors]:
    """Images that were guided."""
    return chosen("guided")


MODELS = (pe, guided, mepf, dpdm, dpgan, dpaf, public_dpaf, datalens)
