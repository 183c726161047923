"""The command line: parse, call, print."""

from __future__ import annotations

import sys


def main() -> None:
    """Run the command ``sfumato``."""
    try:
        from sfumato.cli.app import app

        app(prog_name="sfumato")
    except KeyboardInterrupt:  # while still importing
        sys.exit(130)
