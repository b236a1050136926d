"""HTTP on the wire, without I/O: which bytes are a request, which are refused and how, and what a response is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humphrey_trio._server._head import BadRequest, Head
from humphrey_trio._server._request_reader import RequestReader
from humphrey_trio._server._response_writer import ResponseWriter
from humphrey_trio.http import Address, Headers, Limits, Response
from tests.support.parsers import each_parser as each_parser  # the fixture
from tests.support.reads import cut

# Every test runs with each parser of request heads.
pytestmark = pytest.mark.usefixtures("each_parser")

# ---------------------------------------------------------------------------------------------- reading


def head_of(raw: bytes, limits: Limits = Limits()) -> Head:  # noqa: B008  (frozen)
    """The one head that these bytes are."""
    reader = RequestReader(limits)
    reader.receive(raw)
    head = reader.next_head()
    assert head is not None
    assert reader.buffered == 0
    return head


def get(*lines: str, start: str = "GET / HTTP/1.1", host: str = "Host: a") -> bytes:
    """A request's head, with a Host unless it is told otherwise."""
    return "\r\n".join([start, *([host] if host else []), *lines, "", ""]).encode("latin-1")


def exchanges(reader: RequestReader, reads: Iterable[bytes]) -> Iterator[tuple[Head, bytes]]:
    """The heads of a connection, each with its body, from bytes that come in these reads."""
    source = iter(reads)

    def more() -> bool:
        data = next(source, b"")
        reader.receive(data)
        return data != b""

    while True:
        while (head := reader.next_head()) is None:
            if not more():
                return
        pieces: list[bytes] = []
        while head.has_body:
            piece = reader.next_body()
            if piece == b"":
                break
            if piece is not None:
                pieces.append(piece)
            elif not more():
                return
        yield head, b"".join(pieces)


def all_of(*reads: bytes, limits: Limits = Limits()) -> list[tuple[Head, bytes]]:  # noqa: B008  (frozen)
    return list(exchanges(RequestReader(limits), reads))


def at_once(raw: bytes) -> list[bytes]:
    """The bytes, in one read."""
    return [raw]


def in_drops(raw: bytes) -> list[bytes]:
    """The bytes, one a read."""
    return [raw[at : at + 1] for at in range(len(raw))]


def test_a_head_is_taken_apart() -> None:
    """A head has a method, a path, a query, a version, and its fields in order and in their case."""
    raw = get(
        "X-One: 1",
        "x-two:  2 \t",
        "X-One: é",
        start="PUT /testpath?foo=bar?baz HTTP/1.1",
        host="hOST: LocalHost:80",
    )
    head = head_of(raw)
    assert (head.method, head.path, head.query, head.version) == ("PUT", "/testpath", "foo=bar?baz", "HTTP/1.1")
    assert list(head.headers) == [("hOST", "LocalHost:80"), ("X-One", "1"), ("x-two", "2"), ("X-One", "\xe9")]
    assert head.host == "localhost:80"
    assert (head.content_length, head.has_body, head.close, head.expects_continue) == (0, False, False, False)


def test_a_head_and_a_body_make_a_request() -> None:
    """What a handler gets has the head's parts, the body and the peer."""
    request = head_of(get("X: \xe9", start="POST /a?b HTTP/1.1")).to_request(b"body", Address("::1", 5))
    assert (request.method, request.path, request.query, request.version) == ("POST", "/a", "b", "HTTP/1.1")
    assert request.headers == Headers([("Host", "a"), ("X", "é")])
    assert (request.content, request.address) == (b"body", Address("::1", 5))


TARGETS = [
    ("GET", "/", "/", "", "a"),
    ("GET", "/?", "/", "", "a"),
    ("GET", "//a/../b%2Fc;d", "//a/../b%2Fc;d", "", "a"),
    ("GET", "http://Other:81/p?q", "/p", "q", "other:81"),
    ("GET", "HTTPS://other", "/", "", "other"),
    ("GET", "http://other?q", "/", "q", "other"),
    ("GET", "http://[::1]:80/", "/", "", "[::1]:80"),
    ("OPTIONS", "*", "*", "", "a"),
    ("OPTIONS", "/", "/", "", "a"),
    ("BREW", "/pot", "/pot", "", "a"),
]


