"""Standard output and error that write what can be written, and raise nothing.

Python's own streams raise where the encoding lacks a character, where the reader has gone and where
the disk is full, so a finished run could end as an error. These spell what the encoding lacks, and
remember what was lost for the exit code.
"""

from __future__ import annotations

import codecs
import io
import os
import select
import sys
import unicodedata
from typing import TextIO

NOT_SHOWN = 141
"""Exit code of a command whose only result is its output, where that could not be written."""

SPELLED = {
    "×": "x",
    "±": "+/-",
    "≥": ">=",
    "≤": "<=",
    "≈": "about",
    "→": "->",
    "–": "-",
    "—": "-",
    "−": "-",
    "…": "...",
    "·": ".",
    "²": "^2",
    "━": "-",
    "╸": "-",
    "╺": "-",
}
"""How a character is written where the encoding lacks it; Greek letters are written by name."""


class Output(io.FileIO):
    """A file descriptor whose write never fails."""

    lost: OSError | None = None
    """Why nothing more could be written."""

    def write(self, data: object, /) -> int:
        """Write ``data``, or remember why that is not possible."""
        size = memoryview(data).nbytes  # type: ignore[arg-type]
        if self.lost is not None:
            return size
        try:
            while (written := super().write(data)) is None:  # type: ignore[arg-type]
                select.select([], [self.fileno()], [])  # full, and made not to block
        except OSError as error:
            self.lost = error
            return size
        return written


class Text(io.TextIOWrapper):
    """A text stream that typer leaves alone: one that says it is ASCII gets UTF-8 from it."""

    @property
    def shown(self) -> str:
        """The encoding that is written."""
        return super().encoding

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """The same; in the place of ASCII an encoding that contains it."""
        return "cp1252" if codecs.lookup(self.shown).name == "ascii" else self.shown


class Streams:
    """Both streams of this program."""

    def __init__(self) -> None:
        """Put both in the place of Python's own."""
        # A stream that is closed at the start leaves its number free: a ledger would be opened
        # under it, and whatever is printed would be written into the ledger.
        for number in (0, 1, 2):
            try:
                os.fstat(number)
            except OSError:
                os.open(os.devnull, os.O_RDWR)
        self.out = Output(1, "wb", closefd=False)
        if sys.stdout is None:
            self.out.lost = BrokenPipeError()
        sys.stdout = _over(self.out, sys.stdout)
        sys.stderr = _over(Output(2, "wb", closefd=False), sys.stderr)

    def exit_code(self, code: int, kept: bool) -> int:
        """The exit code of a command that ends with ``code``.

        Args:
            code: what the command itself says.
            kept: the command's result lies on the disk, or is the code; nothing is lost with its
                output.
        """
        sys.stdout.flush()
        lost = self.out.lost
        if lost is None:
            return code
        if not isinstance(lost, BrokenPipeError):
            more = " What the command made is there all the same." if kept and not code else ""
            print(f"sfumato: standard output took no more: {lost.strerror}.{more}", file=sys.stderr)
        return code if code or kept else NOT_SHOWN


def printable(text: str) -> str:
    """``text`` as standard output will show it, so that columns can be measured."""
    encoding = getattr(sys.stdout, "shown", None) or sys.stdout.encoding or "utf-8"
    return text.encode(encoding, "sfumato").decode(encoding)


def _over(raw: Output, stream: TextIO | None) -> TextIO:
    """A text stream that writes to ``raw`` in the encoding of ``stream``."""
    if stream is not None and not _is_file(stream):
        # A console of Windows, which takes any character; or somebody else's stream.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="sfumato")
        return stream
    return Text(
        io.BufferedWriter(raw),
        encoding="utf-8" if stream is None else stream.encoding,
        errors="sfumato",
        line_buffering=raw.name == 2 or raw.isatty(),
    )


def _is_file(stream: TextIO) -> bool:
    buffer = getattr(stream, "buffer", None)
    return type(getattr(buffer, "raw", buffer)) is io.FileIO


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """Spell in ASCII what an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(_in_ascii(character) for character in lacking), error.end


def _in_ascii(character: str) -> str:
    if character in SPELLED:
        return SPELLED[character]
    kind, _, name = unicodedata.name(character, "").partition(" LETTER ")
    if kind in ("GREEK SMALL", "GREEK CAPITAL") and name.isalpha():
        return name.lower() if kind == "GREEK SMALL" else name.capitalize()
    if kind.startswith("BOX DRAWINGS"):
        return "-" if kind.endswith("HORIZONTAL") else "|"
    return character.encode("ascii", "backslashreplace").decode("ascii")


codecs.register_error("sfumato", _spelled)
