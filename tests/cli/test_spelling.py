"""Messages of the library, as the command line spells their options."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

import sfumato
from sfumato.cli.parameters import KINDS, flag_of, parse_classes
from sfumato.cli.spelling import as_options


@pytest.mark.parametrize(
    ("library", "command_line"),
    [
        ("State them: classes=10 for 0 to 9;", "State them: --classes 10 for 0 to 9;"),
        ("classes=['a, b', 'c'].", "--classes '\"a, b\",c'."),
        ("--cap 'x' (cap=)", "--cap 'x'"),
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


def test_a_class_name_in_quotes_may_hold_a_comma() -> None:
    assert parse_classes('"clear, normal", ill') == ["clear, normal", "ill"]
    assert parse_classes("cat,dog") == ["cat", "dog"] and parse_classes("2") == 2


def sentences() -> Iterator[tuple[str, str]]:
    """The text of every error that the library raises, a 7 for each value."""

    def text(node: ast.expr) -> str:
        if isinstance(node, ast.JoinedStr):
            return "".join(text(part) for part in node.values)
        if isinstance(node, ast.FormattedValue):
            return "7"
        return node.value if isinstance(node, ast.Constant) and type(node.value) is str else ""

    source = Path(sfumato.__file__).parent
    for path in sorted(source.rglob("*.py")):
        if path.relative_to(source).parts[0] in ("app", "bench", "cli"):
            continue  # no functions of the library
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            called = getattr(node, "func", None)
            if str(getattr(called, "id", "")).endswith("Error"):
                for argument in node.args:  # type: ignore[attr-defined]
                    yield f"{path.relative_to(source)}:{node.lineno}", text(argument)  # type: ignore[attr-defined]


def test_every_error_names_options_for_the_library_and_for_the_command_line() -> None:
    flags = {flag_of(kind, entry.name): entry.name for kind in KINDS for entry in fields(kind)}
    found = list(sentences())
    assert len(found) > 300
    as_the_library_has_it = re.compile(rf"(?<![\w.])({'|'.join(flags.values())})=(?!\.\.)")
    for place, sentence in found:
        for flag in set(re.findall(r"--[a-z][a-z-]+", sentence)) & flags.keys():
            assert f"{flags[flag]}=" in sentence, (place, flag, sentence)
        assert not as_the_library_has_it.search(as_options(sentence)), (place, sentence)
