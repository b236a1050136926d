"""Entity tags and conditional requests: which tags are equal, and which condition decides.

RFC 9110, sections 8.8.3, 13.1 and 13.2.2.
"""

from __future__ import annotations

from typing import Any

import pytest

from humphrey_trio._http._conditions import Outcome, Validators, evaluate, may_send_range
from humphrey_trio._http._entity_tags import EntityTag, EntityTags, parse_entity_tag, parse_entity_tags
from humphrey_trio.http import Headers

A, WEAK_A, B = EntityTag("a"), EntityTag("a", weak=True), EntityTag("b")

# ------------------------------------------------------------------------------------------ entity tags


@pytest.mark.parametrize(
    ("one", "other", "strongly", "weakly"),
    [
        (WEAK_A, WEAK_A, False, True),
        (WEAK_A, EntityTag("b", weak=True), False, False),
        (WEAK_A, A, False, True),
        (A, A, True, True),
        (A, B, False, False),
    ],
)
def test_comparison_of_entity_tags(one: EntityTag, other: EntityTag, strongly: bool, weakly: bool) -> None:
    """Entity tags are compared as in the table of RFC 9110, section 8.8.3.2, in both directions."""
    for left, right in ((one, other), (other, one)):
        assert left.is_strongly_equal(right) is strongly
        assert EntityTags(frozenset([left])).match_strongly(right) is strongly
        assert EntityTags(frozenset([left])).match_weakly(right) is weakly


@pytest.mark.parametrize("text", ['"a"', 'W/"a"', '""', 'W/""', '"a,b"', '"\xe9!#~\\"', '"W/"'])
def test_entity_tag_round_trip(text: str) -> None:
    """An entity tag is written as it was read."""
    assert str(parse_entity_tag(text)) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        '"a',
        'a"',
        'w/"a"',
        'W/ "a"',
        'W"a"',
        "*",
        '"a" ',
        '"a", "b"',
        '"a b"',
        '"a"b"',
        '"\x7f"',
        '"\u0100"',
    ],
)
def test_invalid_entity_tags(text: str) -> None:
    """Text that is not exactly one entity tag is None."""
    assert parse_entity_tag(text) is None


@pytest.mark.parametrize("opaque", ['a"', "a b", "\n", "\x7f", "\u20ac"])
def test_tags_are_checked(opaque: str) -> None:
    """A tag that could not be sent cannot be constructed."""
    with pytest.raises(ValueError, match="entity tag"):
        EntityTag(opaque)


LISTS: list[tuple[list[str], set[EntityTag], bool]] = [
    ([], set(), False),
    ([""], set(), False),
    (["*"], set(), True),
    ([" * "], set(), True),
    (['"a"'], {A}, False),
    (['"a","b"'], {A, B}, False),
    (['"a" ,\t W/"a"'], {A, WEAK_A}, False),
    (['"a"', '"b"'], {A, B}, False),
    ([', ,"a",,"b", '], {A, B}, False),
    (['"a,b", "b"'], {EntityTag("a,b"), B}, False),
    (['"a", *'], {A}, True),
    (['"a", b, "b"'], {A}, False),
    (['"a" "b"'], set(), False),
    (['"a"x, "b"'], set(), False),
    (['"a", "b'], {A}, False),
    (["a", '"b"'], {B}, False),
    (["**"], set(), False),
]


@pytest.mark.parametrize(("values", "tags", "any_"), LISTS)
def test_lists_of_entity_tags(values: list[str], tags: set[EntityTag], any_: bool) -> None:
    """The tags of all lines count, up to the first malformed member of each line."""
    assert parse_entity_tags(values) == EntityTags(frozenset(tags), any_)


def test_any_tag() -> None:
    """``*`` matches every representation, with a tag or without one; nothing else matches one without."""
    assert EntityTags(any=True).match_strongly(None)
    assert EntityTags(any=True).match_weakly(WEAK_A)
    assert not EntityTags(frozenset([A])).match_strongly(None)
    assert not EntityTags(frozenset([A])).match_weakly(None)


# ------------------------------------------------------------------------------------------- conditions

