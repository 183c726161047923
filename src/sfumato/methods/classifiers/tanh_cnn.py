"""The classifier that ``dp-sgd`` trains and releases, and the loss of an image in its training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.data.spec import PublicSpec
from sfumato.devices import device_of, moved, random_on
from sfumato.methods.base import Classifier
from sfumato.methods.saved_arrays import arrays_of, loaded, tensors_below
from sfumato.methods.training import Session, Training, noisy_mean_gradient
from sfumato.networks import Average, TanhCNN, to_pixels
from sfumato.privacy import Curator, GradientQuery

if TYPE_CHECKING:
    from sfumato.methods.classifiers.dp_sgd import DPSGD

BATCH = 500
MOMENTUM = 0.9


@dataclass(frozen=True)
class CrossEntropy:
    """A unit's loss: the cross-entropy of its image's label."""

    @property
    def multiplicity(self) -> int:
        """One image a unit."""
        return 1

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """No randomness."""
        return ()

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        """Loss of each unit, float ``[u]``."""
        return F.cross_entropy(network(to_pixels(images)), labels, reduction="none")


@dataclass(frozen=True)
class TanhClassifier(Classifier):
    """A trained :class:`TanhCNN` of a width."""

    spec: PublicSpec
    network: TanhCNN
    width: int

    def move(self, device: torch.device) -> None:
        """Compute on ``device`` from now on."""
        moved(self.network, device)

    @torch.no_grad()
    def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Logits ``[b, classes]``."""
        device = device_of(self.network)
        parts = [np.zeros((0, len(self.spec.classes)), np.float32)]
        for part in torch.from_numpy(images).split(BATCH):
            parts.append(self.network(to_pixels(part.to(device))).cpu().numpy())
        return np.concatenate(parts)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The network's weights by name."""
        return arrays_of(self.network, "network")

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the arrays."""
        return {"width": self.width}

    @classmethod
    def load(
        cls, spec: PublicSpec, config: dict[str, Any], tensors: dict[str, NDArray[Any]]
    ) -> TanhClassifier:
        """Rebuild a classifier from what was saved."""
        weights = tensors_below(tensors, "network")
        if len(weights) != len(tensors):
            raise ValueError("the tensors are not those of a classifier")
        if not all(bool(tensor.isfinite().all()) for tensor in weights.values()):
            raise ValueError("the weights must be finite")
        width = config["width"]
        return cls(spec, loaded(lambda: make_network(spec, width), weights), width)


def make_network(spec: PublicSpec, width: int) -> TanhCNN:
    """An untrained network for images of ``spec``."""
    network = TanhCNN(spec.channels, len(spec.classes), width)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def untrained(method: DPSGD, spec: PublicSpec, device: torch.device) -> TanhCNN:
    """The network that training starts from."""
    torch.manual_seed(method.seed_public)
    return make_network(spec, method.width).to(device)


def train(method: DPSGD, curator: Curator) -> TanhClassifier:
    """Train on noisy gradients; a killed run goes on where it was."""
    (query,) = curator.open(method).queries
    assert isinstance(query, GradientQuery)
    session, loss = Session.of(curator), CrossEntropy()
    network = untrained(method, curator.spec, session.device)
    average = Average(network, method.average)
    training = Training(
        session,
        {"network": network},
        torch.optim.SGD(network.parameters(), method.learning_rate / query.bound, MOMENTUM),
        random_on(session.device, method.seed_public),
        average,
    )

    def advance(step: int) -> None:
        gradient = noisy_mean_gradient(curator, "gradient", step, network, loss, method.batch)
        training.along(list(network.parameters()), gradient)
        average.update(network, step)

    training.run(
        "training the classifier",
        method.steps,
        advance,
        lambda done: curator.forget("gradient", done),
    )
    return TanhClassifier(curator.spec, average.network.eval(), method.width)
