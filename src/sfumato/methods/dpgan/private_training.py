"""DP-GAN's training: the discriminator's noisy gradients, and the generator's steps against it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from sfumato.data.spec import PublicSpec
from sfumato.devices import fast_bfloat16
from sfumato.methods.dpgan.adversarial_training import AdversarialTraining, PairLoss, Rates
from sfumato.methods.model import GeneratorModel, make_generator
from sfumato.methods.training import Session, noisy_mean_gradient
from sfumato.networks import Discriminator
from sfumato.privacy import Curator

if TYPE_CHECKING:
    from sfumato.methods.dpgan.method import DPGAN


def train(method: DPGAN, curator: Curator) -> GeneratorModel:
    """Train on noisy gradients; a killed run goes on where it was."""
    curator.open(method)
    spec, session = curator.spec, Session.of(curator)
    discriminator, loss = untrained(method, spec, session.device)
    rates = Rates(
        method.learning_rate,
        method.generator_rate,
        method.critic_steps,
        method.average,
        method.diversity,
        method.penalty,
    )
    training = AdversarialTraining(session, loss, discriminator, rates, method.seed_public)

    def noisy_mean(step: int) -> Sequence[Tensor]:
        return noisy_mean_gradient(curator, "gradient", step, discriminator, loss, method.batch)

    released = training.run(method.steps, noisy_mean, lambda done: curator.forget("gradient", done))
    classes = max(len(spec.classes), 1)
    return GeneratorModel(spec, released, method.generator_width, np.ones(classes))


def untrained(
    method: DPGAN, spec: PublicSpec, device: torch.device
) -> tuple[Discriminator, PairLoss]:
    """The discriminator that training starts from, and its loss beside a new generator."""
    torch.manual_seed(method.seed_public)
    classes = max(len(spec.classes), 1)
    discriminator = Discriminator(spec.height, spec.channels, classes, method.discriminator_width)
    discriminator.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    generator = make_generator(spec, method.generator_width, method.latent).to(device)
    return discriminator, PairLoss(generator, fast_bfloat16(device))
