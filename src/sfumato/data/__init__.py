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

from sfumato.data.arrays import LabelledImages, load_labelled
from sfumato.data.layout import safe_folder_names
from sfumato.data.opening import open_images, stated_path
from sfumato.data.options import DataOptions
from sfumato.data.source import ImageSource
from sfumato.data.spec import PublicSpec
from sfumato.data.writers import write_images

__all__ = [
    "DataOptions",
    "ImageSource",
    "LabelledImages",
    "PublicSpec",
    "load_labelled",
    "open_images",
    "safe_folder_names",
    "stated_path",
    "write_images",
]
