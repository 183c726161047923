"""``sfumato check``: does what the guarantee protects fit the data? For the custodian's eyes."""

from __future__ import annotations

from sfumato.cli import parameters as p
from sfumato.cli import show
from sfumato.data.options import DataOptions

PRIVATE = (
    "PRIVATE OUTPUT: these are exact counts of private records, without noise. Keep them with the "
    "data; they are not for a release, a log or a report."
)
MOST_GROUPS = 5
MOST_NAMES = 4


def check(
    data: p.Data,
    declared: DataOptions,
    json: p.Json = False,
) -> None:
    """Warn of repeated, unusable and passed over images. PRIVATE output.

    Reads every record of DATA, charges nothing, and prints exact counts, and the names of unusable
    records with the reason, on the terminal alone: its output is private and belongs into no
    release. The guarantee covers one record; an image that occurs k times, under whatever names, is
    protected with about k times ε only. Where several records belong to one person, make that
    person the unit: synthesize --unit.

    Ends with 0 where there are warnings too. That none are found proves nothing: two photographs of
    one person need not look alike.

    \b
    Example:
      sfumato check xrays/
    """
    from sfumato.data import open_images
    from sfumato.data.duplicates import find_repetition
    from sfumato.data.inspection import inspect

    source = open_images(data, declared)
    state = inspect(source)
    found = find_repetition(source)
    if json:
        show.as_json({"note": PRIVATE, "data": data, **found.to_dict(), "state": state.to_dict()})
        return
    show.line(PRIVATE)
    show.line(f"{data}: {found.records} records, {found.unusable} of them unusable.")
    if state.by_class:
        counts = (f"{name!r} {count}" for name, count in state.by_class.items())
        show.line(f"usable records by class: {', '.join(counts)}")
    if state.units is not None:
        show.line(f"{state.units} units; the largest has {state.largest_unit} records.")
    if found.unusable:
        show.line(
            "WARNING: unusable records take part as if they were not there. Mend or remove them:"
        )
        for why, names in state.unusable_records.items():
            show.line(f"  {_some(names)}: {why}")
    for warning in state.warnings():
        show.line(f"WARNING: {warning}")
    if state.lines_without_file:
        show.line(f"  lines of the table that name no file: {_some(state.lines_without_file)}")
    if state.others:
        show.line(f"passed over, as no images by their names: {state.others}.")
    _describe("equal", found.exact)
    _describe("that look alike", found.near)
    if found.exact or found.near:
        show.line(
            "WARNING: the guarantee covers one record. What k records repeat is protected with "
            "about k times ε. Remove the repetitions, or make whatever they have in common (a "
            "person, a patient) the unit of privacy: synthesize --unit or --unit-pattern."
        )
    else:
        show.line("No repeated images found. That is no proof: one person's need not look alike.")


def _describe(how: str, groups: list[list[str]]) -> None:
    if not groups:
        return
    largest = max(len(group) for group in groups)
    records = sum(len(group) for group in groups)
    show.line(
        f"WARNING: {records} records in {len(groups)} groups of images {how}; the largest group "
        f"has {largest}."
    )
    for group in sorted(groups, key=len, reverse=True)[:MOST_GROUPS]:
        show.line(f"  {_some(group)}")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_NAMES} more" if len(names) > MOST_NAMES else ""
    return f"{', '.join(names[:MOST_NAMES])}{more}"
