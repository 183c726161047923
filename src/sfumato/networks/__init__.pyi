from .adapters import adapt, merge
from .cnn import TanhCNN
from .ema import Average
from .gan import Discriminator, Generator
from .pixels import to_bytes, to_pixels
from .refiner import Refiner
from .streams import ImageStreams, Random, normal
from .unet import UNet

__all__ = [
    "Average",
    "Discriminator",
    "Generator",
    "ImageStreams",
    "Random",
    "Refiner",
    "TanhCNN",
    "UNet",
    "adapt",
    "merge",
    "normal",
    "to_bytes",
    "to_pixels",
]
