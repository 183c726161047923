"""DataLens' student: a generator that follows the noisy votes, and the model that is released."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.data.spec import PublicSpec
from sfumato.methods.base import Batch, Model
from sfumato.methods.dpdm.diffusion import to_bytes
from sfumato.methods.saved_arrays import check_tensors
from sfumato.networks.gan import Generator

SAMPLE_BATCH = 500


@dataclass
class StudentModel(Model):
    """A generator and the codes it was taught on: between codes of a class lie its images.

    ``codes`` float32 ``[m, latent]`` and ``labels`` int64 ``[m]``, in turns: 0, 1, …, 0, 1, ….
    """

    spec: PublicSpec
    network: Generator
    codes: Tensor
    labels: Tensor
    width: int
    blend: float

    def sample(self, count: int, seed: int = 0) -> Iterator[Batch]:
        """Draw ``count`` images in batches, all classes alike."""
        generator = torch.Generator().manual_seed(seed)
        classes = max(len(self.spec.classes), 1)
        every = torch.arange(count) % classes
        every = every[torch.randperm(count, generator=generator)]
        for labels in every.split(SAMPLE_BATCH):
            with torch.inference_mode():
                images = self.network(self.blended(labels, generator), labels)
            yield to_bytes(images).numpy(), labels.numpy()

    def blended(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """For each label a random code of its class, moved by up to ``blend`` towards another."""
        classes = int(self.labels.max()) + 1
        by_class = self.codes.view(-1, classes, self.codes.shape[1])
        pick = torch.randint(len(by_class), (2, len(labels)), generator=generator)
        first, second = by_class[pick, labels]
        return torch.lerp(
            first, second, self.blend * torch.rand(len(labels), 1, generator=generator)
        )

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The network's weights and the codes."""
        weights = {k: v.detach().numpy() for k, v in self.network.state_dict().items()}
        return {**weights, "codes": self.codes.numpy(), "code_labels": self.labels.numpy()}

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the arrays."""
        return {"width": self.width, "blend": self.blend}

    @classmethod
    def load(
        cls, spec: PublicSpec, config: dict[str, Any], tensors: dict[str, NDArray[Any]]
    ) -> StudentModel:
        """Rebuild a model from what was saved."""
        values = {name: torch.from_numpy(array) for name, array in tensors.items()}
        codes, labels = values.pop("codes"), values.pop("code_labels")
        classes, width, blend = max(len(spec.classes), 1), config["width"], config["blend"]
        per = len(labels) // classes
        if codes.ndim != 2 or len(codes) != len(labels) or not 0 <= blend <= 1 or per == 0:
            raise ValueError("the codes are not those of a student")
        if codes.dtype != torch.float32 or not bool(codes.isfinite().all()):
            raise ValueError("the codes must be finite float32 numbers")
        if not torch.equal(labels, torch.arange(per * classes) % classes):
            raise ValueError("the classes of the codes must take turns")
        check_tensors(lambda: student_network(spec, width, codes.shape[1]), values)
        network = student_network(spec, width, codes.shape[1])
        network.load_state_dict(values)
        return cls(spec, network.eval(), codes, labels, width, blend)


def student_network(spec: PublicSpec, width: int, latent: int) -> Generator:
    """An untrained student for images of ``spec``."""
    return Generator(spec.height, spec.channels, max(len(spec.classes), 1), width, latent)
