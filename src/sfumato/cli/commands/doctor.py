"""``sfumato doctor``: what is installed and missing, where it computes, where ledgers lie."""

from __future__ import annotations

import os
import platform
from collections import defaultdict
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

import sfumato
from sfumato.cli import parameters as p
from sfumato.cli import show

NOT_FOR_USERS = ("dev", "docs", "test")
"""Extras that only the development of sfumato needs."""


def doctor(state: p.State = None, json: p.Json = False) -> None:
    """Say what is installed, which device computes and where ledgers lie.

    Reads no data and changes nothing. Paste its output into a report of a fault; it names the
    state folder, which may hold a user's name.

    \b
    Examples:
      sfumato doctor
      sfumato doctor --json
    """
    from sfumato.devices import described, resolve_device
    from sfumato.privacy.run import default_state

    folder = state or default_state()
    found: dict[str, Any] = {
        "sfumato": sfumato.__version__,
        "python": platform.python_version(),
        "system": platform.platform(),
        "torch": version("torch"),
        "device": described(resolve_device()),
        "cores": os.cpu_count(),
        "state": str(folder),
        "state_writable": _is_writable(folder),
        "extras": _extras(),
    }
    if json:
        show.as_json(found)
        return
    missing = {name: lacks for name, lacks in found.pop("extras").items() if lacks}
    for name, value in found.items():
        show.line(f"{name + ':':16}{value}")
    for name, lacks in missing.items():
        show.line(f"extra {name!r} is missing {', '.join(lacks)}: pip install 'sfumato[{name}]'")
    if not missing:
        show.line("all extras are installed")


def _is_writable(folder: Path) -> bool:
    """Whether ledgers can be kept in ``folder``, or in the nearest folder above it that exists."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _extras() -> dict[str, list[str]]:
    """The packages that each extra lacks on this machine."""
    lacking: defaultdict[str, list[str]] = defaultdict(list)
    for text in requires("sfumato") or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or "extra" not in str(marker):
            continue
        extra = str(marker).rpartition("extra ==")[2].strip(" \"')")
        if extra in NOT_FOR_USERS or not marker.evaluate({"extra": extra}):
            continue
        lacking[extra] += [] if _is_installed(requirement) else [requirement.name]
    return dict(lacking)


def _is_installed(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False
