"""``python -m sfumato.cli``: the command where it is not installed."""

from sfumato.cli import main

main()