BEFORE, MODIFIED, AFTER = (f"Sun, 06 Nov 1994 08:49:{second} GMT" for second in (36, 37, 38))
AT = 784111777
CURRENT = Validators(tag=A, modified=AT)
MISSING = Validators(exists=False)
GO, KNOWN, FAILED = Outcome

EVALUATIONS: list[tuple[str, dict[str, str], Validators, Outcome]] = [
    ("GET", {}, CURRENT, GO),
    # If-Match compares strongly.
    ("PUT", {"If-Match": '"a"'}, CURRENT, GO),
    ("PUT", {"If-Match": '"b", "a"'}, CURRENT, GO),
    ("PUT", {"If-Match": '"b"'}, CURRENT, FAILED),
    ("GET", {"If-Match": '"b"'}, CURRENT, FAILED),
    ("PUT", {"If-Match": 'W/"a"'}, CURRENT, FAILED),
    ("PUT", {"If-Match": 'W/"a"'}, Validators(tag=WEAK_A), FAILED),
    ("PUT", {"If-Match": "garbage"}, CURRENT, FAILED),
    ("PUT", {"If-Match": ""}, CURRENT, FAILED),
    ("PUT", {"If-Match": "*"}, CURRENT, GO),
    ("PUT", {"If-Match": "*"}, Validators(), GO),
    ("PUT", {"If-Match": "*"}, MISSING, FAILED),
    ("PUT", {"If-Match": '"a"'}, MISSING, FAILED),
    ("PUT", {"If-Match": '"a"'}, Validators(modified=AT), FAILED),
    # If-Unmodified-Since
    ("PUT", {"If-Unmodified-Since": BEFORE}, CURRENT, FAILED),
    ("PUT", {"If-Unmodified-Since": MODIFIED}, CURRENT, GO),
    ("PUT", {"If-Unmodified-Since": AFTER}, CURRENT, GO),
    ("GET", {"If-Unmodified-Since": BEFORE}, CURRENT, FAILED),
    ("PUT", {"If-Unmodified-Since": "garbage"}, CURRENT, GO),
    ("PUT", {"If-Unmodified-Since": BEFORE}, Validators(tag=A), GO),
    # If-None-Match compares weakly.
    ("GET", {"If-None-Match": '"a"'}, CURRENT, KNOWN),
    ("HEAD", {"If-None-Match": 'W/"a"'}, CURRENT, KNOWN),
    ("GET", {"If-None-Match": '"a"'}, Validators(tag=WEAK_A), KNOWN),
    ("GET", {"If-None-Match": '"b", "a"'}, CURRENT, KNOWN),
    ("GET", {"If-None-Match": '"b"'}, CURRENT, GO),
    ("GET", {"If-None-Match": "garbage"}, CURRENT, GO),
    ("GET", {"If-None-Match": "*"}, CURRENT, KNOWN),
    ("PUT", {"If-None-Match": "*"}, CURRENT, FAILED),
    ("PUT", {"If-None-Match": "*"}, MISSING, GO),
    ("PUT", {"If-None-Match": '"a"'}, CURRENT, FAILED),
    ("PUT", {"If-None-Match": '"b"'}, CURRENT, GO),
    ("GET", {"If-None-Match": '"a"'}, Validators(modified=AT), GO),
    # If-Modified-Since
    ("GET", {"If-Modified-Since": BEFORE}, CURRENT, GO),
    ("GET", {"If-Modified-Since": MODIFIED}, CURRENT, KNOWN),
    ("HEAD", {"If-Modified-Since": AFTER}, CURRENT, KNOWN),
    ("GET", {"If-Modified-Since": "Sunday, 06-Nov-94 08:49:37 GMT"}, CURRENT, KNOWN),
    ("PUT", {"If-Modified-Since": AFTER}, CURRENT, GO),
    ("get", {"If-Modified-Since": AFTER}, CURRENT, GO),
    ("GET", {"If-Modified-Since": "garbage"}, CURRENT, GO),
    ("GET", {"If-Modified-Since": AFTER}, Validators(tag=A), GO),
    ("GET", {"If-Modified-Since": AFTER}, MISSING, GO),
    # Precedence
    ("GET", {"If-Match": '"a"', "If-Unmodified-Since": BEFORE}, CURRENT, GO),
    ("GET", {"If-Match": '"b"', "If-Unmodified-Since": AFTER}, CURRENT, FAILED),
    ("GET", {"If-None-Match": '"b"', "If-Modified-Since": AFTER}, CURRENT, GO),
    ("GET", {"If-None-Match": '"a"', "If-Modified-Since": BEFORE}, CURRENT, KNOWN),
    ("GET", {"If-Match": '"b"', "If-None-Match": '"a"'}, CURRENT, FAILED),
    ("GET", {"If-Match": '"a"', "If-None-Match": '"a"'}, CURRENT, KNOWN),
    ("GET", {"If-Unmodified-Since": BEFORE, "If-None-Match": '"a"'}, CURRENT, FAILED),
    ("GET", {"If-Unmodified-Since": AFTER, "If-Modified-Since": AFTER}, CURRENT, KNOWN),
]


