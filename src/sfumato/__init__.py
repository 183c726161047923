"""Sfumato: synthetic images from private ones, with a proven differential-privacy guarantee.

>>> import sfumato
>>> source = sfumato.open_images("digits")
>>> source.spec.channels
1
"""

from typing import Any

import lazy_loader

from sfumato.methods.registry import BUILT_IN, find_method

__version__ = "0.2.0"

# What __init__.pyi lists is imported on first use: PyTorch takes seconds, and --help needs none.
_listed, _, _names = lazy_loader.attach_stub(__name__, __file__)
_METHODS = {target.rpartition(":")[2]: name for name, target in BUILT_IN.items()}

__all__ = ["__version__", *_names, *_METHODS]


def __getattr__(name: str) -> Any:
    return find_method(_METHODS[name]) if name in _METHODS else _listed(name)


def __dir__() -> list[str]:
    return __all__
