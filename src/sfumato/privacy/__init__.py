"""The privacy core: budgets, queries with proofs, exact noise, the ledger and the curator.

These are the only rooms with noise in them. What a method needs is listed here; each query has a
page of the same name in ``docs/proofs``.
"""

import lazy_loader

# What __init__.pyi lists is imported on first use: PyTorch takes seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
