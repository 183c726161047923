"""Option objects, and the commands that are made from them."""

from __future__ import annotations

from dataclasses import fields

import pytest
from typer.main import get_command

from sfumato.cli.app import app
from sfumato.cli.parameters import KINDS
from sfumato.data.options import DataOptions
from sfumato.errors import UsageError
from sfumato.options import (
    EvaluationOptions,
    MethodOptions,
    ReleaseOptions,
    RunOptions,
    described,
    gathered,
)
from sfumato.privacy.budget import Budget

ASKED = (Budget, DataOptions, MethodOptions, ReleaseOptions, RunOptions)


@pytest.mark.parametrize("kind", KINDS)
def test_every_option_says_what_it_does(kind: type) -> None:
    assert set(described(kind)) == {field.name for field in fields(kind)}


def test_no_two_objects_share_an_option() -> None:
    names = [field.name for kind in ASKED for field in fields(kind)]
    assert len(names) == len(set(names))


def test_every_field_is_an_option_of_synthesize() -> None:
    (command,) = (c for n, c in get_command(app).commands.items() if n == "synthesize")  # type: ignore[attr-defined]
    given = {parameter.name for parameter in command.params}
    for kind in ASKED:
        assert {field.name for field in fields(kind)} <= given


def test_keywords_go_before_the_fields_of_an_object() -> None:
    kinds = [MethodOptions, RunOptions]
    method, run = gathered("f", kinds, [RunOptions(cap=3.0, quiet=True)], {"cap": 2.0})
    assert (run.cap, run.quiet, method) == (2.0, True, MethodOptions())


@pytest.mark.parametrize(
    ("given", "stated", "said"),
    [
        ([], {"out": "x", "smaples": 3}, "no option smaples; it has balance"),
        ([], {}, "needs out="),
        ([RunOptions()], {"out": "x"}, "at most one of each of ReleaseOptions"),
        ([ReleaseOptions("a"), ReleaseOptions("b")], {}, "at most one"),
    ],
)
def test_what_does_not_fit_is_named(given: list, stated: dict, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        gathered("sample", [ReleaseOptions], given, stated)


def test_an_evaluation_has_one_network() -> None:
    assert EvaluationOptions(inception="w.pt").network == "inception:w.pt"
    with pytest.raises(UsageError, match="exclude each other"):
        EvaluationOptions(inception="w.pt", extractor="timm:x")
