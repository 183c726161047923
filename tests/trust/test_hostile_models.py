"""A model file that claims more than it holds is refused before memory is taken for the claim."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from sfumato.data import PublicSpec
from sfumato.errors import SfumatoError
from sfumato.methods import DiffusionModel, GANModel, MEPFModel, load_model
from sfumato.methods.diffusion import Denoiser, Shape
from sfumato.methods.dpgan import make_generator
from sfumato.methods.gaussian import Gaussians
from sfumato.methods.generator import Generator
from sfumato.methods.student import StudentModel, student_network

SPEC = PublicSpec(28, 28, 1, ("a", "b"))
COUNTS = np.array([3.0, 4.0])
Facts = dict[str, Any]
Tensors = dict[str, Any]


def mepf() -> tuple[Facts, Tensors]:
    start = Gaussians(np.zeros((2, 5), np.float32), np.zeros((2, 5, 5), np.float32))
    model = MEPFModel(SPEC, COUNTS, Generator(SPEC, start, 16), None)
    return {"method": "mepf", "spec": asdict(SPEC), "config": model.config()}, model.tensors()


def dpdm() -> tuple[Facts, Tensors]:
    shape = Shape(width=8, multipliers=(1, 2), blocks=1, attention=8, patch=4)
    denoiser = Denoiser.of(shape.network(SPEC).eval(), "edm")
    model = DiffusionModel(SPEC, denoiser, shape, "edm", COUNTS, "fid", 2)
    return {"method": "dpdm", "spec": asdict(SPEC), "config": model.config()}, model.tensors()


def gan(method: str) -> tuple[Facts, Tensors]:
    model = GANModel(SPEC, make_generator(SPEC, 4, 8), 4, COUNTS)
    return {"method": method, "spec": asdict(SPEC), "config": model.config()}, model.tensors()


def dpgan() -> tuple[Facts, Tensors]:
    return gan("dpgan")


def dpaf() -> tuple[Facts, Tensors]:
    return gan("dpaf")


def datalens() -> tuple[Facts, Tensors]:
    codes, labels = torch.randn(6, 16), torch.arange(6) % 2
    model = StudentModel(SPEC, student_network(SPEC, 4, 16), codes, labels, 4, 0.5)
    return {"method": "datalens", "spec": asdict(SPEC), "config": model.config()}, model.tensors()


def write(path: Path, facts: Facts, tensors: Tensors) -> Path:
    arrays = {name: np.ascontiguousarray(value) for name, value in tensors.items()}
    save_file(arrays, path, metadata={"sfumato": json.dumps(facts)})
    return path


@pytest.mark.parametrize("made", [mepf, dpdm, dpgan, dpaf, datalens])
def test_an_honest_model_draws(made: Callable[[], tuple[Facts, Tensors]], tmp_path: Path) -> None:
    facts, tensors = made()
    model = load_model(write(tmp_path / "model.safetensors", facts, tensors))
    assert sum(len(images) for images, _ in model.sample(3)) == 3


Change = Callable[[Facts, Tensors], Any]
CLAIMS: dict[str, tuple[Callable[[], tuple[Facts, Tensors]], Change]] = {
    "wide mepf": (mepf, lambda facts, _: facts["config"].update(width=4_000_000)),
    "width is a text": (mepf, lambda facts, _: facts["config"].update(width="16")),
    "huge image": (mepf, lambda facts, _: facts["spec"].update(height=10**6, width=10**6)),
    "no square": (mepf, lambda facts, _: facts["spec"].update(height=64)),
    "another class": (mepf, lambda facts, _: facts["spec"].update(classes=["a", "b", "c"])),
    "start of one class": (
        mepf,
        lambda _, tensors: tensors.update(
            {key: tensors[key][:1] for key in ("start.means", "start.roots")}
        ),
    ),
    "start of other axes": (
        mepf, lambda _, tensors: tensors.update({"start.roots": np.zeros((2, 5, 4), np.float32)}),
    ),
    "counts are not finite": (
        mepf, lambda _, tensors: tensors.update(counts=np.array([np.nan, 1.0])),
    ),
    "a tensor more": (
        mepf, lambda _, tensors: tensors.update({"refiner.more": np.zeros(3, np.float32)}),
    ),
    "wide dpdm": (dpdm, lambda facts, _: facts["config"]["shape"].update(width=4_000_000)),
    "many blocks": (dpdm, lambda facts, _: facts["config"]["shape"].update(blocks=10**9)),
    "many levels": (
        dpdm, lambda facts, _: facts["config"]["shape"].update(multipliers=[1] * 10**5),
    ),
    "wide patches": (dpdm, lambda facts, _: facts["config"]["shape"].update(patch=10**9)),
    "no sampler": (dpdm, lambda facts, _: facts["config"].update(sampler="os.system")),
    "no parameterisation": (dpdm, lambda facts, _: facts["config"].update(parameterisation="x")),
    "one count": (dpdm, lambda _, tensors: tensors.update(counts=np.array([1.0]))),
    "wide dpgan": (dpgan, lambda facts, _: facts["config"].update(width=4_000_000)),
    "deep noise": (dpaf, lambda facts, _: facts["config"].update(latent=10**12)),
    "a generator without weights": (
        dpaf, lambda _, tensors: [tensors.pop(name) for name in list(tensors) if "blocks" in name],
    ),
    "wide student": (datalens, lambda facts, _: facts["config"].update(width=4_000_000)),
    "odd width": (datalens, lambda facts, _: facts["config"].update(width=6)),
    "blend beyond codes": (datalens, lambda facts, _: facts["config"].update(blend=1.5)),
    "blend is a text": (datalens, lambda facts, _: facts["config"].update(blend="half")),
    "no codes": (datalens, lambda _, tensors: tensors.pop("codes")),
    "more codes than labels": (
        datalens, lambda _, tensors: tensors.update(codes=np.zeros((8, 16), np.float32)),
    ),
    "codes of another length": (
        datalens, lambda _, tensors: tensors.update(codes=np.zeros((6, 17), np.float32)),
    ),
    "whole codes": (
        datalens, lambda _, tensors: tensors.update(codes=np.zeros((6, 16), np.int64)),
    ),
    "codes are not finite": (
        datalens, lambda _, tensors: tensors.update(codes=np.full((6, 16), np.inf, np.float32)),
    ),
    "labels out of turn": (
        datalens, lambda _, tensors: tensors.update(code_labels=np.array([0, 0, 0, 1, 1, 1])),
    ),
    "labels of many classes": (
        datalens, lambda _, tensors: tensors.update(code_labels=np.arange(6)),
    ),
    "a student's tensor more": (
        datalens, lambda _, tensors: tensors.update(teacher=np.zeros(3, np.float32)),
    ),
}  # fmt: skip


@pytest.mark.parametrize("claim", CLAIMS)
def test_a_false_claim_is_refused(claim: str, tmp_path: Path) -> None:
    made, change = CLAIMS[claim]
    facts, tensors = made()
    change(facts, tensors)
    with pytest.raises(SfumatoError):
        load_model(write(tmp_path / "model.safetensors", facts, tensors))
