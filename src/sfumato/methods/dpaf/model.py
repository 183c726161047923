"""What DPAF releases: a generator from noise alone, or one that starts from class Gaussians."""

from __future__ import annotations

from abc import ABC
from typing import Any

from numpy.typing import NDArray

from sfumato.data.spec import PublicSpec
from sfumato.methods.mepf.model import MEPFModel
from sfumato.methods.model import GeneratorModel, ImageModel


class DPAFModel(ImageModel, ABC):
    """Either of the two models; the layers below the sum decide which."""

    @classmethod
    def load(
        cls, spec: PublicSpec, config: dict[str, Any], tensors: dict[str, NDArray[Any]]
    ) -> ImageModel:
        """Rebuild a model from what was saved."""
        kind = GeneratorModel if "latent" in config else MEPFModel
        return kind.load(spec, config, tensors)
