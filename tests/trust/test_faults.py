"""docs/trust.md, "Faults": kills, full and read-only disks, two processes, clocks, damaged files.

A short ``tests/harness/faults.py``: real processes, forked, that die or are refused at a change of
a file, and then do the same job again. What one object does is tested in ``tests/privacy``.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from filelock import FileLock, Timeout

from sfumato.errors import LedgerError
from sfumato.methods import training
from sfumato.methods.training import Session, Training
from sfumato.privacy import Curator, ledger
from sfumato.privacy.answering import sampled, vote
from sfumato.privacy.records.teacher_states import TeacherStates
from sfumato.privacy.sealed import sealed, unsealed
from sfumato.release import verify
from sfumato.release.writing import write
from sfumato.release.writing.swap import exchange
from sfumato.reporting import write_report

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks, and kills what it forked")

HARNESS = Path(__file__).parents[1] / "harness"
LEDGER_ERROR, DATA_ERROR = 5, 3
SHARE = 16
"""One in so many places is tried here; the benchmark tries each."""


@pytest.fixture(scope="module")
def faults() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(HARNESS))
        import faults

        for module, name in (
            (vote, "SAVED_EVERY"),
            (training, "SAVED_EVERY"),
            (sampled, "engine_that_fits"),
        ):
            patch.setattr(module, name, getattr(module, name))  # put back at the end
        faults.prepare()
        yield faults


@pytest.fixture
def new(faults: Any, tmp_path: Path) -> Callable[..., Any]:
    def case(method: str = "moments", name: str = "case", **options: Any) -> Any:
        (tmp_path / name).mkdir(exist_ok=True)
        return faults.Case(method, tmp_path / name, **options)

    return case


def stopped(name: str, step: int) -> Callable[[], None]:
    """Kill the process when it asks for a step."""

    def patch() -> None:
        true = getattr(Curator, name)

        def asked(self: Curator, query: Any, *args: Any) -> Any:
            if (args[0] if args else 0) == step:
                os.kill(os.getpid(), signal.SIGKILL)
            return true(self, query, *args)

        setattr(Curator, name, asked)

    return patch


def kinds(case: Any) -> list[str]:
    return [entry["kind"] for entry in case.entries()]


@pytest.mark.parametrize("fault", ["kill", "tear", "full", "read-only"])
def test_a_failing_disk_loses_nothing_and_spends_nothing_twice(
    faults: Any, tmp_path: Path, fault: str
) -> None:
    (tmp_path / "whole").mkdir()
    changes, writes = faults.count("moments", tmp_path / "whole")
    assert changes > 60 and len(writes) > 10
    places = writes[:: SHARE // 2] if fault == "tear" else range(0, changes, SHARE * 2)
    rows = []
    for place in places:
        (tmp_path / str(place)).mkdir()
        rows.append(faults.at_change("moments", tmp_path / str(place), fault, place))
    assert [row["wrong"] for row in rows if row["wrong"]] == []
    died = -signal.SIGKILL
    assert all(row["code"] == died if fault in ("kill", "tear") else row["code"] for row in rows)
    assert len({row["entries"] for row in rows}) > 1  # before and after the charge


def test_a_stepwise_run_killed_at_some_changes_of_files(faults: Any, tmp_path: Path) -> None:
    (tmp_path / "whole").mkdir()
    changes, _ = faults.count("datalens", tmp_path / "whole")
    for place in range(60, changes, changes // 2):
        (tmp_path / str(place)).mkdir()
        row = faults.at_change("datalens", tmp_path / str(place), "kill", place)
        assert row["wrong"] == [] and row["code"] == -signal.SIGKILL


def test_the_harness_sees_an_answer_that_leaves_before_it_is_charged(new: Callable) -> None:
    case = new()

    def careless() -> None:
        # The answer is told at once; its charge would come with the next change of a file.
        case.told.write_text('["moments", 0, "seen"]\n')

    case.run(before=lambda: (careless(), os.kill(os.getpid(), signal.SIGKILL)))
    case.state.mkdir()
    assert list(case.problems_now()) == ["moments 0 was answered and not charged"]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", str(place)], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("no permission to mount a file system")

    def remount(options: str) -> Path:
        subprocess.run(["mount", "-o", f"remount,{options}", str(place)], check=True)
        return place

    try:
        yield remount
    finally:
        subprocess.run(["umount", str(place)], check=True)


def test_a_disk_that_is_really_full_or_read_only(
    new: Callable, small_disk: Callable[[str], Path]
) -> None:
    place = small_disk("ro")
    case = new(state=place / "state")
    case.state = place / "state"
    assert case.run() == LEDGER_ERROR and "--state" in case.said()
    small_disk("rw")
    case.state.mkdir()
    (place / "filler").write_bytes(bytes(4096))
    assert case.run() == LEDGER_ERROR and "Free the disk" in case.said()
    assert not case.answers() and "closed" not in kinds(case)
    (place / "filler").unlink()
    small_disk("size=2m")
    assert case.again() == 0, case.said()
    assert list(case.problems_at_the_end()) == []


def test_an_output_folder_that_cannot_be_written_costs_nothing(
    new: Callable, small_disk: Callable[[str], Path]
) -> None:
    place = small_disk("ro")
    case = new(out=place / "release")
    assert case.run() == 2  # refused before the charge
    assert "Read-only" in case.said() and kinds(case) == []
    case = new()
    assert case.run() == 0, case.said()
    assert list(case.problems_at_the_end()) == []


def test_two_processes_at_once_charge_once(new: Callable) -> None:
    case = new("datalens")
    children = [case.start() for _ in range(2)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    # The second is refused while the first works, or comes after it and finds its release.
    assert sorted(codes)[0] == 0 and sorted(codes)[1] in (2, LEDGER_ERROR)
    assert list(case.problems_at_the_end()) == []


def test_two_jobs_on_one_data_set_are_both_charged(new: Callable) -> None:
    first, second = new(), new(epsilon=5.0)
    second.out, second.text = first.folder / "other", first.folder / "other text"
    children = [first.start(), second.start()]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0], second.said()
    assert sorted(kinds(first)) == ["answer"] * 2 + ["closed"] * 2 + ["plan"] * 2
    spent = {entry["budget"]["epsilon"] for entry in first.entries() if entry["kind"] == "plan"}
    assert spent == {5.0, 10.0}
    totals = [json.loads((case.out / "certificate.json").read_text())["data_set_total"]
              for case in (first, second)]  # fmt: skip
    assert sorted(total["runs"] for total in totals)[1] == 2
    assert max(total["epsilon"] for total in totals) > 10.5


def test_a_run_cannot_be_closed_between_being_found_and_being_taken(
    faults: Any, new: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a second process would answer an ended run's steps anew, with another key."""
    from sfumato.privacy import curator

    case, held = new(), []
    true = curator.Run

    def taken(folder: Path, *args: Any, **options: Any) -> Any:
        try:
            FileLock(folder / "ledger.lock", timeout=0).acquire()
        except Timeout:
            held.append(True)
        return true(folder, *args, **options)

    monkeypatch.setattr(curator, "Run", taken)
    faults.synthesize(**case.arguments())
    assert held == [True]


