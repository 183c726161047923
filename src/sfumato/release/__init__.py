"""The release bundle: images, model, card and certificate, written whole and verified by anybody.

``certificate`` states what was spent, ``claim`` judges that statement, ``leaks`` looks for what
must not be there, ``verification`` does both on a folder, ``write`` makes one.
``docs/certificate.md`` describes the format.
"""

import lazy_loader

# What __init__.pyi lists is imported on first use: PyTorch takes seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
