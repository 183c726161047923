"""Sfumato: synthetic images from private ones, with a proven differential-privacy guarantee.

>>> import sfumato
>>> source = sfumato.open_images("digits")
>>> source.spec.channels
1
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from sfumato.data import open_images
    from sfumato.methods import DPMEPF, Moments
    from sfumato.privacy import Budget, Curator
    from sfumato.release import verify
    from sfumato.synthesis import synthesize

# Looked up on first use: PyTorch takes seconds to import, and `sfumato --help` needs none of it.
_HOMES = {
    "Budget": "sfumato.privacy",
    "Curator": "sfumato.privacy",
    "DPMEPF": "sfumato.methods",
    "Moments": "sfumato.methods",
    "open_images": "sfumato.data",
    "synthesize": "sfumato.synthesis",
    "verify": "sfumato.release",
}

__all__ = [
    "DPMEPF",
    "Budget",
    "Curator",
    "Moments",
    "__version__",
    "open_images",
    "synthesize",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'sfumato' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
