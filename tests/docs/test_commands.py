"""Every sfumato command in README and docs names a command and options that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from sfumato.cli.app import app

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(r"^```(?:sh|console|bash)?\n(.*?)^```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`(sfumato [a-z][^`]*)`")


def commands(page: Path) -> list[str]:
    """The command lines that begin with sfumato, in blocks and inline."""
    text = page.read_text(encoding="utf-8")
    lines = []
    for block in BLOCK.findall(text):
        lines += block.replace("\\\n", " ").splitlines()
    found = [line.partition("  #")[0].strip() for line in lines]
    found += [" ".join(inline.split()) for inline in INLINE.findall(text)]
    return [line for line in found if line.startswith("sfumato ")]


def problem(line: str) -> str | None:
    """What is wrong with a command line; words in capitals stand for values, … for more."""
    known_commands: dict[str, Any] = vars(typer.main.get_command(app))["commands"]
    words = [word for word in shlex.split(line)[1:] if word not in ("...", "…")]
    if not words or words[0].startswith("-"):
        return None
    command = known_commands.get(words[0])
    if command is None:
        return f"no command {words[0]!r}"
    known = {name for option in command.params for name in (*option.opts, *option.secondary_opts)}
    known |= {"-h", "--help"}
    unknown = [word for word in words if word.startswith("-") and word.split("=")[0] not in known]
    return f"no option {unknown[0]!r}" if unknown else None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_of_the_docs_exist(page: Path) -> None:
    found = {line: problem(line) for line in commands(page)}
    assert {line: what for line, what in found.items() if what} == {}


def test_a_wrong_command_is_noticed() -> None:
    assert problem("sfumato sythesize xrays/") == "no command 'sythesize'"
    assert problem("sfumato plan xrays/ --epsilom 1") == "no option '--epsilom'"
    assert problem("sfumato plan xrays/ --epsilon 1") is None
