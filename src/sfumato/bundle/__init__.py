"""The release bundle: images, model, card and certificate, written whole and verified by anybody.

``certificate`` states what was spent, ``claim`` judges that statement, ``leaks`` looks for what
must not be there, ``verification`` does both on a folder, ``write`` makes one.
``docs/certificate.md`` describes the format.
"""

from sfumato.bundle.certificate import Certificate, core_of, make_core, read_certificate
from sfumato.bundle.citations import citations
from sfumato.bundle.verification import Verification, trusted_core, verify
from sfumato.bundle.write import attach_metrics, attach_report, check_target, write_release

__all__ = [
    "Certificate",
    "Verification",
    "attach_metrics",
    "attach_report",
    "check_target",
    "citations",
    "core_of",
    "make_core",
    "read_certificate",
    "trusted_core",
    "verify",
    "write_release",
]
