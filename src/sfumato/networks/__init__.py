"""Networks and their averages; nothing here knows about privacy."""

from sfumato.networks.ema import Average
from sfumato.networks.precision import fast_bfloat16
from sfumato.networks.refiner import Refiner

__all__ = ["Average", "Refiner", "fast_bfloat16"]
