"""Whether the images of a release are images and nothing more, in each of the three formats."""

from __future__ import annotations

import os
import re
import tarfile
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

import pyarrow as pa
import pyarrow.parquet as pq

from sfumato.data.layout import class_folders, safe_folder_names
from sfumato.data.spec import PublicSpec
from sfumato.data.writers import METADATA, metadata_schema, parquet_schema
from sfumato.release.files import IMAGES, LARGEST_IMAGE_FILE

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_COLOURS = {1: 0, 3: 2}
_IMAGE_NAME = re.compile(r"\d{6,12}\.png")
_SHARD_NAMES = {
    ".parquet": re.compile(r"[a-z]+-\d{5}-of-\d{5}\.parquet"),
    ".tar": re.compile(r"[a-z]+-\d{6}\.tar"),
}
_SUFFIXES = {"folder": ".png", "parquet": ".parquet", "webdataset": ".tar"}
_SCHEMA_KEYS = {b"huggingface", b"ARROW:schema"}
_PARQUET_FRAME = 12  # "PAR1" at both ends and the footer's length
_MOST_ROWS_IN_GROUP = 10_000
_LARGEST_GROUP = 2**30

Finding = tuple[str, int | None]
"""A problem or an empty text, and the number of the image that was looked at, if it was one."""


def check_images(
    release: Path, names: list[str], form: str, spec: PublicSpec, first: bool = False
) -> tuple[list[str], int]:
    """Look at every image of a release; return the problems and the number of images.

    names: the files under ``images/``. form: ``folder``, ``parquet`` or ``webdataset``. first: of
    the first format, whose folders are not in label order and have no metadata beside them.
    """
    suffix = _SUFFIXES.get(form)
    problems: list[str] = []
    numbers: list[int] = []
    if suffix is None:
        return [f"images: format {form!r:.40} is none of {', '.join(_SUFFIXES)}"], 0
    look = {".png": _look_at_png, ".parquet": _look_at_parquet, ".tar": _look_at_tar}[suffix]
    folder_names = (safe_folder_names if first else class_folders)(spec.classes)
    folders = {f"{IMAGES}/{name}": label for label, name in enumerate(folder_names)} or {IMAGES: 0}
    metadata = f"{IMAGES}/{METADATA}"
    if suffix == ".png" and not first:
        problems += _metadata_problems(release, names, folders, spec)
        names = [name for name in names if name != metadata]
    with os.scandir(release / IMAGES) as entries:
        for entry in entries:
            if entry.is_dir() and (suffix != ".png" or f"{IMAGES}/{entry.name}" not in folders):
                problems.append(f"{entry.name[:200]!r} is no folder of the writer of {form}")
    for name in names:
        path = PurePosixPath(name)
        if suffix == ".png":
            fits = str(path.parent) in folders and _IMAGE_NAME.fullmatch(path.name)
        else:
            fits = str(path.parent) == IMAGES and _SHARD_NAMES[suffix].fullmatch(path.name)
        if not fits:
            problems.append(f"{name[:200]!r} is not where the writer of {form} puts images")
            continue
        try:
            for problem, number in look(release / name, spec):
                numbers += [] if number is None else [number]
                if problem:
                    problems.append(f"{name}: {problem}")
                    break
        except (OSError, ValueError, EOFError, tarfile.TarError, pa.ArrowException):
            problems.append(f"{name} is damaged")
    if suffix == ".png":
        numbers.sort()  # folders of classes share one count
    elif not problems:
        problems += _shard_problems([PurePosixPath(name).name for name in sorted(names)], suffix)
    if not problems and numbers != list(range(len(numbers))):
        problems.append("the images are not numbered from 0 in order, each number once")
    return problems, len(numbers)


