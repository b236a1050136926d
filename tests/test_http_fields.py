"""Fields of queries and forms: the multi-mapping, and how its contents are decoded."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

import pytest

from humphrey_trio._http._fields import Fields
from humphrey_trio._http._urls import TooManyFieldsError, parse_form, parse_query, percent_decode_path

PAIRS = [("a", "1"), ("b", "2"), ("a", "3"), ("A", "4")]

# ----------------------------------------------------------------------------------------------- Fields


@pytest.mark.parametrize("pairs", [PAIRS, tuple(PAIRS), iter(PAIRS), Fields(PAIRS)])
def test_fields_keep_their_order(pairs: Any) -> None:
    """Iteration yields all pairs in their order."""
    fields = Fields(pairs)
    assert list(fields) == PAIRS
    assert len(fields) == 4


def test_fields_of_a_mapping() -> None:
    """Fields can be made of a mapping."""
    assert list(Fields({"a": "1", "b": "2"})) == [("a", "1"), ("b", "2")]


def test_names_are_case_sensitive() -> None:
    """A name gives its first value or all its values, and a name in another case is another name."""
    fields = Fields(PAIRS)
    assert fields["a"] == fields.get("a") == "1"
    assert fields.get_all("a") == ("1", "3")
    assert fields.get_all("A") == ("4",)
    assert "a" in fields
    assert "B" not in fields


def test_missing_names() -> None:
    """A missing name is None, the default, an empty tuple or a KeyError."""
    fields = Fields(PAIRS)
    assert fields.get("x") is None
    assert fields.get("x", "default") == "default"
    assert fields.get_all("x") == ()
    assert 1 not in fields
    with pytest.raises(KeyError, match="x"):
        fields["x"]


def test_views_of_fields() -> None:
    """``items`` and ``values`` have all pairs, ``keys`` and ``dict`` each name once, with its first value."""
    fields = Fields(PAIRS)
    assert fields.items() == tuple(PAIRS)
    assert fields.values() == ("1", "2", "3", "4")
    assert fields.keys() == ("a", "b", "A")
    assert dict(fields) == {"a": "1", "b": "2", "A": "4"}
    assert urlencode(fields) == "a=1&b=2&a=3&A=4"  # type: ignore[arg-type]
    assert Fields().items() == Fields().keys() == Fields().values() == ()


def test_fields_are_values() -> None:
    """Fields with the same pairs in the same order are equal, and hash alike."""
    assert Fields(PAIRS) == Fields(iter(PAIRS))
    assert hash(Fields(PAIRS)) == hash(Fields(PAIRS))
    assert Fields(PAIRS) != Fields(PAIRS[::-1])
    assert Fields() != ()
    assert not Fields()
    assert repr(Fields([("a", "\n")])) == "Fields([('a', '\\n')])"


def test_fields_cannot_be_changed() -> None:
    """There is no way to set or delete a field."""
    fields: Any = Fields(PAIRS)
    with pytest.raises(TypeError):
        fields["a"] = "2"
    with pytest.raises(AttributeError):
        fields.other = 1


@pytest.mark.parametrize("pairs", ["a=1", b"a=1", 1, [("a", 1)], {1: "a"}])
def test_fields_refuse_other_types(pairs: Any) -> None:
    """Only pairs of str are fields."""
    with pytest.raises(TypeError):
        Fields(pairs)


# ------------------------------------------------------------------------------------ queries and forms

QUERIES: dict[str, list[tuple[str, str]]] = {
    "": [],
    "a=1&b=2&a=3": [("a", "1"), ("b", "2"), ("a", "3")],
    "a": [("a", "")],
    "a=": [("a", "")],
    "=1": [("", "1")],
    "=": [("", "")],
    "a=b=c": [("a", "b=c")],
    "&a=1&&b=2&": [("a", "1"), ("b", "2")],
    "a;b=1;c": [("a;b", "1;c")],
    "a+b=c+d": [("a b", "c d")],
    "a%2Bb=%26%3D": [("a+b", "&=")],
    "a=%": [("a", "%")],
    "a=%4": [("a", "%4")],
    "a=%zz%-1%+5": [("a", "%zz%-1% 5")],
    "a=%e2%82%AC": [("a", "\u20ac")],
    "a=%ff": [("a", "\ufffd")],
    "a=%c3%28": [("a", "\ufffd(")],
    "a=%ef%bb%bf1": [("a", "\ufeff1")],
    "\u00e9=\u20ac": [("\u00e9", "\u20ac")],
    "a=%00": [("a", "\0")],
    "a?b#c=1": [("a?b#c", "1")],
}


@pytest.mark.parametrize(("query", "fields"), QUERIES.items())
def test_queries_and_forms(query: str, fields: list[tuple[str, str]]) -> None:
    """Queries and forms are decoded as browsers encode them, whatever they contain."""
    assert list(parse_query(query, max_fields=10)) == fields
    assert list(parse_form(query.encode(), max_fields=10)) == fields


@pytest.mark.parametrize(
    ("body", "value"), [(b"a=\xe2\x82\xac", "\u20ac"), (b"a=\xe2%82\xac", "\u20ac"), (b"a=\xff", "\ufffd")]
)
def test_forms_of_raw_bytes(body: bytes, value: str) -> None:
    """Bytes that are not encoded count like encoded ones."""
    assert parse_form(body, max_fields=1)["a"] == value


def test_halves_of_surrogates_do_not_fail() -> None:
    """A query that no peer can send is replaced rather than raised."""
    assert parse_query("a=\ud800", max_fields=1)["a"] == "?"


@pytest.mark.parametrize("body", [b"a&" * 9 + b"a", b"&" * 9])
def test_fields_up_to_the_bound(body: bytes) -> None:
    """As many fields as are allowed pass, and one more is refused; empty ones count."""
    parse_form(body, max_fields=10)
    with pytest.raises(TooManyFieldsError, match="more than 9 fields"):
        parse_form(body, max_fields=9)
    with pytest.raises(TooManyFieldsError):
        parse_query(body.decode(), max_fields=9)


# -------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize(
    ("segment", "text"),
    [
        ("", ""),
        ("plain", "plain"),
        ("a+b", "a+b"),
        ("%2e%2E", ".."),
        ("%2F%00", "/\0"),
        ("caf%C3%a9", "caf\u00e9"),
        ("%e2%82%ac", "\u20ac"),
        ("%252e", "%2e"),
        ("\u00e9%41", "\u00e9A"),
    ],
)
def test_paths(segment: str, text: str) -> None:
    """A segment is decoded once."""
    assert percent_decode_path(segment) == text


@pytest.mark.parametrize(
    "segment", ["%", "%4", "100%", "%zz", "%-1", "%+5", "%C3%28", "%ff", "%ed%a0%80", "%c0%ae"]
)
def test_malformed_paths(segment: str) -> None:
    """A malformed escape, and bytes that are not UTF-8, are refused."""
    with pytest.raises(ValueError, match="path"):
        percent_decode_path(segment)
