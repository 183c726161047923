"""The ledgers of one data set: that of its location, and all that a record of it may stand in.

A *family* is a connected component of ledgers: two belong together where the places of their
records overlap, where one is another name of the other, or where the custodian said that they hold
the same data. All charges of a family add up, and every cap set in it binds every run of it;
``docs/proofs``, "One data set, one ledger".
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock

from sfumato.data.source import ImageSource, Place
from sfumato.data.storage import located, place_of
from sfumato.disk import OWNER_ONLY
from sfumato.errors import LedgerError, SfumatoError, UsageError
from sfumato.privacy.budget import Budget
from sfumato.privacy.ledger import LOCK_SECONDS, Entry, Ledger, holding
from sfumato.privacy.run import data_set_folder, state_of
from sfumato.privacy.sketch import Sketch, known_sketch, sketch_key, sketch_of

LOCK = "ledgers.lock"
_OWN = frozenset((LOCK, "sketch.key", "plans"))
_FOLDER = re.compile(r".*-[0-9a-f]{12}")


@dataclass(frozen=True)
class _Known:
    """A ledger of the state folder and what its entries say that it is about."""

    ledger: Ledger
    entries: list[Entry]

    @property
    def about(self) -> list[Entry]:
        return [entry for entry in self.entries if entry["kind"] == "data"]

    @property
    def location(self) -> str:
        return str(self.about[-1]["location"]) if self.about else self.ledger.folder.name

    @property
    def places(self) -> set[Place]:
        return {Place(*place) for entry in self.about for place in entry["places"]}

    @property
    def same_as(self) -> set[str]:
        return {name for entry in self.about for name in entry["same_as"]}


class DataSetLedger(Ledger):
    """The ledger of a data set in a state folder, which counts its whole family.

    Args:
        source: the data set.
        state: the state folder; the user's by default.

    Raises:
        UsageError: the state folder lies in the data, or around it.
        LedgerError: the folder cannot be made.
    """

    def __init__(self, source: ImageSource, state: Path | None = None) -> None:
        self._source, self._state = source, state_of(source, state)
        super().__init__(data_set_folder(self._state, source.location_key))
        self._state_lock = FileLock(self._state / LOCK, timeout=LOCK_SECONDS, mode=OWNER_ONLY)
        _keep_private(self._state)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold all ledgers of the state folder, and so the family, while the block runs.

        Raises:
            LedgerError: another process holds them for longer than 30 s.
        """
        with holding(self._state_lock, self._state), super().locked():
            yield

    def family(self) -> list[Ledger]:
        """This ledger and its relatives; call while :meth:`locked`.

        Raises:
            LedgerError: a ledger of the state folder is damaged, or a relative is missing.
        """
        return [self, *(known.ledger for known in self._relatives(self._known()).values())]

    def family_entries(self) -> list[Entry]:
        """The entries of the whole family, ledger by ledger; call while :meth:`locked`."""
        relatives = self._relatives(self._known()).values()
        return [*self.entries(), *(entry for known in relatives for entry in known.entries)]

    def caps(self) -> list[Budget]:
        """The newest cap of each ledger of the family."""
        caps = (ledger.cap() for ledger in self.family())
        return [cap for cap in caps if cap is not None]

    def locations(self) -> list[str]:
        """The locations of the relatives, for the custodian; call while :meth:`locked`."""
        return sorted(known.location for known in self._relatives(self._known()).values())

    def set_cap(self, cap: Budget) -> None:
        """Set the most that the family may ever be charged from now on."""
        with self.locked():
            self._write_places()
            super().set_cap(cap)

    def _note_data(self) -> None:
        self._write_places()

    def join(self, location: str) -> None:
        """Note that this data set is the one whose ledger was kept for ``location``.

        Raises:
            UsageError: the state folder has no such ledger.
        """
        known = self._known()
        named = {name for name, other in known.items() if location in (other.location, name)}
        with suppress(SfumatoError):  # a URL whose store cannot be asked from here
            place = place_of(located(location))
            at = Place(place)
            named |= {n for n, other in known.items() if any(map(at.overlaps, other.places))}
            named |= {data_set_folder(self._state, place).name} & set(known)
        if not named:
            raise UsageError(
                f"same_data_as={location!r}: the state folder {self._state} keeps no ledger for "
                "it. Write the location as sfumato shows it."
            )
        new = named - {self.folder.name} - set(self._relatives(known))
        if new:
            self._write_about([], sorted(new))

    def is_declared_same(self) -> bool:
        """Whether the family rests on a declaration of the custodian too."""
        known = self._known()
        family = [*self._relatives(known).values(), _Known(self, self.entries())]
        return any(member.same_as for member in family)

    def sketch(self) -> None:
        """Read the records, where their files have changed, to recognise copies of them.

        All ranks of a run call this, and share the records.

        Raises:
            SfumatoError: they cannot be read.
        """
        from sfumato.privacy import distributed

        key: bytes | None = None
        if distributed.is_first():
            with self.locked():
                key = sketch_key(self._state)
        sketch_of(self._source, self.folder, distributed.from_first(key), shared=True)

    def strangers(self) -> list[tuple[str, Sketch]]:
        """Location and sketch of each ledger outside of the family; call while :meth:`locked`."""
        key, known = sketch_key(self._state), self._known()
        family = {self.folder.name, *self._relatives(known)}
        others = [other for name, other in known.items() if name not in family]
        sketches = [(other.location, known_sketch(other.ledger.folder, key)) for other in others]
        return [(location, sketch) for location, sketch in sketches if sketch is not None]

    def repeated(self) -> str | None:
        """The location of a ledger outside of the family whose records these are, if there is one.

        PRIVATE: it depends on the records; ``docs/proofs``, "One data set, one ledger". Nothing
        is read where there is nothing to compare with. Call while :meth:`locked`.
        """
        if strangers := self.strangers():
            own = sketch_of(self._source, self.folder, sketch_key(self._state))
            for location, sketch in strangers:
                if own.repeats(sketch):
                    return location
        return None

    def _known(self) -> dict[str, _Known]:
        """All ledgers of the state folder by the names of their folders, this one too."""
        found = sorted(path.parent for path in self._state.glob("*/ledger.jsonl"))
        ledgers = [self if folder == self.folder else Ledger(folder) for folder in found]
        return {ledger.folder.name: _Known(ledger, ledger.entries()) for ledger in ledgers}

    def _relatives(self, known: dict[str, _Known]) -> dict[str, _Known]:
        """The family without this ledger."""
        aliases = {data_set_folder(self._state, key).name for key in self._source.aliases}
        family = {self.folder.name} | (aliases & set(known))
        places = set(self._source.places)
        grown = family
        while grown:
            members = [known[name] for name in family if name in known]
            places |= {place for member in members for place in member.places}
            linked = {name for member in members for name in member.same_as}
            if missing := linked - set(known):
                raise LedgerError(
                    f"the ledger {self._state / min(missing)} is missing, whose charges count with "
                    "those of this data set. Nothing is answered until it is restored."
                )
            grown = linked - family
            for name, other in known.items():
                if name not in family and (
                    other.same_as & family
                    or any(place.overlaps(own) for place in other.places for own in places)
                ):
                    grown.add(name)
            family |= grown
        return {name: known[name] for name in sorted(family - {self.folder.name})}

    def _write_places(self) -> None:
        written = _Known(self, self.entries()).places
        if new := sorted(set(self._source.places) - written):
            self._write_about([[place.path, place.part] for place in new], [])

    def _write_about(self, places: list[list[str]], same_as: list[str]) -> None:
        location = self._source.location_key
        self.append("data", location=location, places=places, same_as=same_as)


def known_places(state: Path) -> list[tuple[str, Place]]:
    """Location and places of every data set that has a ledger in a state folder.

    Raises:
        LedgerError: a ledger is damaged, or another process holds them for longer than 30 s.
    """
    found = sorted(path.parent for path in state.glob("*/ledger.jsonl"))
    if not found:
        return []
    with holding(FileLock(state / LOCK, timeout=LOCK_SECONDS, mode=OWNER_ONLY), state):
        ledgers = [Ledger(folder) for folder in found]
        known = [_Known(ledger, ledger.entries()) for ledger in ledgers]
    return [(one.location, place) for one in known for place in one.places]


def _keep_private(state: Path) -> None:
    """Close an existing state folder to others, unless it holds other things too."""
    with suppress(OSError):  # another user's, who has let us in
        names = [path.name for path in state.iterdir()]
        if all(name in _OWN or _FOLDER.fullmatch(name) for name in names):
            state.chmod(0o700)
