"""Turn whatever stops a command into one message on standard error and an exit code."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from functools import wraps
from typing import ParamSpec

import typer

from sfumato.errors import SfumatoError

INTERRUPTED = 130
BROKEN_PIPE = 141
RESUME = "interrupted. Nothing is charged twice: run the same command again, and it goes on."

Arguments = ParamSpec("Arguments")


def guarded(command: Callable[Arguments, None]) -> Callable[Arguments, None]:
    """Let no exception of ``command`` reach the terminal as a traceback.

    The text of an unforeseen error may quote private values, so only its type and place are shown.
    """

    @wraps(command)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        try:
            command(*args, **kwargs)
            sys.stdout.flush()
        except typer.Exit:
            raise
        except SfumatoError as error:
            _end(str(error), error.exit_code)
        except KeyboardInterrupt:
            _end(RESUME, INTERRUPTED)
        except BrokenPipeError:
            # Python flushes standard output once more at its end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(BROKEN_PIPE) from None
        except Exception as error:
            _end(_unforeseen(error), SfumatoError.exit_code)

    return run


def _end(message: str, code: int) -> None:
    typer.echo(f"sfumato: {message}", err=True)
    raise typer.Exit(code) from None


def _unforeseen(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return (
            f"the system refused something: {error.strerror}. Once that is mended, run the same "
            "command again: it goes on where it was."
        )
    if isinstance(error, MemoryError):
        return (
            "there is not enough memory. Run the same command again with more, or a smaller batch."
        )
    own = [
        frame
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__", "")).startswith("sfumato")
    ]
    place = (
        f"{own[-1].f_globals['__name__']}, line {own[-1].f_lineno}" if own else "an unknown place"
    )
    return (
        f"unforeseen {type(error).__name__} in {place}. Its text is withheld, because it may quote "
        "private values. This is a fault of sfumato: please report this line and the command."
    )
