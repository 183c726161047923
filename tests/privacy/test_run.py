"""docs/proofs/ledger.md: what a kill, a full disk or a lost file may do to a run."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest
from torch import Tensor

from sfumato.errors import BudgetExceededError, LedgerError, UsageError
from sfumato.privacy import (
    Answer,
    Budget,
    Curator,
    GradientQuery,
    HistogramQuery,
    SumQuery,
    make_plan,
)
from sfumato.privacy.answering import base, integer_sums


def pixels(images: Tensor, labels: Tensor) -> Tensor:
    return images.flatten(1).float() / 255


SUM = SumQuery("pixels", pixels, 4, 1.0, by_class=True)
VOTES = HistogramQuery("votes", lambda images, labels: labels, 3)


def opened(curator: Curator, *queries: SumQuery | HistogramQuery) -> Curator:
    curator.open_plan(make_plan({"name": "test"}, queries or (SUM,), curator.budget, curator.spec))
    return curator


def killed(curator: Curator) -> None:
    """The process is gone: its locks are free, nothing else was done."""
    curator._run.release()


def kinds(curator: Curator) -> list[str]:
    with curator._ledger.locked():
        return [e["kind"] for e in curator._ledger.entries() if e["kind"] != "data"]


def same(first: Answer, second: Answer) -> bool:
    return first.total.tobytes() == second.total.tobytes()


def interrupted(*args: object, **options: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["total", "add_noise"])
def test_killed_before_the_answer_was_stored(
    make_curator: Callable, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    first = opened(make_curator())
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(integer_sums if moment == "total" else base, moment, interrupted)
        first.sum(SUM.name)
    killed(first)
    second = opened(make_curator())
    second.sum(SUM.name)
    assert kinds(second) == ["plan", "answer"]


def test_a_full_disk_keeps_the_answer_inside(
    make_curator: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    curator = opened(make_curator())

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(LedgerError, match="No space left"):
        patch.setattr("sfumato.privacy.run.write_atomically", full)
        curator.sum(SUM.name)
    assert kinds(curator) == ["plan"]
    curator.sum(SUM.name)


def test_another_answer_of_the_run_is_not_taken_for_this_one(make_curator: Callable) -> None:
    curator = opened(make_curator(), SUM, VOTES)
    curator.sum(SUM.name)
    curator.histogram(VOTES.name)
    file, other = (
        curator.run_folder / f"steps-{n}" / "00000000.safetensors" for n in ("pixels", "votes")
    )
    file.write_bytes(other.read_bytes())
    with pytest.raises(LedgerError, match="never answered twice"):
        curator.sum(SUM.name)


def test_another_question_names_the_unfinished_run_and_asks_for_fresh(
    make_curator: Callable,
) -> None:
    first = opened(make_curator(), SUM)
    killed(first)
    for late, query in ((make_curator(), VOTES), (make_curator(budget=Budget(2.0, 1e-5)), SUM)):
        with pytest.raises(UsageError, match=f"{first._run.id} .*epsilon=1.0.*--fresh"):
            opened(late, query)
        assert kinds(late) == ["plan"]
    assert kinds(opened(make_curator(fresh=True), VOTES)) == ["plan", "plan"]


def test_what_becomes_of_an_answer_may_change_after_it_was_paid_for(
    make_curator: Callable,
) -> None:
    def opened_with(steps: int, query: SumQuery | GradientQuery = SUM) -> Curator:
        curator = make_curator()
        method = {"name": "test", "config": {"steps": steps}}
        curator.open_plan(make_plan(method, [query], curator.budget, curator.spec))
        return curator

    first = opened_with(5)
    answer = first.sum("pixels")
    (first.run_folder / "checkpoint").write_bytes(b"after 3 of 5 steps")
    killed(first)
    second = opened_with(2)
    assert same(second.sum("pixels"), answer) and kinds(second) == ["plan", "answer"]
    assert not list(second.run_folder.iterdir())  # a checkpoint belongs to its settings
    killed(second)
    third = opened_with(5)
    assert (third.run_folder / "checkpoint").exists() and kinds(third) == ["plan", "answer"]
    third.close()
    # Where a step asks at what training has reached, the settings of training are in the question.
    step = GradientQuery("g", 4, 1.0, 1.0, 2)
    killed(opened_with(5, step))
    with pytest.raises(UsageError, match="other questions"):
        opened_with(2, step)


def test_other_code_under_the_same_plan_gets_the_answer_that_was_paid_for(
    make_curator: Callable,
) -> None:
    first = opened(make_curator())
    answer = first.sum(SUM.name)
    killed(first)
    swapped = SumQuery("pixels", lambda i, y: 1 - pixels(i, y), 4, 1.0, by_class=True)
    second = opened(make_curator(), swapped)
    assert same(second.sum(swapped.name), answer)


def test_nothing_private_is_touched_by_a_refused_or_resumed_run(
    make_curator: Callable, make_source: type
) -> None:
    class Untouchable(make_source):
        def batches(self, size: int) -> object:
            raise AssertionError("read")

        fingerprint = _private_length = _records = batches

    killed(opened(make_curator(cap=Budget(1.2, 1e-5))))
    late = make_curator(Untouchable([]), fresh=True)  # the cap is in the ledger by now
    with pytest.raises(BudgetExceededError, match="cap"):
        opened(late)
    resumed = opened(make_curator(Untouchable([])))  # paid for already
    assert kinds(resumed) == ["cap", "plan"]
    killed(resumed)
    late._ledger.path.write_text("")
    with pytest.raises(LedgerError, match="damaged"):
        opened(make_curator(Untouchable([])))


def test_folder_is_the_owners_only_and_holds_no_more_than_it_must(make_curator: Callable) -> None:
    curator = opened(make_curator())
    curator.sum(SUM.name)
    assert curator.run_folder.parents[1].stat().st_mode & 0o077 == 0
    files = {file.name for file in curator.run_folder.iterdir()}
    assert files <= {"run.lock", "fingerprint", "key", "steps-pixels"}