@pytest.mark.parametrize(("method", "target", "path", "query", "host"), TARGETS)
def test_targets(method: str, target: str, path: str, query: str, host: str) -> None:
    """A target is a path, a URL, whose host then counts, or the star of OPTIONS; nothing in it is decoded."""
    head = head_of(get(start=f"{method} {target} HTTP/1.1"))
    assert (head.method, head.path, head.query, head.host) == (method, path, query, host)


@pytest.mark.parametrize("host", ["a", "A.example.com:80", "[::1]", "[::1]:80", "127.0.0.1:", "a_b-c.d", ""])
def test_hosts(host: str) -> None:
    """A Host field is a name or an address, with a port or without, or empty (RFC 9112, section 3.2)."""
    assert head_of(get(host=f"Host: {host}")).host == host.lower()


@pytest.mark.parametrize(
    ("start", "lines", "closes"),
    [
        ("GET / HTTP/1.1", [], False),
        ("GET / HTTP/1.1", ["Connection: keep-alive"], False),
        ("GET / HTTP/1.1", ["Connection: close"], True),
        ("GET / HTTP/1.1", ["Connection: Upgrade, CLOSE"], True),
        ("GET / HTTP/1.1", ["Connection: x", "connection: close"], True),
        ("GET / HTTP/1.1", ["Connection: closed"], False),
        ("GET / HTTP/1.0", [], True),
        ("GET / HTTP/1.0", ["Connection: keep-alive"], True),
    ],
)
def test_who_wants_the_connection_closed(start: str, lines: list[str], closes: bool) -> None:
    """A client of HTTP/1.0, or one that says close anywhere in Connection, gets no second response."""
    assert head_of(get(*lines, start=start)).close is closes


def test_http_1_0_needs_no_host() -> None:
    """A request of HTTP/1.0 may come without Host."""
    head = head_of(get(start="GET / HTTP/1.0", host=""))
    assert (head.version, head.host) == ("HTTP/1.0", "")


@pytest.mark.parametrize(
    ("start", "lines", "expects"),
    [
        ("POST / HTTP/1.1", ["Expect: 100-continue", "Content-Length: 1"], True),
        ("POST / HTTP/1.1", ["expect: 100-Continue", "Content-Length: 1"], True),
        ("POST / HTTP/1.1", ["Expect: 100-continue", "Expect: nonsense", "Content-Length: 1"], True),
        ("POST / HTTP/1.1", ["Expect: nonsense", "Content-Length: 1"], False),
        ("POST / HTTP/1.0", ["Expect: 100-continue", "Content-Length: 1"], False),
    ],
)
def test_who_waits_for_a_100(start: str, lines: list[str], expects: bool) -> None:
    """A client of HTTP/1.1 that says so waits for a 100; one of HTTP/1.0 cannot (RFC 9110, section 10.1.1)."""
    assert head_of(get(*lines, start=start)).expects_continue is expects


UPGRADE = ["Connection: Upgrade", "Upgrade: websocket"]


@pytest.mark.parametrize(
    ("start", "lines", "wants"),
    [
        ("GET / HTTP/1.1", UPGRADE, True),
        ("GET / HTTP/1.1", ["connection: upgrade", "upgrade: h2c, WebSocket"], True),
        ("GET / HTTP/1.1", ["Connection: keep-alive, Upgrade", "Upgrade: h2c", "Upgrade: websocket"], True),
        ("GET / HTTP/1.1", ["Connection: keep-alive", "Connection: UPGRADE", "Upgrade: websocket"], True),
        ("GET / HTTP/1.1", [*UPGRADE, "Content-Length: 0"], True),
        ("GET / HTTP/1.1", ["Connection: Upgrade", "Upgrade: h2c"], False),
        ("GET / HTTP/1.1", ["Connection: Upgrade", "Upgrade: websocket/13"], False),
        ("GET / HTTP/1.1", ["Connection: Upgrade", "X-Upgrade: websocket"], False),
        ("GET / HTTP/1.1", ["Upgrade: websocket"], False),
        ("GET / HTTP/1.1", ["Connection: keep-alive, upgrades", "Upgrade: websocket"], False),
        ("GET / HTTP/1.0", UPGRADE, False),
        ("POST / HTTP/1.1", UPGRADE, False),
        ("HEAD / HTTP/1.1", UPGRADE, False),
        ("GET / HTTP/1.1", [*UPGRADE, "Content-Length: 1"], False),
        ("GET / HTTP/1.1", [*UPGRADE, "Transfer-Encoding: chunked"], False),
    ],
)
def test_who_wants_a_websocket(start: str, lines: list[str], wants: bool) -> None:
    """A request asks for a WebSocket if it is a GET of HTTP/1.1 without a body and both its fields say so."""
    assert head_of(get(*lines, start=start)).wants_websocket is wants


