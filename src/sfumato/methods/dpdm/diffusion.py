"""A denoiser, its loss, and the model that DPDM releases."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.data.spec import PublicSpec
from sfumato.devices import bfloat16_where, device_of, fast_bfloat16, random_on
from sfumato.methods.dpdm.parameterisations import PARAMETERISATIONS, Parameterisation
from sfumato.methods.dpdm.samplers import DDIM, PRESETS, Preset, guided
from sfumato.methods.dpdm.settings import Shape, check_sampler
from sfumato.methods.model import ImageModel
from sfumato.methods.saved_arrays import arrays_of, checked_counts, loaded, tensors_below
from sfumato.networks import ImageStreams, UNet, to_bytes, to_pixels

LOSS_BATCH = 128
LOSS_LEVELS = 16
"""Noise levels over which an image's loss is averaged."""

SAMPLERS = {
    **PRESETS,
    "quick": Preset(DDIM(steps=18), guidance=0.0),
    "ddim": Preset(DDIM(), guidance=0.0),
    "ddim-stochastic": Preset(DDIM(stochastic=True), guidance=0.0),
}
"""How a trained denoiser can be sampled from; ``quick`` is DDIM with 18 evaluations."""


def network_of(shape: Shape, spec: PublicSpec) -> UNet:
    """An untrained U-Net for images of ``spec``."""
    network = UNet(spec.height, spec.channels, len(spec.classes), **asdict(shape))
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


