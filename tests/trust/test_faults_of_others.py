"""docs/trust.md, "Faults of other systems": the table's tests exist; those without another home.

Other tests of that table stand beside the code that they guard.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from sfumato.data.source import ImageSource, Record
from sfumato.data.spec import PublicSpec
from sfumato.evaluation.extractors import Extractor
from sfumato.evaluation.judging import open_real, open_release
from sfumato.evaluation.private_metrics import publish
from sfumato.privacy import (
    Budget,
    Curator,
    GeneratedBatch,
    GradientQuery,
    Query,
    SumQuery,
    TeacherBatches,
    TeacherGradients,
    VoteQuery,
    make_plan,
)
from sfumato.privacy.ledger import Ledger

ROOT = Path(__file__).parents[2]
SPEC = PublicSpec(height=2, width=2, channels=1, classes=("common", "rare", "absent"))
BUDGET = Budget(1.0, 1e-5)


def defined(path: Path) -> set[str]:
    """Names of the test functions of a file."""
    tree = ast.parse(path.read_text())
    functions = (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef))
    return {node.name for node in functions if node.name.startswith("test_")}


def rows(text: str) -> list[list[str]]:
    """The cells of the table of faults."""
    section = re.split(r"^## ", text, flags=re.M)
    (mine,) = (part for part in section if part.startswith("Faults of other systems"))
    return [line.strip("| ").split(" | ") for line in re.findall(r"^\| \d.*\|$", mine, re.M)]


def test_every_test_of_the_table_exists() -> None:
    table = rows((ROOT / "docs" / "trust.md").read_text())
    assert [row[0] for row in table] == [str(number) for number in range(1, 15)]
    for number, _, _, tests in table:
        named = re.findall(r"`(\w+/\S+\.py|\w+\.py)::(\w+)`", tests)
        assert named and len(named) == tests.count("::"), number
        for path, name in named:
            assert name in defined(ROOT / "tests" / path), f"fault {number}: {path}::{name}"


class OfThree(ImageSource):
    """One image 200 times in the first class, once in the second, never in the third."""

    def __init__(self) -> None:
        super().__init__("memory", SPEC, "memory:three")

    def _records(self) -> Iterator[Record]:
        for label in [0] * 200 + [1]:
            yield np.full((1, 2, 2), 90, np.uint8), label

    def _private_length(self) -> int:
        return 201

    def fingerprint(self) -> str:
        return "0" * 64


class Mean:
    """A unit's loss: the mean of the network's answers."""

    multiplicity = 1

    def draws(self, count: int, generator: torch.Generator) -> tuple[Tensor, ...]:
        return ()

    def __call__(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return network(images.flatten(1).float()).mean(dim=1)


class Constant:
    """Teachers of one gradient."""

    memory, batch, at_once = 0, 1, 2

    def begin(self, count: int, generator: torch.Generator) -> Tensor:
        return torch.zeros(count, 0)

    def draws(
        self, count: int, generated: GeneratedBatch, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        return ()

    def vote(
        self, memory: Tensor, shard: TeacherBatches, generated: GeneratedBatch, /, *draws: Tensor
    ) -> tuple[Tensor, TeacherGradients]:
        return memory, TeacherGradients(shard.there.any(dim=1, keepdim=True).float().expand(-1, 4))


SUM = SumQuery("sum", lambda images, labels: torch.full((len(images), 2000), 0.1), 2000, 1.0, True)
GRADIENT = GradientQuery("gradient", 5, 1.0, 1.0, 2)  # not sampled: its price is quick
VOTE = VoteQuery("vote", 4, 4, 3, 2)
IMAGES = GeneratedBatch(torch.zeros(1, 1, 2, 2), torch.tensor([0]), 0.0)


def asked(curator: Curator, query: Query) -> np.ndarray:
    """The first answer, as an array."""
    if isinstance(query, SumQuery):
        return curator.sum(query.name).total
    if isinstance(query, GradientQuery):
        network = nn.Linear(4, 1)
        nn.init.zeros_(network.weight)
        return curator.gradient(query.name, 0, network, Mean()).numpy()
    assert isinstance(query, VoteQuery)
    return curator.vote(query.name, 0, Constant(), IMAGES).numpy()


@pytest.fixture
def opened(tmp_path: Path) -> Callable[[Query], Curator]:
    def make(query: Query) -> Curator:
        curator = Curator(OfThree(), BUDGET, state=tmp_path / "state", quiet=True, fresh=True)
        curator.open_plan(make_plan({"name": "test"}, [query], BUDGET, SPEC))
        return curator

    return make


@pytest.mark.parametrize("query", [SUM, GRADIENT, VOTE], ids=lambda query: query.name)
def test_no_public_seed_reaches_the_noise(opened: Callable, query: Query) -> None:
    """Fault 1. All that a script can seed is seeded alike for two runs on the same images."""
    answers = []
    for _ in range(2):
        np.random.seed(0)
        torch.manual_seed(0)
        with opened(query) as curator:
            answers.append(asked(curator, query))
    assert not np.array_equal(*answers)


@pytest.mark.parametrize("query", [SUM, GRADIENT, VOTE], ids=lambda query: query.name)
def test_where_noise_cannot_be_drawn_nothing_is_answered(
    opened: Callable, query: Query, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 2. Nothing leaves, and nothing that could leave later is stored."""

    def broken(*_: Any, **__: Any) -> Any:
        raise np.linalg.LinAlgError("not positive definite")

    monkeypatch.setattr("sfumato.privacy.noise.integer_gaussian.sample", broken)
    with opened(query) as curator:
        with pytest.raises(np.linalg.LinAlgError):
            asked(curator, query)
        kept = [path.name for path in curator.run_folder.rglob("*.safetensors")]
        ledger: Ledger = curator._ledger
        with ledger.locked():
            assert [entry["kind"] for entry in ledger.entries()] == ["data", "plan"]
        assert kept == []


