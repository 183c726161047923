"""docs/proofs/gradient.md: each step is answered once, and with the noise that was paid for."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.data import open_images
from sfumato.data.source import ImageSource
from sfumato.errors import BudgetExceededError, DataError, LedgerError, SfumatoError, UsageError
from sfumato.privacy import Budget, Curator, GradientQuery, Plan, make_plan, run
from sfumato.privacy.answering import sampled
from sfumato.privacy.answering.base import OpenRun
from sfumato.privacy.answering.gradient import GradientAnswering
from sfumato.privacy.ledger import Ledger
from sfumato.privacy.noise.integer_gaussian import INSECURE_PATH
from sfumato.privacy.noise.keys import KEY_BYTES
from sfumato.privacy.run import Run

SURE = 1e-6
BUDGET = Budget(2.0, 1e-5)
SECRET = "patient Doe, HIV positive"
STEPS = 5


class Tiles(nn.Module):
    """Softmax regression on 49 mean intensities."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(49, 10)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(F.adaptive_avg_pool2d(x, 7).flatten(1))


class CrossEntropy:
    """The loss of softmax regression on images with a little noise."""

    multiplicity = 1

    def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return (torch.rand(units, generator=generator),)

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        x = images.float() / 255 + 0.1 * draws[0][:, None, None, None]
        return F.cross_entropy(network(x), labels, reduction="none")


class Pixels(CrossEntropy):
    """For the small images in memory: the output is linear in the first two pixels."""

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        return network(images[:, 0, 0].float() / 100)[:, 0]


QUERY = GradientQuery("g", 500, clip_norm=0.5, sampling_rate=0.1, steps=STEPS)
SMALL = GradientQuery("s", 2, clip_norm=1.5, sampling_rate=0.5, steps=4)


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(2, 1, bias=False)


@pytest.fixture(scope="module")
def small_plan(make_source: Callable) -> Plan:
    return make_plan({"name": "test"}, [SMALL], Budget(1.0, 1e-5), make_source([]).spec)


@pytest.fixture(scope="module")
def digits() -> ImageSource:
    return open_images("digits")


@pytest.fixture(scope="module")
def plan(digits: ImageSource) -> Plan:
    return make_plan({"name": "test", "config": {}}, [QUERY], BUDGET, digits.spec)


@pytest.fixture(autouse=True)
def _one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    # The ways differ in their last bits, and which is fastest is the machine's affair.
    monkeypatch.setattr(sampled, "engine_that_fits", lambda *_: ("layers", 64))


def train(
    curator: Curator,
    plan: Plan,
    until: int = STEPS,
    checkpoints: bool = False,
) -> Tensor:
    """Gradient descent from the last checkpoint on, up to a kill after ``until`` steps."""
    curator.open_plan(plan)
    network, start = Tiles(), 0
    checkpoint = curator.run_folder / "checkpoint.pt"
    if checkpoints and checkpoint.exists():
        weights, start = torch.load(checkpoint)
        network.load_state_dict(weights)
    for step in range(start, until):
        answer = curator.gradient(QUERY.name, step, network, CrossEntropy())
        assert answer.dtype == torch.float64 and answer.shape == (QUERY.dimension,)
        with torch.no_grad():
            nn.utils.vector_to_parameters(
                nn.utils.parameters_to_vector(network.parameters()) - 0.01 * answer.float(),
                network.parameters(),
            )
        if checkpoints and step % 2:
            torch.save((network.state_dict(), step + 1), checkpoint)
            curator.forget(QUERY.name, step + 1)
    return nn.utils.parameters_to_vector(network.parameters()).detach()


def kinds(curator: Curator) -> list[str]:
    with curator._ledger.locked():
        return [e["kind"] for e in curator._ledger.entries() if e["kind"] != "data"]


