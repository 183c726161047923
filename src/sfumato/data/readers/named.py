"""Data sets that are known by name: ``fashion-mnist`` and ``digits``."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import urllib.request
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from sfumato.data.decoding.decode import fit_pixels
from sfumato.data.layout import choose_split, match_ordered_classes
from sfumato.data.options import DataOptions
from sfumato.data.readers.idx import IdxSource, open_idx
from sfumato.data.source import ImageSource, Place, Record
from sfumato.data.spec import PublicSpec
from sfumato.errors import DataError

FASHION_MNIST_VARIABLE = "SFUMATO_FASHION_MNIST"
FASHION_MNIST_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
FASHION_MNIST_CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
# SHA-256 of the unpacked files: the gzip header of a distribution's copy may differ.
FASHION_MNIST_FILES = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_LARGEST_DOWNLOAD = 2**27
_DIGITS_CLASSES = tuple("0123456789")


def open_fashion_mnist(name: str, declared: DataOptions) -> IdxSource:
    """Open Fashion-MNIST (arXiv 1708.07747): 60,000 + 10,000 grey 28x28 images in ten classes.

    Looked for in the folder that SFUMATO_FASHION_MNIST names, in Debian's folder, in the user's
    cache; else downloaded into the cache and checked. Raises DataError if none of these works.
    """
    split = choose_split(("train", "test"), declared.split, name)
    classes = match_ordered_classes(FASHION_MNIST_CLASSES, declared, name)
    stated = replace(declared, classes=classes, split=split)
    return open_idx(_fashion_mnist_folder(), name, stated, f"named:fashion-mnist:{split}")


class DigitsSource(ImageSource):
    """The 1,797 grey 8x8 digits that scikit-learn ships; every fifth is the split ``test``."""

    def __init__(self, name: str, spec: PublicSpec, split: str) -> None:
        super().__init__(name, spec, f"named:digits:{split}")
        self._split = split

    def _load(self) -> tuple[np.ndarray, np.ndarray]:
        pixels, labels = _all_digits()
        is_test = np.arange(len(labels)) % 5 == 4
        chosen = is_test if self._split == "test" else ~is_test
        return pixels[chosen], labels[chosen]

    def _records(self) -> Iterator[Record]:
        for pixels, label in zip(*self._load(), strict=True):
            yield fit_pixels(pixels, self.spec), int(label)

    def _private_length(self) -> int:
        return len(self._load()[1])

    def fingerprint(self) -> str:
        """Return a digest of pixels and labels. PRIVATE."""
        images, labels = self._load()
        return hashlib.sha256(images.tobytes() + labels.tobytes()).hexdigest()


@cache  # parsed once a process; 130 kB
def _all_digits() -> tuple[np.ndarray, np.ndarray]:
    from sklearn.datasets import load_digits  # slow to import

    images, labels = load_digits(return_X_y=True)
    return np.rint(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8), labels


def open_digits(name: str, declared: DataOptions) -> DigitsSource:
    """Open the digits of scikit-learn (UCI, Alpaydin and Kaynak 1998), scaled up, no download."""
    split = choose_split(("train", "test"), declared.split, name) or "train"
    classes = match_ordered_classes(_DIGITS_CLASSES, declared, name)
    return DigitsSource(name, declared.spec(classes, side=28, channels=1), split)


NAMED: dict[str, Callable[[str, DataOptions], ImageSource]] = {
    "fashion-mnist": open_fashion_mnist,
    "digits": open_digits,
}


def named_alias(place: Place) -> str | None:
    """The location key of a known name whose files lie at ``place``, if one's do."""
    path = Path(place.path)
    stated = Path(os.environ.get(FASHION_MNIST_VARIABLE) or _DEBIAN_FOLDER)
    known = [_DEBIAN_FOLDER, stated, user_cache_path("sfumato") / "fashion-mnist"]
    if path.name in FASHION_MNIST_FILES and path.parent in {folder.resolve() for folder in known}:
        return f"named:fashion-mnist:{'train' if path.name.startswith('train') else 'test'}"
    return None


def _fashion_mnist_folder() -> Path:
    stated = os.environ.get(FASHION_MNIST_VARIABLE)
    if stated:
        if not _holds_all(Path(stated)):
            raise DataError(
                f"{FASHION_MNIST_VARIABLE}={stated}: the folder must hold "
                f"{', '.join(FASHION_MNIST_FILES)} (with or without .gz)."
            )
        return Path(stated)
    if _holds_all(_DEBIAN_FOLDER):
        return _DEBIAN_FOLDER
    folder = user_cache_path("sfumato") / "fashion-mnist"
    if not _holds_all(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for file, digest in FASHION_MNIST_FILES.items():
            _download(f"{FASHION_MNIST_URL}{file}.gz", folder / f"{file}.gz", digest)
    return folder


def _holds_all(folder: Path) -> bool:
    return all(
        (folder / file).is_file() or (folder / f"{file}.gz").is_file()
        for file in FASHION_MNIST_FILES
    )


def _download(url: str, target: Path, digest: str) -> None:
    manual = (
        f"Fetch {', '.join(f'{file}.gz' for file in FASHION_MNIST_FILES)} from "
        f"{FASHION_MNIST_URL} on any machine, put them into one folder, and set "
        f"{FASHION_MNIST_VARIABLE} to it (on Debian: install dataset-fashion-mnist)."
    )
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            data = answer.read(_LARGEST_DOWNLOAD)
        payload = gzip.GzipFile(fileobj=io.BytesIO(data)).read(_LARGEST_DOWNLOAD)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"fashion-mnist: cannot download {url} ({error}). {manual}") from None
    if hashlib.sha256(payload).hexdigest() != digest:
        raise DataError(f"fashion-mnist: {url} has a wrong checksum. {manual}")
    part = target.with_suffix(".part")
    part.write_bytes(data)
    part.replace(target)