# What is refused: the bytes, the status, and a part of the reason. Every reason names what was wrong.
BIG = Limits().head
REFUSED: dict[str, tuple[bytes, int, str]] = {
    # Line ends.
    "bare LF": (b"GET / HTTP/1.1\nHost: a\n\n", 400, "LF"),
    "bare LF in a field": (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400, "LF"),
    "bare LF at the end": (b"GET / HTTP/1.1\r\nHost: a\r\n\n", 400, "LF"),
    "bare CR in a field": (get("X: a\rb"), 400, "CR"),
    "folded line": (get("X: a", " b"), 400, "folded"),
    "folded by a tab": (get("X: a", "\tb"), 400, "folded"),
    "folded first field": (get(host=" Host: a"), 400, "folded"),
    "two empty lines in front": (b"\r\n\r\n" + get(), 400, "not HTTP|malformed"),
    # Request lines.
    "two words": (b"GET /\r\n\r\n", 400, "request line"),
    "four words": (get(start="GET / a HTTP/1.1"), 400, "request line"),
    "two spaces": (get(start="GET  / HTTP/1.1"), 400, "request line"),
    "a space behind": (get(start="GET / HTTP/1.1 "), 400, "request line"),
    "small letters": (get(start="GET / http/1.1"), 400, "request line"),
    "no number": (get(start="GET / HTTP/x.y"), 400, "request line"),
    "long number": (get(start="GET / HTTP/1.10"), 400, "request line"),
    "letters outside ASCII": (get(start="GET /é HTTP/1.1"), 400, "request line"),
    "no token": (get(start="G(T / HTTP/1.1"), 400, "request line"),
    "HTTP/0.9": (get(start="GET / HTTP/0.9"), 505, "HTTP/0.9"),
    "HTTP/1.2": (get(start="GET / HTTP/1.2"), 505, "HTTP/1.2"),
    "HTTP/2.0": (get(start="PRI * HTTP/2.0"), 505, "HTTP/2.0"),
    "HTTP/9.9": (get(start="GET / HTTP/9.9"), 505, "HTTP/9.9"),
    # Targets.
    "fragment": (get(start="GET /a?b?c#d HTTP/1.1"), 400, "fragment"),
    "fragment in a URL": (get(start="GET http://a/#d HTTP/1.1"), 400, "fragment"),
    "no path": (get(start="GET a HTTP/1.1"), 400, "neither a path nor a URL"),
    "star for GET": (get(start="GET * HTTP/1.1"), 400, "neither a path nor a URL"),
    "another scheme": (get(start="GET ftp://a/ HTTP/1.1"), 400, "neither a path nor a URL"),
    "URL without a host": (get(start="GET http:///a HTTP/1.1"), 400, "neither a path nor a URL"),
    "URL with a user": (get(start="GET http://me@a/ HTTP/1.1"), 400, "neither a path nor a URL"),
    "CONNECT": (get(start="CONNECT a:443 HTTP/1.1"), 501, "CONNECT"),
    # Host.
    "no Host": (get(host=""), 400, "Host"),
    "two Hosts": (get("Host: b"), 400, "Host"),
    "two Hosts in HTTP/1.0": (get("Host: a", start="GET / HTTP/1.0"), 400, "Host"),
    "bad Host": (get(host="Host: a b"), 400, "Host"),
    "Host with a path": (get(host="Host: a/b"), 400, "Host"),
    "Host with a user": (get(host="Host: me@a"), 400, "Host"),
    "Host with a bad port": (get(host="Host: a:b"), 400, "Host"),
    # Fields.
    "no colon": (get("NoColon"), 400, "NoColon"),
    "space in front of the colon": (get("X : a"), 400, "X : a"),
    "empty name": (get(": a"), 400, ": a"),
    "NUL": (get("X: a\0b"), 400, "control character"),
    "a control character": (get("X: a\x01b"), 400, "control character"),
    "DEL": (get("X: a\x7fb"), 400, "control character"),
    # Lengths.
    "Content-Length +5": (get("Content-Length: +5"), 400, "Content-Length"),
    "Content-Length -5": (get("Content-Length: -5"), 400, "Content-Length"),
    "Content-Length 0x5": (get("Content-Length: 0x5"), 400, "Content-Length"),
    "Content-Length 1_0": (get("Content-Length: 1_0"), 400, "Content-Length"),
    "Content-Length of nothing": (get("Content-Length:"), 400, "Content-Length"),
    "Content-Length 3, 3": (get("Content-Length: 3, 3"), 400, "Content-Length"),
    "Content-Length of 5000 digits": (get("Content-Length: " + "9" * 5000), 400, "Content-Length"),
    "repeated Content-Length": (get("Content-Length: 3", "content-length: 3"), 400, "Content-Length"),
    "two Content-Lengths": (get("Content-Length: 3", "Content-Length: 4"), 400, "Content-Length"),
    "Content-Length beside Transfer-Encoding": (
        get("Content-Length: 3", "Transfer-Encoding: chunked"),
        400,
        "Content-Length and Transfer-Encoding must not be combined",
    ),
    "Transfer-Encoding beside Content-Length": (
        get("transfer-encoding: Chunked", "content-length: 3"),
        400,
        "Content-Length and Transfer-Encoding must not be combined",
    ),
    "chunked in HTTP/1.0": (get("Transfer-Encoding: chunked", start="POST / HTTP/1.0"), 400, "HTTP/1.0"),
    "gzip": (get("Transfer-Encoding: gzip"), 501, "chunked"),
    "gzip, chunked": (get("Transfer-Encoding: gzip, chunked"), 501, "chunked"),
    "chunked, identity": (get("Transfer-Encoding: chunked, identity"), 501, "chunked"),
    "chunked twice": (get("Transfer-Encoding: chunked", "Transfer-Encoding: chunked"), 501, "Transfer-Encoding"),
    # Sizes.
    "long request line": (get(start=f"GET /{'a' * 8179} HTTP/1.1"), 414, "8192"),
    "long target without an end": (b"GET /" + b"a" * BIG, 414, "8192"),
    "long method without an end": (b"A" * BIG, 414, "8192"),
    "long head": (get("X: " + "a" * BIG), 431, "16384"),
    "long field name without an end": (b"GET / HTTP/1.1\r\n" + b"a" * BIG, 431, "16384"),
    "101 fields": (get(*(f"X-{number}: a" for number in range(100))), 431, "100 header lines"),
}


