"""Progress with remaining time: a bar on a terminal or in a notebook, plain lines elsewhere.

Only fractions are shown. The number of records of a private data set is itself private, so callers
that walk over private data report the share that is done, and this module never prints a total.
"""

from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

PLAIN_LINE_SECONDS = 10.0
"""Seconds between two plain lines, so that a log of a long run stays short."""


Report = Callable[[float], None]
"""Takes the share that is done, in [0, 1]."""

_listener: Callable[[str, float], None] | None = None


def listen(listener: Callable[[str, float], None] | None) -> None:
    """Hand every stage's name and share to ``listener`` instead of showing them; None ends that."""
    global _listener
    _listener = listener


@contextmanager
def stage(what: str, quiet: bool = False, begun: float = 0.0) -> Iterator[Report]:
    """Show one named stage of work on standard error while the block runs.

    Yields a callable that takes the share done in [0, 1]; remaining time is derived from it.
    ``quiet`` shows nothing; ``begun`` is the share that a stopped run has done already.
    """
    console = Console(stderr=True)
    if quiet:
        yield lambda share: None
    elif _listener is not None:
        heard = _listener
        heard(what, begun)
        yield lambda share: heard(what, share)
        heard(what, 1.0)
    elif console.is_jupyter and (tqdm := _tqdm()) is not None:
        # No count, no rate: the bar knows the share alone.
        with tqdm(
            total=1.0,
            initial=begun,
            desc=what,
            bar_format="{desc}: {percentage:.0f} %|{bar}|{remaining}",
        ) as bar:
            yield lambda share: bar.update(share - bar.n)
            bar.update(1.0 - bar.n)
    elif console.is_terminal:
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TaskProgressColumn(),
            TimeRemainingColumn(compact=True),
        )
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(what, total=1.0)
            bar.update(task, completed=begun)
            yield lambda share: bar.update(task, completed=share)
            bar.update(task, completed=1.0)
    else:
        started = last = time.monotonic()

        def line(share: float) -> None:
            nonlocal last
            now = time.monotonic()
            if share > begun and now - last >= PLAIN_LINE_SECONDS:
                last = now
                left = (now - started) * (1 - share) / (share - begun)
                say(f"{what}: {share:.0%} done, about {_duration(left)} left")

        yield line
        say(f"{what}: done in {_duration(time.monotonic() - started)}")


def _duration(seconds: float) -> str:
    if seconds < 300:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 10_800 else f"{seconds / 3600:.1f} h"


def say(line: str, quiet: bool = False) -> None:
    """Print one line on standard error, if that can be; never a fact about private data."""
    with suppress(OSError, ValueError):  # nobody reads, or the stream is closed: work goes on
        if not quiet:
            print(line, file=sys.stderr)


def _tqdm() -> Any:
    """The progress bar for notebooks, if it is installed; in text where ipywidgets is not."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm
