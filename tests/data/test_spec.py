from __future__ import annotations

import inspect

import pytest

from sfumato.data import PublicSpec, open_images
from sfumato.errors import DataError, UsageError


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"height": 0}, "height=0"),
        ({"width": -3}, "width=-3"),
        ({"height": True}, "height=True"),
        ({"channels": 2}, "channels=2"),
        ({"classes": ("a", "a")}, "'a' is listed twice"),
        ({"classes": ("",)}, "1 to 200 characters"),
        ({"classes": ("x" * 201,)}, "1 to 200 characters"),
        ({"classes": ("a\x1b[31m",)}, "cannot be printed"),
        ({"declared_size": 0}, "declared_size=0"),
    ],
)
def test_a_specification_outside_its_rules_is_refused(changes, said):
    fields = {"height": 28, "width": 28, "channels": 1, "classes": ("a",)} | changes
    with pytest.raises(DataError, match=said.replace("(", r"\(")):
        PublicSpec(**fields)


@pytest.mark.parametrize("values", [None, 3, "height", [["height", 28]], 2.5])
def test_what_is_no_specification_is_refused(values):
    unchecked = inspect.unwrap(PublicSpec.from_dict.__func__)  # types are checked in tests only
    with pytest.raises((DataError, KeyError, TypeError)):
        unchecked(PublicSpec, values)


def test_a_specification_compares_by_value():
    assert PublicSpec(28, 28, 1, ("a",), 5) == PublicSpec(28, 28, 1, ("a",), 5)
    assert PublicSpec(28, 28, 1, ()).declared_size is None


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"image_size": 27}, "28 to 256"),
        ({"image_size": 257}, "28 to 256"),
        ({"channels": 4}, "channels=4"),
        ({"value_range": (5.0, 5.0)}, "two different numbers"),
        ({"value_range": (0.0, float("inf"))}, "two different numbers"),
        ({"frame": -1}, "frame=-1"),
        ({"name_column": "file"}, "without a table"),
        ({"declared_size": 0}, "declared_size=0"),
        ({"classes": -1}, "classes=-1"),
        ({"classes": "ant,bee"}, "list of names"),
    ],
)
def test_options_outside_their_rules_are_refused(options, said):
    with pytest.raises(UsageError, match=said):
        open_images("digits", **options)


@pytest.mark.parametrize("side", [28, 33, 256])
def test_stated_sizes_and_channels_win(side):
    source = open_images("digits", image_size=side, channels=3, declared_size=1438)
    assert source.spec == PublicSpec(side, side, 3, tuple("0123456789"), 1438)
    images, _ = next(source.batches(5))
    assert images.shape == (5, 3, side, side)
    assert (images[:, 0] == images[:, 2]).all()
