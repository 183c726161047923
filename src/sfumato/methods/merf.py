"""DP-MERF: a generator matched to one noisy mean of random Fourier features of pixels.

Harder, Adamczewski, Park, arXiv 2002.11603, algorithm 1. Random Fourier features (Rahimi and
Recht) stand for a Gaussian kernel, so a generator that matches their means matches the images'
distribution in that kernel's MMD. Nothing public is needed but the random frequencies.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from sfumato.data.spec import PublicSpec
from sfumato.devices import CPU, random_on
from sfumato.methods.base import check_rules
from sfumato.methods.feature_matching import FeatureMatching, Features

LENGTH_SHARE = 0.3
"""Length scale relative to √pixels, for pixels in [0, 1]: about the median distance of images."""


class FourierFeatures(Features):
    """φ(x) = √(2/D)·[cos(ωx); sin(ωx)], of norm exactly 1; equation 3 of the paper.

    Args:
        pixels: length of x.
        dimension: D, an even number.
        length_scale: of the Gaussian kernel whose spectral density ω is sampled from.
        seed: public seed of ω.
    """

    frequencies: Tensor

    def __init__(self, pixels: int, dimension: int, length_scale: float, seed: int) -> None:
        super().__init__()
        self.dimension = dimension
        normal = torch.randn(pixels, dimension // 2, generator=random_on(CPU, seed))
        self.register_buffer("frequencies", normal / length_scale)

    def rows(self, pixels: Tensor) -> Tensor:
        """Features float ``[b, dimension]`` of pixels float ``[b, d]`` in [0, 1]."""
        angles = pixels @ self.frequencies
        return torch.cat([angles.cos(), angles.sin()], dim=1) * math.sqrt(2 / self.dimension)


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

    def features(self, spec: PublicSpec) -> FourierFeatures:
        """Random Fourier features of images of ``spec``."""
        pixels = spec.channels * spec.height * spec.width
        scale = self.length_scale or LENGTH_SHARE * math.sqrt(pixels)
        return FourierFeatures(pixels, 2 * self.frequencies, scale, self.seed_public)
