"""The release bundle: images, model, card and certificate, written whole and verified by anybody.

``certificate`` states what was spent, ``claim`` judges that statement, ``leaks`` looks for what
must not be there, ``verification`` does both on a folder, ``write`` makes one.
``docs/certificate.md`` describes the format.
"""

from sfumato.release.certificate import Certificate, core_of, make_core, read_certificate
from sfumato.release.verification.verify import Verification, trusted_core, verify
from sfumato.release.writing.citations import citations
from sfumato.release.writing.write import attach_metrics, attach_report, check_target, write_release

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
