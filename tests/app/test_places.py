"""The picker never leaves its roots, whatever path is asked for and whatever links lie there."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.app.places import Places
from sfumato.errors import UsageError


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """root/ with data, links that stay and links that leave, and things outside of it."""
    top = tmp_path_factory.mktemp("tree")
    for folder in ("root/a/b", "root/.hidden", "root/state/deep", "root-beside", "outside/deep"):
        (top / folder).mkdir(parents=True)
    for file in ("root/scans.ZIP", "root/patient_7.png", "root/notes.txt", "outside/secret.npz"):
        (top / file).write_bytes(b"")
    links = {
        "root/away": "outside",
        "root/a/up": "../..",
        "root/inside": "a",
        "root/secret.npz": "outside/secret.npz",
        "root/loop": "root/loop",
        "root/gone": "nowhere",
    }
    for link, target in links.items():
        place = target if target.startswith("..") or target == "a" else str(top / target)
        os.symlink(place, top / link)
    return top


@pytest.fixture(scope="module")
def places(tree: Path) -> Places:
    return Places([tree / "root"], hidden=[tree / "root/state"])


OUTSIDE = (
    "root/..", "root/../outside", "root/a/../../outside/secret.npz", "outside", "root-beside",
    "root/away", "root/away/deep", "root/a/up", "root/a/up/outside", "root/secret.npz",
    "root/state", "root/state/deep", "root/loop", "root/gone", "root/nothing", "root/a\0",
)  # fmt: skip


@pytest.mark.parametrize("path", OUTSIDE)
def test_what_lies_outside_is_refused_in_the_same_words(
    tree: Path, places: Places, path: str
) -> None:
    with pytest.raises(UsageError, match="is not in the folders that this page may use") as error:
        places.find(f"{tree}/{path}")
    assert str(tree / "outside") not in str(error.value).replace(repr(f"{tree}/{path}"), "")


def test_links_that_stay_inside_are_followed(tree: Path, places: Places) -> None:
    assert places.find(f"{tree}/root/inside/b") == tree / "root/a/b"
    assert places.find(f"{tree}/root/a/../scans.ZIP") == tree / "root/scans.ZIP"


@given(st.lists(st.sampled_from(["..", ".", "a", "b", "up", "away", "inside", "root", "state"])))
def test_no_path_leads_out(tree: Path, places: Places, parts: list[str]) -> None:
    try:
        found = places.find("/".join([str(tree / "root"), *parts]))
    except UsageError:
        return
    real = Path(os.path.realpath(found))
    assert real == found and real.is_relative_to(tree / "root")
    assert not real.is_relative_to(tree / "root/state")


def test_only_what_can_be_chosen_is_listed(tree: Path, places: Places) -> None:
    listing = places.listing(tree / "root")
    assert [path.name for path in listing.folders] == ["a", "inside"]
    assert [path.name for path in listing.files] == ["scans.ZIP"]  # and no image, no note
    assert places.listing(tree / "root/a").above == (tree / "root", tree / "root/a")
    with pytest.raises(UsageError, match="cannot be listed"):
        places.listing(tree / "root/scans.ZIP")


def test_a_root_must_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="--root"):
        Places([tmp_path / "nothing"])


@pytest.mark.parametrize("path", OUTSIDE)
def test_the_page_refuses_them_too(shared: Any, tree: Path, path: str) -> None:
    browser, place = shared.browser(), f"{tree}/{path}"  # all of it is outside of its root
    for address in ("/choose?at=", "/plan?epsilon=1&data=", "/ledger?data="):
        answer = browser.get(address.partition("?")[0], params=_query(address, place))
        assert answer.status_code == 400 and "may use" in answer.text
    for form in ({"data": place}, {"data": "digits", "public": place}):
        sent = browser.post("/runs", data={"epsilon": "1", "name": "it", **form})
        words = "in one line" if "\0" in path and "public" in form else "may use"
        assert sent.status_code == 400 and words in sent.text
    assert not list(shared.state.glob("app/runs/*"))


def _query(address: str, place: str) -> dict[str, str]:
    fixed, _, last = address.partition("?")[2].rpartition("&")
    return {**dict([fixed.split("=")] if fixed else []), last.rstrip("="): place}
