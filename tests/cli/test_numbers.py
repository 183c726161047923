"""Numbers at the edge: a sentence and exit code 2, before anything is charged."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from sfumato.choosing import make_method
from sfumato.data.spec import PublicSpec
from sfumato.errors import UsageError
from sfumato.methods import find_method, method_names
from sfumato.privacy import Budget, make_plan

Run = Callable[..., Result]
SPEC = PublicSpec(28, 28, 1, ("a", "b"))
QUICK = ["--method", "moments", "--set", "coefficients=6"]
NEVER = ["nan", "inf", "-inf", "-1", "1e308", "1,5", "abc", "0x10", "10" * 30]
FRACTIONS = {
    "--epsilon": ["0", "1e-320", "1e-9", "1e7"],
    "--delta": ["0", "1", "1e-320"],
    "--cap": ["0", "1e-9", "1e7"],
}
WHOLE = {
    "--samples": ["0", "1e5", "1.5"],
    "--seed-public": ["1.5"],
    "--declared-size": ["0"],
    "--image-size": ["0", "257"],
    "--channels": ["2"],
}


@pytest.mark.parametrize("command", ["plan", "synthesize", "ledger"])
def test_a_number_outside_its_rule_is_refused_before_the_charge(
    command: str, run: Run, state: Path, tmp_path: Path
) -> None:
    given = {
        "plan": ["--epsilon", "1", *QUICK],
        "synthesize": ["--epsilon", "1", *QUICK, "--out", tmp_path / "out", "--quiet"],
        "ledger": [],
    }[command]
    known = run(command, "--help").stdout
    for option, more in {**FRACTIONS, **WHOLE}.items():
        if option not in known:
            continue
        for value in (*NEVER, *more):
            if (option, value) == ("--declared-size", "10" * 30):
                continue  # an honest if odd declaration
            result = run(command, "digits", *given, f"{option}={value}")
            assert result.exit_code == 2, (option, value, result.output)
            assert "unforeseen" not in result.stderr
            assert result.stdout == ""
    assert not list(state.rglob("ledger.jsonl"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", method_names())
def test_no_setting_takes_what_its_field_is_not(name: str) -> None:
    for option in find_method(name).options():
        if isinstance(option.default, bool | int | float):
            for value in (math.nan, math.inf, -1, 1e308, 2**70, "abc", [1]):
                with pytest.raises(UsageError, match=option.name):
                    make_method(name, SPEC, {option.name: value})


@pytest.mark.parametrize("epsilon", [1e-3, 1e4])
def test_the_outermost_budgets_are_calibrated(epsilon: float) -> None:
    method = make_method("moments", SPEC, {"coefficients": 6})
    plan = make_plan({"name": "moments", "config": {}}, method.queries(SPEC), Budget(epsilon), SPEC)
    assert 0.999 * epsilon <= plan.epsilons()["add-or-remove-one"] <= epsilon


def test_a_large_delta_is_allowed_in_so_many_words_or_refused(
    run: Run, state: Path, tmp_path: Path, digits_release: Path
) -> None:
    asked = ["digits", "--epsilon", 1, "--delta", 0.5, "--declared-size", 60, *QUICK]
    assert "WARNING: δ = 0.5" in run("plan", *asked).stdout
    refused = [
        run("synthesize", *asked, "--out", tmp_path / "out"),
        run(
            "evaluate", digits_release, "--against", "digits", "--publish-metrics",
            "--epsilon", 1, "--delta", 0.5,
        ),
    ]  # fmt: skip
    for result in refused:
        assert result.exit_code == 2
        assert "--allow-large-delta" in result.stderr
    assert not list(state.rglob("ledger.jsonl"))
