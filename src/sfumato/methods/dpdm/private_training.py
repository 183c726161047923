"""DPDM's training: on public images, those of a warm-up, and private ones by noisy gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.features.public_classes import class_centres
from sfumato.methods.dpdm.diffusion import Denoiser, DenoisingLoss, DiffusionModel, network_of
from sfumato.methods.dpdm.method import VOTES_NEED
from sfumato.methods.dpdm.phases import Phases
from sfumato.methods.dpdm.public_votes import ChosenClasses
from sfumato.methods.dpdm.warm_up import warm_images
from sfumato.methods.public_model import start_from
from sfumato.methods.training import Session, noisy_mean_gradient
from sfumato.networks import UNet, adapt, merge
from sfumato.privacy import Curator

if TYPE_CHECKING:
    from sfumato.methods.dpdm.method import DPDM

PUBLIC_AVERAGE = 0.999


def finetuned(method: DPDM, network: UNet) -> UNet:
    """The network with those weights fixed that the private steps leave as they are."""
    if method.finetune == "last":
        network.requires_grad_(False)
        for module in network.last:
            module.requires_grad_(True)
    if method.finetune == "adapters":
        adapt(network, method.rank, method.seed_public)
        if network.label is not None:
            network.label.requires_grad_(True)
    return network


def untrained(method: DPDM, spec: PublicSpec, device: torch.device) -> tuple[UNet, DenoisingLoss]:
    """The network that private steps start from, but for public images, and its loss."""
    torch.manual_seed(method.seed_public)
    network = network_of(method.shape, spec).to(device)
    start_from(
        method.public_model, method.public_model_digest, method.name, spec, network, "network"
    )
    denoiser = Denoiser.of(network, method.parameterisation)
    return network, DenoisingLoss(denoiser, method.multiplicity, method.label_dropout)


def train(method: DPDM, curator: Curator) -> DiffusionModel:
    """Train on public, then sampled, then private images; a killed run goes on where it was."""
    spec = curator.spec
    network, loss = untrained(method, spec, curator.device)
    centres = _centres(method, curator.device)
    curator.open(method)
    session = Session.of(curator)
    counts = np.ones(max(len(spec.classes), 1))
    phases = Phases(session, network, loss, method.average, method.seed_public)
    rate = method.public_learning_rate
    draw: Callable[[int, torch.Generator], tuple[Tensor, Tensor]] = partial(_public_batch, method)
    if len(centres):
        chosen = ChosenClasses.asked(curator, centres, method.public_votes)
        chosen.start(network, method.public_model)
        if method.public is not None:
            draw = chosen.images(method.public, curator.device).draw
    if method.public_steps:
        phases.on_public_images("pre-training", method.public_steps, rate, draw)
    warm = warm_images(method.warm_up, spec)
    if warm is not None:
        warm.learn(curator.sum(warm.name), session)
        counts = warm.counts
        phases.on_public_images("warming up", method.warm_up_steps, rate, warm.draw)

    def noisy_mean(step: int) -> Sequence[Tensor]:
        return noisy_mean_gradient(curator, "gradient", step, network, loss, method.batch)

    finetuned(method, network)
    phases.run(
        "training",
        method.steps,
        method.learning_rate,
        noisy_mean,
        saved=lambda done: curator.forget("gradient", done),
    )
    merge(network)
    return _trained(method, spec, loss.denoiser, counts)


def _centres(method: DPDM, device: torch.device) -> NDArray[np.float32]:
    """The centres of the public classes that are voted for; none without votes."""
    if not method.public_votes:
        return np.zeros((0, 0), np.float32)
    if method.public_model is not None and method.public_model.centres is not None:
        return method.public_model.centres
    if method.public is None or method.public_labels is None:
        raise UsageError(f"dpdm: {VOTES_NEED.format(method.public_votes)}")
    return class_centres(method.public, method.public_labels, method.public_classes, device)


def _trained(
    method: DPDM, spec: PublicSpec, denoiser: Denoiser, counts: NDArray[np.float64]
) -> DiffusionModel:
    return DiffusionModel(
        spec,
        replace(denoiser, network=denoiser.network.eval()),
        method.shape,
        method.parameterisation,
        counts,
        method.sampler,
        method.sampling_steps,
    )


def train_on_public(method: DPDM, spec: PublicSpec, session: Session) -> DiffusionModel:
    """A denoiser of the method's public images alone."""
    network, loss = untrained(method, spec, session.device)
    phases = Phases(session, network, loss, PUBLIC_AVERAGE, method.seed_public)
    phases.on_public_images(
        "pre-training",
        method.public_steps,
        method.public_learning_rate,
        partial(_public_batch, method),
    )
    return _trained(method, spec, loss.denoiser, np.ones(max(len(spec.classes), 1)))


def _public_batch(method: DPDM, count: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    assert method.public is not None
    device = random.device
    places = torch.randint(len(method.public), (count,), generator=random, device=device)
    index = places.cpu().numpy()
    images = torch.from_numpy(method.public[index]).to(device)
    if not method.public_conditional or method.public_labels is None:
        return images, torch.full((count,), -1, device=device)
    return images, torch.from_numpy(method.public_labels[index]).to(device)
