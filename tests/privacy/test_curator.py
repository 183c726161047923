"""The curator: charged before read, answered once, and silent about what it holds."""

from __future__ import annotations

import json
import re
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from sfumato.data.spec import PublicSpec
from sfumato.errors import BudgetExceededError, DataError, LedgerError, SfumatoError, UsageError
from sfumato.privacy import (
    Answer,
    Budget,
    Curator,
    HistogramQuery,
    Plan,
    SumQuery,
    make_plan,
)
from sfumato.privacy.ledger import Ledger
from sfumato.privacy.noise.integer_gaussian import INSECURE_PATH, NOISE_PATH, add_noise

SPEC = PublicSpec(height=2, width=2, channels=1, classes=("a", "b", "c"))
SIZE = 137
BUDGET = Budget(1.0, 1e-5)
WIDE = Budget(40.0, 1e-5)  # little noise, so that a wrong sum shows
SECRET = "patient Doe, HIV positive"


def pixels(images: Tensor, labels: Tensor) -> Tensor:
    return images[:, 0, 0, :2] / 100


SUM = SumQuery("sum", pixels, 2, 1.5, by_class=True)
TOTAL = SumQuery("total", pixels, 2, 1.5, by_class=True, shared=1)
VOTES = HistogramQuery("votes", lambda images, labels: images[:, 0, 0, 0].long() // 50, bins=4)


def planned(budget: Budget, *queries: SumQuery | HistogramQuery) -> Plan:
    return make_plan({"name": "test"}, queries, budget, SPEC)


@pytest.fixture(scope="module")
def plan() -> Plan:
    return planned(BUDGET, SUM, VOTES)


@pytest.fixture(scope="module")
def records() -> list[tuple[int, int | None]]:
    rng = np.random.default_rng(1)
    values, labels = rng.integers(0, 2**16, SIZE), rng.integers(-1, 4, SIZE)
    return [(int(value), int(label)) for value, label in zip(values, labels, strict=True)]


Make = Callable[..., Curator]


def interrupt(curator: Curator) -> None:
    """What the system does for a killed process: its locks are gone, nothing else happens."""
    if curator._run is not None:
        curator._run.release()


def entries(curator: Curator) -> list[dict]:
    with curator._ledger.locked():
        return curator._ledger.entries()


def kinds(curator: Curator) -> list[str]:
    return [entry["kind"] for entry in entries(curator) if entry["kind"] != "data"]


def same(first: Answer, second: Answer) -> bool:
    return np.array_equal(first.total, second.total) and np.array_equal(first.shared, second.shared)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[np.ndarray]:
    """The noisy answers drawn so far."""
    kept: list[np.ndarray] = []

    def spy(*arguments: object) -> np.ndarray:
        kept.append(add_noise(*arguments))
        return kept[-1]

    monkeypatch.setattr("sfumato.privacy.answering.base.add_noise", spy)
    return kept


def test_answers_are_the_truth_and_the_claimed_noise(
    make_source: type, make_curator: Make, records: list
) -> None:
    rows = np.array([[value % 256, value // 256] for value, _ in records]) / 100
    rows *= np.minimum(1, 1.5 / np.maximum(np.linalg.norm(rows, axis=1), 1e-9))[:, None]
    labels = np.array([label for _, label in records])
    sums = np.stack([rows[labels == c].sum(axis=0) for c in range(3)])
    firsts = np.array([value % 256 for value, _ in records])[(labels >= 0) & (labels < 3)] // 50
    counts = np.bincount(firsts, minlength=6)[:4]  # votes 4 and 5 abstain

    curator = make_curator(make_source(records), WIDE)
    curator.open_plan(planned(WIDE, SUM, TOTAL, VOTES))
    answer, split, votes = (
        curator.sum(SUM.name),
        curator.sum(TOTAL.name),
        curator.histogram(VOTES.name),
    )
    for found, truth in (
        (answer.total, sums),
        (split.total, sums[:, :1]),
        (split.shared, sums[:, 1].sum(keepdims=True)),
        (votes.total, counts[None]),
    ):
        std = votes.noise_std if found is votes.total else answer.noise_std
        assert found.shape == truth.shape
        assert np.abs(found - truth).max() < 6 * std < np.abs(truth).max() / 2
    assert answer.shared.shape == (0,)


def test_answer_carries_the_noise_that_was_paid_for(make_source: type, make_curator: Make) -> None:
    query = SumQuery("q", lambda images, labels: torch.zeros(len(images), 4000), 4000, 3.0)
    paid = planned(BUDGET, query)
    curator = make_curator(make_source([(3, 0)]))
    curator.open_plan(paid)
    answer = curator.sum(query.name)
    assert answer.noise_std == paid.events[0].noise_std
    # Six standard errors of 4000 draws are 6.7 %.
    assert np.std(answer.total) == pytest.approx(answer.noise_std, rel=0.067)


def test_plan_is_on_disk_before_noise_is_drawn(
    make_curator: Make, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    curator, seen = make_curator(), []

    def looks_at_the_disk(*arguments: object) -> np.ndarray:
        seen.append([json.loads(line) for line in curator._ledger.path.read_text().splitlines()])
        return add_noise(*arguments)

    monkeypatch.setattr("sfumato.privacy.answering.base.add_noise", looks_at_the_disk)
    curator.open_plan(plan)
    curator.sum(SUM.name)
    ((_, charged),) = seen  # where the data lie, and what is charged
    assert charged["kind"] == "plan" and charged["plan"] == plan.digest()
    assert charged["events"] == [event.to_dict() for event in plan.events]
    assert kinds(curator) == ["plan", "answer"]


def test_query_outside_the_plan_is_refused(
    make_source: type, make_curator: Make, plan: Plan
) -> None:
    source = make_source([(3, 0)])
    curator = make_curator(source)
    with pytest.raises(UsageError, match="no plan is open"):
        curator.sum(SUM.name)
    curator.open_plan(plan)
    with pytest.raises(BudgetExceededError, match=r"sum 'total' is not in the plan.*: sum \(sum\)"):
        curator.sum(TOTAL.name)
    with pytest.raises(BudgetExceededError, match="histogram 'sum' is not in the plan"):
        curator.histogram(SUM.name)
    assert source.reads == 0 and kinds(curator) == ["plan"]


def test_plan_for_another_budget_or_data_set_is_refused(
    make_source: type, make_curator: Make, plan: Plan
) -> None:
    other = make_source([], PublicSpec(height=2, width=2, channels=1, classes=("a",)))
    for curator in (make_curator(budget=Budget(0.9, 1e-5)), make_curator(other)):
        with pytest.raises(UsageError, match="another budget"):
            curator.open_plan(plan)
        assert kinds(curator) == []


def test_second_ask_gives_the_first_answer(
    make_source: type, make_curator: Make, plan: Plan, drawn: list
) -> None:
    source = make_source([(3, 0), (700, 2)])
    curator = make_curator(source)
    curator.open_plan(plan)
    assert same(curator.sum(SUM.name), curator.sum(SUM.name))
    assert len(drawn) == 1 == source.reads and kinds(curator) == ["plan", "answer"]


def test_interrupted_run_goes_on_without_a_new_charge(
    make_curator: Make, plan: Plan, drawn: list
) -> None:
    first = make_curator()
    first.open_plan(plan)
    answer = first.sum(SUM.name)
    interrupt(first)
    second = make_curator()
    second.open_plan(plan)
    assert same(second.sum(SUM.name), answer) and len(drawn) == 1
    second.histogram(VOTES.name)
    assert kinds(second) == ["plan", "answer", "answer"] and len(drawn) == 2


def test_killed_between_stored_answer_and_ledger_gives_the_stored_answer(
    make_curator: Make, plan: Plan, drawn: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    append = Ledger.append

    def killed(self: Ledger, kind: str, **content: object) -> dict:
        if kind == "answer":
            raise KeyboardInterrupt
        return append(self, kind, **content)

    first = make_curator()
    first.open_plan(plan)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Ledger, "append", killed)
        first.sum(SUM.name)
    interrupt(first)
    assert kinds(first) == ["plan"]
    second = make_curator()
    second.open_plan(plan)
    answer = second.sum(SUM.name)
    assert len(drawn) == 1 and kinds(second) == ["plan", "answer"]
    assert np.array_equal(np.rint(answer.total * 2**20 / 1.5).ravel(), drawn[0])


def test_stored_answer_that_was_changed_or_lost_is_not_drawn_again(
    make_curator: Make, plan: Plan, drawn: list
) -> None:
    curator = make_curator()
    curator.open_plan(plan)
    curator.sum(SUM.name)
    stored = curator.run_folder / "steps-sum" / "00000000.safetensors"
    whole = stored.read_bytes()
    for damage in (whole[:-8] + bytes(8), whole[:-8], None):
        stored.unlink() if damage is None else stored.write_bytes(damage)
        with pytest.raises(LedgerError, match="never answered twice"):
            curator.sum(SUM.name)
    assert len(drawn) == 1


def test_changed_data_are_not_asked_in_the_same_run(
    make_source: type, make_curator: Make, plan: Plan, drawn: list
) -> None:
    first = make_curator(make_source([(3, 0)]))
    first.open_plan(plan)
    first.sum(SUM.name)
    interrupt(first)
    second = make_curator(make_source([(4, 0)]))
    second.open_plan(plan)
    with pytest.raises(DataError, match="changed"):
        second.histogram(VOTES.name)
    assert len(drawn) == 1


@pytest.mark.parametrize("how", ["closed", "fresh"])
def test_closed_or_fresh_run_is_charged_and_drawn_anew(
    make_curator: Make, plan: Plan, drawn: list, how: str
) -> None:
    first = make_curator()
    first.open_plan(plan)
    answer = first.sum(SUM.name)
    if how == "closed":
        first.close()
    else:
        interrupt(first)
    second = make_curator(fresh=how == "fresh")
    second.open_plan(plan)
    assert not same(second.sum(SUM.name), answer) and len(drawn) == 2
    charged = [entry for entry in entries(second) if entry["kind"] == "plan"]
    assert len(charged) == 2 == len({entry["run"] for entry in charged})
    total = second.record()["data_set_total"]
    assert total["runs"] == 2 and total["epsilon"] > 1.3


def test_run_in_use_cannot_be_opened_twice(make_curator: Make, plan: Plan) -> None:
    first, second = make_curator(), make_curator()
    first.open_plan(plan)
    with pytest.raises(LedgerError, match="another process"):
        second.open_plan(plan)
    with pytest.raises(UsageError, match="open already"):
        first.open_plan(plan)


def test_plan_over_the_cap_is_refused_before_a_byte_is_read(
    make_source: type, make_curator: Make, plan: Plan
) -> None:
    class Untouchable(make_source):
        def batches(self, size: int) -> Iterator:
            raise AssertionError("read")

        fingerprint = _private_length = batches

    curator = make_curator(Untouchable([(3, 0)]), cap=Budget(0.5, 1e-5))
    with pytest.raises(BudgetExceededError, match="cap"):
        curator.open_plan(plan)
    with pytest.raises(UsageError):
        curator.sum(SUM.name)
    assert kinds(curator) == ["cap"]


def fails_on_private(images: Tensor, labels: Tensor) -> Tensor:
    if bool((images[:, 0].flatten(1) == torch.tensor([77, 1, 0, 0])).all(dim=1).any()):
        raise ValueError(SECRET)
    return pixels(images, labels)


@pytest.mark.parametrize("where", ["contribution", "reader"])
def test_text_of_a_failure_on_private_data_is_withheld(
    make_source: type, make_curator: Make, where: str, capsys: pytest.CaptureFixture
) -> None:
    class Broken(make_source):
        def _records(self) -> Iterator:
            raise ValueError(SECRET)

    query = SumQuery("q", fails_on_private, 2, 1.0)
    source = (make_source if where == "contribution" else Broken)([(77 + 256, 0)])
    curator = make_curator(source)
    curator.open_plan(planned(BUDGET, query))
    with pytest.raises(SfumatoError, match="withheld") as caught:
        curator.sum(query.name)
    assert "ValueError" in str(caught.value)
    shown = "".join(traceback.format_exception(caught.value)) + "".join(capsys.readouterr())
    assert "patient" not in shown
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert kinds(curator) == ["plan"]  # charged, never refunded


def test_known_seed_is_stamped_and_kept_apart(make_curator: Make, plan: Plan) -> None:
    answers = []
    for _ in range(2):
        curator = make_curator(insecure_seed=7)
        curator.open_plan(plan)
        answers.append(curator.sum(SUM.name))
        assert curator.record()["noise"] == INSECURE_PATH
        curator.close()
    assert same(*answers)
    honest = make_curator()
    honest.open_plan(plan)
    assert honest.record()["noise"] == NOISE_PATH
    assert honest.record()["data_set_total"]["runs"] == 1
    assert not same(honest.sum(SUM.name), answers[0])


def test_number_of_records_is_never_shown(
    make_source: type,
    plan: Plan,
    records: list,
    tmp_path: Path,
    capsys: pytest.CaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sfumato.progress.PLAIN_LINE_SECONDS", 0.0)
    shown = []
    for size in (SIZE, 173):
        source = make_source((2 * records)[:size])
        curator = Curator(source, BUDGET, state=tmp_path / f"own-state-{size}")
        curator.open_plan(plan)
        curator.sum(SUM.name)
        output = capsys.readouterr()
        assert output.out == ""
        shown.append(re.findall(r"\d+%", output.err))
        told = output.err + repr(source) + repr(plan) + json.dumps(curator.record())
        assert not re.search(rf"\b{size}\b", told)
        assert not re.search(r"\d", re.sub(r" at 0x[0-9a-f]+", "", repr(curator)))
    # The steps are those of any size: their fineness would betray it.
    assert shown[0] == shown[1] == [f"{share}%" for share in range(1, 101)]


def test_record_is_what_was_paid_and_holds_no_path(
    make_curator: Make, plan: Plan, tmp_path: Path
) -> None:
    curator = make_curator()
    curator.open_plan(plan)
    curator.sum(SUM.name)
    record = curator.record()
    text = json.dumps(record, allow_nan=False)
    for private in (str(tmp_path), "own-state", "memory:test", str(curator.run_folder)):
        assert private not in text
    assert 0.999 <= record["epsilon"] <= 1.0
    assert record["epsilon"] == record["epsilon_by_relation"]["add-or-remove-one"]
    assert record["epsilon_by_relation"]["replace-one"] > record["epsilon"]
    assert [entry["kind"] for entry in record["ledger"]] == ["plan", "answer"]
    assert json.loads(text)["events"] == [event.to_dict() for event in plan.events]


def test_plan_that_costs_more_than_its_budget_cannot_be_made(plan: Plan) -> None:
    with pytest.raises(BudgetExceededError, match="over its budget"):
        Plan(Budget(0.9, 1e-5), plan.method, plan.spec, plan.queries, plan.events)
    with pytest.raises(UsageError, match="different names"):
        planned(BUDGET, SUM, SUM)
    with pytest.raises(UsageError, match="queries' own"):
        Plan(BUDGET, plan.method, plan.spec, plan.queries, plan.events[::-1])


@pytest.mark.parametrize("error", [SfumatoError, DataError, MemoryError])
def test_an_error_of_our_own_kind_is_withheld_too(
    make_source: type, make_curator: Make, error: type[Exception]
) -> None:
    def contribution(images: Tensor, labels: Tensor) -> Tensor:
        if bool((images[:, 0].flatten(1) == torch.tensor([77, 1, 0, 0])).all(dim=1).any()):
            raise error(SECRET)
        return pixels(images, labels)

    query = SumQuery("q", contribution, 2, 1.0)
    curator = make_curator(make_source([(77 + 256, 0)]))
    curator.open_plan(planned(BUDGET, query))
    with pytest.raises(SfumatoError, match="withheld") as caught:
        curator.sum(query.name)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_what_the_reader_says_of_the_public_format_is_shown(
    make_source: type, make_curator: Make, plan: Plan
) -> None:
    class Broken(make_source):
        def batches(self, size: int, *_: object) -> Iterator:
            raise DataError("images.idx: wrong magic number")

    curator = make_curator(Broken([(3, 0)]))
    curator.open_plan(plan)
    with pytest.raises(DataError, match="wrong magic"):
        curator.sum(SUM.name)


def test_warnings_about_private_data_are_silent(make_source: type, make_curator: Make) -> None:
    warned = []

    def contribution(images: Tensor, labels: Tensor) -> Tensor:
        if bool((images[:, 0].flatten(1) == torch.tensor([77, 0, 0, 0])).all(dim=1).any()):
            warned.append(True)
            warnings.warn(SECRET, stacklevel=1)
        return pixels(images, labels)

    query = SumQuery("q", contribution, 2, 1.0)
    curator = make_curator(make_source([(77, 0)]))
    curator.open_plan(planned(BUDGET, query))
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        curator.sum(query.name)
    assert warned and SECRET not in [str(warning.message) for warning in heard]


def test_unlabelled_data_has_one_row(make_source: type, make_curator: Make) -> None:
    spec = PublicSpec(height=2, width=2, channels=1, classes=())
    curator = make_curator(make_source([(30, None), (40, 2)], spec), WIDE)
    curator.open_plan(make_plan({"name": "test"}, [SUM], WIDE, spec))
    answer = curator.sum(SUM.name)
    assert answer.total.shape == (1, 2)
    assert answer.total[0, 0] == pytest.approx(0.7, abs=6 * answer.noise_std)
