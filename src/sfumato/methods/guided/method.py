"""Guided: public images, or a public denoiser's, chosen and pulled by one private sum.

The sum is DP-MEPF's joint release. It gives a private labeller and the mean embedding of each
class, and both guide what is public: which images are chosen, how they are pulled (classifier and
moment guidance), and how a public denoiser is sampled from (universal guidance, arXiv 2302.07121).
DP-MEPF's generator, matched to the same answer, makes the rest. All of it is post-processing of
one noisy answer (``docs/proofs/sum.md``); no private gradient is asked for.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.methods.base import Method, check_rules
from sfumato.methods.dpdm.settings import SIGMA_MAX, SIGMA_MIN
from sfumato.methods.later import later
from sfumato.methods.mepf.method import DPMEPF
from sfumato.methods.public_model import PublicModel, note_digests
from sfumato.privacy.queries.base import Query

if TYPE_CHECKING:
    from sfumato.methods.chosen_images import ChosenImages
    from sfumato.privacy import Curator

CITATION = """\
@inproceedings{bansal2024universal,
  title     = {Universal Guidance for Diffusion Models},
  author    = {Bansal, Arpit and Chu, Hong-Min and Schwarzschild, Avi and Sengupta, Soumyadip and
               Goldblum, Micah and Geiping, Jonas and Goldstein, Tom},
  booktitle = {International Conference on Learning Representations},
  year      = {2024},
  note      = {arXiv:2302.07121}
}"""


@dataclass(frozen=True)
class Guided(Method):
    """Choose and pull public images, or sample a public denoiser, by a released embedding.

    Args:
        kept: images of each class in the released model.
        matched: share of them that DP-MEPF's generator makes, which is trained on the same answer.
        matching_steps: steps of its training.
        views: random parts of each public image that are candidates beside the image itself.
        pull_steps: slopes of the guidance that each chosen or generated image is moved along.
        sampling_steps: noise levels of the public model's sampler; it moves along a slope at each.
        length: root mean square of a move over an image's values, which go from 0 to 1.
        moment_weight: weight of the distance to a class's mean embedding beside the labeller's
            loss; 0 saves a pass of the encoder.
        mirrored: whether a mirrored image is of the same class: true of photographs, not of
            letters.
        start_noise: with a public model, the noise that chosen and generated images are given
            before they are denoised; black and white are −1 and 1.
        labeller_size, encoder_size, labeller_weight: of the labeller; see :class:`DPMEPF`.
        seed_public: public seed of generator, views and sampler; privacy noise has none.
        public: uint8 ``[n, c, h, w]`` public images.
        public_model: a :class:`PublicModel` of ``dpdm``.

    Guarantee: one :class:`SumQuery`; everything after it is post-processing.

    Raises:
        UsageError: a value is outside its rule.
    """

    name = "guided"
    title = "public images, or a public denoiser's, chosen and pulled by one noisy sum"
    model = later("sfumato.methods.chosen_images:ChosenImages")
    short: ClassVar = {"kept": 10, "matching_steps": 20, "pull_steps": 1}
    card = (
        "Its images are public ones, altered or not, or were sampled from a public model; others "
        "were made by a generator. Licences of the public images apply to it."
    )
    citation = CITATION

    kept: int = 5000
    matched: float = 0.5
    matching_steps: int = 1500
    views: int = 1
    pull_steps: int = 0
    sampling_steps: int = 18
    length: float = 0.005
    moment_weight: float = 1.0
    mirrored: bool = True
    start_noise: float = 0.5
    labeller_size: int = 600
    encoder_size: int = 96
    labeller_weight: float = 0.85
    seed_public: int = 0
    public: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    public_digest: str = ""
    public_model: PublicModel | None = field(default=None, compare=False, repr=False)
    public_model_digest: str = ""

    def __post_init__(self) -> None:
        rules = {
            "kept": self.kept >= 1,
            "matched": 0 <= self.matched < 1,
            "matching_steps": self.matching_steps >= 1,
            "views": self.views >= 0,
            "pull_steps": self.pull_steps >= 0,
            "sampling_steps": self.sampling_steps >= 2,
            "length": 0 <= self.length <= 1,
            "moment_weight": self.moment_weight >= 0,
            "start_noise": SIGMA_MIN < self.start_noise <= SIGMA_MAX,
            "labeller_size": self.labeller_size >= 1,
        }
        check_rules(self, rules)
        note_digests(self)
        self.matching()  # its rules are said at once

    @property
    def generated(self) -> int:
        """How many of the kept images of a class the matched generator makes."""
        return round(self.kept * self.matched)

    def model_config(self, spec: PublicSpec) -> dict[str, Any]:
        """What the method determines of its model's configuration."""
        return {"kept": self.kept}

    def queries(self, spec: PublicSpec) -> list[Query]:
        """DP-MEPF's sum, with a labeller that sees images enlarged.

        Raises:
            UsageError: there are neither public images nor a public model.
        """
        if not (self.public_digest or self.public_model_digest):
            raise UsageError(
                "guided: there is nothing public to guide. Pass public images, --public (public=), "
                "or a public model of dpdm, --public-model MODEL (public_model=)."
            )
        return self.matching().queries(spec)

    def estimate(self, spec: PublicSpec) -> dict[str, str]:
        """Expected time and memory on this machine, measured on empty images."""
        from sfumato.methods.guided.making import estimate

        return estimate(self, spec)

    def fit(self, curator: Curator) -> ChosenImages:
        """Ask once, then guide; a killed run goes on with the images that it has made."""
        from sfumato.methods.guided.making import make

        return make(self, curator)

    def matching(self) -> DPMEPF:
        """DP-MEPF, of which this is the sum and the generator."""
        return DPMEPF(
            steps=self.matching_steps,
            labeller_size=self.labeller_size,
            encoder_size=self.encoder_size,
            labeller_weight=self.labeller_weight,
            seed_public=self.seed_public,
        )
