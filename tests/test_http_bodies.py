"""Bodies of requests: Content-Length, chunks, and trailers."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humphrey_trio._server._head import BadRequest
from humphrey_trio._server._request_reader import RequestReader
from humphrey_trio.http import Limits
from tests.support.http_reader import BIG, all_of, byte_by_byte, cuts, get, head_of
from tests.support.parsers import each_parser as each_parser  # the fixture
from tests.support.reads import cut

# Every test runs with each parser of request heads.
pytestmark = pytest.mark.usefixtures("each_parser")

CHUNKED = get("Transfer-Encoding: chunked", start="POST / HTTP/1.1")


@pytest.mark.parametrize(
    ("lines", "sent", "body"),
    [
        (["Content-Length: 5"], b"hello", b"hello"),
        (["Content-Length: 0"], b"", b""),
        (["Content-Length: 005"], b"hello", b"hello"),
        (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\n\r\n", b"hello"),
        (["Transfer-Encoding: chunked"], b"2;a=b\r\nhe\r\n03\r\nllo\r\n0;c\r\n\r\n", b"hello"),
        (["Transfer-Encoding: chunked"], b"0\r\n\r\n", b""),
        (["Transfer-Encoding: chunked"], b"A\r\n0123456789\r\na\r\n0123456789\r\n0\r\n\r\n", b"0123456789" * 2),
        (["Transfer-Encoding: chunked"], b"5 \t\r\nhello\r\n0  \r\n\r\n", b"hello"),
        (["Transfer-Encoding: chunked"], b'5 ; a = "b;\tc\xe9" \r\nhello\r\n0;\r\n\r\n', b"hello"),
        (["Transfer-Encoding: chunked"], b"00000000000000000005\r\nhello\r\n0000\r\n\r\n", b"hello"),
        (["Transfer-Encoding: chunked"], b"5\r\nhello\r\n0\r\nX-Sum: 1\r\nY: 2\r\n\r\n", b"hello"),
    ],
)
def test_body_framing(lines: list[str], sent: bytes, body: bytes) -> None:
    """Content-Length or the chunks delimit a body, and the bytes after it are the next request."""
    raw = get(*lines, start="POST /a HTTP/1.1") + sent + get(start="GET /b HTTP/1.1")
    for reads in ([raw], byte_by_byte(raw)):
        assert [(head.path, content) for head, content in all_of(*reads)] == [("/a", body), ("/b", b"")]


def test_trailers_are_discarded() -> None:
    """Trailer fields of a chunked body do not reach the request (RFC 9110, section 6.5.1)."""
    [(head, _)] = all_of(CHUNKED + b"0\r\nX-Admin: yes\r\nHost: b\r\n\r\n")
    assert list(head.headers) == [("Host", "a"), ("Transfer-Encoding", "chunked")]
    assert head.host == "a"


def test_body_is_returned_in_pieces() -> None:
    """A body is returned piece by piece as it arrives."""
    reader = RequestReader(Limits())
    reader.receive(get("Content-Length: 5", start="POST / HTTP/1.1") + b"he")
    assert reader.next_head() is not None
    assert [reader.next_body(), reader.next_body()] == [b"he", None]
    reader.receive(b"llo")
    assert [reader.next_body(), reader.next_body()] == [b"llo", b""]


@pytest.mark.parametrize("length", [10**15, 2**64 - 1, 10**20 - 1])
def test_huge_content_length(length: int) -> None:
    """A huge Content-Length is only a number, which the server compares with its limit."""
    assert head_of(get(f"Content-Length: {length}")).content_length == length


@pytest.mark.parametrize(
    "sent",
    [
        # Sizes.
        b"x\r\nhello\r\n0\r\n\r\n",
        b"-5\r\nhello\r\n0\r\n\r\n",
        b"+5\r\nhello\r\n0\r\n\r\n",
        b"0x5\r\nhello\r\n0\r\n\r\n",
        b" 5\r\nhello\r\n0\r\n\r\n",
        b"5 5\r\nhello\r\n",
        b"5\0\r\nhello\r\n",
        b"\r5\r\nhello\r\n",
        b"5\r\r\nhello\r\n",
        b"\r\nhello",
        b"123456789012345678901\r\n",
        b"5\nhello\r\n0\r\n\r\n",
        # Ends of chunks.
        b"5\r\nhello!\r\n0\r\n\r\n",
        b"5\r\nhello\n0\r\n\r\n",
        b"5\r\nhello\r0\r\n\r\n",
        b"5\r\nhello0\r\n\r\n",
        # Extensions.
        b"5;a\rb\r\nhello\r\n0\r\n\r\n",
        b"5;a=b\r\r\nhello\r\n0\r\n\r\n",
        b"5;a\nb\r\nhello\r\n0\r\n\r\n",
        b"5;a\0b\r\nhello\r\n0\r\n\r\n",
        b"5;a\x0bb\r\nhello\r\n0\r\n\r\n",
        b'5;a="\x7f"\r\nhello\r\n0\r\n\r\n',
        b"5\r\nhello\r\n0;\r;\r\n\r\n",
        b"5;" + b"a" * 2 * BIG,
        b"5;" + b"a" * 2 * BIG + b"\r\nhello\r\n0\r\n\r\n",
        # Trailers.
        b"0\r\nno trailer\r\n\r\n",
        b"0\r\n: no name\r\n\r\n",
        b"0\r\nX : y\r\n\r\n",
        b"0\r\n folded: y\r\n\r\n",
        b"0\r\nX: y\r\n folded\r\n\r\n",
        b"0\r\nX: a\rb\r\n\r\n",
        b"0\r\nX: a\0b\r\n\r\n",
        b"0\r\nX: a\x0bb\r\n\r\n",
        b"0\r\n\n",
        b"0\r\nX: y\n\n",
        b"0\r\nX: y\r\n\n",
        b"0\r\nX: " + b"a" * 2 * BIG,
        b"0\r\nX: " + b"a" * 2 * BIG + b"\r\n\r\n",
        b"0\r\n" + b"X: y\r\n" * 101 + b"\r\n",
    ],
)
def test_malformed_chunks(sent: bytes) -> None:
    """Malformed chunks, and lines of chunks that never end, are refused in any reads."""
    for reads in ([CHUNKED + sent], [CHUNKED, *byte_by_byte(sent)]):
        with pytest.raises(BadRequest) as refused:
            all_of(*reads)
        assert refused.value.status in (400, 431)


def test_a_line_of_a_chunk_that_ends_in_lf() -> None:
    """It is refused at once, and not waited for."""
    for sent in (b"5\n", b"5;a=b\nhello", b"5\r\nhello\r\n0\n", b"0\n\n"):
        for reads in ([CHUNKED + sent], [CHUNKED, *byte_by_byte(sent)]):
            with pytest.raises(BadRequest, match="LF without CR"):
                all_of(*reads)


def test_incomplete_body() -> None:
    """An incomplete body has no end, wherever it is cut."""
    for raw in (
        get("Content-Length: 5", start="POST / HTTP/1.1") + b"hello",
        CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    ):
        assert len(all_of(raw)) == 1
        for size in range(len(raw)):
            assert all_of(raw[:size]) == []


@dataclass(frozen=True)
class Sent:
    """A request as a client sends it: its bytes, and the values that the server must see."""

    raw: bytes
    method: str
    path: str
    query: str
    body: bytes


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    """Any request with no body, a Content-Length, or chunks with trailers."""
    method = draw(st.sampled_from(["GET", "POST", "HEAD", "OPTIONS", "X-Y"]))
    path = "/" + draw(st.text("ab/%.", max_size=8))
    query = draw(st.text("ab=&?", max_size=8))
    names = draw(st.lists(st.sampled_from(["X-A", "x-b", "Accept", "Cookie"]), max_size=4))
    values = st.text("ab ,;=\t\xe9", max_size=12).map(lambda value: value.strip(" \t"))
    lines = [f"{name}: {draw(values)}" for name in names]
    body = draw(st.binary(max_size=40))
    framing = draw(st.sampled_from(["none", "length", "chunked"]))
    if framing == "none":
        body = sent = b""
    elif framing == "length":
        lines.append(f"Content-Length: {len(body)}")
        sent = body
    else:
        lines.append("Transfer-Encoding: chunked")
        sent = b"".join(draw(chunk(piece)) for piece in cut(body, draw(cuts(len(body)))) if piece)
        sent += (
            b"0\r\n" + b"".join(draw(st.lists(st.sampled_from([b"X-T: 1\r\n", b"Y: \r\n"]), max_size=2))) + b"\r\n"
        )
    empty_line = b"\r\n" if draw(st.booleans()) else b""
    target = f"{path}?{query}" if query else path
    raw = empty_line + get(*lines, start=f"{method} {target} HTTP/1.1") + sent
    return Sent(raw, method, path, query, body)


@st.composite
def chunk(draw: st.DrawFn, data: bytes) -> bytes:
    extension = draw(st.sampled_from([b"", b" ", b";a", b';a="b"', b" ; a = b\t"]))
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(requests(), max_size=4), st.data())
def test_pipelined_requests_in_any_reads(sent: list[Sent], data: st.DataObject) -> None:
    """Pipelined requests are the same in any reads."""
    raw = b"".join(request.raw for request in sent)
    reads = [piece for piece in cut(raw, data.draw(cuts(len(raw)))) if piece]
    got = [(head.method, head.path, head.query, body) for head, body in all_of(*reads)]
    assert got == [(request.method, request.path, request.query, request.body) for request in sent]
