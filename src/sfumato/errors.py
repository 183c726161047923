"""The errors a user can meet, each with the exit code a script can test for."""

from __future__ import annotations


class SfumatoError(Exception):
    """Anything sfumato refuses to do; the message names the value, the rule and the usual fix."""

    exit_code = 1


class UsageError(SfumatoError):
    """An option or argument is outside its rule."""

    exit_code = 2


class DataError(SfumatoError):
    """A data set's public form (format, schema, location) cannot be read."""

    exit_code = 3


class BudgetExceededError(SfumatoError):
    """A query lies outside the plan, or a plan lies outside the data set's cap."""

    exit_code = 4


class LedgerError(SfumatoError):
    """The ledger is damaged, locked or cannot be written, so nothing may be answered."""

    exit_code = 5


class CertificateError(SfumatoError):
    """A release does not prove what it claims, or holds something private."""

    exit_code = 6
