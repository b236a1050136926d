"""Range requests: which ranges are sent, and how they are framed.

RFC 9110, sections 14.1.2, 14.2, 14.4 and 15.5.17.
"""

from __future__ import annotations

import email.parser
import email.policy
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from humphrey_trio._http._ranges import (
    MAX_RANGES,
    ByteRange,
    MultipartRanges,
    RangeNotSatisfiableError,
    content_range,
    parse_ranges,
    unsatisfied_range,
)

SIZE = 100
HUGE = "9" * 5000

RANGES: dict[str, list[tuple[int, int]]] = {
    "bytes=0-0": [(0, 0)],
    "bytes=0-49": [(0, 49)],
    "bytes=10-": [(10, 99)],
    "bytes=-10": [(90, 99)],
    "bytes=99-": [(99, 99)],
    "BYTES=0-0": [(0, 0)],
    "bytes=000-0049": [(0, 49)],
    # beyond the end
    "bytes=0-99": [(0, 99)],
    "bytes=0-100": [(0, 99)],
    "bytes=50-1000000": [(50, 99)],
    "bytes=-1000": [(0, 99)],
    f"bytes=50-{HUGE}": [(50, 99)],
    f"bytes=-{HUGE}": [(0, 99)],
    f"bytes={'0' * 5000}1-2": [(1, 2)],
    # several
    "bytes=0-9,20-29": [(0, 9), (20, 29)],
    "bytes=20-29,0-9": [(20, 29), (0, 9)],
    "bytes= 0-9 ,\t20-29 ": [(0, 9), (20, 29)],
    "bytes=,0-9,,20-29,": [(0, 9), (20, 29)],
    "bytes=0-9,-10": [(0, 9), (90, 99)],
    "bytes=0-9,200-,20-29": [(0, 9), (20, 29)],
    f"bytes={HUGE}-,0-9": [(0, 9)],
    "bytes=-0,0-9": [(0, 9)],
    # overlapping and adjacent ones are merged
    "bytes=0-9,5-14": [(0, 14)],
    "bytes=0-9,10-19": [(0, 19)],
    "bytes=10-19,0-9": [(0, 19)],
    "bytes=0-9,11-19": [(0, 9), (11, 19)],
    "bytes=0-99,50-59": [(0, 99)],
    "bytes=50-59,0-,-1": [(0, 99)],
    "bytes=60-69,0-9,65-74,5-6": [(60, 74), (0, 9)],
    "bytes=90-,0-0,-20": [(80, 99), (0, 0)],
    "bytes=" + "0-9," * 1000: [(0, 9)],
    # ignored
    "": [],
    "bytes": [],
    "bytes=": [],
    "bytes=,": [],
    "bytes=-": [],
    "bytes=a": [],
    "bytes=1": [],
    "bytes=a-b": [],
    "bytes=+1-2": [],
    "bytes=1--2": [],
    "bytes=--2": [],
    "bytes=1-2-3": [],
    "bytes=1 -2": [],
    "bytes=1- 2": [],
    "bytes =0-9": [],
    "bytes:0-9": [],
    "bytes 0-9": [],
    "bytes=2-1": [],
    "bytes=0-9,2-1": [],
    "bytes=0-9,a": [],
    "bytes=0-9;20-29": [],
    f"bytes={HUGE}-1": [],
    f"bytes={HUGE}9-{HUGE}": [],
    "bytes=\u0661-\u0662": [],
    "items=0-9": [],
    "=0-9": [],
    "0-9": [],
}


@pytest.mark.parametrize(("value", "ranges"), RANGES.items(), ids=lambda value: repr(value)[:40])
def test_ranges(value: str, ranges: list[tuple[int, int]]) -> None:
    """Valid ranges are cut at the end and merged; a field that is malformed or unknown is ignored."""
    assert list(parse_ranges([value], SIZE)) == ranges


@pytest.mark.parametrize(
    "value", ["bytes=100-", "bytes=100-200", "bytes=-0", "bytes=-000", "bytes=200-,100-,-0", f"bytes={HUGE}-"]
)
def test_unsatisfiable_ranges(value: str) -> None:
    """Valid ranges of which none overlaps the representation are an error."""
    with pytest.raises(RangeNotSatisfiableError, match="100 bytes"):
        parse_ranges([value], SIZE)


@pytest.mark.parametrize("value", ["bytes=0-", "bytes=-1", "bytes=5-6"])
def test_an_empty_representation_has_no_ranges(value: str) -> None:
    """It is sent as a whole."""
    assert parse_ranges([value], 0) == ()


