"""DP-SGD: a convolutional classifier trained on noisy gradients (arXiv 1607.00133).

Each step asks for one noisy sum of clipped gradients over a Poisson sample. With ``compress`` a
unit adds the signs of its gradient's largest entries instead (TopAgg, arXiv 2103.11109, section on
DP-SGD), whose norm is √k whatever the gradient was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.data.spec import PublicSpec
from sfumato.devices import device_of, moved, random_on, resolve_device
from sfumato.methods.base import Classifier, Method, check_rules, check_two_classes, poisson_rate
from sfumato.methods.estimate import gradient_steps
from sfumato.methods.saved_arrays import arrays_of, loaded, tensors_below
from sfumato.methods.training import Session, Training, noisy_mean_gradient
from sfumato.networks import Average, TanhCNN, to_pixels
from sfumato.privacy import Curator, GradientQuery, Query, TopSigns

BATCH = 500
MOMENTUM = 0.9

CITATION = """\
@inproceedings{abadi2016deep,
  title     = {Deep Learning with Differential Privacy},
  author    = {Abadi, Mart{\\'i}n and Chu, Andy and Goodfellow, Ian and McMahan, H. Brendan and
               Mironov, Ilya and Talwar, Kunal and Zhang, Li},
  booktitle = {ACM Conference on Computer and Communications Security},
  year      = {2016},
  note      = {arXiv:1607.00133}
}"""


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


@dataclass(frozen=True)
class DPSGD(Method):
    """Train a small convolutional classifier on noisy sums of clipped gradients.

    Args:
        steps: noisy gradients that are asked for.
        batch: expected number of images in a step's Poisson sample.
        clip_norm: C, the L2 bound of one image's gradient.
        compress: ask for the signs of each gradient's largest entries instead (TopAgg).
        entries: k, how many entries are signs with ``compress``; None takes a tenth of all.
        stochastic: draw each sign, the more surely the larger its entry; with ``compress``.
        learning_rate: of SGD with momentum 0.9, in units of the most that one image may add to the
            mean: C, or √k.
        average: decay of the running average of the network that is released.
        width: channels of the first convolution.
        seed_public: public seed of the first weights.

    Guarantee: one :class:`GradientQuery`; everything else is post-processing.

    Raises:
        UsageError: a value is outside its rule.
    """

    name = "dp-sgd"
    title = "a small convolutional classifier trained on noisy gradients"
    model = TanhClassifier
    short: ClassVar = {"steps": 10, "batch": 64}
    citation = CITATION

    steps: int = 300
    batch: int = 512
    clip_norm: float = 0.1
    compress: bool = False
    entries: int | None = None
    stochastic: bool = False
    learning_rate: float = 1.0
    average: float = 0.95
    width: int = 16
    seed_public: int = 0

    def __post_init__(self) -> None:
        rules = {
            "steps": self.steps >= 1,
            "batch": self.batch >= 1,
            "clip_norm": self.clip_norm > 0,
            "entries": self.entries is None or self.entries >= 1,
            "learning_rate": self.learning_rate > 0,
            "average": 0 <= self.average < 1,
            "width": self.width >= 1,
        }
        check_rules(self, rules)

    def model_config(self, spec: PublicSpec) -> dict[str, Any]:
        """What the method determines of its model's configuration."""
        return {"width": self.width}

    def queries(self, spec: PublicSpec) -> list[Query]:
        """The gradients of all steps.

        Raises:
            UsageError: there are fewer than two classes, the number of records is not declared, or
                it is smaller than the batch.
        """
        check_two_classes(self.name, spec)
        with torch.device("meta"):
            network = make_network(spec, self.width)
        size = sum(parameter.numel() for parameter in network.parameters())
        signs = TopSigns(self.entries or size // 10, self.stochastic) if self.compress else None
        return [
            GradientQuery(
                "gradient",
                size,
                None if self.compress else self.clip_norm,
                poisson_rate(self.name, self.batch, spec),
                self.steps,
                describes={"loss": "cross-entropy"},
                compress=signs,
            )
        ]

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time on this machine, measured on public images."""
        (query,) = self.queries(spec)
        assert isinstance(query, GradientQuery)
        network = self._untrained(spec, resolve_device())
        return gradient_steps(network, CrossEntropy(), query, spec)

    def fit(self, curator: Curator) -> TanhClassifier:
        """Train on noisy gradients; a killed run goes on where it was."""
        (query,) = curator.open(self).queries
        assert isinstance(query, GradientQuery)
        session, loss = Session.of(curator), CrossEntropy()
        network = self._untrained(curator.spec, session.device)
        average = Average(network, self.average)
        training = Training(
            session,
            {"network": network},
            torch.optim.SGD(network.parameters(), self.learning_rate / query.bound, MOMENTUM),
            random_on(session.device, self.seed_public),
            average,
        )

        def advance(step: int) -> None:
            gradient = noisy_mean_gradient(curator, "gradient", step, network, loss, self.batch)
            training.along(list(network.parameters()), gradient)
            average.update(network, step)

        training.run(
            "training the classifier",
            self.steps,
            advance,
            lambda done: curator.forget("gradient", done),
        )
        return TanhClassifier(curator.spec, average.network.eval(), self.width)

    def _untrained(self, spec: PublicSpec, device: torch.device) -> TanhCNN:
        torch.manual_seed(self.seed_public)
        return make_network(spec, self.width).to(device)