def _metadata_problems(
    release: Path, names: list[str], folders: Mapping[str, int], spec: PublicSpec
) -> Iterator[str]:
    """Whether the file beside the folders names every image, in order, with its label."""
    name = f"{IMAGES}/{METADATA}"
    if name not in names:
        yield f"{name} is missing"
        return
    numbered = sorted(
        (path.name, path.relative_to(IMAGES).as_posix(), folders.get(str(path.parent)))
        for path in map(PurePosixPath, names)
        if path.suffix == ".png"
    )
    numbered.sort(key=lambda one: len(one[0]))  # more than a million images have longer numbers
    expected = [
        {"file_name": file, **({"label": label} if spec.classes else {})}
        for _, file, label in numbered
    ]
    try:
        with pq.ParquetFile(release / name) as file:
            problem = _frame_problem(file, release / name, metadata_schema(spec.classes))
            at = 0
            for batch in file.iter_batches(batch_size=10_000) if problem is None else ():
                rows = batch.to_pylist()
                if rows != expected[at : at + len(rows)]:
                    break
                at += len(rows)
    except (OSError, ValueError, pa.ArrowException):
        problem = "is damaged"
    else:
        if problem is None and at != len(expected):
            problem = "does not name each image with its label, in order"
    if problem is not None:
        yield f"{name} {problem}"


def _shard_problems(names: list[str], suffix: str) -> Iterator[str]:
    """Whether the names count the shards, as the writer does."""
    split = names[0].rpartition("-")[0] if names else ""
    if suffix == ".parquet":
        split = split.split("-")[0]
        expected = [f"{split}-{at:05d}-of-{len(names):05d}.parquet" for at in range(len(names))]
    else:
        expected = [f"{split}-{at:06d}.tar" for at in range(len(names))]
    if names != expected:
        yield "the shards' names do not count them from 0, each once"


def _look_at_png(path: Path, spec: PublicSpec) -> Iterator[Finding]:
    yield png_problem(path.read_bytes(), spec) or "", int(path.stem)


def _look_at_parquet(path: Path, spec: PublicSpec) -> Iterator[Finding]:
    with pq.ParquetFile(path) as file:
        problem = _frame_problem(file, path, parquet_schema(spec.classes, spec.channels))
        if problem is not None:
            yield problem, None
            return
        for batch in file.iter_batches(batch_size=1000):
            for row in batch.to_pylist():
                problem = _row_problem(row, spec)
                yield problem, None if problem else int(row["image"]["path"].removesuffix(".png"))


def _frame_problem(file: pq.ParquetFile, path: Path, expected: pa.Schema) -> str | None:
    """What a Parquet file holds, beside its rows, that the writer of ``expected`` does not."""
    schema, metadata = file.schema_arrow, file.metadata
    if schema.names != expected.names:
        return f"its columns are not {' and '.join(expected.names)}"
    same = schema.equals(expected, check_metadata=True)
    if not same or set(metadata.metadata or {}) - _SCHEMA_KEYS:
        return "its schema or metadata holds more than the writer's"
    groups = [metadata.row_group(index) for index in range(metadata.num_row_groups)]
    columns = [group.column(at) for group in groups for at in range(group.num_columns)]
    told = sum(column.total_compressed_size for column in columns) + metadata.serialized_size
    if told + _PARQUET_FRAME != path.stat().st_size:
        return "holds bytes that belong to no column"
    if any(
        group.num_rows > _MOST_ROWS_IN_GROUP or group.total_byte_size > _LARGEST_GROUP
        for group in groups
    ):
        return "its row groups are larger than the writer's"
    return None


def _row_problem(row: dict[str, object], spec: PublicSpec) -> str:
    image, label = row["image"], row.get("label", 0)
    if not isinstance(image, dict) or set(image) != {"bytes", "path"}:
        return "an image is not bytes and path"
    if not _IMAGE_NAME.fullmatch(str(image["path"])):
        return "an image's path is not its number"
    if not isinstance(label, int) or not 0 <= label < max(1, len(spec.classes)):
        return "a label is outside the classes"
    if not isinstance(image["bytes"], bytes):
        return "an image is not bytes"
    return png_problem(image["bytes"], spec) or ""


