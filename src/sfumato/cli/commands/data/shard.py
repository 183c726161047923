"""``sfumato shard``: any data set as Parquet shards for a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sfumato.cli import parameters as p
from sfumato.cli import show
from sfumato.data.options import DataOptions


def shard(
    data: p.Data,
    declared: DataOptions,
    out: Annotated[Path, typer.Option(metavar="DIR", help="New private folder for the shards.")],
    shards: Annotated[int, typer.Option(help="Number of shards.")] = 64,
    by_unit: Annotated[
        bool, typer.Option("--by-unit", help="Put all records of one unit into one shard.")
    ] = False,
    state: p.State = None,
) -> None:
    """Write private images as Parquet shards, for --engine ray or many machines.

    Nothing is charged and nothing decoded: images keep their bytes, unless DATA are arrays. The
    shards are as private as DATA. What is charged for them counts for DATA too once a run has said
    --same-data-as.

    \b
    Examples:
      sfumato shard scans/ --out shards/ --classes 4
      sfumato shard scans/ --by-unit --unit-pattern "patient_(\\d+)" --out shards/
      sfumato synthesize shards/ --unit unit --engine ray --same-data-as scans/ ...
    """
    from sfumato.checks import check_apart
    from sfumato.data import open_images
    from sfumato.data.shards import UNIT, write_shards

    source = open_images(data, declared)
    check_apart(out, source, state)
    write_shards(source, out, shards, by_unit)
    unit = f" --unit {UNIT}" if by_unit else ""
    show.line(f"{out} holds {shards} shards, as private as {data}.")
    show.line(f"Use them with: sfumato synthesize {out}{unit} --same-data-as {data} ...")
