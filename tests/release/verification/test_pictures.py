from __future__ import annotations

import io
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.data.spec import PublicSpec
from sfumato.data.writers import encode_png, write_images
from sfumato.release.verification.pictures import check_images, png_problem

Images = tuple[np.ndarray, np.ndarray]
GREY = PublicSpec(28, 28, 1, ("a", "b", "c"))
UNLABELLED = replace(GREY, classes=())
HONEST = encode_png(np.arange(784, dtype=np.uint8).reshape(1, 28, 28))


def chunk(kind: bytes, body: bytes) -> bytes:
    crc = zlib.crc32(kind + body).to_bytes(4, "big")
    return len(body).to_bytes(4, "big") + kind + body + crc


def png(rows: bytes, width: int = 28, height: int = 28) -> bytes:
    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    parts = [chunk(b"IHDR", header), chunk(b"IDAT", rows), chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def test_what_the_writer_makes_is_plain() -> None:
    assert png_problem(HONEST, GREY) is None
    colour = encode_png(np.zeros((3, 28, 28), np.uint8))
    assert png_problem(colour, PublicSpec(28, 28, 3, ())) is None
    assert png_problem(png(zlib.compress(bytes(28 * 29))), GREY) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        HONEST[:-1],
        HONEST[:60],
        HONEST + b"\0",
        HONEST[:-12],
        HONEST[:8] + HONEST[-12:] + HONEST[8:-12],
        HONEST.replace(b"IDAT", b"IDAU"),
        HONEST[:-12] + chunk(b"tIME", b"\x07\xe8\x01\x01\x00\x00\x00") + HONEST[-12:],
        HONEST[:-12] + chunk(b"IEND", b"more"),
        png(zlib.compress(bytes(28 * 29 + 1))),
        png(zlib.compress(bytes(28 * 29 - 1))),
        png(zlib.compress(bytes(28 * 29)) + b"hidden"),
        png(zlib.compress(bytes(28 * 29))[:-4]),
        png(zlib.compress(bytes(28 * 29)), width=29),
        png(zlib.compress(bytes(2**24)), width=2**30, height=2**30),
        encode_png(np.zeros((3, 28, 28), np.uint8)),
    ],
)
def test_anything_else_is_a_problem(data: bytes) -> None:
    assert png_problem(data, GREY)


def test_a_bomb_is_not_inflated() -> None:
    # 4 GiB of zeros in 4 MB: refused after at most the bytes that the header allows.
    squeezer = zlib.compressobj(9)
    small = b"".join(squeezer.compress(bytes(2**20)) for _ in range(256)) + squeezer.flush()
    assert png_problem(png(small), GREY)


@given(st.integers(0, len(HONEST) - 1), st.integers(1, 255))
def test_any_changed_byte_is_a_problem(at: int, change: int) -> None:
    changed = bytearray(HONEST)
    changed[at] ^= change
    assert png_problem(bytes(changed), GREY)


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_a_problem_and_no_exception(data: bytes) -> None:
    assert png_problem(data, GREY)
    assert png_problem(HONEST[:8] + data, GREY)


@pytest.fixture(params=["folder", "parquet", "webdataset"])
def written(
    request: pytest.FixtureRequest, tmp_path: Path, tiny_images: Images
) -> tuple[Path, str]:
    write_images([tiny_images], GREY.classes, tmp_path, request.param)
    return tmp_path, request.param


def names(release: Path) -> list[str]:
    return sorted(
        p.relative_to(release).as_posix() for p in release.glob("images/**/*") if p.is_file()
    )


def test_every_format_is_counted(written: tuple[Path, str]) -> None:
    release, form = written
    assert check_images(release, names(release), form, GREY) == ([], 12)


def test_a_damaged_file_is_a_problem(written: tuple[Path, str]) -> None:
    release, form = written
    path = release / names(release)[0]
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert check_images(release, names(release), form, GREY)[0]


def test_another_format_is_a_problem(written: tuple[Path, str]) -> None:
    release, form = written
    other = "parquet" if form != "parquet" else "folder"
    assert check_images(release, names(release), other, GREY)[0]


