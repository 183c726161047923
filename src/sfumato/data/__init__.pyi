from .arrays import LabelledImages, load_labelled
from .layout import safe_folder_names
from .opening import open_images, stated_path
from .options import DataOptions
from .source import ImageSource
from .spec import PublicSpec
from .writers import write_images

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