@pytest.mark.parametrize("deliver", [at_once, in_drops])
@pytest.mark.parametrize("fault", REFUSED)
def test_what_is_refused(fault: str, deliver: Callable[[bytes], list[bytes]]) -> None:
    """A head that breaks a rule gets its status and a reason, in whatever reads it comes."""
    raw, status, reason = REFUSED[fault]
    with pytest.raises(BadRequest, match=reason) as refused:
        all_of(*deliver(raw))
    assert refused.value.status == status


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00",
        b"\xff\xd8\xff\xe0",
        b"\n",
        b" ",
        b"\rG",
        b"{}",
        b"hello\r\n",
        b"GET /\r\n",
        b"GET / HTTP/1.1\n",
        b"SSH-2.0-OpenSSH_9.2p1\r\n",
    ],
)
def test_what_is_no_http_is_refused_at_once(raw: bytes) -> None:
    """Bytes that can never become a head are a 400 as soon as they are there; nobody waits for the rest."""
    with pytest.raises(BadRequest) as refused:
        all_of(raw)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("raw", "status"), [(b"GET /" + b"a" * 8188, 414), (b"GET / HTTP/1.1\r\nX: " + b"a" * BIG, 431)]
)
def test_what_is_too_long_is_refused_at_once(raw: bytes, status: int) -> None:
    """The first byte beyond a limit is one too many, even where the line or the head never ends."""
    with pytest.raises(BadRequest) as refused:
        all_of(*in_drops(raw))
    assert refused.value.status == status


FITTING = [
    get(start=f"GET /{'a' * (8192 - 14)} HTTP/1.1"),
    get("X: " + "a" * (BIG - len(get("X: ")))),
    get(*(f"X-{number}: a" for number in range(99))),
]


