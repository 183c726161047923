"""docs/trust.md, "Air gap": the main job asks for no network; downloads say what to bring.

``benchmarks/air_gap.sh`` is the whole of it, set-up from wheels included.
"""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from urllib.error import URLError

import pytest
import torch

import sfumato
from sfumato.data import open_images
from sfumato.data.readers import named
from sfumato.errors import DataError, SfumatoError, UsageError
from sfumato.evaluation.extractors import load_extractor

SOURCE = Path(sfumato.__file__).parent

# Python imports this at its start. It notes whatever would leave the machine, and forbids it.
WATCH = """
import os, sys

ASKED = {"socket.connect", "socket.sendto", "socket.getaddrinfo", "socket.gethostbyname"}

def watch(event, arguments):
    if event in ASKED:
        with open(os.environ["ATTEMPTS"], "a") as file:
            print(event, *arguments[-2:], file=file)
        raise OSError("the air gap: no network")

sys.addaudithook(watch)
"""

# The shipped encoder is loaded, and then does not judge: a few cheap features do.
JOB = """
import json, sys, torch
from typer.testing import CliRunner
from sfumato.cli.app import app
from sfumato.evaluation import judging
from sfumato.evaluation.extractors import Extractor, load_extractor

load_extractor()
means = lambda images: images[:, 0].float().mean(dim=2)
judging.load_extractor = lambda name, device: Extractor("rows", "0" * 64, means, 100, device)
outcomes = []
for command in json.load(sys.stdin):
    result = CliRunner().invoke(app, command)
    outcomes.append([result.exit_code, result.output])
json.dump(outcomes, open("outcomes.json", "w"))
"""