@pytest.mark.parametrize(("method", "headers", "current", "outcome"), EVALUATIONS)
def test_evaluations(method: str, headers: dict[str, str], current: Validators, outcome: Outcome) -> None:
    """The conditions are evaluated in the order of RFC 9110, section 13.2.2."""
    assert evaluate(method, Headers(headers), current) is outcome


def test_several_lines() -> None:
    """Lines of tags are one list; a repeated date is ignored."""
    assert evaluate("GET", Headers([("If-None-Match", '"b"'), ("If-None-Match", '"a"')]), CURRENT) is KNOWN
    assert evaluate("PUT", Headers([("If-Match", '"b"'), ("If-Match", '"a"')]), CURRENT) is GO
    assert evaluate("GET", Headers([("If-Modified-Since", AFTER)] * 2), CURRENT) is GO
    assert evaluate("GET", Headers([("If-Unmodified-Since", BEFORE)] * 2), CURRENT) is GO


@pytest.mark.parametrize("validators", [{"tag": A}, {"modified": AT}])
def test_missing_representation_has_no_validators(validators: dict[str, Any]) -> None:
    """Validators of a representation that does not exist are refused."""
    with pytest.raises(ValueError, match="does not exist"):
        Validators(exists=False, **validators)


IF_RANGES: list[tuple[list[str], Validators, bool]] = [
    ([], CURRENT, True),
    (['"a"'], CURRENT, True),
    (['"b"'], CURRENT, False),
    (['W/"a"'], CURRENT, False),
    (['"a"'], Validators(tag=WEAK_A), False),
    (['W/"a"'], Validators(tag=WEAK_A), False),
    (['"a"'], Validators(modified=AT), False),
    (['"b", "a"'], CURRENT, False),
    (["*"], CURRENT, False),
    (['"a"', '"a"'], CURRENT, False),
    ([MODIFIED], CURRENT, True),
    ([BEFORE], CURRENT, False),
    ([AFTER], CURRENT, False),
    ([MODIFIED, MODIFIED], CURRENT, False),
    (["garbage"], CURRENT, False),
    ([""], CURRENT, False),
    (["garbage"], Validators(tag=A), False),
    ([MODIFIED], Validators(tag=A), False),
]


@pytest.mark.parametrize(("values", "current", "outcome"), IF_RANGES)
def test_if_range(values: list[str], current: Validators, outcome: bool) -> None:
    """A range is sent only for the same bytes: a strong tag that is equal, or exactly the same date."""
    headers = Headers([("If-Range", value) for value in values])
    assert may_send_range(headers, current, now=AT + 60) is outcome


@pytest.mark.parametrize(("now", "outcome"), [(AT - 5, False), (AT + 0.9, False), (AT + 1, True)])
def test_a_date_is_strong_when_its_second_is_over(now: float, outcome: bool) -> None:
    """While a representation can change again in the same second, its date is no strong validator."""
    assert may_send_range(Headers({"If-Range": MODIFIED}), CURRENT, now=now) is outcome