@pytest.mark.parametrize("raw", FITTING, ids=["request line", "head", "fields"])
def test_what_just_fits_is_taken(raw: bytes) -> None:
    """A request line, a head and a number of fields may be exactly as large as their limit, in whatever reads."""
    assert all_of(raw) == all_of(*in_drops(raw)) == [(head_of(raw), b"")]


def test_limits_can_be_set() -> None:
    """The limits are those of the server's settings."""
    limits = Limits(head=100, request_line=30, headers=2)
    assert head_of(get("X: a"), limits).path == "/"
    for raw, status in [
        (get("X: " + "a" * 80), 431),
        (get(start=f"GET /{'a' * 20} HTTP/1.1"), 414),
        (get("X: a", "Y: b"), 431),
    ]:
        with pytest.raises(BadRequest) as refused:
            head_of(raw, limits)
        assert refused.value.status == status


def test_one_empty_line_in_front_is_ignored() -> None:
    """One CRLF in front of a request is ignored, of each one on a connection (RFC 9112, section 2.2)."""
    raw = b"\r\n" + get() + b"\r\n" + get(start="GET /b HTTP/1.1")
    for reads in ([raw], in_drops(raw)):
        assert [head.path for head, _ in all_of(*reads)] == ["/", "/b"]


def test_a_cut_head_is_no_head() -> None:
    """However a head is cut off, what is there is no request, and no fault."""
    raw = get("Connection: close")
    for size in range(len(raw)):
        assert all_of(raw[:size]) == []


# Bodies...

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
def test_bodies(lines: list[str], sent: bytes, body: bytes) -> None:
    """A body is as long as Content-Length or its chunks say; what stands behind it is the next request."""
    raw = get(*lines, start="POST /a HTTP/1.1") + sent + get(start="GET /b HTTP/1.1")
    for reads in ([raw], in_drops(raw)):
        assert [(head.path, content) for head, content in all_of(*reads)] == [("/a", body), ("/b", b"")]


def test_trailers_are_no_headers() -> None:
    """Fields behind a chunked body do not reach the request (RFC 9110, section 6.5.1)."""
    [(head, _)] = all_of(CHUNKED + b"0\r\nX-Admin: yes\r\nHost: b\r\n\r\n")
    assert list(head.headers) == [("Host", "a"), ("Transfer-Encoding", "chunked")]
    assert head.host == "a"


def test_pieces_come_as_they_arrive() -> None:
    """A body is handed on piece by piece, so that nobody has to hold it whole."""
    reader = RequestReader(Limits())
    reader.receive(get("Content-Length: 5", start="POST / HTTP/1.1") + b"he")
    assert reader.next_head() is not None
    assert [reader.next_body(), reader.next_body()] == [b"he", None]
    reader.receive(b"llo")
    assert [reader.next_body(), reader.next_body()] == [b"llo", b""]


@pytest.mark.parametrize("length", [10**15, 2**64 - 1, 10**20 - 1])
def test_a_lying_length_costs_nothing(length: int) -> None:
    """A length that no machine has room for is a number, which the server compares with its limit."""
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
def test_malformed_chunks_are_refused(sent: bytes) -> None:
    """Chunks that break a rule, or never end their line, are refused, in whatever reads they come."""
    for reads in ([CHUNKED + sent], [CHUNKED, *in_drops(sent)]):
        with pytest.raises(BadRequest) as refused:
            all_of(*reads)
        assert refused.value.status in (400, 431)


def test_a_cut_body_is_no_request() -> None:
    """However a body is cut off, nothing says that it has ended."""
    for raw in (
        get("Content-Length: 5", start="POST / HTTP/1.1") + b"hello",
        CHUNKED + b"5\r\nhello\r\n0\r\nX: y\r\n\r\n",
    ):
        assert len(all_of(raw)) == 1
        for size in range(len(raw)):
            assert all_of(raw[:size]) == []


# Any bytes in any reads...


@dataclass(frozen=True)
class Sent:
    """A request as a client sends it: the bytes, and what has to arrive."""

    raw: bytes
    method: str
    path: str
    query: str
    body: bytes


@st.composite
def requests(draw: st.DrawFn) -> Sent:
    """Any request, with no body, one of a stated length, or a chunked one with trailers."""
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


def cuts(size: int) -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(0, size), max_size=12).map(sorted)


