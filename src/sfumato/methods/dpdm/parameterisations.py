"""The four denoisers that DPDM compares: how a network's output becomes a clean image.

D(x; σ, y) = c_skip(σ)·x + c_out(σ)·F(c_in(σ)·x; c_noise(σ), y), trained with the loss
λ(σ)·mean over pixels (D(x + σn; σ, y) − x)². The four are those that DPDM (arXiv 2210.09929)
compares; the notation is EDM's (arXiv 2206.00364, table 1). In all four λ = 1/c_out², so the loss
is the plain squared error of F.

Images are scaled to [−1, 1], and σ is in the same unit. All randomness comes in as tensors.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Network = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""F: scaled images ``[b, c, h, w]``, c_noise ``[b]`` and labels int64 ``[b]`` or None to images."""


class Draws(NamedTuple):
    """The randomness of a batch of losses: σ ``[b]`` and standard normal noise ``[b, c, h, w]``."""

    sigma: Tensor
    noise: Tensor


class Parameterisation(ABC):
    """Coefficients, loss weight and law of σ; functions of σ take and return float ``[b]``.

    Attributes:
        bounds: the smallest and the largest σ that is ever drawn; (0, ∞) where there is none.
    """

    bounds: ClassVar[tuple[float, float]]

    @abstractmethod
    def c_skip(self, sigma: Tensor) -> Tensor:
        """How much of the noisy image is kept."""

    @abstractmethod
    def c_out(self, sigma: Tensor) -> Tensor:
        """Scale of the network's output."""

    @abstractmethod
    def c_in(self, sigma: Tensor) -> Tensor:
        """Scale of the network's input."""

    @abstractmethod
    def c_noise(self, sigma: Tensor) -> Tensor:
        """What the network is told about σ."""

    @abstractmethod
    def weight(self, sigma: Tensor) -> Tensor:
        """λ(σ), the weight of the loss."""

    @abstractmethod
    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
        """Noise levels, float32 on the generator's device."""

    def draws(self, count: int, shape: tuple[int, int, int], generator: torch.Generator) -> Draws:
        """σ and noise for ``count`` images of ``shape`` (channels, height, width)."""
        sigma = self.draw(count, generator)
        return Draws(sigma, torch.randn(count, *shape, generator=generator, device=sigma.device))

    def denoise(
        self,
        network: Network,
        noisy: Float[Tensor, "b c h w"],
        sigma: Float[Tensor, " b"],
        labels: Int64[Tensor, " b"] | None,
    ) -> Float[Tensor, "b c h w"]:
        """D(x; σ, y), in the precision of ``noisy``; the network may answer in a lower one."""
        output = network(over(self.c_in(sigma)) * noisy, self.c_noise(sigma), labels)
        return over(self.c_skip(sigma)) * noisy + over(self.c_out(sigma)) * output.to(noisy.dtype)

    def loss(
        self,
        network: Network,
        images: Float[Tensor, "b c h w"],
        labels: Int64[Tensor, " b"] | None,
        sigma: Float[Tensor, " b"],
        noise: Float[Tensor, "b c h w"],
    ) -> Float[Tensor, " b"]:
        """λ(σ)·mean over pixels (D(x + σn; σ, y) − x)² for each of the images in [−1, 1]."""
        denoised = self.denoise(network, images + over(sigma) * noise, sigma, labels)
        return self.weight(sigma) * (denoised - images).square().mean(dim=(1, 2, 3))


def over(coefficient: Float[Tensor, " b"]) -> Float[Tensor, "b 1 1 1"]:
    """One coefficient an image, to multiply its pixels."""
    return coefficient[:, None, None, None]


def uniform(
    count: int, low: float, high: float, generator: torch.Generator
) -> Float[Tensor, " count"]:
    """Numbers drawn uniformly between ``low`` and ``high``."""
    return low + (high - low) * torch.rand(count, generator=generator, device=generator.device)


