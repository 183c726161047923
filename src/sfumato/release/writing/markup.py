"""What must not hide in the page of a release: links to elsewhere, foreign pictures, stamps."""

from __future__ import annotations

import binascii
from base64 import b64decode
from collections.abc import Iterator
from html.parser import HTMLParser

from sfumato.release.verification.pictures import png_problem

_PNG = "data:image/png;base64,"
_ADDRESSES = frozenset(
    "src href srcset data action formaction poster background cite ping xlink:href".split()
)
_STAMPS = frozenset({"watermark", "stamp"})
"""Classes of what the page of an evaluation on private images, or of a known seed, carries."""


def page_leaks(text: str, stamped: bool) -> Iterator[str]:
    """Say what a report holds that a release's own does not: each a sentence without its subject.

    stamped: the release itself is. Else a stamp or a watermark says that this is the page of a
    private evaluation, which stays with the data.
    """
    page = _Page(stamped)
    page.feed(text)
    page.close()
    yield from page.found


class _Page(HTMLParser):
    def __init__(self, stamped: bool) -> None:
        super().__init__()
        self.stamped = stamped
        self.found: list[str] = []

    def unknown_decl(self, data: str) -> None:
        self.found.append(f"holds a declaration, {data[:60]!r}")

    def handle_pi(self, data: str) -> None:
        self.found.append(f"holds an instruction, {data[:60]!r}")

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        for key, value in attrs:
            if key in _ADDRESSES and (problem := _address_problem(value or "")):
                self.found.append(f"{problem} in <{tag} {key}>")
            if key == "class" and not self.stamped and _STAMPS & set((value or "").split()):
                self.found.append("is stamped: it shows what is not private, and belongs elsewhere")


def _address_problem(value: str) -> str | None:
    if value.startswith("#"):
        return None
    if not value.startswith(_PNG):
        return f"leads elsewhere, to {value[:60]!r},"
    try:
        problem = png_problem(b64decode(value.removeprefix(_PNG), validate=True), None)
    except binascii.Error:
        problem = "is no PNG"
    return f"a picture {problem}" if problem else None
