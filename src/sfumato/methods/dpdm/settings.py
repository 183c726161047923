"""What a plan has to know of DPDM's network and samplers, without PyTorch."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.networks.unet_sizes import Layer, unet_layers

PARAMETERISATIONS = ("edm", "v", "vp", "ve")
"""The names of :mod:`sfumato.methods.dpdm.parameterisations`."""

SAMPLERS = ("fid", "accuracy", "quick", "ddim", "ddim-stochastic")
"""The names of :data:`sfumato.methods.dpdm.diffusion.SAMPLERS`."""

MOST_STEPS = 10_000

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
"""The noise levels of EDM's grid, in values from -1 to 1."""


@dataclass(frozen=True)
class Shape:
    """The U-Net's public configuration; see :class:`sfumato.networks.UNet`."""

    width: int
    multipliers: tuple[int, ...]
    blocks: int
    attention: int
    patch: int

    def layers(self, spec: PublicSpec) -> list[Layer]:
        """The layers of the network for images of ``spec``."""
        return unet_layers(spec.height, spec.channels, len(spec.classes), **asdict(self))


def check_sampler(sampler: str, steps: int | None) -> None:
    """Raise UsageError unless ``sampler`` exists and ``steps`` is None or from 2 to 10,000."""
    if sampler not in SAMPLERS:
        raise UsageError(f"sampler={sampler!r} must be one of {', '.join(SAMPLERS)}.")
    if steps is not None and not (isinstance(steps, int) and 2 <= steps <= MOST_STEPS):
        raise UsageError(
            f"sampling_steps={steps!r:.20} must be an integer from 2 to {MOST_STEPS}; 50 are usual."
        )
