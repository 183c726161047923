from .basis import dct_basis
from .encoder import Encoder, load_encoder
from .perceptual import PerceptualFeatures, PublicAxes, to_unit
from .pooled import (
    PooledCoordinates,
    PooledFeatures,
    photograph_card,
)
from .public import public_images, public_patches
from .random_convolutions import RandomConvolutions
from .shipped import LARGEST_SIZE

__all__ = [
    "LARGEST_SIZE",
    "Encoder",
    "PerceptualFeatures",
    "PooledCoordinates",
    "PooledFeatures",
    "PublicAxes",
    "RandomConvolutions",
    "dct_basis",
    "load_encoder",
    "photograph_card",
    "public_images",
    "public_patches",
    "to_unit",
]
