"""What plan says of a release's worth beforehand."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import dp_accounting
import pytest

from sfumato.data.spec import PublicSpec
from sfumato.data.units import PrivacyUnit
from sfumato.planning import advice as module
from sfumato.planning.advice import advise, sentences, table
from sfumato.privacy import Budget, Event

SPEC = PublicSpec(28, 28, 1, tuple("abcdefghij"))
SCRIPT = Path(__file__).parents[2] / "benchmarks" / "measured.py"


def event(multiplier: float = 3.73, **changes: object) -> Event:
    sensitivity = {"add-or-remove-one": 2.0, "replace-one": 4.0}
    return replace(Event("sum", "all", 2.0, sensitivity, 2.0 * multiplier), **changes)  # type: ignore[arg-type]


def epsilon_of(multiplier: float, delta: float = 1e-5) -> float:
    return float(dp_accounting.get_epsilon_gaussian(multiplier, delta))


@pytest.mark.skipif(not SCRIPT.exists(), reason="the benchmarks are no part of this copy")
def test_the_table_that_ships_is_that_of_the_committed_results() -> None:
    found = importlib.util.spec_from_file_location("measured", SCRIPT)
    assert found is not None and found.loader is not None
    script = importlib.util.module_from_spec(found)
    found.loader.exec_module(script)
    shipped = Path(module.__file__).with_name(module.TABLE).read_text(encoding="utf-8")
    assert shipped == script.text(), "run: python benchmarks/measured.py"


def test_rows_are_similar_by_images_a_class_and_epsilon() -> None:
    def similar(size: int | None, epsilon: float) -> tuple[str, ...]:
        spec = replace(SPEC, declared_size=size)
        return advise("moments", spec, Budget(epsilon, 1e-5), [event()]).similar

    assert similar(60_000, 1.0) == ("fashion-mnist",)
    assert similar(1_500, 10.0) == ("digits",)
    assert similar(60_000, 0.2) == () and similar(200, 1.0) == () and similar(None, 1.0) == ()


def test_the_row_nearest_in_epsilon_is_shown() -> None:
    for epsilon, nearest in ((0.1, 1.0), (2.0, 1.0), (5.0, 10.0), (50.0, 10.0)):
        rows = advise("mepf", SPEC, Budget(epsilon, 1e-5), [event()]).measured
        (row,) = (row for row in rows if row.data == "fashion-mnist")
        assert row.epsilon == nearest and row in table()


def test_what_falls_far_behind_the_best_is_not_called_useful() -> None:
    for method, data, least in (("pe", "digits", 10.0), ("mepf", "fashion-mnist", 1.0)):
        found = advise(method, SPEC, Budget(1.0, 1e-5), [event()]).cheapest
        assert found[data] == (least, None)


@pytest.mark.parametrize("factor", [1, 2, 0.25])
def test_the_cheapest_epsilon_here_has_as_little_noise_beside_the_images(factor: float) -> None:
    spec = replace(SPEC, declared_size=round(60_000 / factor))
    there, here = advise("mepf", spec, Budget(3.0, 1e-5), [event()]).cheapest["fashion-mnist"]
    assert there == 1.0 and here is not None
    multiplier = float(dp_accounting.get_sigma_gaussian(1.0, 1e-5)) / factor
    assert here == pytest.approx(epsilon_of(multiplier), rel=1e-4)


def test_too_few_images_are_told_that_no_epsilon_is_enough() -> None:
    spec, budget = replace(SPEC, declared_size=20), Budget(1.0, 1e-5)
    found = advise("mepf", spec, budget, [event()])
    assert "no ε up to 10,000" in " ".join(sentences(found, "mepf", spec, budget))
    assert {one["epsilon_here"] for one in found.to_dict()["cheapest"]} == {None}


def test_several_images_of_one_person_have_their_exact_epsilon() -> None:
    budget = Budget(1.0, 1e-5)
    found = advise("mepf", SPEC, budget, [event(4.0)]).epsilon_of_several
    for count, epsilon in found.items():
        assert epsilon == pytest.approx(epsilon_of(4.0 / count), rel=1e-6)
    assert advise("mepf", SPEC, budget, [event(sampling_rate=0.1)]).epsilon_of_several == {}
    persons = replace(SPEC, unit=PrivacyUnit(column="patient"))
    assert advise("mepf", persons, budget, [event()]).epsilon_of_several == {}


def test_a_method_without_runs_is_said_to_have_none() -> None:
    found = advise("unheard", SPEC, Budget(1.0, 1e-5), [event()])
    assert found.measured == () and found.cheapest == {}
    assert "No run of unheard" in sentences(found, "unheard", SPEC, Budget(1.0, 1e-5))[0]
