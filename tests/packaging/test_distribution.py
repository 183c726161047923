"""What `pip install` gets: wheel and sdist hold all that a run needs, nothing of the checkout."""

from __future__ import annotations

import os
import site
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PRIVATE = ("tests/", "benchmarks/", ".venv", ".git/")


def run(*command: str | Path, **settings: str) -> str:
    """What a command prints; it must end well."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")} | settings
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, env=environment
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("build", reason="install the extra 'test'")
    pytest.importorskip("hatchling", reason="install the extra 'test'")
    folder = tmp_path_factory.mktemp("dist")
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", folder, ROOT)
    return folder


def test_the_wheel_holds_the_package_with_its_data(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    package = ROOT / "src"
    for path in package.rglob("*"):
        if path.is_file() and "__pycache__" not in path.parts:
            assert str(path.relative_to(package)) in names
    assert not [name for name in names if name.startswith(PRIVATE)]


def test_the_sdist_holds_what_building_needs(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        names = {name.partition("/")[2] for name in file.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE", "src/sfumato/__init__.py"} <= names


def test_an_installation_of_the_wheel_does_the_main_job(built: Path, tmp_path: Path) -> None:
    (archive,) = built.glob("*.whl")  # which was built from the sdist, not from the checkout
    run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv")
    python = tmp_path / "venv/bin/python"
    (place,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    # Dependencies come from the tests' own environment; sfumato itself must not.
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    run(*install, "--no-index", "--target", place, archive)
    (place / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    release, state = tmp_path / "release", {"SFUMATO_STATE": str(tmp_path / "state")}
    job = ["synthesize", "digits", "--epsilon", "10", "--method", "moments", "--samples", "20"]
    run(python, "-m", "sfumato.cli", *job, "--out", release, "--quiet", **state)
    check = f"import sfumato; print(sfumato.verify({str(release)!r}).recomputed, sfumato.__file__)"
    *_, where = run(python, "-c", check).split()
    assert Path(where).is_relative_to(place)
