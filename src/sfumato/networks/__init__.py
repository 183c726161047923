"""Networks and their averages; nothing here knows about privacy."""

from sfumato.networks.adapters import adapt, merge
from sfumato.networks.cnn import TanhCNN
from sfumato.networks.ema import Average
from sfumato.networks.gan import Discriminator, Generator
from sfumato.networks.pixels import to_bytes, to_pixels
from sfumato.networks.refiner import Refiner
from sfumato.networks.streams import ImageStreams, Random, normal
from sfumato.networks.unet import UNet

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
