"""``sfumato methods``: which methods there are, and what can be set of each."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from sfumato.cli import parameters as p
from sfumato.cli import show


def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="METHOD", help="A method; all by default.")
    ] = None,
    json: p.Json = False,
) -> None:
    """List the methods, or what can be set of one.

    Methods of other installed packages are listed too. Options are set with --set NAME=VALUE.

    \b
    Examples:
      sfumato methods
      sfumato methods dpdm
    """
    from sfumato.methods import find_method, method_names

    if name is None:
        found = [find_method(each) for each in method_names()]
        if json:
            show.as_json({method.name: method.title for method in found})
            return
        rows = [
            (method.name, method.model.releases, method.title, ", ".join(method.presets))
            for method in found
        ]
        show.table(["method", "releases", "what it does", "presets"], rows)
        return
    method = find_method(name)
    options: list[dict[str, Any]] = [
        {"name": option.name, "default": option.default, "help": option.help}
        for option in method.options()
    ]
    if json:
        facts = {"name": name, "title": method.title, "presets": list(method.presets)}
        show.as_json({**facts, "options": options, "citation": method.citation})
        return
    show.line(method.title)
    described = [
        (option["name"], str(option["default"]), option["help"].replace("``", ""))
        for option in options
    ]
    show.table(["option", "default", "what it does"], described)
