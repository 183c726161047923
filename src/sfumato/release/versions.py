"""Which versions of sfumato have written releases, in which format of the certificate."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

FORMAT = "sfumato-certificate/2"
"""The format that this version writes."""

FIRST_FORMAT = "sfumato-certificate/1"

WRITERS = {
    FIRST_FORMAT: ("0.1.0",),
    FORMAT: ("0.2.0",),
}
"""The versions that wrote each format, oldest first. A version that is published is added here."""

VERSIONS = tuple(version for versions in WRITERS.values() for version in versions)


def writer_of(certificate: Mapping[str, Any]) -> str:
    """The version that wrote a release; in the first format, the one that made its core."""
    return str(certificate["release"].get("sfumato", certificate.get("sfumato")))
