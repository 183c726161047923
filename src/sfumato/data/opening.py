"""One entry for every kind of data set: what lies at a location decides which reader takes it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from sfumato.data.layout import is_hidden, is_image_name
from sfumato.data.options import DataOptions
from sfumato.data.readers import hdf5
from sfumato.data.readers.archive import open_archive
from sfumato.data.readers.folder import open_folder
from sfumato.data.readers.hugging_face import open_saved, saved_splits
from sfumato.data.readers.idx import (
    IMAGES_NAME,
    LABELS_NAME,
    idx_images_in,
    idx_labels_in,
    open_idx,
)
from sfumato.data.readers.named import NAMED, named_alias
from sfumato.data.readers.npz import open_npz
from sfumato.data.readers.parquet import open_parquet
from sfumato.data.readers.tar import TAR_SUFFIXES, open_tar
from sfumato.data.shards import read_manifest
from sfumato.data.source import ImageSource
from sfumato.data.storage import Location, RemotePath, files_in, located, matching
from sfumato.data.units import check_rule
from sfumato.data.writers import METADATA
from sfumato.errors import DataError, UsageError

_SHARDS: dict[str, Callable[[Sequence[Location], str, DataOptions, Location], ImageSource]] = {
    ".parquet": open_parquet,
    ".tar": open_tar,
}
_Matching = Callable[[str], Sequence[Location]]
"""The files that a pattern stands for; a store is asked only once about each."""
_PICKLES = frozenset({".pkl", ".pickle", ".pt", ".pth", ".npy", ".joblib"})
_STATED_BY = ("certificate.json", "mock.json")
"""Files of a release, and of a mock of one, that state what its images are."""
_PICKLE_STARTS = tuple(b"\x80" + bytes([protocol]) for protocol in range(2, 6))
_KNOWN = (
    "a folder of images or class folders, .zip, .tar[.gz], IDX (...-images-idx3-ubyte[.gz]), .npz, "
    f".h5, .parquet, a folder of save_to_disk, or a name: {', '.join(NAMED)}"
)


def open_images(
    location: str | os.PathLike[str] | ImageSource,
    options: DataOptions | None = None,
    **stated: Any,
) -> ImageSource:
    """Open a data set and read its public specification; no pixel is read yet.

    location: folder, zip, IDX, NPZ, Parquet, WebDataset tar(s) (file, folder or glob pattern, also
    in a store of objects: ``s3://bucket/folder``), a release, or a named set, ``fashion-mnist`` or
    ``digits`` (a folder so called is ``./digits``); ``location:split`` is short for ``split=``. A
    release's certificate states size, channels and classes. What is open already, as
    ``from_arrays`` gives it, is returned as it is. options: what is stated of the data set,
    :class:`DataOptions`; its fields may also be given as keywords, which go before it:
    ``open_images("xrays/", classes=2)``.

    Raises DataError for what is wrong with the format or the location, UsageError for an option
    that is unknown or outside its rule. One record's content never raises: see
    ``ImageSource.batches``.
    """
    if isinstance(location, ImageSource):
        if stated or options not in (None, DataOptions()):
            raise UsageError(
                f"{location.name}: these images are open already. State options where they are "
                "opened: from_arrays, from_dataset or open_images."
            )
        return location
    name = os.fspath(location)
    stated_path(name, "the location")
    known = {field.name for field in fields(DataOptions)}
    if unknown := set(stated) - known:
        raise UsageError(
            f"open_images has no option {', '.join(sorted(unknown))}; it has "
            f"{', '.join(sorted(known))}."
        )
    declared = replace(options or DataOptions(), **stated)
    alike: _Matching = cache(matching)
    place, suffix = _split_off(name, alike)
    if suffix is not None:
        if declared.split is not None:
            raise UsageError(f"{name!r} already names a split; leave out split={declared.split!r}.")
        declared = replace(declared, split=suffix)
    source = _open(place, name, declared, alike)
    source.options = declared
    source.aliases += tuple(key for at in source.places if (key := named_alias(at)))
    return source


def stated_path(location: str | os.PathLike[str], name: str) -> Path:
    """Return a location that a user states, called ``name``, as a path.

    Raises UsageError if it is empty, which as a path would be the current folder.
    """
    if not os.fspath(location).strip():
        raise UsageError(
            f"{name} is empty: a variable that is not set, most likely. Name a file or folder."
        )
    return Path(location)


def _open(place: str, name: str, declared: DataOptions, alike: _Matching) -> ImageSource:
    if place in NAMED:
        if declared.split is None and Path(place).exists():
            raise UsageError(
                f"{place} is the name of a data set, and here is a file or folder of that name "
                f"too. Write ./{place} for what lies here, {place}:train for the data set."
            )
        check_rule(declared.privacy_unit, name)
        return NAMED[place](name, declared)
    path = located(place)
    if isinstance(path, RemotePath):
        return _open_stored(path, name, declared, lambda: alike(place))
    if path.is_dir():
        return _open_folder(path, name, declared)
    if path.is_file():
        return _open_file(path, name, declared)
    if source := _open_alike(alike(place), path, name, declared):
        return source
    raise DataError(f"{name}: no such file or folder. Give {_KNOWN}.")


def _split_off(name: str, alike: _Matching) -> tuple[str, str | None]:
    """Return the location and the split that follows its last colon, if it is one."""
    place, colon, suffix = name.rpartition(":")
    if not colon or suffix.startswith("//") or located(name).exists():
        return name, None
    if place in NAMED or located(place).exists() or alike(place):
        return place, suffix
    return name, None


def _open_stored(
    path: RemotePath, name: str, declared: DataOptions, alike: Callable[[], Sequence[Location]]
) -> ImageSource:
    """Open shards in a store of objects: a file, a folder or a pattern."""
    source = _open_shards(path, name, declared)
    if source is None:
        files = [path] if path.is_file() else alike()
        source = _open_alike(files, path, name, declared)
    if source is None:
        raise DataError(
            f"{name}: no Parquet or tar shards there. Of a store only these are read: make some "
            "with sfumato shard and copy them there, or copy the data to a disk."
        )
    source.fingerprint()  # a store that cannot say when its objects change is refused before a cost
    return source


def _open_folder(path: Path, name: str, declared: DataOptions) -> ImageSource:
    stated = next((path / name for name in _STATED_BY if (path / name).is_file()), None)
    if stated is not None and (path / "images").is_dir():
        declared = _with_spec_of_release(stated, declared)
        path = path / "images"
    if saved_splits(path) is not None:
        return open_saved(path, name, declared)
    # Beside class folders, what a single file is called decides nothing.
    if not _has_folders(path):
        if source := _open_shards(path, name, declared):
            return source
        if idx_images_in(path) or idx_labels_in(path):
            return open_idx(path, name, declared)
    return open_folder(path, name, declared)


def _open_shards(path: Location, name: str, declared: DataOptions) -> ImageSource | None:
    """Open a folder of shards; Hugging Face repositories keep theirs in data/."""
    for folder in (path, path / "data"):
        files = [file for file in files_in(folder) if not file.name.startswith(".")]
        for kind, opener in _SHARDS.items():
            # METADATA of a release's images holds names and labels, no image.
            if shards := [f for f in files if _kind(f) == kind and f.name != METADATA]:
                manifest = read_manifest(folder, shards)
                source = opener(shards, name, declared, path)
                source.part = None if manifest is None else manifest.part_of(source.spec)
                return source
    return None


def _open_alike(
    files: Sequence[Location], root: Location, name: str, declared: DataOptions
) -> ImageSource | None:
    """Open files that are all shards of one kind."""
    kinds = {_kind(file) for file in files}
    opener = _SHARDS.get(kinds.pop()) if len(kinds) == 1 else None
    return None if opener is None else opener(files, name, declared, root)


def _open_file(path: Path, name: str, declared: DataOptions) -> ImageSource:
    suffix = path.suffix.lower()
    if opener := _SHARDS.get(_kind(path)):
        return opener([path], name, declared, path)
    if suffix == ".zip":
        return open_archive(path, name, declared)
    if suffix == ".npz":
        return open_npz(path, name, declared)
    if suffix in hdf5.SUFFIXES:
        return hdf5.open_hdf5(path, name, declared)
    if IMAGES_NAME.fullmatch(path.name) or LABELS_NAME.fullmatch(path.name):
        return open_idx(path, name, declared)
    if _is_pickle(path):
        raise DataError(
            f"{name}: a pickle or .npy file is never loaded, because loading a pickle can run code "
            "from it. Save the images with np.savez(images=..., labels=...), or as class folders."
        )
    if is_image_name(path.name):
        raise DataError(f"{name}: is one image. Give the folder that holds the images.")
    raise DataError(f"{name}: of no kind that is read here. Give {_KNOWN}.")


def _kind(file: Location) -> str:
    return ".tar" if file.name.lower().endswith(TAR_SUFFIXES) else file.suffix.lower()


def _is_pickle(path: Path) -> bool:
    """Tell from its name or its first bytes whether loading a file would run code from it."""
    if path.suffix.lower() in _PICKLES:
        return True
    try:
        with path.open("rb") as file:
            return file.read(2) in _PICKLE_STARTS
    except OSError:
        return False


def _has_folders(path: Path) -> bool:
    try:
        with os.scandir(path) as entries:
            names = [entry.name for entry in entries if entry.is_dir(follow_symlinks=False)]
        return any(name != "data" and not is_hidden(name) for name in names)
    except OSError:
        return True


def _with_spec_of_release(certificate: Path, declared: DataOptions) -> DataOptions:
    """Take what the user left open, but the number of records, from what a release states."""
    try:
        spec = json.loads(certificate.read_bytes())["spec"]
        side = spec["height"] if spec["height"] == spec["width"] else None
        stated = DataOptions(side, spec["channels"], spec["classes"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError, UsageError):
        if declared.classes is not None:
            return declared
        raise DataError(
            f"{certificate}: does not say of what size, channels and classes the images are. "
            "State them with image_size=, channels= and classes=."
        ) from None
    return replace(
        declared,
        image_size=declared.image_size or stated.image_size,
        channels=declared.channels or stated.channels,
        classes=stated.classes if declared.classes is None else declared.classes,
    )
