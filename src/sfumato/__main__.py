"""``python -m sfumato``: the command where it is not installed."""

from sfumato.cli import main

if __name__ == "__main__":  # a worker process imports this file
    main()
