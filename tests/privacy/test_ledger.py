"""docs/proofs/ledger.md: charged before answered, never refunded, never rewritten."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato import disk
from sfumato.errors import BudgetExceededError, LedgerError
from sfumato.privacy import Budget, Event, ledger
from sfumato.privacy.ledger import GENESIS, Ledger, total_epsilon

ADD, REPLACE = "add-or-remove-one", "replace-one"


def event(noise: float = 4.0) -> Event:
    return Event("sum", "q", 1.0, {ADD: 1.0, REPLACE: 2.0}, noise)


def filled(folder: Path, count: int = 3) -> Ledger:
    book = Ledger(folder)
    with book.locked():
        for number in range(count):
            book.charge([event()], run=f"run{number}")
    return book


def read(book: Ledger) -> list[dict]:
    with book.locked():
        return book.entries()


def test_entries_are_chained_and_come_back_in_order(tmp_path: Path) -> None:
    entries = read(filled(tmp_path))
    assert [entry["run"] for entry in entries] == ["run0", "run1", "run2"]
    assert [entry["prev"] for entry in entries] == [GENESIS, *(e["hash"] for e in entries[:-1])]
    assert Event.from_dict(entries[0]["events"][0]) == event()


@given(line=st.integers(0, 2), data=st.data())
@settings(max_examples=60)
def test_no_field_can_be_changed(
    tmp_path_factory: pytest.TempPathFactory, line: int, data: st.DataObject
) -> None:
    book = filled(tmp_path_factory.mktemp("ledger"))
    lines = [json.loads(text) for text in book.path.read_text().splitlines()]
    key = data.draw(st.sampled_from(sorted(lines[line])))
    lines[line][key] = data.draw(
        st.sampled_from([None, "", "0" * 64, -1, 10**9, [], {}, {"epsilon": 0}]).filter(
            lambda value: value != lines[line][key]
        )
    )
    book.path.write_text("".join(json.dumps(entry) + "\n" for entry in lines))
    with pytest.raises(LedgerError, match="damaged"):
        read(book)


@given(st.data())
@settings(max_examples=60)
def test_no_byte_can_be_changed_and_no_tail_cut_off(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    book = filled(tmp_path_factory.mktemp("ledger"))
    content = bytearray(book.path.read_bytes())
    place = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content = content[:place]
    else:
        content[place] ^= data.draw(st.integers(1, 255))
    book.path.write_bytes(content)
    with pytest.raises(LedgerError, match="damaged"):
        read(book)


@pytest.mark.parametrize(
    "damage",
    [
        lambda lines: lines[1:],
        lambda lines: lines[:-1],
        lambda lines: lines[:-2],
        lambda lines: [lines[0], lines[2]],
        lambda lines: [lines[1], lines[0], lines[2]],
        lambda lines: [*lines, lines[-1]],
        lambda lines: [],
    ],
    ids=["first", "last", "last-two", "middle", "swapped", "repeated", "emptied"],
)
def test_no_line_can_go_come_or_move(tmp_path: Path, damage: Callable[[list], list]) -> None:
    book = filled(tmp_path)
    book.path.write_bytes(b"".join(damage(book.path.read_bytes().splitlines(keepends=True))))
    with pytest.raises(LedgerError, match="damaged"):
        read(book)


def test_a_lost_ledger_or_head_is_noticed(tmp_path: Path) -> None:
    book = filled(tmp_path)
    kept = book.path.read_bytes()
    book.path.unlink()
    with pytest.raises(LedgerError, match="missing"):
        read(book)
    # Without the head, a cut tail would look whole.
    book.path.write_bytes(b"".join(kept.splitlines(keepends=True)[:2]))
    (tmp_path / "ledger.head").unlink()
    with pytest.raises(LedgerError, match="damaged"):
        read(book)


def test_a_line_torn_by_a_crash_mends_itself(tmp_path: Path) -> None:
    book = filled(tmp_path)
    before = book.path.read_bytes()
    book.path.write_bytes(before + b'{"events":[{"na')
    assert len(read(book)) == 3
    assert book.path.read_bytes() == before
    with book.locked():
        book.charge([event()], run="next")
    assert len(read(Ledger(tmp_path))) == 4


def test_a_line_torn_after_it_was_acknowledged_is_damage(tmp_path: Path) -> None:
    book = filled(tmp_path)
    book.path.write_bytes(book.path.read_bytes()[:-10])
    with pytest.raises(LedgerError, match="damaged"):
        read(book)


def test_a_crash_between_line_and_head_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = filled(tmp_path, 2)

    honest = ledger.write_atomically

    def crash(path: Path, content: bytes) -> None:
        if book.path.read_bytes().count(b"\n") == 3:  # the new line is written
            raise KeyboardInterrupt
        honest(path, content)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), book.locked():
        patch.setattr(ledger, "write_atomically", crash)
        book.charge([event()], run="crashed")
    assert [entry["run"] for entry in read(book)][-1] == "crashed"  # charged, never refunded
    with book.locked():
        book.charge([event()], run="next")
    assert len(read(Ledger(tmp_path))) == 4


@pytest.mark.parametrize("fails", ["write", "fsync", "short"])
def test_a_full_disk_leaves_the_chain_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    book = filled(tmp_path, 2)
    before = book.path.read_bytes()

    def full(*args: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    class Disk:
        """A file whose disk has room for ten more bytes."""

        def __init__(self, *args: object, **options: object) -> None:
            self.file = open(*args, **options)
            self.is_ledger = args[0] == book.path

        def __enter__(self) -> Disk:
            return self

        def __exit__(self, *args: object) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> object:
            return getattr(self.file, name)

        def write(self, line: bytes) -> int:
            if not self.is_ledger:
                return self.file.write(line)
            return self.file.write(line[:10]) if fails == "short" else full()

    with monkeypatch.context() as patch, book.locked():
        if fails == "fsync":
            patch.setattr(disk.os, "fsync", full)
        else:
            patch.setattr(disk, "open", Disk, raising=False)
        with pytest.raises(LedgerError, match="No space left"):
            book.charge([event()], run="lost")
    assert book.path.read_bytes() == before
    assert len(read(book)) == 2
    with book.locked():
        book.charge([event()], run="later")
    assert len(read(Ledger(tmp_path))) == 3


def test_a_head_that_cannot_be_written_is_never_two_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = filled(tmp_path, 2)

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch, book.locked():
        patch.setattr(ledger, "write_atomically", full)
        for _ in range(3):
            with pytest.raises(LedgerError, match="No space left"):
                book.charge([event()], run="unanswered")
    with book.locked():
        book.charge([event()], run="later")
    assert read(Ledger(tmp_path))[-1]["run"] == "later"


def test_every_entry_is_synced_before_append_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book, synced = Ledger(tmp_path), []
    honest = os.fsync

    def noted(handle: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        honest(handle)

    monkeypatch.setattr(disk.os, "fsync", noted)
    with book.locked():
        book.charge([event()], run="r")
    assert "ledger.jsonl" in synced and tmp_path.name in synced


def _charge_often(folder: Path, who: int) -> None:
    book = Ledger(folder)
    for number in range(15):
        with book.locked():
            book.charge([event()], run=f"{who}-{number}")


def test_processes_take_turns(tmp_path: Path) -> None:
    fork = multiprocessing.get_context("fork")
    workers = [fork.Process(target=_charge_often, args=(tmp_path, who)) for who in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    runs = [entry["run"] for entry in read(Ledger(tmp_path))]
    assert sorted(runs) == sorted(f"{who}-{number}" for who in range(3) for number in range(15))


def test_a_held_ledger_is_waited_for_then_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ledger, "LOCK_SECONDS", 0.01)
    book = Ledger(tmp_path)
    with (
        FileLock(tmp_path / "ledger.lock"),
        pytest.raises(LedgerError, match="held by another process"),
        book.locked(),
    ):
        pytest.fail("two at once")


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(LedgerError, match="cannot be made"):
        Ledger(tmp_path / "file" / "ledger")


def test_folder_is_the_owners_only(tmp_path: Path) -> None:
    assert Ledger(tmp_path / "mine").folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("relation", [ADD, REPLACE])
def test_cap_bounds_the_total_of_all_runs(tmp_path: Path, relation: str) -> None:
    book = filled(tmp_path, 2)
    with book.locked():
        spent = total_epsilon(book.charges(), 1e-5, relation)
        more = total_epsilon([*book.charges(), [event()]], 1e-5, relation)
    book.set_cap(Budget((spent + more) / 2, 1e-5, relation))
    with book.locked():
        with pytest.raises(BudgetExceededError, match=f"{spent:.4g} is spent"):
            book.charge([event()], run="over")
        assert [entry["kind"] for entry in book.entries()] == ["plan", "plan", "cap"]
        book.charge([event(40.0)], run="small")
    book.set_cap(Budget(more * 1.1, 1e-5, relation))
    with book.locked():
        book.charge([event()], run="allowed")


def test_the_same_cap_is_written_once(tmp_path: Path) -> None:
    book = Ledger(tmp_path)
    for _ in range(3):
        book.set_cap(Budget(2.0, 1e-5))
    with book.locked():
        assert len(book.entries()) == 1 and book.cap() == Budget(2.0, 1e-5)
