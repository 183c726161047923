"""Networks, their averages and their devices; nothing here knows about privacy."""

from sfumato.devices import (
    CPU,
    bfloat16_where,
    computing_device,
    described,
    device_of,
    fast_bfloat16,
    moved,
    random_on,
    resolve_device,
)
from sfumato.networks.cnn import TanhCNN
from sfumato.networks.ema import Average
from sfumato.networks.gan import Discriminator, Generator
from sfumato.networks.pixels import to_bytes, to_pixels
from sfumato.networks.refiner import Refiner
from sfumato.networks.streams import ImageStreams, Random, normal
from sfumato.networks.unet import UNet

__all__ = [
    "CPU",
    "Average",
    "Discriminator",
    "Generator",
    "ImageStreams",
    "Random",
    "Refiner",
    "TanhCNN",
    "UNet",
    "bfloat16_where",
    "computing_device",
    "described",
    "device_of",
    "fast_bfloat16",
    "moved",
    "normal",
    "random_on",
    "resolve_device",
    "to_bytes",
    "to_pixels",
]
