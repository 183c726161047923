"""Networks and their averages; nothing here knows about privacy."""

import lazy_loader

# What __init__.pyi lists is imported on first use: PyTorch takes seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
