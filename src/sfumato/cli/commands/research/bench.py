"""``sfumato bench``: methods × data sets × ε × seeds, beside published figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli import parameters as p
from sfumato.cli import show
from sfumato.errors import UsageError
from sfumato.options import BenchOptions, EvaluationOptions


def bench(
    suite: Annotated[
        Path, typer.Argument(metavar="SUITE.toml", help="What to run; see docs/benchmarks.md.")
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Folder for results; bench-NAME by default.", metavar="DIR"),
    ] = None,
    asked: BenchOptions = BenchOptions(),
    network: Annotated[EvaluationOptions, "inception", "extractor"] = EvaluationOptions(),
    device: p.Device = "auto",
    quiet: p.Quiet = False,
    json: p.Json = False,
) -> None:
    """Run a benchmark on public data, resumably.

    Writes one line of results.jsonl for each finished run, and tables beside published figures
    with their sources. The same command goes on where it was. The suite's data must be public.

    \b
    Examples:
      sfumato bench benchmarks/suites/digits.toml
      sfumato bench benchmarks/suites/cifar10.toml --data cifar10=cifar10/ --budget-minutes 90
    """
    from sfumato.bench import (
        load_suite,
        read_results,
        rewrite_section,
        run_suite,
        to_latex,
        to_markdown,
    )

    chosen = load_suite(suite)
    folder = out or Path(f"bench-{chosen.name}")
    if asked.tables:
        keys = {case.key() for case in chosen.cases()}
        lines = [line for line in read_results(folder) if line["key"] in keys]
        if not lines:
            raise UsageError(f"{folder} has no results of suite {chosen.name}. Run it first.")
    else:
        lines = run_suite(
            chosen,
            folder,
            locations=chosen.locations(parse_locations(asked.data)),
            minutes=asked.budget_minutes,
            retry=asked.retry,
            extractor=network.network,
            say=lambda text: typer.echo(text, err=True),
            quiet=quiet,
            device=device,
        )
    markdown = to_markdown(lines)
    (folder / "tables.md").write_text(markdown, encoding="utf-8")
    (folder / "tables.tex").write_text(to_latex(lines), encoding="utf-8")
    if asked.page is not None:
        rewrite_section(asked.page, chosen.name, markdown)
    done = sum(line["status"] == "done" for line in lines)
    planned = len(list(chosen.cases()))
    if json:
        show.as_json({"out": str(folder), "planned": planned, "done": done, "results": lines})
        return
    show.line(markdown)
    show.line(f"{done} of {planned} runs done; results, tables and sample grids: {folder}")


def parse_locations(items: Sequence[str] | None) -> dict[str, str]:
    """Read ``--data NAME=PATH``.

    Raises:
        UsageError: an item has no ``=``.
    """
    locations = {}
    for item in items or []:
        name, equals, path = item.partition("=")
        if not equals or not path:
            raise UsageError(f"--data {item!r} must be NAME=PATH, for example cifar10=cifar10/.")
        locations[name] = path
    return locations