@dataclass(frozen=True)
class Denoiser:
    """F and its parameterisation; ``bfloat16`` says whether the network's part runs in it."""

    network: UNet
    parameterisation: Parameterisation
    bfloat16: bool

    @classmethod
    def of(cls, network: UNet, parameterisation: str) -> Denoiser:
        """A denoiser that uses bfloat16 where its device is fast in it."""
        fast = fast_bfloat16(device_of(network))
        return cls(network, PARAMETERISATIONS[parameterisation], fast)

    def fast(self, network: nn.Module, x: Tensor, level: Tensor, labels: Tensor | None) -> Tensor:
        """The output of ``network`` for scaled images."""
        x = x.contiguous(memory_format=torch.channels_last)
        with bfloat16_where(self.bfloat16, x.device):
            output: Tensor = network(x, level, labels)
        return output

    def __call__(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        """D(x; σ, y)."""
        return self.parameterisation.denoise(partial(self.fast, self.network), x, sigma, labels)

    def losses(
        self, network: nn.Module, images: Tensor, labels: Tensor, sigma: Tensor, noise: Tensor
    ) -> Tensor:
        """Loss of each uint8 image with its σ and noise, float ``[n]``."""
        fast = partial(self.fast, network)
        return self.parameterisation.loss(fast, to_pixels(images), labels, sigma, noise)


@dataclass(frozen=True)
class DenoisingLoss:
    """A unit's loss: the mean over K noise levels and noises, its label dropped now and then.

    Noise multiplicity (arXiv 2210.09929, equation 5). The label is dropped once a unit, with
    probability ``label_dropout``, for classifier-free guidance.
    """

    denoiser: Denoiser
    multiplicity: int
    label_dropout: float

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        """σ ``[u, K]``, noise ``[u, K, c, h, w]`` and whether the label is dropped ``[u]``."""
        network, K = self.denoiser.network, self.multiplicity
        shape = (network.channels, network.size, network.size)
        sigma, noise = self.denoiser.parameterisation.draws(units * K, shape, generator)
        uniform = torch.rand(units, generator=generator, device=generator.device)
        return sigma.view(units, K), noise.view(units, K, *shape), uniform < self.label_dropout

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        """Loss of each unit, float ``[u]``."""
        sigma, noise, dropped = draws
        kept = torch.where(dropped, self.denoiser.network.no_label, labels)
        K = self.multiplicity
        losses = self.denoiser.losses(
            network,
            images[:, None].expand(-1, K, -1, -1, -1).flatten(0, 1),
            kept[:, None].expand(-1, K).flatten(),
            sigma.flatten(),
            noise.flatten(0, 1),
        )
        return losses.view(-1, K).mean(dim=1)


@dataclass(frozen=True)
class DiffusionModel(ImageModel):
    """A trained denoiser, noisy class sizes (or none), and its sampler."""

    redrawn: ClassVar[int] = 64

    spec: PublicSpec
    denoiser: Denoiser
    shape: Shape
    parameterisation: str
    counts: NDArray[np.float64]
    sampler: str
    sampling_steps: int | None

    def with_sampler(self, sampler: str | None, steps: int | None = None) -> DiffusionModel:
        """The same model with another sampler; costs nothing.

        Raises:
            UsageError: there is no sampler of this name, or the number of steps is below 2.
        """
        chosen = sampler or self.sampler
        check_sampler(chosen, steps)
        return replace(self, sampler=chosen, sampling_steps=steps)

    @torch.no_grad()
    def losses(self, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> NDArray[np.float64]:
        """Mean denoising loss of each image over the same noise levels and noises for all."""
        network = self.denoiser.network
        device = device_of(network)
        sigma, noise = self.denoiser.parameterisation.draws(
            LOSS_LEVELS, images.shape[1:], random_on(device, 0)
        )
        losses = np.zeros(len(images))
        for start in range(0, len(images), LOSS_BATCH):
            part = slice(start, start + LOSS_BATCH)
            batch = torch.from_numpy(images[part]).to(device)
            classes = torch.from_numpy(labels[part]).to(device)
            for level, one in zip(sigma, noise, strict=True):
                found = self.denoiser.losses(
                    network, batch, classes, level.expand(len(batch)), one.expand_as(batch)
                )
                losses[part] += found.double().cpu().numpy() / LOSS_LEVELS
        return losses

    @property
    def modules(self) -> Sequence[nn.Module]:
        """The denoiser's network."""
        return (self.denoiser.network,)

    def draw(self, labels: Tensor, random: ImageStreams) -> tuple[Tensor, Tensor]:
        """Images of the sampler, and the labels as they are."""
        preset = SAMPLERS[self.sampler]
        sampler = preset.sampler
        if self.sampling_steps is not None:
            sampler = replace(sampler, steps=self.sampling_steps)
        noise = random.normal(self.spec.channels, self.spec.height, self.spec.width)
        known = labels if self.spec.classes else None
        denoiser = Denoiser.of(self.denoiser.network, self.parameterisation)
        images = sampler.sample(guided(denoiser, known, preset.guidance), noise, random)
        return to_bytes(images), labels

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The model's arrays by name."""
        return {**arrays_of(self.denoiser.network, "network"), "counts": self.counts}

    def config(self) -> dict[str, Any]:
        """What :meth:`load` needs besides the arrays."""
        return {
            "shape": asdict(self.shape),
            "parameterisation": self.parameterisation,
            "sampler": self.sampler,
            "sampling_steps": self.sampling_steps,
        }

    @classmethod
    def load(
        cls, spec: PublicSpec, config: dict[str, Any], tensors: dict[str, NDArray[Any]]
    ) -> DiffusionModel:
        """Rebuild a model from what was saved."""
        values = config["shape"]
        shape = Shape(**{**values, "multipliers": tuple(values["multipliers"])})
        weights = tensors_below(tensors, "network")
        # Each block and each level has tensors of its own.
        if shape.blocks * len(shape.multipliers) > len(weights):
            raise ValueError("the tensors are not those of the stated network")
        network = loaded(lambda: network_of(shape, spec), weights)
        sampler, steps, kind = (
            config[name] for name in ("sampler", "sampling_steps", "parameterisation")
        )
        check_sampler(sampler, steps)
        counts = checked_counts(tensors["counts"], spec)
        return cls(spec, Denoiser.of(network, kind), shape, kind, counts, sampler, steps)