def test_noise_does_not_know_how_often_a_class_or_an_image_occurs(opened: Callable) -> None:
    """Faults 2 and 5. 200 equal images, a class of one record and an empty class."""
    with opened(SUM) as curator:
        answer = curator.sum(SUM.name)
    deviation = answer.total.std(axis=1)
    # 2,000 coordinates: six standard errors are 9.5 %.
    assert deviation == pytest.approx(np.full(3, answer.noise_std), rel=0.095)


def test_published_metrics_are_noisy(
    digits_release: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault 8. Two purchases of the same metrics differ in nothing but noise, so they differ."""
    extractor = Extractor("rows", "0" * 64, means_of_rows, 100, torch.device("cpu"))
    monkeypatch.setattr(
        "sfumato.evaluation.private_metrics.load_extractor", lambda name, device: extractor
    )
    seen: list[dict[str, Any]] = []
    for name in ("a", "b"):
        release = shutil.copytree(digits_release, tmp_path / name)
        real = open_real("digits:test", open_release(release).spec)
        # One state folder, so that the second classifier is the first one, from the cache.
        published = publish(
            release, real, BUDGET, classifiers=["logistic"], state=tmp_path / "state", quiet=True
        )
        seen.append(published)
    accuracies = [metrics["utility"][0]["accuracy"]["value"] for metrics in seen]
    assert accuracies[0] != accuracies[1]
    assert seen[0]["frechet"] != seen[1]["frechet"]


def means_of_rows(images: Tensor) -> Tensor:
    return images[:, 0].float().mean(dim=2)


LOADERS = {"load", "loads", "Unpickler", "read_pickle", "eval", "exec", "compile"}
PICKLES = {"pickle", "joblib", "dill", "cloudpickle", "shelve", "marshal"}


def unsafe(source: str) -> list[str]:
    """Calls that may run code which lies in a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        call, given = ast.unparse(node.func), {k.arg: ast.unparse(k.value) for k in node.keywords}
        owner, _, name = call.rpartition(".")
        if (
            (owner in PICKLES and name in LOADERS)
            or (owner == "" and name in {"eval", "exec"})
            or (name == "read_pickle")
            or (call == "torch.load" and given.get("weights_only") != "True")
            or (call == "np.load" and given.get("allow_pickle") != "False")
            or given.get("allow_pickle") == "True"
        ):
            found.append(call)
    return found


def test_no_module_loads_a_pickle() -> None:
    """Fault 14."""
    planted = (
        "pickle.load(f)\npickle.Unpickler(f)\njoblib.load(f)\ntorch.load(f)\neval(x)\n"
        "torch.load(f, weights_only=False)\nnp.load(f)\nnp.lib.f(x, allow_pickle=True)\n"
    )
    assert len(unsafe(planted)) == 8
    assert not unsafe("torch.load(f, weights_only=True)\nnp.load(f, allow_pickle=False)\n")
    modules = list((ROOT / "src").rglob("*.py"))
    assert len(modules) > 90
    found = {str(path): unsafe(path.read_text()) for path in modules}
    assert {path: calls for path, calls in found.items() if calls} == {}