@pytest.fixture(scope="module")
def unbroken(digits: ImageSource, plan: Plan, tmp_path_factory: pytest.TempPathFactory) -> Tensor:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampled, "engine_that_fits", lambda *_: ("layers", 64))
        state = tmp_path_factory.mktemp("unbroken")
        with Curator(digits, BUDGET, state=state, quiet=True, insecure_seed=7) as curator:
            return train(curator, plan)


@pytest.mark.parametrize("stops", [(2,), (1, 3, 3)])
def test_a_run_goes_on_from_a_checkpoint_to_where_the_unbroken_one_ends(
    digits: ImageSource, plan: Plan, unbroken: Tensor, tmp_path: Path, stops: tuple[int, ...]
) -> None:
    def curator() -> Curator:
        return Curator(digits, BUDGET, state=tmp_path, quiet=True, insecure_seed=7)

    for stop in stops:
        with curator() as killed:
            train(killed, plan, stop, checkpoints=True)
    with curator() as resumed:
        assert torch.equal(train(resumed, plan, checkpoints=True), unbroken)
        assert unbroken.any()
        assert kinds(resumed) == ["plan", "answer"]  # charged once, confirmed once
        resumed.close()
        assert kinds(resumed) == ["plan", "answer", "closed"]
    with curator() as later:
        later.open_plan(plan)
        assert kinds(later) == ["plan", "answer", "closed", "plan"]


def test_a_run_with_a_secret_key_goes_on_with_it(
    digits: ImageSource, plan: Plan, tmp_path: Path
) -> None:
    ends = []
    for until in (3, STEPS, STEPS):
        with Curator(digits, BUDGET, state=tmp_path, quiet=True) as curator:
            ends.append(train(curator, plan, until))
            assert (curator.run_folder / "key").stat().st_size == 2 * KEY_BYTES
    assert torch.equal(ends[1], ends[2])
    with Curator(digits, BUDGET, state=tmp_path / "other", quiet=True) as curator:
        assert not torch.equal(train(curator, plan, 3), ends[0])


def test_closing_destroys_the_key_and_the_steps(
    digits: ImageSource, plan: Plan, tmp_path: Path
) -> None:
    with Curator(digits, BUDGET, state=tmp_path, quiet=True) as curator:
        train(curator, plan, 2)
        folder = curator.run_folder
        assert (folder / "key").exists()
        assert len(list(folder.glob("steps-g/*.safetensors"))) == 2
        curator.close()
    assert not (folder / "key").exists() and not (folder / "steps-g").exists()


def test_closing_a_resumed_run_that_asked_nothing_destroys_its_steps_too(
    digits: ImageSource, plan: Plan, tmp_path: Path
) -> None:
    with Curator(digits, BUDGET, state=tmp_path, quiet=True) as curator:
        train(curator, plan)
        folder = curator.run_folder
    with Curator(digits, BUDGET, state=tmp_path, quiet=True) as curator:
        curator.open_plan(plan)
        curator.close()
    assert not (folder / "key").exists() and not (folder / "steps-g").exists()


def make(
    source: ImageSource,
    folder: Path,
    query: GradientQuery = SMALL,
    noise_std: float = 1e-9,
    seed: int | None = None,
) -> GradientAnswering:
    event = replace(query.event("add-or-remove-one"), noise_std=noise_std)
    run = OpenRun(source, Run(folder, "r", hold=False), Ledger(folder), insecure_seed=seed)
    return GradientAnswering(query, event, run)


@pytest.fixture
def source(make_source: Callable) -> ImageSource:
    rng = np.random.default_rng(3)
    return make_source([(int(v), int(v) % 3) for v in rng.integers(0, 2**16, 60)])


