from .certificate import Certificate, core_of, make_core, read_certificate
from .verification.verify import Verification, trusted_core, verify
from .writing.citations import citations
from .writing.convert import convert_release
from .writing.mock import write_mock
from .writing.write import attach_metrics, attach_report, check_target, write_release

__all__ = [
    "Certificate",
    "Verification",
    "attach_metrics",
    "attach_report",
    "check_target",
    "citations",
    "convert_release",
    "core_of",
    "make_core",
    "read_certificate",
    "trusted_core",
    "verify",
    "write_mock",
    "write_release",
]
