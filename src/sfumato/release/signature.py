"""Signing a release: who stands for it, which no digest can say.

``signature.json`` lies beside the certificate and is an Ed25519 signature (RFC 8032) over the
certificate's digest, which binds every other file. Keys are files that their owner makes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from sfumato.disk import write_atomically
from sfumato.errors import CertificateError, UsageError
from sfumato.release import strict_json
from sfumato.release.certificate import own_digest, read_certificate
from sfumato.release.files import SIGNATURE

_SHAPE = {"algorithm": str, "public_key": str, "signature": str}
_ALGORITHM = "Ed25519"
_PURPOSE = b"sfumato release signature 1\n"
"""Signed before the digest, so that the key's other signatures never pass as one of a release."""
_LARGEST_KEY = 2**14


@dataclass(frozen=True)
class Signed:
    """The valid signature of a release: the key that made it, and whether it is the one asked for.

    ``fingerprint`` is the public key in hex. ``expected`` is None where no key was given.
    """

    fingerprint: str
    expected: bool | None


def make_keys(path: Path) -> Path:
    """Write a new private key to ``path``, for its owner alone, and return its public key's path.

    Raises:
        UsageError: one of the two files is there already, or cannot be written.
    """
    public = path.with_name(f"{path.name}.pub")
    key = Ed25519PrivateKey.generate()
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    shared = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    if public.exists():
        raise UsageError(f"{public} is there already; a key is never replaced. Name another file.")
    for place, content, mode in ((path, private, 0o600), (public, shared, 0o644)):
        try:
            handle = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
            with os.fdopen(handle, "wb") as file:
                file.write(content)
        except FileExistsError:
            raise UsageError(
                f"{place} is there already; a key is never replaced. Name another file."
            ) from None
        except OSError as error:
            raise UsageError(f"the key {place} cannot be written ({error.strerror}).") from None
    return public


def sign(release: Path, key: Path) -> str:
    """Sign a release that verifies with the private key in ``key``; return the public key in hex.

    Raises:
        CertificateError: the release does not verify.
        UsageError: the file holds no Ed25519 private key.
    """
    from sfumato.release.verification.verify import check  # which reads signatures

    try:
        private = load_pem_private_key(_key_bytes(key), None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        private = None
    if not isinstance(private, Ed25519PrivateKey):
        raise UsageError(
            f"{key} holds no Ed25519 private key without a password. Make one: sfumato keygen FILE."
        )
    certificate = read_certificate(release)
    check(release, certificate)
    public = _hex(private.public_key())
    value = {
        "algorithm": _ALGORITHM,
        "public_key": public,
        "signature": private.sign(_message(certificate)).hex(),
    }
    write_atomically(release / SIGNATURE, json.dumps(value, indent=1).encode() + b"\n")
    (release / SIGNATURE).chmod(0o644)
    return public


def read_signature(
    release: Path, certificate: Mapping[str, Any], expected: Path | None = None
) -> Signed | None:
    """The signature of a release, None where it has none and none is expected.

    expected: a file with the public key that the signature must be of.

    Raises:
        CertificateError: it is not of this certificate or not by the expected key.
        UsageError: ``expected`` holds no Ed25519 public key.
    """
    key = None if expected is None else _public_key(expected)
    path = release / SIGNATURE
    if path.is_symlink() or not path.is_file():
        if key is None:
            return None
        raise CertificateError(f"{SIGNATURE} is missing: nobody has signed this release")
    value = strict_json.parse(path.read_bytes(), SIGNATURE)
    problems = list(strict_json.mismatches(value, _SHAPE, SIGNATURE))
    if problems or value["algorithm"] != _ALGORITHM:
        raise CertificateError(f"{SIGNATURE} is no signature of this form")
    try:
        signer = Ed25519PublicKey.from_public_bytes(bytes.fromhex(value["public_key"]))
        signer.verify(bytes.fromhex(value["signature"]), _message(certificate))
    except (ValueError, InvalidSignature):
        raise CertificateError(
            f"{SIGNATURE} is not of this certificate: the release was changed after it was signed, "
            "or is another one"
        ) from None
    same = None if key is None else _hex(key) == _hex(signer)
    if same is False:
        raise CertificateError(f"{SIGNATURE} is by another key, {_hex(signer)}, than {expected}'s")
    return Signed(_hex(signer), same)


def _message(certificate: Mapping[str, Any]) -> bytes:
    return _PURPOSE + own_digest(certificate).encode()


def _hex(key: Ed25519PublicKey) -> str:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw).hex()


def _public_key(path: Path) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(_key_bytes(path))
    except (ValueError, TypeError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError(
            f"{path} holds no Ed25519 public key. Give the .pub file that sfumato keygen wrote."
        )
    return key


def _key_bytes(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(_LARGEST_KEY)
    except OSError as error:
        raise UsageError(f"the key {path} cannot be read ({error.strerror}).") from None
