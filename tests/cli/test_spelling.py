"""Messages of the library, as the command line spells their options."""

from __future__ import annotations

import pytest

from sfumato.cli.spelling import as_options


@pytest.mark.parametrize(
    ("library", "command_line"),
    [
        ("State them: classes=10 for 0 to 9;", "State them: --classes 10 for 0 to 9;"),
        ("classes=['cat', 'dog'] or classes=2.", "--classes cat,dog or --classes 2."),
        (
            "State image_size=, channels= and classes=.",
            "State --image-size, --channels and --classes.",
        ),
        ("out=a/b.c lies in it", "--out a/b.c lies in it"),
        ("pass fresh=True.", "pass --fresh."),
        ("pass fresh=True (--fresh).", "pass --fresh."),
        ("unit_pattern='(' is none", "--unit-pattern '(' is none"),
        ("epsilon=0.5: too low", "--epsilon 0.5: too low"),
        ("np.savez(images=..., labels=...)", "np.savez(images=..., labels=...)"),
        ("x.classes=3 and my_classes=3", "x.classes=3 and my_classes=3"),
        ("State label_key=.", "State --label-key."),
        ("label='x' must be one", "--label 'x' must be one"),
    ],
)
def test_options_are_spelled_as_the_command_line_has_them(library: str, command_line: str) -> None:
    assert as_options(library) == command_line
