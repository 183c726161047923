"""A zip of class folders of image files."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path

from sfumato.data.decode import LARGEST_FILE, decode
from sfumato.data.layout import arrange, is_hidden, is_image_name
from sfumato.data.options import DataOptions
from sfumato.data.source import ImageSource, Place, Record, digest_of_files
from sfumato.data.spec import PublicSpec
from sfumato.data.units import Key, check_rule
from sfumato.errors import DataError

_ENCRYPTED = 1
# The other methods let a member's header ask for gigabytes of dictionary.
METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)


class ZipSource(ImageSource):
    """Image files in a zip, read one member at a time and never unpacked to disk."""

    def __init__(
        self,
        name: str,
        spec: PublicSpec,
        location_key: str,
        path: Path,
        part: str,
        members: list[zipfile.ZipInfo],
        labels: list[int | None],
        names: list[str],
    ) -> None:
        super().__init__(name, spec, location_key, [Place(str(path.resolve()), part)])
        self._path = path
        self._members = members
        self._labels = labels
        self._names = names

    def _records(self) -> Iterator[Record]:
        with open_zip(self._path, self.name) as archive:
            for member, label in zip(self._members, self._labels, strict=True):
                data = _read(archive, member)
                yield None if data is None else decode(data, self.spec), label

    def _unit_keys(self) -> Iterator[Key]:
        assert self.spec.unit is not None
        return self.spec.unit.keys_of(self._names)

    def _private_length(self) -> int:
        return len(self._members)

    def _private_name(self, index: int) -> str:
        return self._members[index].filename

    def fingerprint(self) -> str:
        """Return a digest of the archive's size and modification time. PRIVATE."""
        return digest_of_files([self._path])


def open_archive(path: Path, name: str, declared: DataOptions) -> ZipSource:
    """Open a zip of ``class/name.png`` or ``split/class/name.png``; one common top is stripped.

    Raises DataError if it is no zip, holds no image, is encrypted, or has a path that climbs out.
    """
    check_rule(declared.privacy_unit, name, "pattern")
    with open_zip(path, name) as archive:
        members = archive.infolist()
    folders = set()
    for member in members:
        if climbs_out(member.filename):
            raise DataError(
                f"{name}: a path inside the archive climbs out of it. "
                "Do not trust this file; pack the images again with relative names."
            )
        parents = member.filename.split("/")[:-1]
        if not is_hidden("/".join(parents)):
            folders |= {"/".join(parents[:depth]) for depth in range(1, len(parents) + 1)}
    images = [
        member
        for member in members
        if is_image_name(member.filename) and not is_hidden(member.filename)
    ]
    if not images:
        raise DataError(
            f"{name}: no images in this zip (PNG, JPEG, BMP, TIFF or WebP). "
            "Pack one folder of images per class; pickles and nested archives are not read."
        )
    if all(member.flag_bits & _ENCRYPTED for member in images):
        raise DataError(f"{name}: the zip is encrypted. Unpack it and give the folder.")
    files = [member.filename for member in images]
    found = arrange(files, folders, declared, name, strip_top=True)
    key = f"{path.resolve()}" + (f":{found.folder}" if found.folder else "")
    chosen = [images[index] for index in found.chosen]
    spec = declared.spec(found.classes)
    return ZipSource(name, spec, key, path, found.folder, chosen, found.labels, found.names)


def open_zip(path: Path, name: str) -> zipfile.ZipFile:
    """Open a zip archive. Raises DataError if its directory cannot be read."""
    try:
        return zipfile.ZipFile(path)
    # A hostile directory makes zipfile raise struct.error, ValueError, NotImplementedError, ...
    except Exception:
        raise DataError(
            f"{name}: not a readable zip archive (damaged or cut off). Copy or pack it again."
        ) from None


def climbs_out(path: str) -> bool:
    """Tell whether a path inside an archive is absolute or leads above the archive's root."""
    unix = path.replace("\\", "/")
    return unix.startswith("/") or ".." in unix.split("/") or unix[1:2] == ":"


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes | None:
    if member.file_size > LARGEST_FILE or member.compress_type not in METHODS:
        return None
    try:
        with archive.open(member) as file:
            return file.read(LARGEST_FILE + 1)
    # One member's damage is one record's content: a bad checksum, a password, a cut-off stream.
    except Exception:
        return None
