"""DataLens' training: what is voted on, and the student that follows the votes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sfumato.data.spec import PublicSpec
from sfumato.devices import CPU, random_on
from sfumato.features.basis import dct_basis
from sfumato.methods.datalens.method import LATENT
from sfumato.methods.datalens.teachers import NearestTeachers, NetworkTeachers
from sfumato.methods.estimate import seconds_of
from sfumato.methods.model import GeneratorModel, make_generator
from sfumato.methods.training import Session, Training
from sfumato.privacy import Curator, GeneratedBatch, TeacherBatches, Teachers

if TYPE_CHECKING:
    from sfumato.methods.datalens.method import DataLens

STUDENT_BATCH = 64
AT_ONCE = 1000
"""Images that the student makes together where nothing is learnt from them."""


def basis_of(method: DataLens, spec: PublicSpec) -> Tensor | None:
    """Orthonormal float32 ``[d, pixels]`` that is voted in; None for pixels."""
    if method.coordinates == "pixels":
        return None
    if method.coordinates == "cosine":
        return torch.from_numpy(dct_basis(spec, method.dimension))
    pixels = spec.channels * spec.height * spec.width
    random = random_on(CPU, method.seed_public)
    normal = torch.randn(pixels, min(method.dimension, pixels), generator=random)
    return torch.linalg.qr(normal).Q.T.contiguous()


def recipe(method: DataLens, spec: PublicSpec) -> Teachers:
    """What a teacher does."""
    basis, classes = basis_of(method, spec), max(len(spec.classes), 1)
    if method.kind == "network":
        return NetworkTeachers(spec.height, spec.channels, classes, basis)
    pixels = spec.channels * spec.height * spec.width
    return NearestTeachers(torch.eye(pixels) if basis is None else basis)


def seconds_of_votes(method: DataLens, spec: PublicSpec) -> float:
    """Seconds that all teachers take for one vote, measured on public images."""
    teachers, count = recipe(method, spec), method.images(spec)
    random = random_on(CPU, 0)
    group = min(teachers.at_once, method.voters(spec))
    shape = (group, teachers.batch, spec.channels, spec.height, spec.width)
    labels = torch.zeros(shape[:2], dtype=torch.int64)
    there = torch.ones(shape[:2], dtype=torch.bool)
    shard = TeacherBatches(torch.zeros(shape, dtype=torch.uint8), labels, there)
    memory = teachers.begin(group, random)
    asked = GeneratedBatch(torch.zeros(count, *shape[2:]), _labels(method, spec), 0.0)
    draws = teachers.draws(group, asked, random)
    seconds = seconds_of(lambda: teachers.vote(memory, shard, asked, *draws))
    return seconds * method.voters(spec) / group


def train(method: DataLens, curator: Curator) -> GeneratorModel:
    """Ask for votes and let the student follow them; a killed run goes on where it was."""
    curator.open(method)
    spec, session = curator.spec, Session.of(curator)
    device = session.device
    teachers, basis = recipe(method, spec), basis_of(method, spec)
    basis = None if basis is None else basis.to(device)
    torch.manual_seed(method.seed_public)
    student = make_generator(spec, method.width, LATENT).to(device)
    random = random_on(device, method.seed_public)
    labels = _labels(method, spec).to(device)
    codes = torch.randn(len(labels), LATENT, generator=random, device=device)
    optimizer = torch.optim.Adam(student.parameters(), method.student_rate, (0.9, 0.99))
    training = Training(session, {"student": student}, optimizer, random)
    parameters = list(student.parameters())
    part = (min(STUDENT_BATCH, len(labels)),)

    def advance(step: int) -> None:
        with torch.no_grad():
            # In parts: of a thousand classes there are thousands of images.
            parts = zip(codes.split(AT_ONCE), labels.split(AT_ONCE), strict=True)
            images = (torch.cat([student(*part) for part in parts]) + 1) / 2
        generated = GeneratedBatch(images, labels, step / method.steps)
        total = curator.vote("votes", step, teachers, generated)
        size = method.step_size * (1 - step / method.steps)
        moves = direction(method, total.to(device, torch.float32), spec) * size
        moves = moves if basis is None else moves @ basis
        target = (images + moves.view_as(images)).clamp(0, 1) * 2 - 1
        for _ in range(method.student_steps):
            some = torch.randint(len(labels), part, generator=random, device=device)
            loss = (student(codes[some], labels[some]) - target[some]).square().mean()
            training.along(parameters, torch.autograd.grad(loss, parameters))

    training.run("training", method.steps, advance, lambda done: curator.forget("votes", done))
    counts = np.ones(max(len(spec.classes), 1))
    return GeneratorModel(spec, student.eval(), method.width, counts, codes, method.blend)


def direction(method: DataLens, total: Tensor, spec: PublicSpec) -> Tensor:
    """Where each image should go, float32 ``[images, coordinates]`` within ±1."""
    sums, teachers = total.view(method.images(spec), -1), method.voters(spec)
    if method.threshold is not None:
        return sums.sign() * (sums.abs() > method.threshold * teachers)
    # A nearest teacher speaks of few images only, a network speaks of all.
    voters = teachers if method.kind == "network" else teachers / len(sums)
    return (sums / voters).clamp(-1, 1)


def _labels(method: DataLens, spec: PublicSpec) -> Tensor:
    return torch.arange(method.images(spec)) % max(len(spec.classes), 1)