def test_steps_come_in_turn_and_repeat(source: ImageSource, tmp_path: Path) -> None:
    steps, network = make(source, tmp_path, noise_std=1.0), small_network()
    for wrong in (1, 3, -1, 4, 99):
        with pytest.raises(UsageError, match="must be the next one, 0"):
            steps.answer(wrong, network, Pixels())
    answers = [steps.answer(step, network, Pixels()) for step in range(2)]
    with pytest.raises(UsageError, match="must be the next one, 2"):
        steps.answer(3, network, Pixels())
    other = nn.Linear(2, 1, bias=False)  # whatever is asked with, an answered step is the same
    for again in (steps, make(source, tmp_path, noise_std=50.0)):
        assert torch.equal(again.answer(0, other, Pixels()), answers[0])
        assert torch.equal(again.answer(1, other, Pixels()), answers[1])
    for step in (2, 3):
        steps.answer(step, network, Pixels())
    with pytest.raises(UsageError, match="step=4"):
        steps.answer(4, network, Pixels())


def test_forgotten_steps_are_refused_and_the_newest_is_kept(
    source: ImageSource, tmp_path: Path
) -> None:
    steps, network = make(source, tmp_path), small_network()
    answers = [steps.answer(step, network, Pixels()) for step in range(3)]
    steps.forget(1)
    assert torch.equal(steps.answer(1, network, Pixels()), answers[1])
    steps.forget(99)
    for gone in (0, 1):
        with pytest.raises(UsageError, match="still stored"):
            steps.answer(gone, network, Pixels())
    assert torch.equal(steps.answer(2, network, Pixels()), answers[2])
    steps.answer(3, network, Pixels())


@pytest.mark.parametrize("content", [b"", b"nonsense", "cut"])
def test_a_damaged_answer_is_refused(
    source: ImageSource, tmp_path: Path, content: bytes | str
) -> None:
    steps, network = make(source, tmp_path), small_network()
    steps.answer(0, network, Pixels())
    (path,) = tmp_path.glob("runs/r/steps-s/*.safetensors")
    path.write_bytes(path.read_bytes()[:-1] if isinstance(content, str) else content)
    before = path.read_bytes()
    with pytest.raises(LedgerError, match="never answered twice"):
        steps.answer(0, network, Pixels())
    assert path.read_bytes() == before


