"""A filled form becomes arguments of the command line, and can become nothing else."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sfumato.app.choices import MAIN, MORE, offered, options, release_folder, suggested_name
from sfumato.app.places import Places
from sfumato.errors import UsageError

KNOWN = {choice.name: "" for choice in (*MAIN, *MORE)}


def filled(root: Path, **given: str) -> list[str]:
    main, more = offered(KNOWN, ["mepf", "moments"])
    fields = {name.replace("_", "-"): value for name, value in given.items()}
    return list(chain(*options(fields, main + more, Places([root])).values()))


def test_empty_fields_say_nothing_and_unknown_ones_are_not_passed_on(tmp_path: Path) -> None:
    assert filled(tmp_path, epsilon=" 1 ", cap="", insecure_seed="3", out="/", state="/") == [
        "--epsilon=1"
    ]


@settings(max_examples=50)
@given(st.text(max_size=20))
def test_a_value_stays_one_argument_of_its_own_option(text: str) -> None:
    root = Path(__file__).parent
    try:
        said = filled(root, unit_pattern=text)
    except UsageError:
        assert not text.strip().isprintable()
        return
    assert said == ([f"--unit-pattern={text.strip()}"] if text.strip() else [])


@pytest.mark.parametrize(
    "wrong",
    [
        {"method": "none"},
        {"channels": "2"},
        {"split": "a\nb"},
        {"split": "a" * 501},
        {"value_range": "0 --out"},
        {"value_range": "5"},
    ],
)
def test_a_wrong_value_is_refused(tmp_path: Path, wrong: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        filled(tmp_path, **wrong)


def test_flags_and_pairs_become_their_own_arguments(tmp_path: Path) -> None:
    said = filled(tmp_path, value_range="-1024  4095", dicom="yes", frame="0")
    assert said == ["--value-range", "-1024", "4095", "--dicom", "--frame=0"]


def test_options_that_name_a_place_stay_in_the_allowed_folders(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/table.csv").touch()
    (tmp_path / "table.csv").touch()
    table = tmp_path / "root/table.csv"
    assert filled(tmp_path / "root", labels=str(table)) == [f"--labels={table}"]
    with pytest.raises(UsageError, match="may use"):
        filled(tmp_path / "root", labels=str(tmp_path / "root/../table.csv"))


def test_a_field_that_the_command_line_lacks_is_not_offered() -> None:
    assert [one.name for one in offered({"delta": ""}, [])[1]] == ["delta"]


@pytest.mark.parametrize("name", ["", "..", ".x", "a/b", "-x", "a b", "a\0", "a" * 101, "taken"])
def test_a_release_gets_a_folder_of_its_own(tmp_path: Path, name: str) -> None:
    (tmp_path / "sfumato-releases/taken").mkdir(parents=True)
    assert release_folder(Places([tmp_path]), "new").parent == tmp_path / "sfumato-releases"
    with pytest.raises(UsageError):
        release_folder(Places([tmp_path]), name)


def test_releases_never_go_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/sfumato-releases").symlink_to(tmp_path)
    with pytest.raises(UsageError):
        release_folder(Places([tmp_path / "root"]), "new")


@given(st.text(max_size=60), st.text(max_size=9), st.text(max_size=9))
def test_a_suggested_name_is_always_a_possible_one(data: str, epsilon: str, method: str) -> None:
    root = Path(__file__).parent
    name = suggested_name(data, {"epsilon": epsilon, "method": method if method == "dpdm" else ""})
    assert release_folder(Places([root]), name).name == name
