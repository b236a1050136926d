"""JSON: what is refused although Python accepts it, and the positions in errors.

RFC 8259, sections 6, 8.1, 8.2 and 9.
"""

from __future__ import annotations

import sys
from typing import Any

import pytest

from humphrey_trio._http._json import JsonError, dumps, loads_strict


def nested(depth: int) -> list[Any]:
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


TEXTS: list[tuple[bytes, Any]] = [
    (b"null", None),
    (b' {"a" : [1, -2.5e3, true, "\xc3\xa9\\u20ac"]}\r\n', {"a": [1, -2500.0, True, "\u00e9\u20ac"]}),
    (b'"\\ud83d\\ude00"', "\U0001f600"),
    (b'"\\uD83D\\uDE00 \\uD7FF\\uE000"', "\U0001f600 \ud7ff\ue000"),
    (b'"\\\\ud800"', "\\ud800"),
    (b'"\\\\\\\\ud800\\ud83d\\ude00"', "\\\\ud800\U0001f600"),
    (b"1e308", 1e308),
    (b"1e-999", 0.0),
    (b"-0.0", -0.0),
    (b"9" * 4300, int("9" * 4300)),
    (b"\xef\xbb\xbf[1]", [1]),
    (b'{"a": 1, "a": 2}', {"a": 2}),
    (b"[" * 101 + b"]" * 101, nested(100)),
]


@pytest.mark.parametrize(("text", "value"), TEXTS, ids=lambda text: repr(text)[:30])
def test_texts(text: bytes, value: Any) -> None:
    """JSON is read, surrogate pairs and a byte order mark included."""
    assert loads_strict(text) == value


INVALID: list[tuple[bytes, str, tuple[int, int] | None]] = [
    (b"", "Expecting value", (1, 1)),
    (b"{", "Expecting property name", (1, 2)),
    (b'{"a": 1,\n "b" 2}', "Expecting ':'", (2, 6)),
    (b"[1] 2", "Extra data", (1, 5)),
    (b"01", "Extra data", (1, 2)),
    (b"{'a': 1}", "property name", (1, 2)),
    (b'"a\nb"', "Invalid control character", (1, 3)),
    (b"NaN", "NaN is not JSON", None),
    (b"[Infinity]", "Infinity is not JSON", None),
    (b"-Infinity", "-Infinity is not JSON", None),
    (b"1e999", "too large", None),
    (b"[-1.5E+400]", "too large", None),
    (b"9" * 4301, "too many digits", None),
    (b"[" * 100_000, "nested too deeply", None),
    (b'{"a":' * 100_000, "nested too deeply", None),
    (b'"\\ud800"', r"\\ud800 is half", (1, 2)),
    (b'["a",\n"\\uD83D\\uD83D\\uDE00"]', r"\\uD83D is half", (2, 2)),
    (b'"\\ude00\\ud83d"', r"\\ude00 is half", (1, 2)),
    (b'{"\\udfff": 1}', r"\\udfff is half", (1, 3)),
    (b'"\\\\\\udc00"', r"\\udc00 is half", (1, 4)),
    (b'"\xff"', "UTF-8", (1, 2)),
    (b'\xef\xbb\xbf["\xc3\xa9",\n "\xc3\xa9\xed\xa0\x80"]', "UTF-8", (2, 4)),
    (b'\xef\xbb\xbf"\xff', "UTF-8", (1, 2)),
    ("[1]".encode("utf-16"), "UTF-8", (1, 1)),
    ("[1]".encode("utf-16-le"), "Expecting value", (1, 2)),
    (b"\xef\xbb\xbf\xef\xbb\xbf1", "BOM|Expecting value", (1, 1)),
]


@pytest.mark.parametrize(("text", "reason", "place"), INVALID, ids=lambda text: repr(text)[:30])
def test_refusals(text: bytes, reason: str, place: tuple[int, int] | None) -> None:
    """What is not JSON, or cannot be represented, is refused; the error names the line and column if it can."""
    with pytest.raises(JsonError, match=reason) as caught:
        loads_strict(text)
    error = caught.value
    assert (error.line, error.column) == (place or (None, None))
    assert str(error) == (f"{error.reason}: line {place[0]}, column {place[1]}" if place else error.reason)
    assert error.__cause__ is None


def test_digits_are_bounded_by_python() -> None:
    """The number of digits that is refused above is the interpreter's own default."""
    assert sys.get_int_max_str_digits() == 4300


# ------------------------------------------------------------------------------------------------ dumps


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ({"a": [1, 2.5, None, True], "b": "x"}, b'{"a":[1,2.5,null,true],"b":"x"}'),
        ('\u00e9\U0001f600\n"', b'"\xc3\xa9\xf0\x9f\x98\x80\\n\\""'),
        ((1, 2), b"[1,2]"),
        ({1: 2, None: 3}, b'{"1":2,"null":3}'),
        ("", b'""'),
    ],
)
def test_dumps(value: Any, text: bytes) -> None:
    """JSON is compact and in UTF-8."""
    assert dumps(value) == text


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", [1j], {(1, 2): 3}])
def test_types_that_are_not_json(value: Any) -> None:
    """Another type is a TypeError that names what can be used."""
    with pytest.raises(TypeError, match=r"not JSON: .* dict, list, str, int, float, bool or None"):
        dumps(value)


def circular() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [float("nan"), [float("inf")], "\ud800", {"\udfff": 1}, circular(), nested(100_000)],
    ids=lambda _: "value",
)
def test_values_that_are_not_json(value: Any) -> None:
    """A value without a form in JSON is a ValueError."""
    with pytest.raises(ValueError, match="not JSON"):
        dumps(value)
