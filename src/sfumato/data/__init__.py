"""Reading private images and writing releases.

The rule of all readers: everything before the ledger, and everything printed, is a function of
*declared* facts (the location, the options) and *container-level* facts (the names of folders, a
schema, a header, but for the number of records; damage of the format as a whole). A bad record is
an unusable record: an all-zero image with label -1, which contributes zero. It is never an error, a
warning, a count, or another path through the program that can be seen.

So these are private, and never in a message, a log line or a file of the release: pixels, labels,
the number of records and of each class, the names of record files, whether any single record could
be decoded, whether there are records at all. Where class names are read from records' paths because
nobody stated them, that declares them public, and ``ImageSource.notes`` says so.
``docs/what-is-public.md`` goes through the containers; ``tests/harness/pairs.py`` tests the rule.
"""

import lazy_loader

# What __init__.pyi lists is imported on first use: PyTorch takes seconds.
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
