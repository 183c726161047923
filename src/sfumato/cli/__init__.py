"""The command line: parse, call, print."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command ``sfumato``."""
    try:
        from sfumato.cli import guard, streams

        both = streams.Streams()
        from sfumato.cli.app import app

        try:
            app(prog_name="sfumato")
        except SystemExit as end:
            sys.exit(both.exit_code(int(end.code or 0), guard.kept))
    except KeyboardInterrupt:  # while still importing
        sys.exit(130)
