"""With --json a command prints one object on standard output, as its schema says, and no more."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
from click.testing import Result

from sfumato.cli.app import app

Run = Callable[..., Result]
SCHEMA: dict[str, Any] = json.loads(
    files("sfumato.cli").joinpath("output.schema.json").read_text(encoding="utf-8")
)
QUICK = ["--method", "moments", "--set", "coefficients=6"]
JUDGED = ["--against", "digits", "--classifiers", "logistic", "--quick"]


def follows(command: str, printed: str) -> dict[str, Any]:
    assert printed.count("\n") == 1
    value: dict[str, Any] = json.loads(printed)
    jsonschema.Draft202012Validator({**SCHEMA, "$ref": f"#/$defs/{command}"}).validate(value)
    return value


def test_every_command_that_prints_json_has_a_schema() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    printing = {name for name, one in commands.items() if any(p.name == "json" for p in one.params)}
    assert commands.keys() - printing <= {"app", "shard"}
    assert printing <= SCHEMA["$defs"].keys()


def test_a_schema_says_all_that_is_printed() -> None:
    with pytest.raises(jsonschema.ValidationError):
        follows("keygen", '{"private_key": "a", "public_key": "b", "more": 1}\n')
    with pytest.raises(jsonschema.ValidationError):
        follows("keygen", '{"private_key": "a"}\n')


def test_what_is_printed_follows_the_schema(
    run: Run,
    digits_release: Path,
    tile_features: None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(digits_release, "release")
    Path("suite.toml").write_text(
        'name = "tiny"\npublic = true\ndata = ["digits"]\nepsilons = [1]\nseeds = [0]\n'
        'samples = 20\nclassifiers = ["logistic"]\n[methods.moments]\ncoefficients = 6\n'
    )
    for arguments in (
        ["check", "digits"],
        ["plan", "digits", "--epsilon", 1, *QUICK, "--delta", 0.01],
        ["synthesize", "digits", "--epsilon", 1, *QUICK, "--samples", 20, "--out", "made"],
        ["sample", "release", "--samples", 5, "--out", "more"],
        ["mock", "--classes", "a,b", "--samples", 3, "--out", "mock"],
        ["verify", "release"],
        ["report", "release"],
        ["keygen", "key"],
        ["sign", "release", "--key", "key"],
        ["verify", "release", "--public-key", "key.pub"],
        ["ledger", "digits", "--cap", 3],
        ["methods"],
        ["methods", "mepf"],
        ["evaluate", "release", *JUDGED],
        ["compare", "release", *JUDGED, "--out", "comparison"],
        ["audit", "digits", "--epsilon", 1, *QUICK, "--canaries", 20],
        ["bench", "suite.toml"],
        ["doctor"],
    ):
        result = run(*arguments, "--json")
        assert result.exit_code == 0, result.stderr
        follows(str(arguments[0]), result.stdout)
    result = run("verify", "nothing", "--json")
    assert result.exit_code == 6
    assert result.stdout == ""
