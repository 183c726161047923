"""Public knowledge about images: frozen encoders, bases and photographs, the same for all data."""

from sfumato.features.basis import dct_basis
from sfumato.features.encoder import Encoder, load_encoder
from sfumato.features.perceptual import PerceptualFeatures, PublicAxes, to_unit
from sfumato.features.pooled import (
    LARGEST_SIZE,
    PooledCoordinates,
    PooledFeatures,
    photograph_card,
)
from sfumato.features.public import public_patches

__all__ = [
    "LARGEST_SIZE",
    "Encoder",
    "PerceptualFeatures",
    "PooledCoordinates",
    "PooledFeatures",
    "PublicAxes",
    "dct_basis",
    "load_encoder",
    "photograph_card",
    "public_patches",
    "to_unit",
]
