"""DP-MERF: a generator matched to one noisy mean of random Fourier features of pixels.

Harder, Adamczewski, Park, arXiv 2002.11603, algorithm 1. Random Fourier features (Rahimi and
Recht) stand for a Gaussian kernel, so a generator that matches their means matches the images'
distribution in that kernel's MMD. Nothing public is needed but the random frequencies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sfumato.data.spec import PublicSpec
from sfumato.methods.base import check_rules
from sfumato.methods.feature_matching import FeatureMatching

if TYPE_CHECKING:
    from sfumato.methods.pixel_features.features import FourierFeatures

LENGTH_SHARE = 0.3
"""Length scale relative to √pixels, for pixels in [0, 1]: about the median distance of images."""


CITATION = """\
@inproceedings{harder2021dpmerf,
  title     = {{DP-MERF}: Differentially Private Mean Embeddings with Random Features for Practical
               Privacy-Preserving Data Generation},
  author    = {Harder, Frederik and Adamczewski, Kamil and Park, Mijung},
  booktitle = {International Conference on Artificial Intelligence and Statistics},
  year      = {2021},
  note      = {arXiv:2002.11603}
}"""


@dataclass(frozen=True)
class DPMERF(FeatureMatching):
    """Match a generator to a noisy mean of random Fourier features of pixels.

    Args:
        frequencies: number of random frequencies; each gives a cosine and a sine.
        length_scale: of the kernel; 0.3·√pixels by default.

    The other options are those of :class:`FeatureMatching`.

    Guarantee: one :class:`SumQuery`; everything after it is post-processing.

    Raises:
        UsageError: a value is outside its rule.
    """

    name = "merf"
    title = "DP-MERF: a generator matched to one noisy mean of random Fourier features"
    citation = CITATION

    frequencies: int = 2000
    length_scale: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        rules = {
            "frequencies": self.frequencies >= 1,
            "length_scale": self.length_scale is None or self.length_scale > 0,
        }
        check_rules(self, rules)

    def dimension(self, spec: PublicSpec) -> int:
        """A cosine and a sine of each frequency."""
        return 2 * self.frequencies

    def features(self, spec: PublicSpec) -> FourierFeatures:
        """Random Fourier features of images of ``spec``."""
        from sfumato.methods.pixel_features.features import FourierFeatures

        pixels = spec.channels * spec.height * spec.width
        scale = self.length_scale or LENGTH_SHARE * math.sqrt(pixels)
        return FourierFeatures(pixels, 2 * self.frequencies, scale, self.seed_public)
