"""Turn whatever stops a command into one message on standard error and an exit code."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any, ParamSpec

import typer
from typer.core import TyperGroup

from sfumato.cli.spelling import as_options
from sfumato.errors import SfumatoError, UsageError

INTERRUPTED = 130
RESUME = "interrupted. Nothing is charged twice: run the same command again, and it goes on."

kept = False
"""Whether the command that ran has left its result elsewhere than in its output."""

Arguments = ParamSpec("Arguments")


def guarded(
    command: Callable[Arguments, None], printed: bool = False, shared: bool = False
) -> Callable[Arguments, None]:
    """Let no exception of ``command`` reach the terminal as a traceback.

    The text of an unforeseen error may quote private values, so only its type and place are shown.

    Args:
        command: what is called.
        printed: its output is its only result, so it has failed where that cannot be written.
        shared: processes that ``torchrun`` starts share its work; other commands are refused there,
            where each process would do and write all of it.
    """

    @wraps(command)
    def run(*args: Arguments.args, **kwargs: Arguments.kwargs) -> None:
        global kept
        try:
            if not shared and "WORLD_SIZE" in os.environ:
                from sfumato.privacy.distributed import check_alone

                check_alone(command.__name__.replace("_", "-"))
            command(*args, **kwargs)
            kept = not printed
        except typer.Exit:
            raise
        except SfumatoError as error:
            _end(as_options(str(error)), error.exit_code)
        except KeyboardInterrupt:
            _end(RESUME, INTERRUPTED)
        except Exception as error:
            _end(_unforeseen(error, kwargs), SfumatoError.exit_code)

    return run


class Commands(TyperGroup):
    """The commands, none of which takes an empty argument: as a path it is the current folder."""

    def parse_args(self, ctx: Any, args: list[str]) -> Any:
        """Parse what is left of the command line; an empty argument ends the program."""
        for before, argument in zip(["", *args], args, strict=False):
            option, equals, value = argument.partition("=")
            if not argument.strip() or (option.startswith("--") and equals and not value.strip()):
                name = option.strip() or before or "an argument"
                _end(
                    f"{name} is followed by nothing: a variable that is not set, most likely. "
                    "Give a value, or leave the option out.",
                    UsageError.exit_code,
                )
        return super().parse_args(ctx, args)


def _end(message: str, code: int) -> None:
    typer.echo(f"sfumato: {message}", err=True)
    raise typer.Exit(code) from None


def _unforeseen(error: Exception, given: Mapping[str, Any]) -> str:
    if isinstance(error, OSError) and error.strerror:
        return (
            f"the system refused something{_place(error, given)}: {error.strerror}. Once that is "
            "mended, run the same command again: it goes on where it was."
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


def _place(error: OSError, given: Mapping[str, Any]) -> str:
    """Where an argument of the command says that it was; the file's own name may be a person's."""
    if not isinstance(error.filename, str | Path):
        return ""
    where = Path(error.filename).absolute()
    paths = [Path(value) for value in given.values() if isinstance(value, str | Path)]
    above = [path for path in paths if path.absolute() in (where, *where.parents)]
    return f" in {max(above, key=lambda path: len(path.absolute().parts))}" if above else ""
