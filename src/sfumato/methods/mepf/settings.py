"""The settings of DP-MEPF, which its parts read; :class:`DPMEPF` says what each is."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from sfumato.features.shipped import Bound
from sfumato.methods.public_model import PublicModel


@dataclass(frozen=True)
class MEPFSettings:
    """Settings of the joint embedding, of matching and of the generator."""

    steps: int = 1500
    batch: int = 200
    learning_rate: float = 5e-4
    loss: Literal["moving-average", "two-batch"] = "moving-average"
    moving_average: float = 0.9
    class_weight: float = 2.0
    noise_aware: bool = True
    encoder: str = "efficientnet-lite0"
    layers: tuple[int, ...] = (3, 5, 8, 11)
    bound: Bound = "norm"
    centred: bool = True
    compress: int | None = None
    second_weight: float = 0.5
    random_networks: int = 0
    random_weight: float = 0.7
    start_coefficients: int = 80
    start_weight: float = 1.4
    labeller_size: int = 300
    encoder_size: int = 0
    labeller_weight: float = 0.85
    count_weight: float = 0.15
    width: int = 48
    seed_public: int = 0
    figures: bool = True
    public: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)
    public_digest: str = ""
    public_model: PublicModel | None = field(default=None, compare=False, repr=False)
    public_model_digest: str = ""
