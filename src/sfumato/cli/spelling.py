"""Messages of the library with its options spelled as the command line has them."""

from __future__ import annotations

import re
from dataclasses import fields

from sfumato.cli.parameters import KINDS, flag_of

_OF_COMMANDS = ("label", "redraw", "sampler", "sampling_steps")
"""Options that are parameters of one command, of no object."""
_FLAGS = {name: f"--{name.replace('_', '-')}" for name in _OF_COMMANDS} | {
    entry.name: flag_of(kind, entry.name) for kind in KINDS for entry in fields(kind)
}
_OPTION = re.compile(
    rf"(?<![\w.-])({'|'.join(sorted(_FLAGS, key=len, reverse=True))})=(?!\.\.)"
    r"('[^']*'|\"[^\"]*\"|\[[^\]]*\]|[^\s,;:.)\]]+(?:\.\d+)?)?"
)


def as_options(message: str) -> str:
    """Return a message with ``classes=['cat', 'dog']`` written ``--classes cat,dog``."""

    def spelled(match: re.Match[str]) -> str:
        flag, value = _FLAGS[match[1]], match[2] or ""
        if value.startswith("["):
            value = _listed(value)
        if value in ("", "True"):
            return flag
        return f"{flag} {value}"

    # Some messages say both already: fresh=True (--fresh), --cap 3 (cap=).
    return re.sub(r"((--[\w-]+)(?: '[^']*')?) \(\2\)", r"\1", _OPTION.sub(spelled, message))


def _listed(names: str) -> str:
    """``['cat', 'dog']`` as ``cat,dog``, and a name that holds a comma in quotes."""
    parts = re.findall(r"'([^']*)'|\"([^\"]*)\"|([^,\s]+)", names[1:-1])
    found = ["".join(part) for part in parts]
    if any("," in name for name in found):
        return "'" + ",".join(f'"{name}"' if "," in name else name for name in found) + "'"
    return ",".join(found)