@settings(max_examples=300, deadline=None, database=None)
@given(st.lists(requests(), max_size=4), st.data())
def test_any_reads_give_the_same_requests(sent: list[Sent], data: st.DataObject) -> None:
    """A pipelined sequence of requests arrives as it was sent, however the network has cut it."""
    raw = b"".join(request.raw for request in sent)
    reads = [piece for piece in cut(raw, data.draw(cuts(len(raw)))) if piece]
    got = [(head.method, head.path, head.query, body) for head, body in all_of(*reads)]
    assert got == [(request.method, request.path, request.query, request.body) for request in sent]


@settings(max_examples=300, deadline=None, database=None)
@given(st.one_of(st.binary(max_size=60), st.sampled_from([raw for raw, _, _ in REFUSED.values()])), st.data())
def test_no_bytes_break_the_reader(raw: bytes, data: st.DataObject) -> None:
    """Whatever arrives, however it is cut, ends in requests, a BadRequest of 4xx or 5xx, or a wait for more."""
    status = 400
    try:
        all_of(*(piece for piece in cut(raw, data.draw(cuts(len(raw)))) if piece))
    except BadRequest as exc:
        status = exc.status
    assert 400 <= status < 600


def test_what_stands_behind_a_head_can_be_taken_away() -> None:
    """Bytes right behind an upgrade's head are kept for whom the connection goes to, and given once."""
    reader = RequestReader(Limits())
    reader.receive(get("Upgrade: websocket") + b"\x81\x00")
    assert reader.next_head() is not None
    assert reader.buffered == 2
    assert reader.take_rest() == b"\x81\x00"
    assert reader.take_rest() == b""


# ---------------------------------------------------------------------------------------------- writing

DATE = re.compile(rb"Date: ([A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT)\r\n")


def encoded(response: Response, *, head_only: bool = False, close: bool = False, server: str = "s") -> bytes:
    """A response on the wire, with its Date checked and shortened."""
    raw = ResponseWriter(server).encode(response, head_only=head_only, close=close)
    found = DATE.search(raw)
    assert found is not None
    parsedate_to_datetime(found[1].decode())
    return raw.replace(found[0], b"Date: now\r\n")


def test_a_response_on_the_wire() -> None:
    """A response has Date, Server, Content-Type and Content-Length without being told."""
    assert encoded(Response(200, "Hello world!")) == (
        b"HTTP/1.1 200 OK\r\nDate: now\r\nServer: s\r\n"
        b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 12\r\n\r\nHello world!"
    )


@pytest.mark.parametrize(
    ("response", "behind_server"),
    [
        (Response(200, b"\xff"), b"Content-Type: application/octet-stream\r\nContent-Length: 1\r\n\r\n\xff"),
        (Response(200), b"Content-Length: 0\r\n\r\n"),
        (Response(200, "é"), b"Content-Type: text/plain; charset=utf-8\r\nContent-Length: 2\r\n\r\n\xc3\xa9"),
        (Response(205), b"Content-Length: 0\r\n\r\n"),
        (Response(204), b"\r\n"),
        (Response(304), b"\r\n"),
        (Response(304, headers={"ETag": '"1"', "Content-Length": "5"}), b'ETag: "1"\r\nContent-Length: 5\r\n\r\n'),
        (Response(204, headers={"Content-Length": "5"}), b"\r\n"),
        (Response(200, b"", {"Content-Type": "a/b"}), b"Content-Type: a/b\r\nContent-Length: 0\r\n\r\n"),
    ],
)
def test_bodies_of_responses(response: Response, behind_server: bytes) -> None:
    """A response says its type and length where it has a body, and no length where it can have none."""
    assert encoded(response).partition(b"Server: s\r\n")[2] == behind_server


def test_own_fields_stand_in_insertion_order() -> None:
    """The handler's fields stand in the order in which they were added, in their case, repeated if they are."""
    fields = [("Set-Cookie", "a=1"), ("x-b", "2"), ("Set-Cookie", "c=3"), ("A", "é")]
    assert b"Server: s\r\nSet-Cookie: a=1\r\nx-b: 2\r\nSet-Cookie: c=3\r\nA: \xe9\r\n" in encoded(
        Response(200, b"", fields)
    )


def test_own_fields_win() -> None:
    """Date, Server and Content-Type of the handler take the place of the automatic ones, whatever their case."""
    fields = [("content-type", "a/b"), ("SERVER", "me"), ("date", "today")]
    raw = ResponseWriter("s").encode(Response(200, "x", fields), head_only=False, close=False)
    assert raw == (
        b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\nSERVER: me\r\ndate: today\r\nContent-Length: 1\r\n\r\nx"
    )


