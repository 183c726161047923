"""Print results: a table for people, one JSON object for machines, always on standard output."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import typer
from rich.console import Console, RenderableType
from rich.table import Table

from sfumato.cli.streams import printable


def as_json(value: Mapping[str, Any]) -> None:
    """Print one JSON object on one line."""
    typer.echo(json.dumps(value, allow_nan=False))


def line(text: str = "") -> None:
    """Print one line."""
    typer.echo(text)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> None:
    """Print a table as wide as the terminal allows."""
    drawn = Table(title=title, title_justify="left", title_style="bold")
    for name in columns:
        drawn.add_column(printable(name), overflow="fold")
    for row in rows:
        drawn.add_row(*map(printable, row))
    rendered(drawn)


def rendered(drawn: RenderableType) -> None:
    """Print a table or a group of them as wide as the terminal allows."""
    console = Console()
    with console.capture() as capture:
        console.print(drawn, markup=False)
    typer.echo(capture.get(), nl=False)


def epsilons(by_relation: Mapping[Any, float], delta: float) -> str:
    """ε under every relation in one line: nobody may read one as the other."""
    parts = [f"ε = {value:.4g} ({relation})" for relation, value in by_relation.items()]
    return f"{', '.join(parts)} at δ = {delta:g}"


def unit(words: str | None) -> str:
    """What is protected as one, in a sentence."""
    return "one record" if words == "record" else str(words)
