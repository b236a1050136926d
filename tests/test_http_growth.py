"""The time for header fields, queries and bodies is linear in their size."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from humphrey_trio._handlers._resolver import parse_path
from humphrey_trio._http._conversion import convert_text
from humphrey_trio._http._cookies import parse_cookies
from humphrey_trio._http._dates import parse_date
from humphrey_trio._http._entity_tags import parse_entity_tag, parse_entity_tags
from humphrey_trio._http._json import dumps, loads_strict
from humphrey_trio._http._location import encode_location
from humphrey_trio._http._negotiation import choose_coding, choose_media_type
from humphrey_trio._http._ranges import parse_ranges
from humphrey_trio._http._urls import parse_form, parse_query, percent_decode_path
from tests.support import growth


def assert_linear(parse: Callable[[str], object], make: Callable[[int], str], size: int) -> None:
    """Measure a parser, which may refuse its texts."""

    def work(text: str) -> None:
        with suppress(ValueError):
            parse(text)

    growth.assert_linear(growth.made_before(work, make, size), size)


# For each kind of parser: what it does with a text, and the size that takes it long enough to be measured.
PARSERS: dict[str, tuple[Callable[[str], object], int]] = {
    "query": (lambda text: parse_query(text, max_fields=10**9), 20_000),
    "form": (lambda text: parse_form(text.encode(), max_fields=10**9), 20_000),
    "path": (percent_decode_path, 50_000),
    "cookies": (lambda text: parse_cookies([text]), 20_000),
    "date": (parse_date, 50_000),
    "tag": (parse_entity_tag, 50_000),
    "tags": (lambda text: parse_entity_tags([text]), 20_000),
    "ranges": (lambda text: parse_ranges([text], 2**60), 20_000),
    "coding": (lambda text: choose_coding([text], ("br", "gzip")), 20_000),
    "media type": (lambda text: choose_media_type([text], ("text/html", "text/plain")), 20_000),
    "json": (lambda text: loads_strict(text.encode()), 50_000),
    "number": (lambda text: convert_text(text, float), 50_000),
    "location": (encode_location, 20_000),
    "path of a file": (lambda text: parse_path(text, "/*", hidden=True), 50_000),
}

TEXTS: dict[str, Callable[[int], str]] = {
    "blanks": lambda size: " " * size,
    "blanks inside": lambda size: "a" + " \t" * size + "b",
    "commas": lambda size: "," * size,
    "commas and blanks": lambda size: ", " * size + "b",
    "letters": lambda size: "a" * size,
    "digits": lambda size: "1" * size,
    "zeros": lambda size: "0" * size,
    "percent signs": lambda size: "%" * size,
    "escapes": lambda size: "%e2%82%ac" * (size // 4),
    "bad escapes": lambda size: "%ff" * size,
    "separators": lambda size: "&=;" * size,
    "pairs": lambda size: "a=b&c=d; " * (size // 8),
    "equals signs": lambda size: "=" * size,
    "quotes": lambda size: '"' * size,
    "a quotation": lambda size: '"' + "a" * size + '"',
    "a quotation without an end": lambda size: '"' + "a" * size,
    "quotations": lambda size: '"a",' * (size // 2),
    "quotations without commas": lambda size: '"a"' * size,
    "backslashes": lambda size: '"' + "\\" * size,
    "escaped quotes": lambda size: '"' + '\\"' * size,
    "stars": lambda size: "*," * size,
    "slashes": lambda size: "W/" * size,
    "brackets": lambda size: "[" * size,
    "spaces in front of a quotation": lambda size: " , " * size + 'W/"',
}


@pytest.mark.parametrize("text", TEXTS)
@pytest.mark.parametrize("parser", PARSERS)
def test_parsers_are_linear(parser: str, text: str) -> None:
    """The time for a text is linear in its length, for each parser and any content."""
    work, size = PARSERS[parser]
    assert_linear(work, TEXTS[text], size)


SPECIAL: dict[str, tuple[str, int, Callable[[int], str]]] = {
    "tags": ("tags", 5_000, lambda size: ",".join(f'"{at}"' for at in range(size))),
    "tags with blanks": ("tags", 20_000, lambda size: '"a"' + " " * size + "x"),
    "ranges": ("ranges", 5_000, lambda size: "bytes=" + ",".join(f"{2 * at}-{2 * at}" for at in range(size))),
    "ranges, the last first": (
        "ranges",
        5_000,
        lambda size: "bytes=" + ",".join(f"{2 * at}-" for at in reversed(range(size))),
    ),
    "nested ranges": (
        "ranges",
        5_000,
        lambda size: "bytes=" + ",".join(f"{at}-{2 * size - at}" for at in range(size)),
    ),
    "equal ranges": ("ranges", 10_000, lambda size: "bytes=" + "0-," * size),
    "a range of digits": ("ranges", 200_000, lambda size: "bytes=" + "9" * size + "-" + "9" * size),
    "a range of zeros": ("ranges", 200_000, lambda size: "bytes=" + "0" * size + "-" + "0" * size),
    "codings": ("coding", 5_000, lambda size: ",".join(f"a{at};q=0.5" for at in range(size))),
    "a coding of blanks": ("coding", 50_000, lambda size: "a" + " " * size + ";" + " " * size + "x"),
    "a coding of digits": ("coding", 50_000, lambda size: "a;q=0." + "1" * size),
    "types": ("media type", 2_000, lambda size: ",".join(f"a/b{at};q=0.5" for at in range(size))),
    "a type of parameters": ("media type", 5_000, lambda size: "a/b" + ";c=d" * size),
    "a type of empty parameters": ("media type", 20_000, lambda size: "a/b" + "; " * size),
    "a type of semicolons": ("media type", 20_000, lambda size: "a/b;" + "a" * size + ";"),
    "a type of blanks": ("media type", 50_000, lambda size: "a/b;c=d" + " " * size + "x"),
    "a type of backslashes": ("media type", 20_000, lambda size: 'a/b;c="' + "\\d" * size),
    "types of quotations": ("media type", 5_000, lambda size: 'a/b;c="d,",' * size),
    "cookies of one name": ("cookies", 5_000, lambda size: "a=b;" * size),
    "fields of one name": ("query", 5_000, lambda size: "a=b&" * size),
    "fields": ("form", 5_000, lambda size: "&".join(f"a{at}=b" for at in range(size))),
    "numbers": ("json", 5_000, lambda size: "[" + "1.5," * size + "1]"),
    "digits of a float": ("json", 50_000, lambda size: "0." + "1" * size),
    "surrogate pairs": ("json", 5_000, lambda size: '"' + "\\ud83d\\ude00" * size + '"'),
    "half of a pair at the end": ("json", 5_000, lambda size: '"' + "\\ud83d\\ude00" * size + '\\ud83d"'),
    "backslashes in front of half of a pair": ("json", 50_000, lambda size: '"' + "\\\\" * size + '\\ud83d"'),
    "line breaks in front of an error": ("json", 50_000, lambda size: "\n" * size + "x"),
}


@pytest.mark.parametrize("text", SPECIAL)
def test_adversarial_texts_are_linear(text: str) -> None:
    """The same holds for a text that is adversarial for its parser."""
    parser, size, make = SPECIAL[text]
    assert_linear(PARSERS[parser][0], make, size)


def test_invalid_utf8_at_the_end() -> None:
    """The position of bytes that are not UTF-8 is found in linear time."""
    assert_linear(lambda text: loads_strict(text.encode() + b"\xff"), lambda size: "\u20ac\n" * size, 20_000)


def test_dumps_is_linear() -> None:
    """The time for a value is linear in its size."""
    assert_linear(lambda text: dumps(text.split(",")), lambda size: "\u20ac," * size, 10_000)