def test_answer_is_stored_before_it_leaves(
    source: ImageSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    steps, network = make(source, tmp_path, noise_std=1.0), small_network()
    with monkeypatch.context() as patch:
        patch.setattr(run, "write_atomically", full)
        with pytest.raises(LedgerError, match="No space left"):
            steps.answer(0, network, Pixels())
    answer = steps.answer(0, network, Pixels())
    assert torch.equal(make(source, tmp_path).answer(0, network, Pixels()), answer)


def clipped_rows(source: Any, weight: float, clip_norm: float) -> np.ndarray:
    rows = np.array([[v % 256, v // 256] for v, _ in source.records]) / 100 * weight
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    return rows * np.minimum(1, clip_norm / np.maximum(norms, 1e-12))


def test_without_noise_the_answer_is_the_sum_over_the_sample(
    source: ImageSource, tmp_path: Path
) -> None:
    every = GradientQuery("s", 2, 1.5, sampling_rate=1.0, steps=1)
    truth = clipped_rows(source, 1.0, 1.5)
    whole = make(source, tmp_path, every).answer(0, small_network(), Pixels())
    assert whole.numpy() == pytest.approx(truth.sum(axis=0), rel=1e-3)
    # Over many steps the mean is q times that; its spread is that of the samples.
    many = GradientQuery("m", 2, 1.5, sampling_rate=0.3, steps=200)
    steps, network = make(source, tmp_path, many), small_network()
    sums = np.array([steps.answer(step, network, Pixels()).numpy() for step in range(200)])
    error = np.sqrt(0.3 * 0.7 * (truth**2).sum(axis=0) / 200)
    assert (np.abs(sums.mean(axis=0) - 0.3 * truth.sum(axis=0)) < 6 * error + 1e-2).all()
    assert (np.abs(sums.mean(axis=0) - 0.36 * truth.sum(axis=0)) > 6 * error).any()
    assert sums.std(axis=0) == pytest.approx(error * np.sqrt(200), rel=0.3)


def test_unusable_records_add_nothing(make_source: Callable, tmp_path: Path) -> None:
    good = [(300, 0), (517, 2), (1000, 1)]
    bad = [(40_000, -1), (50_000, 99), (60_000, None)]
    every = GradientQuery("s", 2, 9.0, sampling_rate=1.0, steps=1)
    answers = []
    for name, records in (("good", good), ("both", [bad[0], *good, *bad[1:]]), ("bad", bad)):
        steps = make(make_source(records), tmp_path / name, every)
        answers.append(steps.answer(0, small_network(), Pixels()).numpy())
    assert answers[0] == pytest.approx(answers[1], abs=1e-3) and answers[0].any()
    assert answers[2] == pytest.approx(np.zeros(2), abs=1e-3)


class Flat(CrossEntropy):
    """A loss that does not depend on the network: its gradient is zero."""

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        return super().__call__(network, images, labels, *draws) * 0


def test_noise_is_what_was_paid_for_at_every_step(
    digits: ImageSource, plan: Plan, tmp_path: Path
) -> None:
    noise_std = plan.event(QUERY.name).noise_std
    with Curator(digits, BUDGET, state=tmp_path, quiet=True) as curator:
        curator.open_plan(plan)
        network = Tiles()
        answers = [curator.gradient(QUERY.name, step, network, Flat()) for step in range(STEPS)]
    drawn = torch.stack(answers).numpy().astype(np.float64) / noise_std
    assert stats.kstest(drawn.ravel(), "norm").pvalue > SURE
    for wrong in (2 / 3, 1.5):
        assert stats.kstest(drawn.ravel() * wrong, "norm").pvalue < SURE
    assert stats.pearsonr(drawn[1:].ravel(), drawn[:-1].ravel()).pvalue > SURE
    assert stats.pearsonr(drawn[:, 1:].ravel(), drawn[:, :-1].ravel()).pvalue > SURE


def test_an_event_carries_the_querys_steps_and_sampling() -> None:
    for clip in (1.0, 3.0):
        event = GradientQuery("g", 5, clip, 0.05, 10).event("replace-one")
        assert (event.count, event.sampling_rate, event.noise_std) == (10, 0.05, 2 * clip)


def test_data_that_changed_within_a_run_are_refused(
    make_source: Callable, make_curator: Callable, small_plan: Plan
) -> None:
    source = make_source([(300, 0), (517, 2)])
    network = small_network()
    with make_curator(source) as curator:
        curator.open_plan(small_plan)
        first = curator.gradient(SMALL.name, 0, network, Pixels())
    source.records = source.records[:1]
    reads = source.reads
    with make_curator(source) as curator:
        curator.open_plan(small_plan)
        assert torch.equal(curator.gradient(SMALL.name, 0, network, Pixels()), first)
        with pytest.raises(DataError, match="changed"):
            curator.gradient(SMALL.name, 1, network, Pixels())
    assert source.reads == reads


def test_plan_is_charged_before_anything_is_read(
    make_source: Callable, make_curator: Callable, small_plan: Plan
) -> None:
    source = make_source([(300, 0), (517, 2)])
    with make_curator(source) as curator:
        with pytest.raises(UsageError, match="no plan is open"):
            curator.gradient(SMALL.name, 0, small_network(), Pixels())
        curator.open_plan(small_plan)
        assert kinds(curator) == ["plan"] and source.reads == 0
        curator.gradient(SMALL.name, 0, small_network(), Pixels())
        assert source.reads == 1
        for step in range(1, 4):
            curator.gradient(SMALL.name, step, small_network(), Pixels())
        assert source.reads == 1


def test_what_is_not_in_the_plan_is_refused(
    make_source: Callable, make_curator: Callable, small_plan: Plan
) -> None:
    source = make_source([(300, 0)])
    with make_curator(source) as curator:
        curator.open_plan(small_plan)
        with pytest.raises(BudgetExceededError, match="gradient 't' is not in the plan"):
            curator.gradient("t", 0, small_network(), Pixels())
        with pytest.raises(BudgetExceededError, match=f"aggregate '{SMALL.name}' is not in the"):
            curator.aggregate(SMALL.name, 0, small_network(), Pixels())
        with pytest.raises(UsageError, match="3 parameters"):
            curator.gradient(SMALL.name, 0, nn.Linear(2, 1), Pixels())
    assert source.reads == 0


@pytest.mark.parametrize(
    "wrong",
    [{"sampling_rate": 0.0}, {"sampling_rate": 1.1}, {"sampling_rate": -0.1},
     {"sampling_rate": float("nan")}, {"steps": 0}, {"dimension": 0}, {"clip_norm": 0.0},
     {"clip_norm": float("inf")}, {"name": "../x"}],
)  # fmt: skip
def test_a_query_that_is_none_is_refused(wrong: dict) -> None:
    right = {"name": "s", "dimension": 2, "clip_norm": 1.0, "sampling_rate": 0.5, "steps": 3}
    GradientQuery(**right)
    with pytest.raises(UsageError, match=next(iter(wrong)).replace("name", "name")):
        GradientQuery(**{**right, **wrong})


class Tells(Pixels):
    """Tells what it sees, but only in private images: their second row is black."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self.tell = tell

    def __call__(
        self, network: nn.Module, images: Tensor, labels: Tensor, *draws: Tensor
    ) -> Tensor:
        if not images[:, 0, 1].any():
            self.tell(SECRET)
        return super().__call__(network, images, labels, *draws)


def raises(text: str) -> None:
    raise ValueError(text)


def all_text(error: BaseException) -> str:
    return "".join(traceback.format_exception(error)) + repr(error)


def test_a_loss_that_fails_tells_nothing(source: ImageSource, tmp_path: Path) -> None:
    steps, network = make(source, tmp_path), small_network()
    with pytest.raises(SfumatoError, match="ValueError") as caught:
        steps.answer(0, network, Tells(raises))
    assert caught.value.__cause__ is None and caught.value.__context__ is None
    assert SECRET not in all_text(caught.value)
    # The step was not answered, so it still can be.
    assert steps.answer(0, network, Pixels()).shape == (2,)


def test_a_source_that_fails_tells_nothing(source: Any, tmp_path: Path) -> None:
    def failing() -> Iterator[Any]:
        raise OSError(SECRET)
        yield

    source._records = failing
    try:
        make(source, tmp_path).answer(0, small_network(), Pixels())
    except Exception as error:
        assert isinstance(error, SfumatoError) and SECRET not in all_text(error)


def test_draws_that_fail_tell_nothing(source: ImageSource, tmp_path: Path) -> None:
    class Counts(Pixels):
        def draws(self, units: int, generator: torch.Generator) -> tuple[Tensor, ...]:
            raise ValueError(f"{units} units of {SECRET}")

    steps = make(source, tmp_path)
    steps._engine = ("loop", 64)  # measured already, on public images
    with pytest.raises(SfumatoError) as caught:
        steps.answer(0, small_network(), Counts())
    assert SECRET not in all_text(caught.value)


def test_a_warning_tells_nothing(source: ImageSource, tmp_path: Path) -> None:
    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        make(source, tmp_path).answer(0, small_network(), Tells(warnings.warn))
    assert SECRET not in "".join(str(warning.message) for warning in shown)


def test_answers_and_records_lie_in_private_folders(source: ImageSource, tmp_path: Path) -> None:
    make(source, tmp_path).answer(0, small_network(), Pixels())
    folder = tmp_path / "runs" / "r"
    assert (folder / "steps-s").stat().st_mode & 0o077 == 0
    assert sorted(path.name for path in folder.iterdir()) == ["fingerprint", "key", "steps-s"]


def test_a_seeded_run_is_stamped(digits: ImageSource, plan: Plan, tmp_path: Path) -> None:
    with Curator(digits, BUDGET, state=tmp_path, quiet=True, insecure_seed=1) as curator:
        train(curator, plan, 1)
        with curator._ledger.locked():
            assert curator._ledger.entries()[0]["noise"] == INSECURE_PATH
