"""Which records belong to one person: the public rule, and the private key of each record.

The rule (a column's name or a regular expression) is public. What it finds in a record is private:
keys are compared and hashed, and never shown.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

from sfumato.errors import UsageError

RECORDS_PER_UNIT = 16
LONGEST_RULE = 200

Key = str | bytes | int | float | bool | None
"""What names a record's unit; None makes the record a unit of its own."""


@dataclass(frozen=True)
class Part:
    """Shard ``number`` of ``count``, which hold each unit whole; None stands for all of them."""

    number: int | None
    count: int

    def holds(self, key: Key) -> bool:
        """Whether a record with this key belongs here; one without a key does everywhere."""
        return key is None or self.number is None or shard_of(key, self.count) == self.number


def shard_of(key: Key, count: int) -> int:
    """The one of ``count`` shards in which all records with a key lie."""
    return int.from_bytes(blake2b(text_of(key).encode(), digest_size=8).digest(), "big") % count


def text_of(key: Key) -> str:
    """A key as a text that no other key has. PRIVATE."""
    return repr(key)


@dataclass(frozen=True)
class PrivacyUnit:
    """All records with one key are one unit; everything in this object is public.

    Args:
        column: the column, array or JSON field whose value is a record's key, or None.
        pattern: the regular expression that finds the key in a record's name, or None: its group 1,
            or the whole match if it has no group.
        records_per_unit: the most records of a unit that are used; ``docs/proofs/units.md``.

    A record without a key (empty value, no match) is a unit of its own.

    Raises:
        UsageError: not exactly one rule is given, or a value is outside its rule.
    """

    column: str | None = None
    pattern: str | None = None
    records_per_unit: int = RECORDS_PER_UNIT

    def __post_init__(self) -> None:
        rule = self.column if self.pattern is None else self.pattern
        if rule is None or (self.column is not None and self.pattern is not None):
            raise UsageError(
                "unit and unit_pattern exclude each other: name one column, or one pattern."
            )
        if not isinstance(rule, str) or not 0 < len(rule) <= LONGEST_RULE:
            raise UsageError(
                f"the unit {rule!r:.80} must be a text of 1 to {LONGEST_RULE} characters."
            )
        if not rule.isprintable() or "`" in rule:
            raise UsageError(
                f"the unit {rule!r} must be printable and hold no backtick: it stands in the "
                "release. Write a tab as \\t."
            )
        most = self.records_per_unit
        if not isinstance(most, int) or isinstance(most, bool) or most < 1:
            raise UsageError(f"records_per_unit={most!r} must be an integer >= 1.")
        if self.pattern is not None:
            try:
                re.compile(self.pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise UsageError(
                    f"unit_pattern={self.pattern!r} is no regular expression ({error}). For "
                    r"patient_0042_03.png write patient_(\d+)_."
                ) from None

    @property
    def words(self) -> str:
        """The unit in words, as certificate, card and report name it."""
        if self.pattern is not None:
            return f"all records whose names agree in `{self.pattern}`"
        return f"all records with one value of `{self.column}`"

    def keys_of(self, names: Iterable[str]) -> Iterator[Key]:
        """What the pattern finds in each name. PRIVATE."""
        expression = re.compile(self.pattern or "")
        group = min(expression.groups, 1)
        for name in names:
            match = expression.search(name)
            yield match[group] if match else None


def declared_unit(
    column: str | None, pattern: str | None, records_per_unit: int | None
) -> PrivacyUnit | None:
    """The unit that a user states; None where each record is one.

    Raises:
        UsageError: two rules are given, or none for ``records_per_unit``, or a value is outside
            its rule.
    """
    if column is None and pattern is None:
        if records_per_unit is not None:
            raise UsageError(
                f"records_per_unit={records_per_unit} has no meaning where each record is a unit. "
                "Say which records are one: unit or unit_pattern."
            )
        return None
    return PrivacyUnit(
        column, pattern, RECORDS_PER_UNIT if records_per_unit is None else records_per_unit
    )


def check_rule(unit: PrivacyUnit | None, where: str, *known: Literal["column", "pattern"]) -> None:
    """Refuse a rule that a format has nothing for.

    Raises:
        UsageError: the format has no columns, or no names of records.
    """
    if unit is None:
        return
    if unit.column is not None and "column" not in known:
        other = " Use unit_pattern (--unit-pattern) on their names." if known else ""
        raise UsageError(f"{where}: these images have no columns, so unit has no meaning.{other}")
    if unit.pattern is not None and "pattern" not in known:
        other = " Name their column with unit (--unit)." if known else ""
        raise UsageError(
            f"{where}: these records have no names, so unit_pattern has no meaning.{other}"
        )


def as_key(value: object) -> Key:
    """A stored value as a key: empty, NaN and whatever is no number or text name no unit."""
    if not isinstance(value, (str, bytes, int, float)) or value != value:
        return None
    return None if value in ("", b"") else value