class VP(Parameterisation):
    """Predicts the noise of a variance-preserving diffusion (arXiv 2011.13456; EDM table 1).

    t is uniform on [ε_t, 1], σ(t) = √(exp(½ β_d t² + β_min t) − 1).
    """

    beta_min: ClassVar[float] = 0.1
    beta_d: ClassVar[float] = 19.9
    M: ClassVar[float] = 1000.0
    epsilon_t: ClassVar[float] = 1e-5
    bounds = (
        math.sqrt(math.expm1(beta_d * epsilon_t**2 / 2 + beta_min * epsilon_t)),
        math.sqrt(math.expm1(beta_d / 2 + beta_min)),
    )

    def c_skip(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def c_out(self, sigma: Tensor) -> Tensor:
        return -sigma

    def c_in(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + 1).rsqrt()

    def c_noise(self, sigma: Tensor) -> Tensor:
        # M·t(σ), the quadratic's root written so that nothing cancels at small σ.
        logarithm = torch.log1p(sigma**2)
        root = (self.beta_min**2 + 2 * self.beta_d * logarithm).sqrt()
        return self.M * 2 * logarithm / (self.beta_min + root)

    def weight(self, sigma: Tensor) -> Tensor:
        return sigma**-2

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
        t = uniform(count, self.epsilon_t, 1.0, generator)
        return torch.expm1(self.beta_d / 2 * t**2 + self.beta_min * t).sqrt()


class VE(Parameterisation):
    """Predicts the negative noise of a variance-exploding diffusion (arXiv 2011.13456).

    ln σ is uniform on [ln 0.02, ln 100].
    """

    bounds = (0.02, 100.0)

    def c_skip(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def c_out(self, sigma: Tensor) -> Tensor:
        return sigma

    def c_in(self, sigma: Tensor) -> Tensor:
        return torch.ones_like(sigma)

    def c_noise(self, sigma: Tensor) -> Tensor:
        return (sigma / 2).log()

    def weight(self, sigma: Tensor) -> Tensor:
        return sigma**-2

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
        low, high = self.bounds
        return uniform(count, math.log(low), math.log(high), generator).exp()


class V(Parameterisation):
    """Predicts the velocity of a variance-preserving diffusion (arXiv 2202.00512).

    σ = tan(πt/2) with t uniform between log signal-to-noise ratios −2 ln σ of 13 and −9.
    """

    bounds = (math.exp(-13 / 2), math.exp(9 / 2))

    def c_skip(self, sigma: Tensor) -> Tensor:
        return 1 / (sigma**2 + 1)

    def c_out(self, sigma: Tensor) -> Tensor:
        return sigma * (sigma**2 + 1).rsqrt()

    def c_in(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + 1).rsqrt()

    def c_noise(self, sigma: Tensor) -> Tensor:
        # t = (2/π) arccos(1/√(1 + σ²)), written so that nothing cancels at small σ.
        return torch.atan(sigma) * (2 / math.pi)

    def weight(self, sigma: Tensor) -> Tensor:
        return 1 + sigma**-2

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
        low, high = self.bounds
        return uniform(count, math.atan(low), math.atan(high), generator).tan()


class EDM(Parameterisation):
    """Inputs and targets of unit variance at every σ (arXiv 2206.00364, table 1).

    ln σ ~ N(P_mean, P_std²). σ_d is a constant, never estimated from private data.
    """

    sigma_d: ClassVar[float] = math.sqrt(1 / 3)
    P_mean: ClassVar[float] = -1.2
    P_std: ClassVar[float] = 1.2
    bounds = (0.0, math.inf)

    def c_skip(self, sigma: Tensor) -> Tensor:
        return self.sigma_d**2 / (sigma**2 + self.sigma_d**2)

    def c_out(self, sigma: Tensor) -> Tensor:
        return sigma * self.sigma_d * (sigma**2 + self.sigma_d**2).rsqrt()

    def c_in(self, sigma: Tensor) -> Tensor:
        return (sigma**2 + self.sigma_d**2).rsqrt()

    def c_noise(self, sigma: Tensor) -> Tensor:
        return sigma.log() / 4

    def weight(self, sigma: Tensor) -> Tensor:
        return sigma**-2 + self.sigma_d**-2

    def draw(self, count: int, generator: torch.Generator) -> Float[Tensor, " count"]:
        normal = torch.randn(count, generator=generator, device=generator.device)
        return (self.P_mean + self.P_std * normal).exp()


PARAMETERISATIONS: dict[str, Parameterisation] = {"vp": VP(), "ve": VE(), "v": V(), "edm": EDM()}