@pytest.mark.parametrize("values", [[], ["bytes=0-9", "bytes=0-9"]])
def test_one_field(values: list[str]) -> None:
    """Without a field, or with more than one, the whole representation is sent."""
    assert parse_ranges(values, SIZE) == ()


specs = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda ends: f"{min(ends)}-{max(ends)}")
suffixes = st.integers(0, 30).map(lambda length: f"-{length}")
openings = st.integers(0, 30).map(lambda first: f"{first}-")


@given(st.lists(st.one_of(specs, suffixes, openings), min_size=1, max_size=8), st.integers(1, 25))
def test_merging_keeps_the_bytes(requested: list[str], size: int) -> None:
    """Merged ranges hold the requested bytes, each once, and do not touch."""
    wanted: set[int] = set()
    for spec in requested:
        first, last = spec.split("-")
        wanted |= set(range(int(first), int(last or size - 1) + 1) if first else range(size - int(last), size))
    wanted &= set(range(size))
    if not wanted:
        with pytest.raises(RangeNotSatisfiableError):
            parse_ranges(["bytes=" + ",".join(requested)], size)
        return
    ranges = parse_ranges(["bytes=" + ",".join(requested)], size)
    assert sorted(at for part in ranges for at in range(part.first, part.last + 1)) == sorted(wanted)
    assert not {part.last + 1 for part in ranges} & {part.first for part in ranges}


def spread(count: int) -> str:
    return "bytes=" + ",".join(f"{2 * at}-{2 * at}" for at in range(count))


def test_the_most_ranges() -> None:
    """More ranges than the bound, counted after merging, are the whole representation."""
    assert len(parse_ranges([spread(MAX_RANGES)], SIZE)) == MAX_RANGES
    assert parse_ranges([spread(MAX_RANGES + 1)], SIZE) == ()
    assert parse_ranges([spread(MAX_RANGES + 1) + ",0-99"], SIZE) == (ByteRange(0, 99),)


def test_numbers_do_not_depend_on_the_interpreter() -> None:
    """A number with more digits than Python converts is after the end of every file, and no error."""
    assert len(HUGE) > sys.get_int_max_str_digits() > 0
    assert parse_ranges([f"bytes=1-{HUGE}"], 2**62) == (ByteRange(1, 2**62 - 1),)


def test_content_range() -> None:
    """The values of Content-Range."""
    assert content_range(ByteRange(0, 49), 1234) == "bytes 0-49/1234"
    assert unsatisfied_range(1234) == "bytes */1234"
    assert ByteRange(0, 49).length == 50


# --------------------------------------------------------------------------------------------- multipart

CONTENT = bytes(range(SIZE))


def body_of(framing: MultipartRanges) -> bytes:
    parts = [head + CONTENT[part.first : part.last + 1] for head, part in framing.parts]
    return b"".join([*parts, framing.end])


@pytest.mark.parametrize("content_type", ["text/plain; charset=utf-8", ""])
def test_multipart(content_type: str) -> None:
    """The body is a multipart that others read, with the computed length."""
    ranges = [ByteRange(20, 29), ByteRange(0, 0)]
    framing = MultipartRanges(ranges, SIZE, content_type)
    body = body_of(framing)
    assert len(body) == framing.length
    head = f"Content-Type: {framing.content_type}\r\n\r\n".encode()
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(head + body)
    parts = list(message.iter_parts())
    assert [part["Content-Range"] for part in parts] == ["bytes 20-29/100", "bytes 0-0/100"]
    assert [part.get_payload(decode=True) for part in parts] == [CONTENT[20:30], CONTENT[:1]]
    assert [part.get("Content-Type", "").replace('"', "") for part in parts] == [content_type] * 2


def test_multipart_on_the_wire() -> None:
    """Exactly these bytes are sent."""
    framing = MultipartRanges([ByteRange(65, 66), ByteRange(70, 70)], SIZE, "text/plain", boundary="B")
    assert framing.content_type == "multipart/byteranges; boundary=B"
    assert body_of(framing) == (
        b"\r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 65-66/100\r\n\r\nAB"
        b"\r\n--B\r\nContent-Type: text/plain\r\nContent-Range: bytes 70-70/100\r\n\r\nF"
        b"\r\n--B--\r\n"
    )


def test_boundaries_are_random() -> None:
    """Each response has a boundary that its content cannot foresee."""
    framings = [MultipartRanges([ByteRange(0, 1)], SIZE, "") for _ in range(2)]
    assert framings[0].content_type != framings[1].content_type
    assert framings[0].parts == framings[0].parts


def test_a_type_cannot_forge_a_part() -> None:
    """A media type with a line break is refused."""
    with pytest.raises(ValueError, match="control character"):
        MultipartRanges([ByteRange(0, 1)], SIZE, "text/plain\r\nX: y")
