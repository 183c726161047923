from __future__ import annotations

import json
import os
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from sfumato.errors import CertificateError, UsageError
from sfumato.release import verify
from sfumato.release.files import SIGNATURE
from sfumato.release.signature import make_keys, sign
from sfumato.reporting import write_report


@pytest.fixture
def key(tmp_path: Path) -> Path:
    make_keys(tmp_path / "key")
    return tmp_path / "key"


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_the_private_key_is_its_owners_alone_and_never_replaced(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        public = make_keys(tmp_path / "key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    content = (tmp_path / "key").read_bytes()
    with pytest.raises(UsageError, match="never replaced"):
        make_keys(tmp_path / "key")
    (tmp_path / "key").unlink()
    with pytest.raises(UsageError, match="never replaced"):
        make_keys(tmp_path / "key")
    assert public.name == "key.pub"
    assert isinstance(load_pem_private_key(content, None), Ed25519PrivateKey)
    with pytest.raises(UsageError, match="cannot be written"):
        make_keys(tmp_path / "nowhere" / "key")


def test_a_signed_release_verifies_with_its_key_alone(release: Path, key: Path) -> None:
    public = Path(f"{key}.pub")
    assert verify(release).signed_by is None
    with pytest.raises(CertificateError, match="nobody has signed"):
        verify(release, public_key=public)
    signer = sign(release, key)
    assert sign(release, key) == signer  # again is no error
    verdict = verify(release)
    assert (verdict.signed_by, verdict.signer_expected) == (signer, None)
    assert verify(release, public_key=public).signer_expected is True
    other = make_keys(key.with_name("other"))
    with pytest.raises(CertificateError, match="by another key"):
        verify(release, public_key=other)


def test_whatever_is_changed_after_signing_is_noticed(
    release: Path, key: Path, rewrite: Callable[..., None]
) -> None:
    sign(release, key)
    # All else in this lie is consistent: only the signature tells.
    rewrite(release, lambda certificate: certificate["data_set_total"].update(runs=1))
    verify(release)
    rewrite(release, lambda certificate: certificate["release"].update(made_by="sample"))
    with pytest.raises(CertificateError, match="not of this certificate"):
        verify(release)


@pytest.mark.parametrize(
    "change",
    [
        {"signature": "00" * 64},
        {"signature": "x"},
        {"public_key": "00" * 32},
        {"public_key": "00"},
        {"algorithm": "none"},
        {"note": "x"},
        {"signature": None},
    ],
)
def test_a_damaged_signature_fails(release: Path, key: Path, change: dict[str, str | None]) -> None:
    sign(release, key)
    value = json.loads((release / SIGNATURE).read_bytes())
    (release / SIGNATURE).write_text(json.dumps({**value, **change}))
    with pytest.raises(CertificateError, match=SIGNATURE):
        verify(release)


def test_a_report_ends_the_signature(release: Path, key: Path) -> None:
    sign(release, key)
    write_report(release)
    assert verify(release).signed_by is None
    sign(release, key)
    assert verify(release).signed_by is not None


def test_what_does_not_verify_is_not_signed(release: Path, key: Path) -> None:
    (release / "README.md").write_text("x")
    with pytest.raises(CertificateError):
        sign(release, key)
    assert not (release / SIGNATURE).exists()


def test_other_keys_are_refused(release: Path, key: Path, tmp_path: Path) -> None:
    elliptic = generate_private_key(SECP256R1()).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    for name, content in (("ec", elliptic), ("text", b"hello"), ("empty", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(UsageError, match="keygen"):
            sign(release, tmp_path / name)
        with pytest.raises(UsageError, match="keygen"):
            verify(release, public_key=tmp_path / name)
    with pytest.raises(UsageError, match="cannot be read"):
        sign(release, tmp_path / "missing")
    with pytest.raises(UsageError, match="keygen"):
        verify(release, public_key=key)
