"""``sfumato ledger``: what a data set has been charged, over all runs, and what is left."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from sfumato.cli import parameters as p
from sfumato.cli import show
from sfumato.data.options import DataOptions


def ledger(
    data: p.Data,
    declared: DataOptions,
    cap: p.Cap = None,
    delta: p.Delta = 1e-5,
    relation: p.Relation = "add-or-remove-one",
    state: p.State = None,
    json: p.Json = False,
) -> None:
    """Show what is spent of DATA's budget, and what is left.

    Reads the ledger and no image. --cap sets the most ε, at --delta and --relation, that the data
    set may ever be charged; a run that would pass it is refused before any private byte is read.

    All names and places of the same files count together, and so do copies that were declared to
    be the same data. The table has all their runs.

    \b
    Examples:
      sfumato ledger xrays/
      sfumato ledger xrays/ --cap 3
    """
    from sfumato.data import open_images
    from sfumato.privacy import Budget
    from sfumato.privacy.spending import ledger_of, spending

    asked = Budget(1.0 if cap is None else cap, delta, p.parse_relation(relation))
    # Labels have no part in it, so nobody need say how many classes there are.
    source = open_images(
        data, declared if declared.classes is not None else replace(declared, classes=0)
    )
    book = ledger_of(source, state)
    if cap is not None:
        book.set_cap(asked)
    with book.locked():
        family = book.locations()
    spent = spending(book, delta)
    closed = {entry["run"] for entry in spent.entries if entry["kind"] == "closed"}
    runs: list[dict[str, Any]] = [
        {
            "time": entry["time"],
            "run": entry["run"],
            "method": entry["method"]["name"],
            "budget": entry["budget"],
            "unit": entry.get("unit", "record"),
            "noise": entry["noise"],
            "finished": entry["run"] in closed,
        }
        for entry in spent.runs
    ]
    if json:
        show.as_json(
            {"ledger": str(book.path), "counted_with": family, **spent.to_dict(), "charges": runs}
        )
        return
    if runs:
        show.table(
            ["time (UTC)", "run", "method", "ε", "δ", "state"],
            [
                (
                    run["time"][:16].replace("T", " "),
                    run["run"],
                    run["method"],
                    f"{run['budget']['epsilon']:g}",
                    f"{run['budget']['delta']:g}",
                    "finished" if run["finished"] else "can go on",
                )
                for run in runs
            ],
        )
        ways: dict[tuple[str, str], list[str]] = {}
        for run in runs:
            ways.setdefault((run["budget"]["relation"], run["unit"]), []).append(run["run"])
        for (under, what), those in ways.items():
            which = "" if len(ways) == 1 else f"runs {', '.join(those)}: "
            show.line(f"{which}ε under {under}; protected as one: {show.unit(what)}")
    for location in family:
        show.line(f"counted with it (private): {location}")
    show.line(f"spent by {len(runs)} runs: {show.epsilons(spent.by_relation, delta)}")
    if spent.mixed_units:
        show.line(spent.mixed_units)
    if spent.cap is None:
        show.line("no cap: every further run is allowed. Set one with --cap.")
    else:
        rule = f"at δ = {spent.cap.delta:g}, {spent.cap.relation}"
        show.line(
            f"cap: ε = {spent.cap.epsilon:g} {rule}; a further run may cost ε = {spent.left:.4g}"
        )
    show.line(f"ledger (private): {book.path}")
