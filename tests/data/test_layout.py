from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sfumato.data.layout import (
    arrange,
    choose_split,
    match_ordered_classes,
    safe_folder_names,
)
from sfumato.data.options import DataOptions
from sfumato.errors import DataError


def parents(files):
    parts = [file.split("/")[:-1] for file in files]
    return {"/".join(part[:depth]) for part in parts for depth in range(1, len(part) + 1)}


def arranged(files, folders=(), strip_top=False, listed=True, **declared):
    """What comes of files in a container that lists their folders and further ones, or none."""
    folders = {*folders, *parents(files)} if listed else None
    found = arrange(files, folders, DataOptions(**declared), "set", strip_top)
    return (
        found.folder,
        found.classes,
        {files[i]: label for i, label in zip(found.chosen, found.labels, strict=True)},
    )


def test_folders_are_classes_in_sorted_order():
    assert arranged(["b/2.png", "a/sub/1.png"]) == (
        "",
        ("a", "b"),
        {"a/sub/1.png": 0, "b/2.png": 1},
    )


def test_an_empty_folder_is_a_class_too():
    assert arranged(["b/2.png"], ["a", "b"])[1:] == (("a", "b"), {"b/2.png": 1})


def test_a_flat_folder_is_unlabelled():
    assert arranged(["2.png", "1.png"])[1] == ()


def test_a_stray_image_beside_the_classes_has_no_label():
    assert arranged(["a/1.png", "stray.png"])[2] == {"a/1.png": 0, "stray.png": None}


def test_records_are_sorted_by_path():
    assert list(arranged(["b/1.png", "a/2.png", "a/1.png"])[2]) == ["a/1.png", "a/2.png", "b/1.png"]


SPLIT = ["test/a/1.png", "train/a/2.png", "train/b/3.png", "val/b/4.png"]


def test_train_is_read_unless_another_split_is_asked_for():
    assert arranged(SPLIT) == ("train", ("a", "b"), {"train/a/2.png": 0, "train/b/3.png": 1})
    assert arranged(SPLIT, split="test") == ("test", ("a",), {"test/a/1.png": 0})
    assert arranged(SPLIT, split="validation")[2] == {"val/b/4.png": 0}
    assert arranged([*SPLIT, "stray.png"]) == arranged(SPLIT)


def test_a_class_may_be_called_train_where_it_is_not_alone():
    assert arranged(["car/1.png", "train/2.png"])[:2] == ("", ("car", "train"))
    assert arranged(["train/2.png"], classes=("car", "train"))[2] == {"train/2.png": 1}


def test_a_missing_or_open_split_names_what_there_is():
    with pytest.raises(DataError, match=r"no split 'val'; it has the splits test, train"):
        arranged(["test/a/1.png", "train/a/1.png"], split="val")
    with pytest.raises(DataError, match="Choose one with split="):
        arranged(["test/a/1.png", "val/a/1.png"])
    with pytest.raises(DataError, match="no split 'test'"):
        arranged(["1.png"], split="test")


@pytest.mark.parametrize("top", ["", "set/"])
def test_one_common_top_folder_is_stripped_where_asked(top):
    files = [f"{top}a/1.png", f"{top}b/1.png"]
    assert arranged(files, strip_top=True)[1] == ("a", "b")
    assert arranged([*files, "stray.png"], strip_top=True)[1] == ("a", "b")
    files = [f"{top}train/a/1.png", f"{top}test/a/1.png"]
    assert arranged(files, strip_top=True, split="test")[0] == "test"


def test_a_folder_in_no_declared_list_has_no_label():
    assert arranged(["ant/1.png", "wasp/2.png"], classes=("ant", "bee"))[1:] == (
        ("ant", "bee"),
        {"ant/1.png": 0, "wasp/2.png": None},
    )
    with pytest.raises(DataError, match="classes=3 was stated"):
        arranged(["ant/1.png", "wasp/2.png"], classes=3)


@pytest.mark.parametrize("listed", [True, False])
def test_stated_names_are_found_at_any_depth(listed):
    files = ["set/ant/deep/1.png", "set/bee/2.png", "other/bee/3.png", "4.png", "set/x/5.png"]
    labels = [0, 1, 1, None, None]
    found = arranged(files, classes=("ant", "bee"), strip_top=True, listed=listed)
    assert found == ("", ("ant", "bee"), dict(zip(files, labels, strict=True)))


def test_without_a_list_of_folders_each_path_decides_for_itself():
    files = ["s/train/ant/1.png", "s/test/ant/2.png", "s/ant/3.png", "s/ant/test/4.png"]
    read = {None: [0, 2, 3], "train": [0], "test": [1], "val": []}
    for split, chosen in read.items():
        found = arranged(files, classes=("ant",), split=split, listed=False)
        assert found[2] == {files[index]: 0 for index in chosen}
    with pytest.raises(DataError, match="State their names"):
        arranged(files, classes=1, listed=False)


def test_without_a_list_of_folders_names_come_from_paths_and_say_so():
    files = ["set/a/1.png", "set/b\x1b/2.png", "set/" + "c" * 300 + "/3.png"]
    found = arrange(files, None, DataOptions(), "set", strip_top=True)
    assert found.inferred and found.classes == ("a",) and sorted(found.labels, key=str) == [
        0, None, None,
    ]  # fmt: skip
    # What lies beside does not move the top, and a choice of splits is nobody's error.
    assert arranged(["a/1.png", "2.png"], strip_top=True, listed=False)[1] == ()
    assert arranged(["test/a/1.png", "val/b/1.png"], listed=False)[1] == ("a",)


def test_declared_order_and_numbers():
    assert arranged(["a/1.png", "b/2.png"], classes=("c", "b", "a"))[2] == {
        "a/1.png": 2,
        "b/2.png": 1,
    }
    assert arranged(["7/1.png", "10/2.png"], classes=12)[2] == {"7/1.png": 7, "10/2.png": 10}
    assert arranged(["a/1.png", "b/2.png"], classes=2)[1] == ("a", "b")
    assert arranged(["1.png"], classes=("a", "b"))[1:] == (("a", "b"), {"1.png": None})


def test_ordered_classes_must_keep_the_order():
    assert match_ordered_classes(("a", "b"), DataOptions(classes=("a", "b", "c")), "set") == (
        "a",
        "b",
        "c",
    )
    assert match_ordered_classes(("a", "b"), DataOptions(classes=()), "set") == ()
    with pytest.raises(DataError, match="another order"):
        match_ordered_classes(("a", "b"), DataOptions(classes=("b", "a")), "set")


def test_choose_split_prefers_train():
    assert choose_split(["test", "train"], None, "set") == "train"
    assert choose_split(["test"], None, "set") == "test"
    assert choose_split([], None, "set") is None


def test_safe_folder_names():
    assert safe_folder_names(["T-shirt/top", "a.b", "..", "CON", "x", "X", "été"]) == [
        "T-shirt_top",
        "a.b",
        "_",
        "CON_",
        "x",
        "X_2",
        "été",
    ]


@given(st.lists(st.text(min_size=1, max_size=80), max_size=8))
def test_folder_names_are_distinct_and_climb_nowhere(classes):
    names = safe_folder_names(classes)
    assert len({name.casefold() for name in names}) == len(classes)
    for name in names:
        assert name and not name.startswith(".") and not set(name) & set('/\\:*?"<>|\0\n')
