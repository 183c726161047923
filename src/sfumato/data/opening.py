"""One entry for every kind of data set: what lies at a location decides which reader takes it."""

from __future__ import annotations

import glob
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from sfumato.data.layout import is_image_name
from sfumato.data.readers.archive import open_archive
from sfumato.data.readers.folder import is_pickle, open_folder
from sfumato.data.readers.idx import (
    IMAGES_NAME,
    LABELS_NAME,
    idx_images_in,
    idx_labels_in,
    open_idx,
)
from sfumato.data.readers.named import NAMED
from sfumato.data.readers.npz import open_npz
from sfumato.data.readers.parquet import open_parquet
from sfumato.data.readers.webdataset import open_webdataset
from sfumato.data.source import ImageSource
from sfumato.data.spec import Declared
from sfumato.data.units import check_rule, declared_unit
from sfumato.errors import DataError, UsageError

_SHARDS: dict[str, Callable[[Sequence[Path], str, Declared, Path], ImageSource]] = {
    ".parquet": open_parquet,
    ".tar": open_webdataset,
}
_KNOWN = (
    "a folder of images or class folders, .zip, IDX (...-images-idx3-ubyte[.gz]), .npz, .parquet, "
    f".tar, or a name: {', '.join(NAMED)}"
)


def open_images(
    location: str | os.PathLike[str],
    *,
    image_size: int | None = None,
    channels: int | None = None,
    classes: Sequence[str] | int | None = None,
    declared_size: int | None = None,
    split: str | None = None,
    unit: str | None = None,
    unit_pattern: str | None = None,
    records_per_unit: int | None = None,
) -> ImageSource:
    """Open a data set and read its public specification; no pixel is read yet.

    location: folder, zip, IDX, NPZ, Parquet, WebDataset tar(s) (file, folder or glob pattern), a
    release, or a named set, ``fashion-mnist`` or ``digits`` (a folder so called is ``./digits``);
    ``location:split`` is short for ``split=``. image_size: side in pixels, 28 to 128, by default
    what the format's header declares, else 32. channels: 1 or 3, by default from the header,
    else 3. classes: names in label order or their number; 0 reads no labels. A release's
    certificate states all three. declared_size: the user's public statement of the number of
    records, or of units where there are any.

    unit: the column (Parquet, also ``meta.patient``), array (NPZ) or JSON field (WebDataset) whose
    value says which records are one person's, and so one privacy unit; unit_pattern: the regular
    expression that finds this in a record's name, which is its path below its class folder.
    records_per_unit: the most records of a unit that are used; 16 by default.

    Raises DataError for what is wrong with the format or the location, UsageError for an option
    outside its rule. One record's content never raises: see ``ImageSource.batches``.
    """
    name = os.fspath(location)
    rule = declared_unit(unit, unit_pattern, records_per_unit)
    stated = _normal_classes(classes)
    declared = Declared(image_size, channels, stated, declared_size, split, rule)
    place, suffix = _split_off(name)
    if suffix is not None:
        if split is not None:
            raise UsageError(f"{name!r} already names a split; leave out split={split!r}.")
        declared = replace(declared, split=suffix)
    source = _open(place, name, declared)
    # Without any key the rule protects nobody as a unit: a misspelt one, most likely.
    if rule is not None and all(key is None for key in source._unit_keys()):
        raise DataError(
            f"{name}: the unit is to be {rule.words}, but no record has one. Correct it."
        )
    return source


def _open(place: str, name: str, declared: Declared) -> ImageSource:
    if place in NAMED:
        check_rule(declared.unit, name)
        return NAMED[place](name, declared)
    path = Path(place)
    if path.is_dir():
        return _open_folder(path, name, declared)
    if path.is_file():
        return _open_file(path, name, declared)
    files = [Path(file) for file in sorted(glob.glob(place))] if glob.has_magic(place) else []
    kinds = {file.suffix.lower() for file in files}
    if len(kinds) == 1 and (opener := _SHARDS.get(kinds.pop())):
        return opener(files, name, declared, path)
    raise DataError(f"{name}: no such file or folder. Give {_KNOWN}.")


def _split_off(name: str) -> tuple[str, str | None]:
    """Return the location and the split that follows its last colon, if it is one."""
    place, colon, suffix = name.rpartition(":")
    if not colon or Path(name).exists():
        return name, None
    if place in NAMED or Path(place).exists() or glob.has_magic(place):
        return place, suffix
    return name, None


def _open_folder(path: Path, name: str, declared: Declared) -> ImageSource:
    if (path / "certificate.json").is_file() and (path / "images").is_dir():
        declared = _with_spec_of_release(path / "certificate.json", declared)
        path = path / "images"
    # Hugging Face repositories keep their shards in data/.
    for folder in (path, path / "data"):
        for suffix, opener in _SHARDS.items():
            if files := _files_in(folder, suffix):
                return opener(files, name, declared, path)
    if idx_images_in(path) or idx_labels_in(path):
        return open_idx(path, name, declared)
    return open_folder(path, name, declared)


def _open_file(path: Path, name: str, declared: Declared) -> ImageSource:
    suffix = path.suffix.lower()
    if suffix in _SHARDS:
        return _SHARDS[suffix]([path], name, declared, path)
    if suffix == ".zip":
        return open_archive(path, name, declared)
    if suffix == ".npz":
        return open_npz(path, name, declared)
    if IMAGES_NAME.fullmatch(path.name) or LABELS_NAME.fullmatch(path.name):
        return open_idx(path, name, declared)
    if is_pickle(path):
        raise DataError(
            f"{name}: a pickle or .npy file is never loaded, because loading a pickle can run code "
            "from it. Save the images with np.savez(images=..., labels=...), or as class folders."
        )
    if is_image_name(path.name):
        raise DataError(f"{name}: is one image. Give the folder that holds the images.")
    raise DataError(f"{name}: of no kind that is read here. Give {_KNOWN}.")


def _files_in(folder: Path, suffix: str) -> list[Path]:
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() == suffix
        and not path.name.startswith(".")
        and not path.is_symlink()
        and path.is_file()
    )


def _with_spec_of_release(certificate: Path, declared: Declared) -> Declared:
    """Take what the user left open, but the number of records, from a release's certificate."""
    try:
        spec = json.loads(certificate.read_bytes())["spec"]
        side = spec["height"] if spec["height"] == spec["width"] else None
        stated = Declared(side, spec["channels"], _normal_classes(spec["classes"]))
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


def _normal_classes(classes: Sequence[str] | int | None) -> tuple[str, ...] | int | None:
    if classes is None or isinstance(classes, int):
        return () if classes == 0 and not isinstance(classes, bool) else classes
    if isinstance(classes, str) or not all(isinstance(name, str) for name in classes):
        raise UsageError(
            f"classes={classes!r} must be a list of names in label order, or how many there are, "
            "for example classes=['cat', 'dog'] or classes=2."
        )
    return tuple(classes)