def test_a_wrong_length_is_put_right() -> None:
    """A handler's Content-Length gives way to the length of the body that is sent."""
    raw = encoded(Response(200, "four", {"Content-Length": "1000", "X": "y"}))
    assert re.findall(rb"(?i)content-length: (\d+)", raw) == [b"4"]


@pytest.mark.parametrize(
    ("response", "length"),
    [
        (Response(200, "four"), b"4"),
        (Response(200), b"0"),
        (Response(200, headers={"Content-Length": "1000"}), b"1000"),
    ],
)
def test_head_has_no_body_but_its_length(response: Response, length: bytes) -> None:
    """The answer to HEAD ends behind its head, which says how long the body would be."""
    raw = encoded(response, head_only=True)
    assert raw.endswith(b"\r\n\r\n")
    assert raw.count(b"\r\n\r\n") == 1
    assert re.findall(rb"Content-Length: (\d+)\r\n", raw) == [length]


def test_the_end_of_the_connection_is_announced() -> None:
    """The last response of a connection says so, once, also if the handler has said it."""
    assert b"Connection" not in encoded(Response(200, "x"))
    for response in (Response(200, "x"), Response(200, "x", {"connection": "Close"})):
        assert len(re.findall(rb"(?i)connection: close\r\n", encoded(response, close=True))) == 1


@pytest.mark.parametrize(
    ("given", "kept_alive", "closed"),
    [
        ([], [], [b"close"]),
        (["keep-alive"], [b"keep-alive"], [b"close"]),
        (["Keep-Alive, X-Hop"], [b"Keep-Alive, X-Hop"], [b"X-Hop, close"]),
        (["Upgrade"], [b"Upgrade"], [b"Upgrade, close"]),
        (["Upgrade", "keep-alive"], [b"Upgrade, keep-alive"], [b"Upgrade, close"]),
        (["X-Hop", "x-hop, ,"], [b"x-hop"], [b"x-hop, close"]),
        (["keep-alive", "CLOSE"], [b"keep-alive, CLOSE"], [b"close"]),
        ([""], [b""], [b"close"]),
    ],
)
def test_one_connection_field(given: list[str], kept_alive: list[bytes], closed: list[bytes]) -> None:
    """A response has one Connection field at most, in which nothing contradicts the end of the connection."""
    response = Response(200, "x", [("connection", value) for value in given])
    for close, values in ((False, kept_alive), (True, closed)):
        assert re.findall(rb"(?i)connection: (.*)\r\n", encoded(response, close=close)) == values


@pytest.mark.parametrize(("status", "line"), [(404, b"HTTP/1.1 404 Not Found"), (799, b"HTTP/1.1 799 ")])
def test_status_lines(status: int, line: bytes) -> None:
    """A status line has the standard phrase, or none but its space (RFC 9112, section 4)."""
    assert encoded(Response(status)).startswith(line + b"\r\n")


def test_no_server_field_without_a_name() -> None:
    """A server without a name does not say any."""
    assert b"Server" not in encoded(Response(200), server="")
    assert b"Server" not in encoded(Response(200, headers={"X": "y"}), server="")


def test_date_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Date is that of the second in which the response leaves, for all responses of one writer."""
    writer = ResponseWriter("s")
    for now, date in [(1628437415.2, b"Sun, 08 Aug 2021 15:43:35"), (1628437416, b"Sun, 08 Aug 2021 15:43:36")]:
        monkeypatch.setattr("time.time", lambda now=now: now)
        for _ in range(2):
            assert b"\r\nDate: %b GMT\r\n" % date in writer.encode(Response(200), head_only=False, close=False)


def test_only_blanks_surround_a_member() -> None:
    """White space around the members of a list is SP and HTAB only (RFC 9110, section 5.6.3)."""
    reader = RequestReader(Limits())
    fields = "Host: a\r\nConnection: close\x85\r\nUpgrade: websocket\xa0\r\nConnection: \tupgrade \r\n"
    reader.receive(f"GET / HTTP/1.1\r\n{fields}\r\n".encode("latin-1"))
    head = reader.next_head()
    assert head is not None
    assert (head.close, head.wants_websocket) == (False, False)
