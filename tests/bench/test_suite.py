from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sfumato.bench import load_suite
from sfumato.errors import UsageError

SUITES = Path(__file__).parents[2] / "benchmarks" / "suites"
SMALL = """
name = "small"
public = true
data = ["digits"]
epsilons = [1, 10]
seeds = [0, 1]
samples = 50
classifiers = ["logistic"]
[methods.moments]
[methods."few coefficients"]
method = "moments"
coefficients = 20
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "suite.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted(SUITES.glob("*.toml")), ids=lambda path: path.stem)
def test_committed_suites_are_valid(path: Path) -> None:
    suite = load_suite(path)
    assert suite.name == path.stem
    assert len({case.key() for case in suite.cases()}) == len(list(suite.cases()))


def test_cases_take_every_setting_before_the_next_seed(tmp_path: Path) -> None:
    cases = list(load_suite(written(tmp_path, SMALL)).cases())
    assert len(cases) == 8
    assert [case.seed for case in cases] == [0] * 4 + [1] * 4
    assert cases[0].method.method == "moments"
    assert cases[1].method.label == "few coefficients"
    assert cases[1].method.method == "moments"
    assert cases[1].method.options == {"coefficients": 20}


def test_key_changes_with_whatever_changes_the_result(tmp_path: Path) -> None:
    case = next(load_suite(written(tmp_path, SMALL)).cases())
    same = next(load_suite(written(tmp_path, SMALL.replace("[1, 10]", "[1.0]"))).cases())
    assert case.key() == same.key()
    others = [
        replace(case, **change)
        for change in (
            {"epsilon": 2.0},
            {"seed": 5},
            {"samples": 51},
            {"classifiers": ("cnn",)},
            {"relation": "replace-one"},
            {"method": replace(case.method, options={"coefficients": 3})},
        )
    ]
    assert len({case.key(), *(other.key() for other in others)}) == 7


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("public = true", "public = false", "public"),
        ("public = true", "", "public"),
        ("seeds = [0, 1]", "seeds = []", "seeds must not be empty"),
        ("seeds = [0, 1]", "", "'seeds' is missing"),
        ("samples = 50", "samples = 0", "samples=0"),
        ("samples = 50", "samples = 50\nsample = 3", "'sample' is no key"),
        ('method = "moments"', 'method = "magic"', "magic"),
        ('["logistic"]', '["svm"]', "svm"),
        ("epsilons = [1, 10]", "epsilons = [-1]", "epsilon=-1"),
        ("epsilons = [1, 10]", 'epsilons = ["x"]', "wrong type|not valid"),
        ("samples = 50", "samples = [", "not valid TOML"),
    ],
)
def test_faults_in_a_suite_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        load_suite(written(tmp_path, SMALL.replace(old, new)))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.toml"):
        load_suite(tmp_path / "none.toml")


def test_every_data_set_needs_a_location() -> None:
    suite = load_suite(SUITES / "cifar10.toml")
    with pytest.raises(UsageError, match="--data cifar10=PATH"):
        suite.locations({})
    assert suite.locations({"cifar10": "/x"}) == {"cifar10": "/x"}
    with pytest.raises(UsageError, match="--data mnist"):
        suite.locations({"mnist": "/x"})
    assert load_suite(SUITES / "digits.toml").locations({}) == {"digits": "digits"}


def test_public_images_of_a_method_are_a_data_set_that_needs_a_location() -> None:
    suite = load_suite(SUITES / "pe-cifar10.toml")
    with pytest.raises(UsageError, match="--data tiny-imagenet=PATH"):
        suite.locations({"cifar10": "/x"})
    where = suite.locations({"cifar10": "/x", "tiny-imagenet": "/y"})
    chosen = suite.methods[0].chosen(0, where)
    assert chosen.public == "/y" and "public" not in chosen.options
    assert suite.methods[0].options["public"] == "tiny-imagenet"  # what results say
