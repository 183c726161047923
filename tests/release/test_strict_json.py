from __future__ import annotations

import pytest

from sfumato.errors import CertificateError
from sfumato.release.strict_json import DEEPEST, mismatches, parse


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"nonsense",
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": -1e999}',
        b'{"a": 1, "a": 2}',
        b'{"a": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b'{"a": ' + b"[" * (DEEPEST + 1) + b"]" * (DEEPEST + 1) + b"}",
        b"\xff\xfe\x00",
        b'{"a": "' + b"x" * 2**24 + b'"}',
    ],
)
def test_what_is_no_bounded_unambiguous_object_is_refused(text: bytes) -> None:
    with pytest.raises(CertificateError):
        parse(text, "certificate.json")


def test_an_object_is_read() -> None:
    assert parse(b'{"a": [1, 2.5, null, "\\u00e9"]}', "x") == {"a": [1, 2.5, None, "é"]}


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ({}, {"a": int}),
        ({"a": 1, "b": 1}, {"a": int}),
        ({"a": True}, {"a": int}),
        ({"a": 1.0}, {"a": int}),
        ({"a": "1"}, {"a": float}),
        ({"a": 10**400}, {"a": float}),
        ({"a": {}}, {"a": [int]}),
        ({"a": [1, "x"]}, {"a": [int]}),
        ([], {"a": int}),
    ],
)
def test_another_shape_is_named(value: object, shape: object) -> None:
    assert list(mismatches(value, shape, "here"))


def test_the_right_shape_passes() -> None:
    value = {"a": 1, "b": [{"c": 2}], "d": None}
    assert not list(mismatches(value, {"a": float, "b": [{"c": int}], "d": object}, "here"))
