"""Which files a release may hold, how large they may be, and their digests."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from sfumato.errors import CertificateError
from sfumato.release import strict_json

IMAGES = "images"
MODEL = "model.safetensors"
EMBEDDING = "embedding.safetensors"
CARD = "README.md"
SAMPLES = "samples.png"
REPORT = "report.html"
METRICS = "metrics.json"
SIGNATURE = "signature.json"
CLASSES = "classes.txt"
MOCK = "mock.json"
MOCK_FORMAT = "sfumato-mock/1"
"""Says what a mock of a release is of, in the place of a certificate; no release holds one."""

CLASSIFIER = "classifier"
"""What a certificate states for the images' format where the release holds a classifier instead."""

LARGEST = {
    "certificate.json": 2**24,
    CARD: 2**20,
    SAMPLES: 2**26,
    REPORT: 2**28,
    METRICS: 2**20,
    SIGNATURE: 2**14,
    CLASSES: 2**26,
    MODEL: 2**34,
    EMBEDDING: 2**34,
}
"""The files beside the images, with the most bytes each may have."""

LARGEST_IMAGE_FILE = {".png": 2**20, ".parquet": 2**31, ".tar": 2**31}
MOST_FILES = 20_000_000
_CHUNK = 2**20

_WHY = (
    (
        r"\.(pkl|pickle|pt|pth|ckpt|npy|npz|joblib|bin|h5|onnx)$",
        "may hold a pickle or a checkpoint",
    ),
    (r"^ledger|\.(jsonl|head|lock)$", "belongs to a private ledger"),
    (r"^answer-|^run|checkpoint|^private", "belongs to a private run"),
    (r"\.(key|pem|seed)$|secret", "may be a key"),
    (r"metric|score|loss|\.log$|\.csv$", "may hold measurements on private data"),
)


def is_mock(folder: Path) -> bool:
    """Whether a folder states that it is a mock of a release, and has no certificate."""
    path = folder / MOCK
    if path.is_symlink() or not path.is_file() or (folder / "certificate.json").exists():
        return False
    try:
        with open(path, "rb") as file:
            stated = strict_json.parse(file.read(strict_json.LARGEST + 1), MOCK)
    except (OSError, CertificateError):
        return False
    return stated.get("format") == MOCK_FORMAT


def list_files(release: Path) -> tuple[list[str], list[str]]:
    """Find a release's files, relative with ``/`` and sorted, and what must not be there.

    Links are never followed. A file under ``images/`` is judged by its place and suffix only.
    """
    found: list[str] = []
    problems: list[str] = []
    folders = [""]
    while folders:
        folder = folders.pop()
        with os.scandir(release / folder) as entries:
            for entry in entries:
                name = f"{folder}/{entry.name}" if folder else entry.name
                if len(found) >= MOST_FILES:
                    return [], [*problems, f"more than {MOST_FILES} files"]
                if entry.is_symlink():
                    problems.append(f"{name[:200]!r} is a link; a release holds none")
                elif entry.is_dir():
                    if name == IMAGES or (folder == IMAGES):
                        folders.append(name)
                    else:
                        problems.append(_unexpected(name))
                elif not entry.is_file():
                    problems.append(f"{name[:200]!r} is neither a file nor a folder")
                else:
                    largest = _largest(name)
                    if largest is None:
                        problems.append(_unexpected(name))
                    elif entry.stat().st_size > largest:
                        problems.append(f"{name[:200]!r} is larger than {largest} bytes")
                    else:
                        found.append(name)
    return sorted(found), sorted(problems)


def _largest(name: str) -> int | None:
    if name.startswith(f"{IMAGES}/"):
        return LARGEST_IMAGE_FILE.get(Path(name).suffix)
    return LARGEST.get(name)


def _unexpected(name: str) -> str:
    last = name.rpartition("/")[2].lower()
    why = next(
        (why for pattern, why in _WHY if re.search(pattern, last)), "is no part of a release"
    )
    return f"{name[:200]!r} {why}"


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex, read in pieces."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_CHUNK):
            digest.update(piece)
    return digest.hexdigest()


def digests(release: Path, names: list[str]) -> dict[str, str]:
    """Digest of each file beside the certificate; all images together have one, ``images``.

    A release of a classifier has no images, and no digest of them.
    The signature has none: it is made over the certificate that states them.
    """
    result = {
        name: file_digest(release / name)
        for name in names
        if name not in ("certificate.json", SIGNATURE) and not name.startswith(f"{IMAGES}/")
    }
    tree = hashlib.sha256()
    for name in names:
        if name.startswith(f"{IMAGES}/"):
            tree.update(f"{name}\0{file_digest(release / name)}\n".encode())
    any_images = any(name.startswith(f"{IMAGES}/") for name in names)
    return {**result, **({IMAGES: tree.hexdigest()} if any_images else {})}
