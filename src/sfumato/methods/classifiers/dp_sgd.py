"""DP-SGD: a convolutional classifier trained on noisy gradients (arXiv 1607.00133).

Each step asks for one noisy sum of clipped gradients over a Poisson sample. With ``compress`` a
unit adds the signs of its gradient's largest entries instead (TopAgg, arXiv 2103.11109, section on
DP-SGD), whose norm is √k whatever the gradient was.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from sfumato.data.spec import PublicSpec
from sfumato.methods.base import Method, check_rules, check_two_classes, poisson_rate
from sfumato.methods.later import later
from sfumato.networks.sizes import tanh_cnn_parameters
from sfumato.privacy.queries.base import Query
from sfumato.privacy.queries.gradient import GradientQuery, TopSigns

if TYPE_CHECKING:
    from sfumato.methods.classifiers.tanh_cnn import TanhClassifier
    from sfumato.privacy import Curator

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
    model = later("sfumato.methods.classifiers.tanh_cnn:TanhClassifier")
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
        size = tanh_cnn_parameters(spec.channels, len(spec.classes), self.width)
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
        from sfumato.devices import resolve_device
        from sfumato.methods.classifiers.tanh_cnn import CrossEntropy, untrained
        from sfumato.methods.estimate import gradient_steps

        (query,) = self.queries(spec)
        assert isinstance(query, GradientQuery)
        network = untrained(self, spec, resolve_device())
        return gradient_steps(network, CrossEntropy(), query, spec)

    def fit(self, curator: Curator) -> TanhClassifier:
        """Train on noisy gradients; a killed run goes on where it was."""
        from sfumato.methods.classifiers.tanh_cnn import train

        return train(self, curator)