@pytest.mark.parametrize("years", [(1999, 2070), (2070, 1999)])
def test_clocks_may_jump(
    new: Callable, monkeypatch: pytest.MonkeyPatch, years: tuple[int, int]
) -> None:
    case = new()
    for year, before in zip(years, (stopped("sum", 0), None), strict=True):

        class Clock(datetime):
            @classmethod
            def now(cls, tz: Any = None, year: int = year) -> datetime:
                return datetime(year, 1, 1, tzinfo=timezone.utc)

        seconds = datetime(year, 1, 1, tzinfo=timezone.utc).timestamp()
        with monkeypatch.context() as patch:
            patch.setattr(ledger, "datetime", Clock)
            patch.setattr("time.time", lambda seconds=seconds: seconds)
            code = case.run(before=before)
    assert code == 0, case.said()
    assert list(case.problems_at_the_end()) == []
    assert [entry["time"][:4] for entry in case.entries()] == [
        str(years[0]), str(years[1]), str(years[1])
    ]  # fmt: skip


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip(content: bytes) -> bytes:
    place = len(content) - 5
    return content[:place] + bytes([content[place] ^ 16]) + content[place + 1 :]


def gone(content: bytes) -> None:
    return None


@pytest.fixture(scope="module")
def half_done(faults: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DataLens, killed when it asks for its last vote: checkpoint, memory, key, one answer."""
    folder = tmp_path_factory.mktemp("half")
    case = faults.Case("datalens", folder)
    assert case.run(before=stopped("vote", 3)) == -signal.SIGKILL
    return folder


@pytest.mark.parametrize(
    ("pattern", "damages"),
    [
        ("ledger.jsonl", (cut,)),
        ("ledger.head", (flip,)),
        ("key", (flip, gone)),
        ("fingerprint", (cut, gone)),
        ("checkpoint-training.safetensors", (flip,)),
        ("steps-*/00000002.safetensors", (flip,)),
        ("steps-*/memory-00000002-*", (flip,)),
    ],
)
def test_what_is_damaged_is_named_and_nothing_is_answered(
    faults: Any,
    half_done: Path,
    tmp_path: Path,
    pattern: str,
    damages: tuple[Callable[[bytes], bytes | None], ...],
) -> None:
    for damage in damages:
        folder = tmp_path / damage.__name__
        shutil.copytree(half_done, folder)
        case = faults.Case("datalens", half_done)
        case.state, case.out, case.told, case.text = (
            folder / part for part in ("state", "out", "answers", "text")
        )
        (path,) = case.state.rglob(pattern)
        whole, told = path.read_bytes(), case.told.read_text()
        damaged = damage(whole)
        path.unlink() if damaged is None else path.write_bytes(damaged)
        code, said = case.run(), case.said()
        assert code in (LEDGER_ERROR, DATA_ERROR), said
        assert path.stem.split("-")[0] in said or "data set has changed" in said
        assert "--fresh" in said or "backup" in said
        assert "Traceback" not in said
        assert case.told.read_text() == told and not case.out.exists()
        if not pattern.startswith("ledger"):
            assert kinds(case) == ["plan"]
    path.write_bytes(whole)  # the way out: restore it
    assert case.again() == 0, case.said()
    assert list(case.problems_at_the_end()) == []


def test_data_changed_between_kill_and_resume_are_charged_anew_or_not_read(
    faults: Any, new: Callable
) -> None:
    case = new("datalens")
    assert case.run(before=stopped("vote", 2)) == -signal.SIGKILL
    images, labels = faults.few_digits()
    np.savez(case.data, images=images[1:], labels=labels[1:])
    told = case.told.read_text()
    assert case.run() == DATA_ERROR
    assert "has changed" in case.said() and "--fresh" in case.said()
    assert case.told.read_text() == told and kinds(case) == ["plan"]
    fresh = new("datalens", fresh=True)
    assert fresh.run() == 0, fresh.said()
    assert kinds(fresh) == ["plan", "plan", "answer", "closed"]


def test_a_kill_while_closing_leaves_no_secret_for_long(
    new: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    case = new("datalens")

    def killed(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr("sfumato.privacy.curator.forget_secrets", killed)
        assert case.run() == -signal.SIGKILL
    assert kinds(case)[-1] == "closed" and list(case.state.rglob("key"))
    other = new(out=case.folder / "other")
    assert other.run() == 0, other.said()
    assert not list(case.state.rglob("key")) and not list(case.state.rglob("steps-*"))


def test_a_release_that_is_replaced_is_there_at_every_moment(
    digits_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release = tmp_path / "release"
    shutil.copytree(digits_release, release)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    if not exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("this file system cannot exchange two folders")
    child = os.fork()
    if child == 0:
        sys.addaudithook(
            lambda event, args: (
                os._exit(0 if (release / "certificate.json").exists() else 1)
                if event in ("os.rename", "os.rmdir") or (event == "os.remove" and exchanged)
                else None
            )
        )
        exchanged: list[bool] = []
        monkeypatch.setattr(
            write, "exchange", lambda a, b: exchanged.append(exchange(a, b)) or exchanged[0]
        )
        write_report(release)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    verify(release)


def test_sealed_tensors_notice_every_changed_byte(tmp_path: Path) -> None:
    tensors = {"a": torch.randn(3, 2), "b": torch.tensor(5), "c": torch.zeros(0, 4)}
    whole = sealed(tensors)
    path = tmp_path / "file"
    path.write_bytes(whole)
    found = unsealed(path, "")
    assert {n: v.tolist() for n, v in found.items()} == {n: v.tolist() for n, v in tensors.items()}
    values = 24 + 8
    for place in range(len(whole) - values, len(whole)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        with pytest.raises(LedgerError, match="Do so"):
            unsealed(path, "Do so.")


def test_checkpoints_and_memories_name_their_file(tmp_path: Path) -> None:
    network = torch.nn.Linear(2, 2)
    optimizer = torch.optim.Adam(network.parameters())
    phase = Training(Session(), {"n": network}, optimizer, torch.Generator())
    path = tmp_path / "checkpoint.safetensors"
    phase.save(path, 3)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(LedgerError, match=r"checkpoint\.safetensors is damaged.*--fresh"):
        phase.restore(path)
    memory = TeacherStates(tmp_path, 2, 3, 4)
    memory.save()
    assert memory.restore(0)
    (stored,) = tmp_path.glob("memory-*")
    stored.write_bytes(flip(stored.read_bytes()))
    with pytest.raises(LedgerError, match=r"memory-.* is damaged.*--fresh"):
        memory.restore(0)
