"""docs/proofs.md, "Ledger and resume" and "What is public": the curator's order and silence."""

from __future__ import annotations

import errno
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from torch import Tensor

from sfumato.data.source import Record
from sfumato.data.spec import PublicSpec
from sfumato.errors import (
    BudgetExceededError,
    DataError,
    LedgerError,
    SfumatoError,
    UsageError,
)
from sfumato.privacy import Answer, Budget, Curator, HistogramQuery, Plan, SumQuery, make_plan
from sfumato.privacy import curator as curator_module
from sfumato.privacy.noise import INSECURE_PATH, NOISE_PATH


def pixels(images: Tensor, labels: Tensor) -> Tensor:
    return images.flatten(1).float() / 255


SUM = SumQuery("pixels", pixels, 4, 1.0, by_class=True)
VOTES = HistogramQuery("votes", lambda images, labels: labels, 3)


def plan_for(curator: Curator, *queries: object) -> Plan:
    return make_plan({"name": "test"}, queries or (SUM, VOTES), curator.budget, curator.spec)


def opened(curator: Curator, *queries: object) -> Curator:
    curator.open(plan_for(curator, *queries))
    return curator


def killed(curator: Curator) -> None:
    """The process is gone: its locks are free, nothing else was done."""
    curator._run.release()


def kinds(curator: Curator) -> list[str]:
    with curator._ledger.locked():
        return [entry["kind"] for entry in curator._ledger.entries()]


def test_an_answer_is_the_sum_with_noise_in_the_units_asked_for(make_curator: Callable) -> None:
    curator = opened(make_curator(budget=Budget(1e4, 1e-2)))
    answer, votes = curator.sum(SUM), curator.histogram(VOTES)
    expected = np.zeros((3, 4))
    expected[[0, 1, 2], 0] = np.array([3, 7, 9]) / 255
    assert answer.total.shape == (3, 4) and answer.shared.shape == (0,)
    assert np.abs(answer.total - expected).max() < 8 * answer.noise_std < 0.2
    assert np.abs(votes.total - [[1, 1, 1]]).max() < 8 * votes.noise_std


def test_shared_coordinates_are_added_over_all_classes(make_curator: Callable) -> None:
    query = SumQuery("both", pixels, 4, 1.0, by_class=True, shared=2)
    curator = opened(make_curator(budget=Budget(1e4, 1e-2)), query)
    answer = curator.sum(query)
    assert answer.total.shape == (3, 2) and answer.shared.shape == (2,)
    query = SumQuery("most", lambda i, y: pixels(i, y).roll(1, 1), 4, 1.0, by_class=True, shared=3)
    answer = opened(make_curator(budget=Budget(1e4, 1e-2)), query).sum(query)
    assert answer.shared[0] == pytest.approx((3 + 7 + 9) / 255, abs=8 * answer.noise_std)


