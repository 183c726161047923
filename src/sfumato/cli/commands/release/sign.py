"""``sfumato keygen`` and ``sfumato sign``: stand for a release with a key of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli import parameters as p
from sfumato.cli import show


def keygen(
    key: Annotated[
        Path, typer.Argument(metavar="KEY", help="New file for the private key; beside it KEY.pub.")
    ],
    json: p.Json = False,
) -> None:
    """Make a pair of keys for sfumato sign.

    KEY is private, readable by you alone and without a password: keep it off shared disks. KEY.pub
    is for everybody who verifies your releases; give it to them by a way they trust.

    \b
    Example:
      sfumato keygen hospital.key
    """
    from sfumato.release.signature import make_keys

    public = make_keys(key)
    if json:
        show.as_json({"private_key": str(key), "public_key": str(public)})
    else:
        show.line(f"private key: {key} (keep it to yourself)   public key: {public}")


def sign(
    release: p.Release,
    key: Annotated[Path, typer.Option(metavar="KEY", help="Private key that sfumato keygen made.")],
    json: p.Json = False,
) -> None:
    """Sign a release that verifies.

    Writes signature.json, an Ed25519 signature over the certificate, which binds all files. A later
    report or published metrics change the certificate and remove the signature: sign last.

    \b
    Example:
      sfumato sign release/ --key hospital.key
    """
    from sfumato.release.signature import sign

    public = sign(release, key)
    if json:
        show.as_json({"release": str(release), "signed_by": public})
    else:
        show.line(f"{release}: signed with the key {public}. Verify: --public-key {key}.pub")
