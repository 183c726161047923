"""DP-NTK: a generator matched to one noisy mean of neural tangent features of pixels.

Yang, Adamczewski, Sutherland, Li, Park, arXiv 2303.01687. An image's features are the gradient of a
public network's output at that image (the empirical neural tangent kernel's feature map), scaled to
norm 1. The network here has one hidden layer with random weights, so nothing public is needed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfumato.data.spec import PublicSpec
from sfumato.methods.base import check_rules
from sfumato.methods.feature_matching import FeatureMatching

if TYPE_CHECKING:
    from sfumato.methods.pixel_features.features import TangentFeatures

CITATION = """\
@article{yang2023dpntk,
  title   = {Differentially Private Neural Tangent Kernels for Privacy-Preserving Data Generation},
  author  = {Yang, Yilin and Adamczewski, Kamil and Sutherland, Danica J. and Li, Xiaoxiao and
             Park, Mijung},
  journal = {Journal of Artificial Intelligence Research},
  year    = {2024},
  note    = {arXiv:2303.01687}
}"""


@dataclass(frozen=True)
class DPNTK(FeatureMatching):
    """Match a generator to a noisy mean of neural tangent features of pixels.

    Args:
        hidden: hidden units of the public random network.

    The other options are those of :class:`FeatureMatching`.

    Guarantee: one :class:`SumQuery`; everything after it is post-processing.

    Raises:
        UsageError: a value is outside its rule.
    """

    name = "ntk"
    title = "DP-NTK: a generator matched to one noisy mean of neural tangent features"
    citation = CITATION

    hidden: int = 100

    def __post_init__(self) -> None:
        super().__post_init__()
        check_rules(self, {"hidden": self.hidden >= 1})

    def dimension(self, spec: PublicSpec) -> int:
        """A derivative by each weight of the public network."""
        return self.hidden * (spec.channels * spec.height * spec.width + 2)

    def features(self, spec: PublicSpec) -> TangentFeatures:
        """Tangent features of images of ``spec``."""
        from sfumato.methods.pixel_features.features import TangentFeatures

        pixels = spec.channels * spec.height * spec.width
        return TangentFeatures(pixels, self.hidden, self.seed_public)
