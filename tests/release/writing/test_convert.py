from __future__ import annotations

from pathlib import Path

import pytest

from sfumato.errors import CertificateError, UsageError
from sfumato.release import convert_release, read_certificate, verify
from sfumato.release.certificate import core_of
from sfumato.release.images import numbered_images, pixels_of
from sfumato.synthesis import convert


def images(release: Path) -> list[tuple[int, bytes]]:
    found = numbered_images(release, read_certificate(release))
    return [(label, pixels_of(png).tobytes()) for label, png in found]


def test_a_release_goes_through_every_format_and_back(honest: Path, tmp_path: Path) -> None:
    before, at = images(honest), honest
    for form in ("parquet", "webdataset", "folder"):
        out = convert(at, out=tmp_path / form, format=form)
        assert verify(out).redrawn == 40 and images(out) == before
        assert core_of(read_certificate(out)) == core_of(read_certificate(honest))
        at = out
    assert {p.name: p.read_bytes() for p in at.rglob("*.*") if p.is_file()} == {
        p.name: p.read_bytes() for p in honest.rglob("*.*") if p.is_file()
    }


def test_what_cannot_be_converted_is_refused_and_leaves_nothing(
    release: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    for wrong in ({"format": "npz"}, {"samples": 3}, {"balance": True}, {"out": release / "in"}):
        with pytest.raises(UsageError):
            convert(release, **{"out": out, "format": "parquet", **wrong})
    with pytest.raises(UsageError, match=r"already holds a release"):
        convert_release(release, release, "parquet")
    (release / "samples.png").write_bytes(b"x")
    with pytest.raises(CertificateError, match="fails verification"):
        convert(release, out=out, format="parquet")
    assert not out.exists()