def test_nothing_is_read_before_the_plan_is_on_disk_and_no_noise_before_either(
    make_curator: Callable, make_source: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_source([(1, 0)])
    curator = make_curator(source)
    seen = []

    def noted(total: np.ndarray, std: float, seed: int | None) -> np.ndarray:
        seen.append((curator._ledger.path.read_text().count('"kind":"plan"'), source.reads))
        return total

    monkeypatch.setattr(curator_module, "add_noise", noted)
    plan = plan_for(curator)
    assert source.reads == 0 and not curator._ledger.path.exists()
    curator.open(plan)
    assert source.reads == 0 and kinds(curator) == ["plan"]
    curator.sum(SUM)
    assert seen == [(1, 1)]


def test_a_query_outside_the_plan_is_refused(make_curator: Callable, make_source: type) -> None:
    source = make_source([(1, 0)])
    curator = opened(make_curator(source), SUM)
    for ask in (
        lambda: curator.histogram(VOTES),
        lambda: curator.sum(SumQuery("pixels", pixels, 4, 9.0, by_class=True)),
        lambda: curator.sum(SumQuery("pixels2", pixels, 4, 1.0, by_class=True)),
        lambda: curator.sum(SumQuery("pixels", pixels, 4, 1.0)),
    ):
        with pytest.raises(BudgetExceededError, match="not in the plan"):
            ask()
    assert source.reads == 0


def test_a_plan_for_something_else_is_refused(make_curator: Callable, make_source: type) -> None:
    curator = make_curator()
    other = make_curator(budget=Budget(9.0, 1e-5))
    with pytest.raises(UsageError, match="another budget"):
        curator.open(plan_for(other))
    with pytest.raises(UsageError, match="no plan is open"):
        curator.sum(SUM)
    opened(curator)
    with pytest.raises(UsageError, match="open already"):
        curator.open(plan_for(curator))


def test_asking_twice_gives_the_same_bytes_and_reads_once(
    make_curator: Callable, make_source: type
) -> None:
    source = make_source([(1, 0), (2, 1)])
    curator = opened(make_curator(source))
    assert same(curator.sum(SUM), curator.sum(SUM))
    assert source.reads == 1
    # Another function under the same public query is still the one answer that was paid for.
    swapped = SumQuery("pixels", lambda i, y: -pixels(i, y), 4, 1.0, by_class=True)
    assert same(curator.sum(swapped), curator.sum(SUM))
    assert kinds(curator) == ["plan", "answer"]


def same(first: Answer, second: Answer) -> bool:
    return first.total.tobytes() == second.total.tobytes()


def test_an_unfinished_run_goes_on_and_is_charged_once(make_curator: Callable) -> None:
    first = opened(make_curator())
    answer = first.sum(SUM)
    killed(first)
    second = opened(make_curator())
    assert same(second.sum(SUM), answer)
    second.histogram(VOTES)
    assert kinds(second) == ["plan", "answer", "answer"]
    assert second.record()["data_set_total"]["runs"] == 1


def test_a_finished_run_and_fresh_are_charged_anew(make_curator: Callable) -> None:
    first = opened(make_curator(), SUM)
    answer = first.sum(SUM)
    first.close()
    second = opened(make_curator(), SUM)
    assert not same(second.sum(SUM), answer)
    killed(second)
    third = opened(make_curator(fresh=True), SUM)
    assert kinds(third).count("plan") == 3
    total = third.record()["data_set_total"]
    assert total["runs"] == 3 and total["epsilon"] > 1.5


def test_another_plan_does_not_go_on_with_the_unfinished_one(make_curator: Callable) -> None:
    killed(opened(make_curator(), SUM))
    killed(opened(make_curator(), VOTES))
    assert kinds(opened(make_curator(budget=Budget(2.0, 1e-5)), SUM)).count("plan") == 3


def test_a_run_at_work_is_not_joined(make_curator: Callable) -> None:
    first = opened(make_curator())
    with pytest.raises(LedgerError, match="another process"):
        opened(make_curator())
    first.close()


def test_killed_between_the_stored_answer_and_the_ledger(
    make_curator: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = opened(make_curator(), SUM)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(first._ledger, "append", interrupted)
        first.sum(SUM)
    killed(first)
    drawn = next(first.run_folder.glob("answer-*")).read_bytes()
    second = opened(make_curator(), SUM)
    second.sum(SUM)
    assert next(second.run_folder.glob("answer-*")).read_bytes() == drawn  # no second draw
    assert kinds(second) == ["plan", "answer"]


def interrupted(*args: object, **options: object) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("moment", ["total", "add_noise"])
def test_killed_before_the_answer_was_stored(
    make_curator: Callable, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    first = opened(make_curator(), SUM)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        owner = curator_module.exact if moment == "total" else curator_module
        patch.setattr(owner, moment, interrupted)
        first.sum(SUM)
    killed(first)
    second = opened(make_curator(), SUM)
    second.sum(SUM)
    assert kinds(second) == ["plan", "answer"]


def test_a_full_disk_keeps_the_answer_inside(
    make_curator: Callable, monkeypatch: pytest.MonkeyPatch
) -> None:
    curator = opened(make_curator(), SUM)

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(LedgerError, match="No space left"):
        patch.setattr("sfumato.privacy.runs.write_atomically", full)
        curator.sum(SUM)
    assert kinds(curator) == ["plan"]
    curator.sum(SUM)


def test_a_lost_or_changed_answer_is_not_drawn_again(make_curator: Callable) -> None:
    curator = opened(make_curator(), SUM, VOTES)
    curator.sum(SUM)
    curator.histogram(VOTES)
    file, other = (curator.run_folder / f"answer-{n}.safetensors" for n in ("pixels", "votes"))
    file.write_bytes(other.read_bytes())
    with pytest.raises(LedgerError, match="never answered twice"):
        curator.sum(SUM)
    file.unlink()
    with pytest.raises(LedgerError, match="never answered twice"):
        curator.sum(SUM)


def test_data_that_changed_within_a_run_is_noticed(
    make_curator: Callable, make_source: type
) -> None:
    first = opened(make_curator(make_source([(1, 0)])))
    answer = first.sum(SUM)
    killed(first)
    second = opened(make_curator(make_source([(1, 0), (2, 0)])))
    assert same(second.sum(SUM), answer)  # released already
    with pytest.raises(DataError, match="has changed"):
        second.histogram(VOTES)
    killed(second)
    opened(make_curator(make_source([(1, 0), (2, 0)]), fresh=True)).histogram(VOTES)


class Untouchable:
    """A source that fails the test when a private byte is asked for."""

    def __new__(cls, make_source: type) -> object:
        class Source(make_source):
            def batches(self, size: int) -> Iterator:
                raise AssertionError("read")

            def _records(self) -> Iterator[Record]:
                raise AssertionError("read")

            def fingerprint(self) -> str:
                raise AssertionError("read")

            def _private_length(self) -> int:
                raise AssertionError("read")

        return Source([])


def test_a_cap_refuses_before_any_byte_is_read(make_curator: Callable, make_source: type) -> None:
    killed(opened(make_curator(cap=Budget(1.2, 1e-5))))
    late = make_curator(Untouchable(make_source), fresh=True)  # the cap is kept in the ledger
    with pytest.raises(BudgetExceededError, match="cap"):
        late.open(plan_for(late))
    assert kinds(late) == ["cap", "plan"]
    resumed = opened(make_curator(Untouchable(make_source)))  # paid for already
    assert kinds(resumed) == ["cap", "plan"]


def test_a_damaged_ledger_refuses_before_any_byte_is_read(
    make_curator: Callable, make_source: type
) -> None:
    first = opened(make_curator())
    killed(first)
    first._ledger.path.write_text("")
    with pytest.raises(LedgerError, match="damaged"):
        opened(make_curator(Untouchable(make_source)))


def test_an_insecure_run_is_stamped_and_kept_apart(make_curator: Callable) -> None:
    tests = [opened(make_curator(insecure_seed=1, fresh=True), SUM) for _ in range(2)]
    assert same(*(curator.sum(SUM) for curator in tests))
    assert tests[0].record()["noise"] == INSECURE_PATH
    assert INSECURE_PATH.startswith("NOT PRIVATE")
    real = opened(make_curator(), SUM)
    assert real.record()["noise"] == NOISE_PATH
    assert real.record()["data_set_total"]["runs"] == 1
    assert not same(real.sum(SUM), tests[0].sum(SUM))


def test_record_is_what_was_planned_charged_and_answered(make_curator: Callable) -> None:
    curator = opened(make_curator())
    curator.sum(SUM)
    record = curator.record()
    assert [entry["kind"] for entry in record["ledger"]] == ["plan", "answer"]
    assert record["ledger"][0]["events"] == record["events"]
    assert 0.999 <= record["epsilon"] <= 1 < record["epsilon_by_relation"]["replace-one"]
    assert record["data_set_total"]["epsilon"] == pytest.approx(record["epsilon"], rel=1e-3)


SECRET = "patient 0042"


@pytest.mark.parametrize("error", [ValueError, SfumatoError, DataError, MemoryError])
def test_an_error_on_private_data_is_withheld(
    make_curator: Callable, make_source: type, error: type[Exception]
) -> None:
    def contribution(images: Tensor, labels: Tensor) -> Tensor:
        if ((images[:, 0, 0, 0] == 10) & (images[:, 0, 0, 1] == 4)).any():
            raise error(SECRET)
        return pixels(images, labels)

    query = SumQuery("pixels", contribution, 4, 1.0)
    curator = opened(make_curator(make_source([(4 * 256 + 10, 0)])), query)
    with pytest.raises(SfumatoError, match="withheld") as caught:
        curator.sum(query)
    shown = "".join(traceback.format_exception(caught.value))
    assert SECRET not in shown and caught.value.__context__ is None
    assert kinds(curator) == ["plan"]


def test_an_error_of_the_reader_is_withheld_unless_it_is_public(
    make_curator: Callable, make_source: type
) -> None:
    def broken(error: Exception) -> object:
        class Source(make_source):
            def batches(self, size: int) -> Iterator:
                raise error

        return Source([(1, 0)])

    with pytest.raises(SfumatoError, match="failed with OSError") as caught:
        opened(make_curator(broken(OSError(SECRET))), SUM).sum(SUM)
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    with pytest.raises(DataError, match="not an IDX file"):
        opened(make_curator(broken(DataError("not an IDX file")), fresh=True), SUM).sum(SUM)


def test_warnings_about_private_data_are_silent(make_curator: Callable) -> None:
    def contribution(images: Tensor, labels: Tensor) -> Tensor:
        warnings.warn(SECRET, stacklevel=1)
        return pixels(images, labels)

    query = SumQuery("pixels", contribution, 4, 1.0)
    curator = opened(make_curator(), query)
    batch = curator_module.exact.independent_batch_size
    with warnings.catch_warnings(record=True) as public:
        warnings.simplefilter("always")
        batch(query, curator.spec)
    with warnings.catch_warnings(record=True) as all_of_it:
        warnings.simplefilter("always")
        curator.sum(query)
    assert len(all_of_it) == len(public)


def test_number_of_records_is_never_shown(
    make_source: type,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    shown = {}
    for count in (0, 7, 4321):
        source = make_source([(5, 0)] * count)
        curator = Curator(source, Budget(1.0, 1e-5), state=tmp_path / str(count))
        answer = opened(curator, SUM).sum(SUM)
        curator.close()
        out, err = capfd.readouterr()
        texts = [out, err, caplog.text, repr(curator), repr(source), repr(SUM), str(SUM.to_dict())]
        assert not any("4321" in text for text in texts)
        assert answer.total.shape == (3, 4)
        shown[count] = [out, *(line.partition(" in ")[0] for line in err.splitlines())]
    assert shown[0] == shown[7] == shown[4321]


def test_run_folder_is_private(make_curator: Callable) -> None:
    curator = opened(make_curator())
    curator.sum(SUM)
    assert curator.run_folder.parents[1].stat().st_mode & 0o077 == 0
    assert {file.name for file in curator.run_folder.iterdir()} <= {
        "run.lock",
        "fingerprint",
        "answer-pixels.safetensors",
    }


def test_unlabelled_data_has_one_row(make_curator: Callable, make_source: type) -> None:
    spec = PublicSpec(height=2, width=2, channels=1, classes=())
    source = make_source([(3, None), (4, 2)], spec)
    answer = opened(make_curator(source, Budget(1e4, 1e-2)), SUM).sum(SUM)
    assert answer.total.shape == (1, 4)
    assert answer.total[0, 0] == pytest.approx(7 / 255, abs=8 * answer.noise_std)
