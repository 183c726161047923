from __future__ import annotations

import errno
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from sfumato.cli.app import app
from sfumato.cli.guard import guarded
from sfumato.errors import LedgerError

OUT = ["--out", "made"]
SECRET = "patient_0042.png has loss 0.31"


def outcome(error: BaseException, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    def command() -> None:
        raise error

    with pytest.raises(typer.Exit) as caught:
        guarded(command)()
    assert caught.value.__suppress_context__
    return caught.value.exit_code, capsys.readouterr().err


def test_a_known_error_is_its_message_and_its_code(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = outcome(LedgerError("the ledger is damaged."), capsys)
    assert (code, said) == (5, "sfumato: the ledger is damaged.\n")


def test_an_interruption_says_how_to_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = outcome(KeyboardInterrupt(), capsys)
    assert code == 130
    assert "run the same command again" in said


@pytest.mark.parametrize("error", [ValueError(SECRET), KeyError(SECRET), AssertionError(SECRET)])
def test_the_text_of_an_unforeseen_error_stays_private(
    error: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said = outcome(error, capsys)
    assert code == 1
    assert type(error).__name__ in said
    assert "guard" in said  # the place
    assert "0042" not in said
    assert "0.31" not in said


def test_a_full_disk_is_named_without_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    error = OSError(errno.ENOSPC, "No space left on device", "patient_0042.png")
    code, said = outcome(error, capsys)
    assert code == 1
    assert "No space left on device" in said
    assert "0042" not in said


def test_what_works_is_left_alone() -> None:
    def command(name: str, times: int = 1) -> None:
        assert (name, times) == ("x", 2)

    guarded(command)("x", times=2)


ALONE = ("check", "plan", "convert", "fit-embedding", "audit", "report", "shard", "pretrain")


def test_what_ranks_do_not_share_is_refused_where_torchrun_starts_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WORLD_SIZE", "2")
    rest = {"plan": ["--epsilon", "1"], "audit": ["--epsilon", "1"]}
    for name in ALONE:
        given = [name, "digits", *rest.get(name, [] if name in ("check", "report") else OUT)]
        result = CliRunner().invoke(app, given)
        said = f"sfumato: {name} is the work of one process: run it without torchrun."
        assert (result.exit_code, result.stderr.strip()) == (2, said), name
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("WORLD_SIZE", "1")
    assert "torchrun" not in CliRunner().invoke(app, ["report", "nowhere"]).stderr


def test_a_chosen_exit_passes() -> None:
    def command() -> None:
        raise typer.Exit(3)

    with pytest.raises(typer.Exit) as caught:
        guarded(command)()
    assert caught.value.exit_code == 3


@pytest.mark.parametrize(
    "arguments",
    [
        *([name, ""] for name in ("check", "plan", "synthesize", "ledger", "audit", "verify")),
        *([name, ""] for name in ("report", "sample", "fit-embedding", "evaluate", "bench")),
        ["compare", "release", "", "--against", "digits", "--out", "x"],
        ["synthesize", "digits", "--epsilon", "1", "--out", ""],
        ["ledger", "digits", "--state="],
        ["evaluate", "release", "--against", " "],
    ],
    ids=" ".join,
)
def test_an_empty_argument_is_never_the_current_folder(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert "is followed by nothing" in result.stderr
    assert not list(tmp_path.iterdir())


def test_a_refusal_names_the_argument_and_never_the_record(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(data: str, out: Path) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", f"{data}/patient_0042.png")

    with pytest.raises(typer.Exit):
        guarded(command)(data=str(tmp_path / "scans"), out=tmp_path / "out")
    said = capsys.readouterr().err
    assert f"refused something in {tmp_path / 'scans'}: Permission denied." in said
    assert "0042" not in said
