"""The parser of multipart bodies: heads of parts, delimiters, malformed bodies, and splits into reads.

RFC 7578, section 4; RFC 2046, section 5.1.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from humphrey_trio._http._errors import HttpError
from humphrey_trio._http._multipart import MultipartParser
from humphrey_trio._http._part_head import PartHead, decode_text, parse_part_head
from tests.support.reads import cut, one_by_one

TYPE = "multipart/form-data; boundary=b"
NAMED = b'Content-Disposition: form-data; name="n"'

#: The head of a part with its content, or an error: its status, and what it says.
Found = tuple[PartHead, bytes] | tuple[int, str]


def found_in(reads: Iterable[bytes], content_type: str = TYPE, max_parts: int = 1000) -> list[Found]:
    """The parts of a body, and its error if there is one. A part that is not complete has its content so far."""
    found: list[Found] = []
    parser = MultipartParser(content_type, max_parts=max_parts)
    try:
        for data in reads:
            for event in parser.feed(data):
                if isinstance(event, PartHead):
                    found.append((event, b""))
                elif event:
                    head, content = found[-1]
                    assert isinstance(head, PartHead)
                    assert isinstance(content, bytes)
                    found[-1] = head, content + event
        parser.finish()
    except HttpError as error:
        found.append((error.status, error.detail.partition(":")[0]))
    return found


def part(head: bytes, content: bytes = b"") -> bytes:
    return b"--b\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


def head_of(fields: bytes) -> PartHead:
    """The head of the only part of a body, which must be valid."""
    ((head, _),) = found_in([part(fields) + b"--b--\r\n"])
    assert isinstance(head, PartHead)
    return head


def contents(found: list[Found]) -> list[object]:
    """The contents of parts, and the statuses of errors."""
    return [second if isinstance(first, PartHead) else first for first, second in found]


# ------------------------------------------------------------------------------------------------ heads


@pytest.mark.parametrize(
    ("parameters", "name", "filename"),
    [
        ('name="a"', "a", None),
        ("name=a", "a", None),
        ('NAME="a"', "a", None),
        (' name = "a" ; ', "a", None),
        ('name=""', "", None),
        ('name="a"; filename="f.txt"', "a", "f.txt"),
        ('filename="f.txt"; name="a"', "a", "f.txt"),
        ('name="a"; filename=""', "a", ""),
        ('name="a;b"; filename="c; name=d"', "a;b", "c; name=d"),
        # As browsers send them (HTML standard, section 4.10.21.8).
        ('name="a%22b%0D%0Ac"; filename="%22.txt"', 'a"b\r\nc', '".txt'),
        ('name="100%"; filename="%41%0d.txt"', "100%", "%41%0d.txt"),
        ('name="n"; filename="a%22b\\ \u00e9.txt"', "n", 'a"b\\ \u00e9.txt'),
        ('name="\u20ac"; filename="\U0001f600.txt"', "\u20ac", "\U0001f600.txt"),
        ('name="n"; filename="C:\\fakepath\\f.txt"', "n", "C:\\fakepath\\f.txt"),
        ('name="n"; filename="ends with \\"', "n", "ends with \\"),
        ('name="n"; filename="../../etc/passwd"', "n", "../../etc/passwd"),
        # As older clients send them.
        (r'name="n"; filename="a\"b\\c.txt"', "n", 'a"b\\c.txt'),
        ("name=n; filename*=UTF-8''%e2%82%ac%20rates.txt", "n", "\u20ac rates.txt"),
        ("name=n; filename*=iso-8859-1'en'%A3.txt", "n", "\u00a3.txt"),
        ("name=n; filename=plain.txt; filename*=utf-8''other.txt", "n", "plain.txt"),
        ("name=n; filename*=koi8-r''x", "n", None),
    ],
)
def test_names(parameters: str, name: str, filename: str | None) -> None:
    """The names of a part are those that the client means, whichever way it encodes them."""
    head = head_of(b"Content-Disposition: form-data; " + parameters.encode())
    assert (head.name, head.filename) == (name, filename)


def test_a_name_that_is_not_utf_8() -> None:
    """Bytes that are not UTF-8 are replaced in a filename."""
    assert head_of(NAMED + b'; filename="caf\xe9"').filename == "caf\ufffd"


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (b"", "text/plain"),
        (b"\r\nContent-Type:", "text/plain"),
        (b"\r\nContent-Type: image/PNG", "image/png"),
        (b"\r\ncontent-type:text/html;charset=utf-8 ", "text/html"),
    ],
)
def test_content_type(field: bytes, expected: str) -> None:
    """The media type of a part has no parameters, and is text/plain if none was sent."""
    assert head_of(NAMED + field).content_type == expected


def test_headers() -> None:
    """The other fields of a head can be read."""
    head = head_of(NAMED + b"\r\nX-Id: 5\r\nContent-Transfer-Encoding: binary")
    assert head.headers["x-id"] == "5"
    assert head.headers["Content-Transfer-Encoding"] == "binary"


@pytest.mark.parametrize(
    "fields",
    [
        b"X: y",
        b"Content-Disposition: form-data",
        b"Content-Disposition: attachment; name=a",
        b'Content-Disposition: form-data; filename="a"',
        b"Content-Disposition: form-data; name=a; name=b",
        b"Content-Disposition: form-data; name=a b",
        b'Content-Disposition: form-data; name="a',
        b"Content-Disposition: form-data name=a",
        NAMED + b"\r\n" + NAMED,
        NAMED + b"\r\nContent-Type: a/b\r\nContent-Type: a/b",
        NAMED + b"\r\nContent-Transfer-Encoding: base64",
        NAMED + b"\r\nContent-Transfer-Encoding: quoted-printable",
        NAMED + b"\r\nno colon",
        NAMED + b"\r\na name: with a blank",
        NAMED + b"\r\n: no name",
        NAMED + b"\r\nX: folded\r\n line",
        NAMED + b"\r\nX: a\0b",
        NAMED + b"\r\nX: a\nb",
        NAMED + b"\r\nX: a\rb",
        NAMED + b"\r\nX: " + b"a" * 4096,
        NAMED + b"\r\nX: y" * 8,
        NAMED + b"\r\nContent-Length: 1",
        NAMED + b"\r\nContent-Length: -1",
        b" " + NAMED,
        b"",
    ],
)
def test_malformed_heads(fields: bytes) -> None:
    """A head that is malformed or too large is a 400."""
    body = part(fields) + b"--b--\r\n"
    for reads in ([body], one_by_one(body)):
        assert contents(found_in(reads))[-1] == 400


def test_the_reason_is_said() -> None:
    """The error of a head says what the client should do."""
    with pytest.raises(HttpError, match="'base64' is not supported: send the content as it is"):
        parse_part_head([("Content-Disposition", "form-data; name=n"), ("Content-Transfer-Encoding", "BASE64")])


@pytest.mark.parametrize(
    ("content_type", "content", "expected"),
    [
        ("", b"caf\xc3\xa9", "caf\u00e9"),
        ("text/plain; charset=UTF-8", b"caf\xc3\xa9", "caf\u00e9"),
        ('text/plain; charset="us-ascii"', b"cafe", "cafe"),
        ("text/plain; charset=iso-8859-1", b"caf\xe9", "caf\u00e9"),
        ("text/plain; charset=windows-1252", b"\x80", "\u20ac"),
        ("", b"caf\xe9", 400),
        ("text/plain; charset=windows-1252", b"\x81", 400),
        ("text/plain; charset", b"a", 400),
        ("text/plain; charset=utf-7", b"a", 415),
        ("text/plain; charset=punycode", b"a", 415),
    ],
)
def test_charsets(content_type: str, content: bytes, expected: str | int) -> None:
    """A text field is UTF-8 unless it names one of a few other charsets. It is never decoded with losses."""
    head = parse_part_head([("Content-Disposition", "form-data; name=n"), ("Content-Type", content_type)])
    if isinstance(expected, str):
        assert decode_text(head, content) == expected
        return
    with pytest.raises(HttpError) as caught:
        decode_text(head, content)
    assert caught.value.status == expected


# ---------------------------------------------------------------------------------------------- bodies


CONTENTS = [
    b"",
    b"x",
    b"\r",
    b"\n",
    b"\r\n",
    b"\r\n--",
    b"--b",
    b"\r\n-b\r\n",
    b"\r\r\n",
    b"a\r\n--B\r\n",
]


@pytest.mark.parametrize("content", CONTENTS)
def test_contents(content: bytes) -> None:
    """The content of a part may be nearly a delimiter."""
    body = part(NAMED, content) * 2 + b"--b--"
    for reads in ([body], one_by_one(body)):
        assert contents(found_in(reads)) == [content, content]


VALID = part(NAMED, b"x") + b"--b--\r\n"


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"--b--", []),
        (b"--b--\r\n", []),
        (b"\r\n" + VALID, [b"x"]),
        (VALID + b"an epilogue\r\n--b\r\n", [b"x"]),
        (b"--b--" + VALID, []),
        (part(NAMED, b"--b--") + VALID, [b"--b--", 400]),
        (b"--b--\r\n" + VALID, []),
        (b"--b\r\nX: y\r\n--b--" + VALID, [400]),
        (b"", [400]),
        (b"no boundary", [400]),
        (b"preamble" + VALID, [400]),
        (b"preamble\r\n" + VALID, [400]),
        (b"\r\n\r\n" + VALID, [400]),
        (b"\r", [400]),
        (VALID[:-4], [b"x", 400]),
        (VALID[:-5], [b"x", 400]),
        (part(NAMED, b"x"), [b"x", 400]),
        (b"--b", [400]),
        (b"--b\r\n", [400]),
        (b"--b\n" + VALID, [400]),
        (b"--b \r\n" + NAMED, [400]),
        (b"--bc\r\n" + VALID, [400]),
        (part(NAMED, b"x") + b"--bc\r\n", [b"x", 400]),
        (VALID.replace(b"\r\n", b"\n"), [400]),
    ],
)
def test_bodies(body: bytes, expected: list[object]) -> None:
    """A body begins with a delimiter, and has a last one. What follows it is ignored (RFC 2046, section 5.1.1)."""
    for reads in ([body], one_by_one(body)):
        assert [found or b"" for found in contents(found_in(reads))] == expected


def test_content_length_of_a_part() -> None:
    """A part may have the Content-Length of its content, and no other."""
    assert contents(found_in([part(NAMED + b"\r\nContent-Length: 2", b"xy") + b"--b--"])) == [b"xy"]
    assert contents(found_in([part(NAMED + b"\r\nContent-Length: 1", b"xy") + b"--b--"]))[-1] == 400


def test_too_many_parts() -> None:
    """A body with more parts than allowed is a 413, and the parts before it are found."""
    assert contents(found_in([VALID], max_parts=1)) == [b"x"]
    assert contents(found_in([part(NAMED, b"x") + VALID], max_parts=1)) == [b"x", 413]


def test_an_error_stays() -> None:
    """After an error, the parser parses nothing more, and its end is no other error."""
    parser = MultipartParser(TYPE, max_parts=1)
    with pytest.raises(HttpError) as first:
        list(parser.feed(b"--b\r\n\r\n" + VALID))
    with pytest.raises(HttpError) as second:
        list(parser.feed(VALID))
    with pytest.raises(HttpError) as third:
        parser.finish()
    assert first.value is second.value is third.value


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        ("multipart/form-data; boundary=b", b"b"),
        ('Multipart/Form-Data;charset=utf-8;BOUNDARY="a b"', b"a b"),
        ("multipart/form-data; boundary=----=_Part_1/2:3", b"----=_Part_1/2:3"),
        (r'multipart/form-data; boundary="a\"b"', b'a"b'),
        (f"multipart/form-data; boundary={'x' * 70}", b"x" * 70),
    ],
)
def test_boundaries(content_type: str, boundary: bytes) -> None:
    """A boundary may be quoted, and need not be where it is no token."""
    body = VALID.replace(b"--b", b"--" + boundary)
    assert contents(found_in([body], content_type)) == [b"x"]


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        ("", 415),
        ("multipart/mixed; boundary=b", 415),
        ("application/json", 415),
        ("multipart/form-data", 400),
        ("multipart/form-data; boundary=", 400),
        ('multipart/form-data; boundary=""', 400),
        ('multipart/form-data; boundary="ends with a blank "', 400),
        (f"multipart/form-data; boundary={'x' * 71}", 400),
        ("multipart/form-data; boundary=\u00e9", 400),
        ('multipart/form-data; boundary="a', 400),
        ("multipart/form-data; boundary=a; boundary=b", 400),
    ],
)
def test_content_types_that_are_refused(content_type: str, status: int) -> None:
    """Another media type is a 415, and one without a valid boundary a 400."""
    with pytest.raises(HttpError) as caught:
        MultipartParser(content_type, max_parts=1)
    assert caught.value.status == status


@pytest.mark.parametrize("module", [None, sys])
def test_without_the_library(monkeypatch: pytest.MonkeyPatch, module: object) -> None:
    """Without the library, or with another one of this name, the error says what to install."""
    monkeypatch.setitem(sys.modules, "multipart", module)
    with pytest.raises(RuntimeError, match=r"pip install 'humphrey_trio\[forms\]'"):
        MultipartParser(TYPE, max_parts=1)


# ---------------------------------------------------------------------------------------------- splits

FRAGMENTS = [
    *(b"\r\n", b"\r", b"\n", b"--b", b"--", b"-", b"b", b" ", b"\t", b":", b"x", b"\xc3\xa9", b"\0", b"X: y\r\n"),
    *(b"\r\n--b", b"\r\n--b\r\n", b"\r\n--b--", NAMED + b"\r\n", NAMED + b"\r\n\r\n", b"Content-Length: 3\r\n"),
    *(part(NAMED, b"x"), VALID, b"X: " + b"y" * 4093 + b"\r\n", b"X: " + b"y" * 4094 + b"\r\n"),
]


@settings(max_examples=300, deadline=None, database=None)
@example(b"--b\r\n", [b"X: ", b"y" * 4093, b"\r\n", NAMED, b"\r\n\r\n\r\n--b--"], [4102])
@example(b"--b\r\n", [b"X: a\nb\r\n", VALID], [10])
@example(b"--b\r\n", [b"\n", NAMED, b"\r\n\r\n"], [19])
@example(b"--b\r\n", [NAMED, b"\r\nX\n: y\r\n\r\n"], [45])
@example(part(NAMED, b"x"), [b"\r\n--b\r\n\n", NAMED, b"\r\n\r\n"], [])
@example(b"x", [VALID], [1])
@given(
    st.sampled_from([b"", b"\r\n", b"--b\r\n", b"--b\r\n" + NAMED + b"\r\n\r\n", part(NAMED, b"x")]),
    st.lists(st.sampled_from(FRAGMENTS), max_size=12),
    st.lists(st.integers(min_value=0, max_value=2**14), max_size=8),
)
def test_splits(start: bytes, fragments: list[bytes], places: list[int]) -> None:
    """The parts and the errors of a body do not depend on how it is split into reads."""
    body = start + b"".join(fragments)
    whole, errors = divided(found_in([body]))
    for reads in (cut(body, places), one_by_one(body)):
        found, found_errors = divided(found_in(reads))
        assert found_errors == errors
        if errors and whole:
            assert found[-1][0] == whole[-1][0]
            # Of a part that is not complete, less content may have been found before the error.
            assert found.pop()[1].startswith(whole[-1][1])
            assert found == whole[:-1]
        else:
            assert found == whole


def divided(found: list[Found]) -> tuple[list[tuple[PartHead, bytes]], list[int]]:
    """The parts, and the statuses of the errors."""
    parts: list[tuple[PartHead, bytes]] = []
    errors: list[int] = []
    for first, second in found:
        if isinstance(first, PartHead) and isinstance(second, bytes):
            parts.append((first, second))
        elif isinstance(first, int):
            errors.append(first)
    return parts, errors
