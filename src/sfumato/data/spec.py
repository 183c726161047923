"""What is public about a data set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from sfumato.data.units import PrivacyUnit
from sfumato.errors import DataError, UsageError

SMALLEST_SIDE = 28
LARGEST_SIDE = 256
LARGEST_DEFAULT_SIDE = 128
"""Larger images cost more noise than most data sets bear, so they have to be asked for."""
DEFAULT_SIDE = 32
DEFAULT_CHANNELS = 3
LONGEST_CLASS_NAME = 200


@dataclass(frozen=True)
class PublicSpec:
    """Everything about a data set that is public; it may be printed, logged and released.

    height, width in pixels; channels 1 (grey) or 3 (RGB); classes in label order, ``()`` for
    unlabelled data; declared_size is the user's public statement of the number of units; unit says
    which records are one unit, None that each record is. Raises DataError where a value is outside
    its rule.
    """

    height: int
    width: int
    channels: int
    classes: tuple[str, ...]
    declared_size: int | None = None
    unit: PrivacyUnit | None = None

    def __post_init__(self) -> None:
        if not (is_count(self.height) and is_count(self.width)):
            raise DataError(f"height={self.height!r}, width={self.width!r} must be integers >= 1.")
        if self.channels not in (1, 3):
            raise DataError(f"channels={self.channels!r} must be 1 (grey) or 3 (RGB).")
        if not isinstance(self.classes, tuple):
            raise DataError(f"classes must be a tuple of names, not {type(self.classes).__name__}.")
        for name in self.classes:
            if not isinstance(name, str) or not 0 < len(name) <= LONGEST_CLASS_NAME:
                raise DataError(
                    f"the class name {name!r:.80} must be a text of 1 to {LONGEST_CLASS_NAME} "
                    "characters. Rename the class."
                )
            if any("\ud800" <= character <= "\udfff" for character in name):
                raise DataError(
                    f"the class name {name!r} is no text in the encoding of this system's file "
                    "names. Set PYTHONUTF8=1 in the environment, or rename the class."
                )
            if not name.isprintable():
                raise DataError(
                    f"the class name {name!r} holds characters that cannot be printed. "
                    "Rename the class."
                )
        if len(set(self.classes)) != len(self.classes):
            twice = next(name for name in self.classes if self.classes.count(name) > 1)
            raise DataError(f"the class {twice!r} is listed twice; class names must be distinct.")
        if self.declared_size is not None and not is_count(self.declared_size):
            raise DataError(
                f"declared_size={self.declared_size!r} must be an integer >= 1, or None."
            )

    @property
    def unit_in_words(self) -> str:
        """What is protected as one: ``record``, or all records of a kind."""
        return "record" if self.unit is None else self.unit.words

    def to_dict(self) -> dict[str, Any]:
        """The specification as plain JSON values; without a unit where each record is one."""
        values = asdict(self)
        if self.unit is None:
            del values["unit"]
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> PublicSpec:
        """The specification that :meth:`to_dict` gave.

        Raises DataError, KeyError or TypeError if it is none.
        """
        values = {**values}  # a TypeError here unless there are names in it
        unit = values.get("unit")
        try:
            made = None if unit is None else PrivacyUnit(**unit)
        except UsageError:
            raise DataError("the stated privacy unit is outside its rules.") from None
        return cls(**{**values, "classes": tuple(values["classes"]), "unit": made})


def is_count(value: object) -> bool:
    """Whether a value is an integer of at least 1."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1
