"""Reading private images and writing releases.

Public, and so free to print, log and release: the ``PublicSpec`` (height, width, channels, class
names, declared size), the location as the user wrote it, the file format, and damage of the format
as a whole. Class names are public wherever they come from: folder names, a schema, or ``classes=``.

Private, and so never in a message, a log line or a file of the release: pixels, labels, the number
of records and of each class, the names of record files, and whether any single record could be
decoded. A record that cannot be used is an all-zero image with label -1, never an error.
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
