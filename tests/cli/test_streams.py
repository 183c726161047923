"""Output that lacks characters, has no reader or no space: what was done is done all the same."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import sfumato
from sfumato.cli import streams

Program = Callable[..., "subprocess.Popen[str]"]

SESSION = """
import io, json, os, sys
from sfumato.cli import main
codes = []
for encoding, target, argv in json.load(sys.stdin):
    handle = os.open(target, os.O_WRONLY | os.O_CREAT)
    os.dup2(handle, 1)
    sys.stdout = io.TextIOWrapper(io.BufferedWriter(io.FileIO(1, "w", closefd=False)), encoding)
    sys.argv = ["sfumato", *argv]
    try:
        main()
        codes.append(0)
    except SystemExit as end:
        codes.append(end.code or 0)
    os.close(handle)
print(json.dumps(codes), file=sys.stderr)
"""


def session(state: Path, steps: list[tuple[str, object, list[str]]]) -> tuple[list[int], str]:
    """Run commands in one process, the output of each into a file of its own."""
    environment = {
        "PYTHONPATH": str(Path(sfumato.__file__).parents[1]),
        "SFUMATO_STATE": str(state),
        "OMP_NUM_THREADS": "1",
        "COLUMNS": "100",
        "PYTHONIOENCODING": "utf-8",
    }
    said = json.dumps([(encoding, str(target), argv) for encoding, target, argv in steps])
    done = subprocess.run(
        [sys.executable, "-c", SESSION], input=said, env=environment, capture_output=True, text=True
    )
    *messages, codes = done.stderr.splitlines()
    return json.loads(codes), "\n".join(messages)


def road(out: Path) -> list[list[str]]:
    """Commands whose output has Greek letters, tables and paths."""
    return [
        ["--help"],
        ["synthesize", "--help"],
        ["methods", "dpdm"],
        ["plan", "digits", "--epsilon", "1", "--method", "moments", "--set", "coefficients=6"],
        ["synthesize", "digits", "--epsilon", "1", "--method", "moments", "--set",
         "coefficients=6", "--samples", "20", "--out", str(out / "é ε")],
        ["verify", str(out / "é ε")],
        ["ledger", "digits"],
    ]  # fmt: skip


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs /dev/full")
def test_no_encoding_and_no_full_disk_ends_what_a_command_does(tmp_path: Path) -> None:
    steps: list[tuple[str, object, list[str]]] = []
    for encoding in ("cp1252", "ascii"):
        commands = road(tmp_path / encoding)
        shown = [tmp_path / f"{encoding}-{number}.txt" for number in range(len(commands))]
        steps += [(encoding, *step) for step in zip(shown, commands, strict=True)]
    steps += [("utf-8", "/dev/full", command) for command in road(tmp_path / "full")]
    codes, messages = session(tmp_path / "state", steps)
    # The last commands fail where their output is all that they make.
    assert codes == [0] * 14 + [141, 141, 141, 141, 0, 0, 141], messages
    assert "Traceback" not in messages
    assert messages.count("standard output took no more: No space left on device") == 7
    for encoding, accent in (("cp1252", "é"), ("ascii", r"\xe9")):
        texts = [(tmp_path / f"{encoding}-{i}.txt").read_bytes().decode(encoding) for i in range(7)]
        assert all(texts)
        assert "epsilon = 1 (add-or-remove-one)" in texts[3]
        assert "sigma (noise / clip norm)" in " ".join(texts[3].split())
        assert f"{accent} epsilon" in texts[5]
    for place in ("cp1252", "ascii", "full"):
        assert (tmp_path / place / "é ε" / "certificate.json").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="closes streams in a shell of POSIX")
def test_a_stream_that_is_closed_at_the_start_is_no_ledger(tmp_path: Path) -> None:
    # The first file that is opened would get the number of the closed stream.
    command = f"{sys.executable} -m sfumato.cli ledger digits --cap 2 >&- 2>&-"
    environment = {
        "PYTHONPATH": str(Path(sfumato.__file__).parents[1]),
        "SFUMATO_STATE": str(tmp_path),
    }
    assert subprocess.run(["sh", "-c", command], env=environment).returncode == 141
    (book,) = tmp_path.rglob("ledger.jsonl")
    for line in book.read_text().splitlines():
        json.loads(line)


@pytest.mark.parametrize(
    ("text", "ascii"),
    [
        ("ε ≥ 1, δ, Σ", "epsilon >= 1, delta, Sigma"),
        ("┃ σ ┃", "| sigma |"),
        ("━━", "--"),
        ("0.1 ± 0.2 × 3 … –", "0.1 +/- 0.2 x 3 ... -"),
        ("é/日本\udcff", "\\xe9/\\u65e5\\u672c\\udcff"),
    ],
)
def test_what_an_encoding_lacks_is_spelled(text: str, ascii: str) -> None:
    assert text.encode("ascii", "sfumato") == ascii.encode()
    assert "\udcff".encode("utf-8", "sfumato") == b"\\udcff"


def test_a_pipe_without_a_reader_is_remembered_and_never_raised() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    out = streams.Output(writer, "wb")
    with io.TextIOWrapper(io.BufferedWriter(out)) as text:
        text.write("lost" * 10_000)
        text.flush()
        text.write("more")
    assert isinstance(out.lost, BrokenPipeError)


def test_a_full_pipe_that_does_not_block_is_waited_for() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    source = f"import os, sys\nwhile os.read({reader}, 65536): pass"
    with subprocess.Popen([sys.executable, "-c", source], pass_fds=[reader]) as other:
        os.close(reader)
        out = streams.Output(writer, "wb")
        with io.BufferedWriter(out) as buffered:
            buffered.write(b"x" * 1_000_000)
        assert out.lost is None
        assert other.wait(60) == 0
