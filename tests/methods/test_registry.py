"""Methods by name: one line each here, and an entry point for those of other packages."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import get_type_hints

import pytest

from sfumato.errors import UsageError
from sfumato.methods import find_method, method_names, registry
from sfumato.methods.registry import BUILT_IN

METHOD = '''
"""Moments under another name."""
from dataclasses import dataclass
from sfumato.methods import Moments

@dataclass(frozen=True)
class Fewer(Moments):
    """Few coefficients.

    Args:
        coefficients: as of Moments.
    """
    name = "fewer"
    title = "few moments"
    coefficients: int = 6
'''
POINTS = "[sfumato.methods]\nfewer = fewer:Fewer\nbroken = fewer:Nothing\nint = builtins:int\n"


@pytest.fixture
def other_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with methods, as a wheel that pip installs into a folder of its own."""
    wheel, info = tmp_path / "fewer-1.0-py3-none-any.whl", "fewer-1.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as file:
        # A package that names one of ours does not get in its place.
        file.writestr("fewer.py", METHOD)
        file.writestr(f"{info}/entry_points.txt", POINTS + "moments = fewer:Fewer\n")
        file.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: fewer\nVersion: 1.0\n")
        file.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        file.writestr(f"{info}/RECORD", "")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
    subprocess.run([*pip, "--target", tmp_path / "site", wheel], check=True)
    monkeypatch.syspath_prepend(str(tmp_path / "site"))
    registry._known.cache_clear()
    yield
    registry._known.cache_clear()
    sys.modules.pop("fewer", None)


@pytest.mark.parametrize("name", method_names())
def test_a_method_says_what_it_is_and_what_each_option_does(name: str) -> None:
    method = find_method(name)
    assert method.name == name
    assert 0 < len(method.title) <= 90
    options = {option.name: option for option in method.options()}
    undescribed = {name for name, option in options.items() if not option.help}
    assert undescribed <= {"public_digest", "public_model_digest", "public_classes"}
    assert set(method.short) <= set(options)
    method(**method.short)


def test_what_there_is_is_known_without_importing_it() -> None:
    code = (
        "import sys; from sfumato.methods import method_names\n"
        "assert 'mepf' in method_names()\n"
        "print(sorted({'torch', 'numpy', 'scipy'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


def test_a_method_of_another_package_is_found_by_its_entry_point(other_package: None) -> None:
    assert method_names()[-3:] == ["broken", "fewer", "int"]
    assert find_method("fewer")().config()["coefficients"] == 6
    assert find_method("moments").__name__ == "Moments"


@pytest.mark.parametrize(
    ("name", "said"),
    [("broken", "AttributeError"), ("int", "no class below"), ("gone", "must be one of mepf")],
)
def test_what_is_no_method_is_refused_by_name(name: str, said: str, other_package: None) -> None:
    with pytest.raises(UsageError, match=said):
        find_method(name)


def test_presets_are_named_where_one_is_not_known() -> None:
    from sfumato.data import PublicSpec

    spec = PublicSpec(28, 28, 1, ())
    with pytest.raises(UsageError, match="must be cpu or paper"):
        find_method("dpdm").preset("gpu", spec)
    with pytest.raises(UsageError, match="has no presets"):
        find_method("moments").preset("cpu", spec)


@pytest.mark.parametrize("name", BUILT_IN)
def test_types_of_settings_are_known_where_they_are_checked(name: str) -> None:
    hints = get_type_hints(find_method(name))  # a NameError would turn the check off
    assert {entry.name for entry in fields(find_method(name))} <= set(hints)
