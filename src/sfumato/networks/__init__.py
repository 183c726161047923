"""Networks and their averages; nothing here knows about privacy."""

from sfumato.networks.device import fast_bfloat16, preferred_device
from sfumato.networks.ema import Average
from sfumato.networks.gan import Discriminator, Generator
from sfumato.networks.refiner import Refiner
from sfumato.networks.unet import UNet

__all__ = [
    "Average",
    "Discriminator",
    "Generator",
    "Refiner",
    "UNet",
    "fast_bfloat16",
    "preferred_device",
]