def namespace() -> list[str]:
    """What starts a command in a network namespace of its own; nothing where not permitted."""
    cut = ["unshare", "--map-root-user", "--net"]
    try:
        permitted = subprocess.run([*cut, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        permitted = False
    return cut if permitted else []


@pytest.fixture
def alone(tmp_path: Path) -> Callable[..., tuple[int, str, str]]:
    """Run Python cut off; return its exit code, what it printed, and what it asked the network."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(WATCH)

    def run(program: str, given: str = "") -> tuple[int, str, str]:
        attempts = tmp_path / "attempts"
        attempts.write_text("")
        # An empty home: no weights or data that an earlier download left there.
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        paths = [str(tmp_path / "site"), str(SOURCE.parent)]
        environment = {
            **kept,
            "ATTEMPTS": str(attempts),
            "HOME": str(tmp_path),
            "PYTHONPATH": os.pathsep.join(paths),
            "SFUMATO_STATE": str(tmp_path / "state"),
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [*namespace(), sys.executable, "-c", program],
            input=given,
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout + done.stderr, attempts.read_text()

    return run


COMMANDS = [
    ["demo", "--help"],
    "synthesize digits --method moments --set coefficients=6 --epsilon 10 --samples 200 "
    "--out release --quiet".split(),
    "evaluate release --against digits:test --public --classifiers logistic --quiet".split(),
    ["report", "release"],
    ["verify", "release"],
]


def test_the_main_job_needs_no_network_and_asks_for_none(
    alone: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    code, printed, attempts = alone(JOB, json.dumps(COMMANDS))
    assert code == 0, printed
    for command, (exit_code, output) in zip(
        COMMANDS, json.loads((tmp_path / "outcomes.json").read_text()), strict=True
    ):
        assert exit_code == 0, f"{command}: {output}"
    assert (tmp_path / "release" / "report.html").is_file()
    assert attempts == ""


def test_an_attempt_is_noticed(alone: Callable[..., tuple[int, str, str]]) -> None:
    code, _, attempts = alone("import urllib.request as u; u.urlopen('http://192.0.2.1/')")
    assert code != 0 and "socket." in attempts


def test_the_namespace_has_no_network() -> None:
    cut = namespace()
    if not cut:
        pytest.skip("unshare --net is not permitted here: sockets are only watched by Python")
    program = "import socket; socket.create_connection(('192.0.2.1', 80), timeout=5)"
    done = subprocess.run([*cut, sys.executable, "-c", program], capture_output=True, text=True)
    assert "Network is unreachable" in done.stderr


NETWORK = ("urllib.request", "http.client", "requests", "httpx", "socket", "ftplib", "huggingface")


def reaches_out(source: str) -> bool:
    """Whether a module imports what reaches the network or asks a library for its weights."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import) and any(
            alias.name.startswith(NETWORK) for alias in node.names
        ):
            return True
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith(NETWORK):
            return True
        if isinstance(node, ast.Call):
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            pretrained = given.get("pretrained")
            if isinstance(pretrained, ast.Constant) and pretrained.value is True:
                return True
            if ast.unparse(node.func).endswith(("load_state_dict_from_url", "from_pretrained")):
                return True
    return False


def test_two_modules_can_download_and_no_other() -> None:
    """A new one is to be added here, and to the tests below."""
    for planted in ("from urllib.request import urlopen", "import requests", "f(pretrained=True)"):
        assert reaches_out(planted)
    assert not reaches_out("f(pretrained=False)\nfrom urllib.parse import quote\n")
    found = {str(path.relative_to(SOURCE)) for path in SOURCE.rglob("*.py")}
    found = {path for path in found if reaches_out((SOURCE / path).read_text())}
    listens = "app/server.py"  # on the loopback address alone: tests/app
    asks = "privacy/cluster.py"  # whether the stated cluster is there; nothing is downloaded
    assert found == {"data/readers/named.py", "evaluation/extractors.py", listens, asks}


def said(error: type[SfumatoError], call: Callable[[], object]) -> str:
    with pytest.raises(error) as refused:
        call()
    return str(refused.value)


def test_fashion_mnist_says_what_to_bring(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise URLError("Network is unreachable")

    monkeypatch.setattr(named.urllib.request, "urlopen", offline)
    monkeypatch.setattr(named, "_DEBIAN_FOLDER", tmp_path / "absent")
    monkeypatch.setattr(named, "user_cache_path", lambda name: tmp_path / name)
    monkeypatch.delenv(named.FASHION_MNIST_VARIABLE, raising=False)
    message = said(DataError, lambda: open_images("fashion-mnist"))
    for part in (*named.FASHION_MNIST_FILES, named.FASHION_MNIST_URL, "SFUMATO_FASHION_MNIST"):
        assert part in message


def test_inception_says_what_to_bring(tmp_path: Path) -> None:
    missing = tmp_path / "weights.pth"
    message = said(DataError, lambda: load_extractor(f"inception:{missing}"))
    for part in (str(missing), "https://", "pt_inception-2015-12-05-6726825d.pth"):
        assert part in message


def test_torchvision_says_what_to_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise URLError("Network is unreachable")

    url = "https://example.org/resnet18-0123.pth"
    models: Any = ModuleType("torchvision.models")
    models.get_model_weights = lambda name: SimpleNamespace(DEFAULT=SimpleNamespace(url=url))
    models.get_model = offline
    monkeypatch.setitem(sys.modules, "torchvision", ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)
    message = said(UsageError, lambda: load_extractor("torchvision:resnet18"))
    for part in ("resnet18", url, str(Path(torch.hub.get_dir()) / "checkpoints")):
        assert part in message


def test_timm_says_what_to_bring(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(*_: Any, **__: Any) -> None:
        raise FileNotFoundError("cannot find the requested files in the local cache")

    timm: Any = ModuleType("timm")
    timm.create_model = offline
    monkeypatch.setitem(sys.modules, "timm", timm)
    message = said(UsageError, lambda: load_extractor("timm:resnet18"))
    for part in ("timm.create_model('resnet18', pretrained=True)", "$HF_HOME"):
        assert part in message