def test_images_of_another_size_are_a_problem(written: tuple[Path, str]) -> None:
    release, form = written
    assert check_images(release, names(release), form, PublicSpec(32, 32, 1, GREY.classes))[0]


def test_too_few_classes_are_a_problem(written: tuple[Path, str]) -> None:
    release, form = written
    assert check_images(release, names(release), form, PublicSpec(28, 28, 1, ("a", "b")))[0]


@pytest.mark.parametrize("form", ["folder", "parquet", "webdataset"])
def test_unlabelled_images_pass(tmp_path: Path, tiny_images: Images, form: str) -> None:
    images, _ = tiny_images
    write_images([(images, np.zeros(12, np.int64))], (), tmp_path, form)
    spec = PublicSpec(28, 28, 1, ())
    assert check_images(tmp_path, names(tmp_path), form, spec) == ([], 12)


def test_a_column_or_metadata_of_a_table_is_a_problem(tmp_path: Path, tiny_images: Images) -> None:
    write_images([tiny_images], GREY.classes, tmp_path, "parquet")
    (path,) = tmp_path.glob("images/*.parquet")
    table = pq.read_table(path)
    for changed in (
        table.append_column("patient", [list(range(12))]),
        table.replace_schema_metadata({**(table.schema.metadata or {}), b"user": b"me"}),
        table.set_column(1, "label", [[7] * 12]),
    ):
        pq.write_table(changed, path)
        assert check_images(tmp_path, names(tmp_path), "parquet", GREY)[0]


def test_a_row_that_names_its_source_is_a_problem(tmp_path: Path, tiny_images: Images) -> None:
    write_images([tiny_images], GREY.classes, tmp_path, "parquet")
    (path,) = tmp_path.glob("images/*.parquet")
    table = pq.read_table(path)
    rows = table.to_pylist()
    rows[3]["image"]["path"] = "patient_0042.png"
    pq.write_table(type(table).from_pylist(rows, table.schema), path)
    assert check_images(tmp_path, names(tmp_path), "parquet", GREY)[0]


@pytest.mark.parametrize(
    "facts",
    [
        {"name": "patient_0042.png"},
        {"name": "../000001.png"},
        {"uname": "me"},
        {"mtime": 1_700_000_000},
        {"uid": 1000},
        {"type": tarfile.SYMTYPE, "linkname": "/etc/passwd"},
        {"name": "000001.json"},
        {"pax_headers": {"comment": "x"}},
    ],
)
def test_a_member_of_an_archive_that_says_more_is_a_problem(
    tmp_path: Path, facts: dict[str, object]
) -> None:
    (tmp_path / "images").mkdir()
    member = tarfile.TarInfo("000000.png")
    member.size = len(HONEST)
    for key, value in facts.items():
        setattr(member, key, value)
    with tarfile.open(tmp_path / "images" / "train-000000.tar", "w") as tar:
        tar.addfile(member, io.BytesIO(HONEST))
    problems, _ = check_images(tmp_path, names(tmp_path), "webdataset", UNLABELLED)
    assert problems


def test_bytes_after_the_end_of_an_archive_are_a_problem(
    tmp_path: Path, tiny_images: Images
) -> None:
    write_images([tiny_images], GREY.classes, tmp_path, "webdataset")
    (path,) = tmp_path.glob("images/*.tar")
    path.write_bytes(path.read_bytes()[:-6] + b"secret")
    assert check_images(tmp_path, names(tmp_path), "webdataset", GREY)[0]


def test_an_untouched_archive_of_the_same_image_passes(tmp_path: Path) -> None:
    # Else the members above might fail for another reason.
    (tmp_path / "images").mkdir()
    member = tarfile.TarInfo("000000.png")
    member.size = len(HONEST)
    with tarfile.open(tmp_path / "images" / "train-000000.tar", "w") as tar:
        tar.addfile(member, io.BytesIO(HONEST))
    assert check_images(tmp_path, names(tmp_path), "webdataset", UNLABELLED) == ([], 1)
