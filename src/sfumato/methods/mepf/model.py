"""What DP-MEPF releases: a generator that starts from Gaussians, and a labeller of its images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.data.spec import PublicSpec
from sfumato.methods.gaussian import loaded_gaussians
from sfumato.methods.mepf.embedding import Embedding
from sfumato.methods.mepf.generator import StartedGenerator, refiner
from sfumato.methods.mepf.labeller import Labeller
from sfumato.methods.model import ImageModel
from sfumato.methods.saved_arrays import arrays_of, checked_counts, loaded, tensors_below
from sfumato.networks import ImageStreams


@dataclass(frozen=True)
class MEPFModel(ImageModel):
    """A trained generator, its noisy class sizes, and the embedding it was matched to.

    With a labeller an image carries the class that the released classifier gives it, which need not
    be the one it was made for.
    """

    at_once: ClassVar[int] = 500

    spec: PublicSpec
    counts: NDArray[np.float64]
    generator: StartedGenerator
    labeller: Labeller | None
    embedding: Embedding | None = None

    @property
    def modules(self) -> Sequence[nn.Module]:
        """Generator and labeller."""
        return (self.generator,) if self.labeller is None else (self.generator, self.labeller)

    @property
    def names_itself(self) -> bool:
        """A labeller names the images."""
        return self.labeller is not None

    def draw(self, labels: Tensor, random: ImageStreams) -> tuple[Tensor, Tensor]:
        """Images of the generator, and what the labeller calls them."""
        images = (self.generator(labels, random)[0] * 255).round().to(torch.uint8)
        return images, labels if self.labeller is None else self.labeller(images)

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The model's arrays by name."""
        start, labeller = self.generator.start, self.labeller
        return {
            **arrays_of(self.generator.refiner, "refiner"),
            "counts": self.counts,
            **({} if start is None else start.tensors("start.")),
            **({} if labeller is None else labeller.tensors("labeller.")),
        }

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the arrays."""
        labeller = None if self.labeller is None else self.labeller.config()
        return {"width": self.generator.width, "labeller": labeller}

    @classmethod
    def load(
        cls, spec: PublicSpec, config: dict[str, Any], tensors: dict[str, NDArray[Any]]
    ) -> MEPFModel:
        """Rebuild a model from what was saved (without its embedding)."""
        width, counts = config["width"], checked_counts(tensors["counts"], spec)
        start = loaded_gaussians(tensors, "start.") if "start.means" in tensors else None
        if start is not None and len(start.means) != len(counts):
            raise ValueError("there must be one Gaussian for each class")
        network = loaded(lambda: refiner(spec, width), tensors_below(tensors, "refiner"))
        labeller = None
        if config["labeller"] is not None:
            labeller = Labeller.load(config["labeller"], tensors_below(tensors, "labeller"))
        return cls(spec, counts, StartedGenerator(spec, start, network).eval(), labeller)
