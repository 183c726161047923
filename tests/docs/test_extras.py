"""README's table of extras is that of pyproject.toml."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from packaging.requirements import Requirement

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[2]
OURS = {"test", "docs", "dev"}
"""Extras for those who work on sfumato, whose packages the table does not list."""


def test_the_table_lists_every_extra_and_its_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {
        extra: set() if extra in OURS else {Requirement(text).name for text in texts}
        for extra, texts in project["optional-dependencies"].items()
    }
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    table = text.partition("| extra | packages |")[2].partition("\n\n")[0]
    listed: dict[str, set[str]] = {}
    for first, packages in re.findall(r"^\| (`.+?) \|(.*?)\|", table, re.MULTILINE):
        for extra in re.findall(r"`(\w+)`", first):
            listed[extra] = set(re.findall(r"[\w-]+", packages))
    assert listed == declared
