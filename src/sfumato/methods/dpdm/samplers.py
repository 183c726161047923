"""Draw images from a denoiser: the samplers of DPDM on EDM's grid of noise levels.

A denoiser D(x; σ) here has its label and its guidance built in, see ``guided``. Samplers start from
standard normal noise, draw what they need from the random numbers given, and work in the start's
precision.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from sfumato.methods.dpdm.settings import SIGMA_MAX, SIGMA_MIN
from sfumato.networks import Random, normal

RHO = 7.0

Denoise = Callable[[Tensor, Tensor], Tensor]
"""D: noisy images ``[b, c, h, w]`` and σ ``[b]`` to clean images."""
ConditionalDenoise = Callable[[Tensor, Tensor, Tensor | None], Tensor]
"""D with labels int64 ``[b]``, or None for "no label"."""


def time_grid(steps: int, highest: float = SIGMA_MAX) -> list[float]:
    """σ_0 = ``highest`` > … > σ_{N−1} = 0.002 and σ_N = 0 (arXiv 2206.00364, equation 5).

    Raises:
        ValueError: with fewer than two steps.
    """
    if steps < 2:
        raise ValueError(f"steps={steps} must be at least 2: one at each end of the noise levels")
    high, low = highest ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    return [(high + i / (steps - 1) * (low - high)) ** RHO for i in range(steps)] + [0.0]


def guided(
    denoise: ConditionalDenoise, labels: Int64[Tensor, " b"] | None, guidance: float = 0.0
) -> Denoise:
    """(1 + w)·D(x; σ, y) − w·D(x; σ), classifier-free guidance of weight w (arXiv 2207.12598).

    Args:
        denoise: D; trained with some of its labels dropped where ``guidance`` is not 0.
        labels: the class of each image, or None for images of no class and no guidance.
        guidance: w; 0 samples from the learned classes as they are, and is half the work.
    """

    def guide(x: Tensor, sigma: Tensor) -> Tensor:
        conditional = denoise(x, sigma, labels)
        if labels is None or guidance == 0:
            return conditional
        return (1 + guidance) * conditional - guidance * denoise(x, sigma, None)

    return guide


@dataclass(frozen=True)
class DDIM:
    """Euler steps along the probability-flow ODE, or ancestral steps along the SDE.

    The deterministic step to σ' is D + (σ'/σ)(x − D) (arXiv 2010.02502). The stochastic one draws
    from q(x' | x, clean image = D) (arXiv 2006.11239, equation 6): however long the step, the noise
    left in x' has standard deviation σ', which Euler's step on the reverse SDE gets wrong.

    Attributes:
        steps: evaluations of the denoiser.
        stochastic: whether fresh noise is added after each step.
        highest: σ_0, the noise level that sampling begins at.
    """

    steps: int = 50
    stochastic: bool = False
    highest: float = SIGMA_MAX

    @torch.no_grad()
    def sample(
        self, denoise: Denoise, start: Float[Tensor, "b c h w"], random: Random
    ) -> Float[Tensor, "b c h w"]:
        """Images from σ_0·``start``, usually standard normal; not clamped to [−1, 1]."""
        grid = time_grid(self.steps, self.highest)
        x = grid[0] * start
        for sigma, following in pairwise(grid):
            D = denoise(x, _level(sigma, x))
            kept = following / sigma
            if self.stochastic:
                spread = following * math.sqrt(1 - kept**2)
                x = D + kept**2 * (x - D) + spread * _noise(x, random)
            else:
                x = D + kept * (x - D)
        return x


@dataclass(frozen=True)
class Churn:
    """Heun steps along the ODE, each after adding noise: arXiv 2206.00364, algorithm 2.

    With S_churn = 0 it is Heun's method and draws nothing.

    Attributes:
        steps: N; the denoiser is evaluated 2N − 1 times.
        S_churn: amount of noise added over the whole grid; a step gets at most √2 − 1 of its σ.
        S_min: smallest σ at which noise is added.
        S_max: largest σ at which noise is added.
        S_noise: standard deviation of the added noise, relative to what keeps x on its level.
    """

    steps: int = 50
    S_churn: float = 0.0
    S_min: float = 0.0
    S_max: float = math.inf
    S_noise: float = 1.0

    @torch.no_grad()
    def sample(
        self, denoise: Denoise, start: Float[Tensor, "b c h w"], random: Random
    ) -> Float[Tensor, "b c h w"]:
        """Images from standard normal ``start``; not clamped to [−1, 1]."""
        grid = time_grid(self.steps)
        x = grid[0] * start
        for sigma, following in pairwise(grid):
            gamma = self._gamma(sigma)
            raised = sigma * (1 + gamma)
            if gamma > 0:
                added = self.S_noise * math.sqrt(raised**2 - sigma**2)
                x = x + added * _noise(x, random)
            slope = (x - denoise(x, _level(raised, x))) / raised
            euler = x + (following - raised) * slope
            if following > 0:
                end = (euler - denoise(euler, _level(following, x))) / following
                x = x + (following - raised) * (slope + end) / 2
            else:
                x = euler
        return x

    def _gamma(self, sigma: float) -> float:
        if not self.S_min <= sigma <= self.S_max:
            return 0.0
        return min(self.S_churn / self.steps, math.sqrt(2) - 1)


Sampler = DDIM | Churn


@dataclass(frozen=True)
class Preset:
    """A sampler and its guidance weight."""

    sampler: Sampler
    guidance: float


PRESETS = {
    "fid": Preset(Churn(S_churn=100.0, S_min=0.05, S_max=50.0), guidance=1.0),
    "accuracy": Preset(Churn(S_churn=10.0, S_min=0.05, S_max=50.0), guidance=0.0),
}
"""DPDM's settings for Fréchet distances and for classifiers, at 50 steps; it took up to 1,000.

With N steps, S_churn beyond 0.414·N changes nothing. On Gaussian data of deviation 0.5 and with the
ideal denoiser, 50 steps leave the variance 6 % and 4 % too large, 100 steps 2 % and 1 %.
"""


def _level(sigma: float, x: Tensor) -> Tensor:
    return x.new_full((len(x),), sigma)


def _noise(x: Tensor, random: Random) -> Tensor:
    return normal(random, x.shape).to(x)
