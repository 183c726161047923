"""The report: a release's claim, pictures and price as one page for people who are not experts.

``write`` makes the page, ``page`` fills its template, ``odds`` says what an ε allows a guess,
``pictures`` and ``measurements`` gather what is shown. The page is computed from the release alone.
"""

from sfumato.reporting.write import write_report

__all__ = ["write_report"]
