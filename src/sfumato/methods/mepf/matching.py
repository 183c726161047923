"""Match a generator to a released mean embedding: pure post-processing, resumable.

Two estimates of ‖μ̃ − μ(G)‖² are offered, both without the bias of a batch:

* ``moving-average``: :class:`sfumato.methods.mean_matching.MovingMean`;
* ``two-batch``: (μ̃ − μ̂_A)·(μ̃ − μ̂_B) over independent half-batches, unbiased.
"""

from __future__ import annotations

import torch
from torch import Tensor

from sfumato.data.spec import PublicSpec
from sfumato.devices import moved, random_on
from sfumato.methods.mean_matching import (
    BETAS,
    LARGEST_GRADIENT,
    MovingMean,
    factor_apart,
    told_apart,
    warm_up_and_cosine,
)
from sfumato.methods.mepf.embedding import JointEmbedding, Targets
from sfumato.methods.mepf.generator import StartedGenerator, refiner
from sfumato.methods.mepf.settings import MEPFSettings
from sfumato.methods.public_model import start_from
from sfumato.methods.training import Session, Training
from sfumato.networks import Average, Refiner

CHANGE_PENALTY = 0.01


def first_refiner(method: MEPFSettings, spec: PublicSpec, seed: int, name: str = "mepf") -> Refiner:
    """The network that training starts from: of random weights, or the public model's.

    name: of the method that trains it.

    Raises:
        UsageError: the public model does not fit.
    """
    torch.manual_seed(seed)
    network = refiner(spec, method.width)
    start_from(method.public_model, method.public_model_digest, name, spec, network, "refiner")
    return network


class Matching:
    """The training of a generator on the moments of a released embedding.

    Args:
        joint: what turns images into moments; moved to the session's device.
        targets: what the moments of generated images shall be.
        seed: public seed of the initial weights and of the generator's inputs.
        session: where the training runs.
    """

    def __init__(
        self, joint: JointEmbedding, targets: Targets, seed: int, session: Session | None = None
    ) -> None:
        session = session or Session()
        device, method = session.device, joint.method
        self.joint, self.method = moved(joint, device), method
        every = {"first": targets.first, "second": targets.second, "random": targets.random}
        wanted = {name: mean for name, mean in every.items() if mean is not None}
        self.factors = {name: factor_apart(m, method.class_weight) for name, m in wanted.items()}
        known = {name: targets.known.get(name) for name in wanted}
        for weighing in filter(None, known.values()):
            weighing.to(device)
        self.means = {
            name: MovingMean(self._apart(name, mean.to(device)), method.moving_average, known[name])
            for name, mean in wanted.items()
        }
        network = first_refiner(method, joint.spec, seed)
        self.generator = StartedGenerator(joint.spec, targets.start, network).to(device)
        self.average = Average(self.generator)
        self.random = random_on(device, seed)
        classes = len(targets.counts)
        self.per_class = max(2, method.batch // classes)
        self.labels = torch.arange(classes, device=device).repeat_interleave(self.per_class)
        self.training = Training(
            session,
            {"generator": self.generator},
            torch.optim.Adam(self.generator.parameters(), method.learning_rate, BETAS),
            self.random,
            self.average,
            {str(index): mean.running for index, mean in enumerate(self.means.values())},
            warm_up_and_cosine(method.steps),
        )

    def run(self) -> StartedGenerator:
        """Train to the end; returns the averaged generator."""
        self.training.run("matching the generator", self.method.steps, self.advance)
        return self.average.network.eval()

    def advance(self, step: int) -> None:
        """One optimisation step."""
        images, change = self.generator(self.labels, self.random)
        first, second = self.joint.moments(self.joint.features.activations(images))
        moments = {"first": first, "second": second}
        if self.joint.random:
            moments["random"] = self.joint.random(images)
        # The matching loss pushes linearly; where pixels saturate, only this brings them back.
        loss = CHANGE_PENALTY * change.square().mean()
        for name, mean in self.means.items():
            by_class = moments[name].view(len(mean.wanted), self.per_class, -1)
            if self.method.loss == "two-batch":
                half = self.per_class // 2
                first = self._apart(name, by_class[:, :half].mean(dim=1))
                other = self._apart(name, by_class[:, half:].mean(dim=1))
                loss = loss + (mean.missed(first) * (mean.wanted - other)).sum()
            else:
                loss = loss + mean.loss(self._apart(name, by_class.mean(dim=1)), step)
        parameters = list(self.generator.parameters())
        gradients = torch.autograd.grad(loss, parameters)
        self.training.along(parameters, gradients, LARGEST_GRADIENT)
        self.average.update(self.generator, step)

    def _apart(self, name: str, means: Tensor) -> Tensor:
        return told_apart(means, self.factors[name])