def _look_at_tar(path: Path, spec: PublicSpec) -> Iterator[Finding]:
    labels = {str(label).encode() for label in range(len(spec.classes))}
    image = ""  # the one whose label comes next
    with open(path, "rb") as raw, tarfile.open(path, "r:") as tar:
        at = 0
        while (member := tar.next()) is not None:
            tar.members = []  # type: ignore[attr-defined]  # else it keeps every header
            if member.offset != at or not 0 < member.size <= LARGEST_IMAGE_FILE[".png"]:
                yield "a member is too large, or is not where the one before it ends", None
                return
            raw.seek(at)
            if raw.read(tarfile.BLOCKSIZE) != _written_header(member):
                yield "a member's header names a time, a user or more than a plain file", None
                return
            padding = -member.size % tarfile.BLOCKSIZE
            raw.seek(member.offset_data + member.size)
            if any(raw.read(padding)):
                yield "holds bytes between two members", None
                return
            at = member.offset_data + member.size + padding
            content = tar.extractfile(member)
            data = content.read() if content else b""
            if not image and _IMAGE_NAME.fullmatch(member.name):
                stem = member.name.removesuffix(".png")
                yield png_problem(data, spec) or "", int(stem)
                image = stem if labels else ""
            elif image and member.name == f"{image}.cls" and data in labels:
                image = ""
            else:
                yield "a member is neither an image nor the label of the one before it", None
                return
        end = tar.offset
    if image:
        yield "its last image has no label", None
    with open(path, "rb") as file:
        file.seek(end)
        rest = file.read(2 * tarfile.RECORDSIZE + 1)
    if not 2 * tarfile.BLOCKSIZE <= len(rest) <= 2 * tarfile.RECORDSIZE or any(rest):
        yield "is cut off, or holds bytes after its end", None


def _written_header(member: tarfile.TarInfo) -> bytes:
    """The header that the writer gives to a file of this name and size."""
    plain = tarfile.TarInfo(member.name)
    plain.size = member.size
    return plain.tobuf(tarfile.USTAR_FORMAT)


def png_problem(data: bytes, spec: PublicSpec | None) -> str | None:
    """Say what keeps ``data`` from being one plain 8-bit PNG without any text, time or hidden byte.

    spec: the size and channels that it must have; None leaves them open.
    """
    if not data.startswith(_SIGNATURE):
        return "is no PNG"
    at, kinds, pixels = len(_SIGNATURE), [], []
    while at < len(data):
        length, kind = int.from_bytes(data[at : at + 4], "big"), data[at + 4 : at + 8]
        body, crc = data[at + 8 : at + 8 + length], data[at + 8 + length : at + 12 + length]
        if len(crc) != 4 or zlib.crc32(kind + body) != int.from_bytes(crc, "big"):
            return "is a damaged PNG"
        if kind not in (b"IHDR", b"IDAT", b"IEND"):
            return f"holds a PNG chunk {kind.decode('latin-1')!r}, which may say more than pixels"
        if kind == b"IDAT":
            pixels.append(body)
        elif kind == b"IHDR":
            header = body
        elif body:
            return "holds bytes in its last PNG chunk"
        kinds.append(kind)
        at += 12 + length
    if kinds != [b"IHDR", *[b"IDAT"] * len(pixels), b"IEND"] or len(header) != 13:
        return "has PNG chunks out of order, or bytes after its end"
    return _pixel_problem(header, b"".join(pixels), spec)


def _pixel_problem(header: bytes, compressed: bytes, spec: PublicSpec | None) -> str | None:
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    channels = {colour: number for number, colour in _COLOURS.items()}.get(header[9])
    if header[8] != 8 or channels is None or header[10:] != b"\0\0\0" or width * height > 2**26:
        return "is no plain grey or colour PNG of 8 bits"
    if spec is not None and (height, width, channels) != (spec.height, spec.width, spec.channels):
        return f"is {height}x{width}x{channels}, not of the size that the certificate says"
    size = height * (1 + width * channels)
    stream = zlib.decompressobj()
    try:
        rows = stream.decompress(compressed, size + 1)
    except zlib.error:
        return "is a damaged PNG"
    if len(rows) != size or not stream.eof or stream.unused_data:
        return "has more or fewer pixels than its PNG header says"
    return None
