"""Public knowledge about images: frozen encoders, bases and photographs, the same for all data."""

import lazy_loader

# What __init__.pyi lists is imported on first use: PyTorch takes seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
