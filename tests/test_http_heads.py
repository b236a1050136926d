"""Heads of requests: which bytes are a head, and which are refused with which status."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from humphrey_trio._server._head import BadRequest
from humphrey_trio._server._request_reader import RequestReader
from humphrey_trio.http import Address, Headers, Limits
from tests.support.http_reader import BIG, all_of, at_once, byte_by_byte, cuts, get, head_of
from tests.support.parsers import each_parser as each_parser  # the fixture
from tests.support.reads import cut

# Every test runs with each parser of request heads.
pytestmark = pytest.mark.usefixtures("each_parser")


def test_head_parts() -> None:
    """A head has a method, a path, a query, a version, and its fields in order with their letter case."""
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


def test_head_and_body_become_a_request() -> None:
    """A request has the parts of the head, the body, and the address of the peer."""
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
def test_request_targets(method: str, target: str, path: str, query: str, host: str) -> None:
    """A target is a path, a URL whose host replaces the Host field, or ``*`` for OPTIONS; nothing is decoded."""
    head = head_of(get(start=f"{method} {target} HTTP/1.1"))
    assert (head.method, head.path, head.query, head.host) == (method, path, query, host)


@pytest.mark.parametrize("host", ["a", "A.example.com:80", "[::1]", "[::1]:80", "127.0.0.1:", "a_b-c.d", ""])
def test_host_fields(host: str) -> None:
    """A Host field is a name or an address, with or without a port, or empty (RFC 9112, section 3.2)."""
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
def test_connection_close(start: str, lines: list[str], closes: bool) -> None:
    """A connection closes after a request of HTTP/1.0, and after ``close`` in any Connection field."""
    assert head_of(get(*lines, start=start)).close is closes


def test_http_1_0_needs_no_host() -> None:
    """A request of HTTP/1.0 may lack a Host field."""
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
def test_expect_100_continue(start: str, lines: list[str], expects: bool) -> None:
    """Only a request of HTTP/1.1 can expect 100 Continue (RFC 9110, section 10.1.1)."""
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
def test_websocket_upgrade(start: str, lines: list[str], wants: bool) -> None:
    """A WebSocket upgrade is a GET of HTTP/1.1 without a body, with both fields of an upgrade."""
    assert head_of(get(*lines, start=start)).wants_websocket is wants


# What is refused: the bytes, the status, and a part of the reason. Every reason names what was wrong.
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


@pytest.mark.parametrize("deliver", [at_once, byte_by_byte])
@pytest.mark.parametrize("fault", REFUSED)
def test_refused_heads(fault: str, deliver: Callable[[bytes], list[bytes]]) -> None:
    """A malformed head is refused with its status and reason, however it is split into reads."""
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
def test_bytes_that_are_not_http(raw: bytes) -> None:
    """Bytes that can never become a head are a 400 as soon as they arrive."""
    with pytest.raises(BadRequest) as refused:
        all_of(raw)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    ("raw", "status"), [(b"GET /" + b"a" * 8188, 414), (b"GET / HTTP/1.1\r\nX: " + b"a" * BIG, 431)]
)
def test_limits_of_incomplete_heads(raw: bytes, status: int) -> None:
    """The first byte beyond a limit is refused, even if the line or the head is incomplete."""
    with pytest.raises(BadRequest) as refused:
        all_of(*byte_by_byte(raw))
    assert refused.value.status == status


FITTING = [
    get(start=f"GET /{'a' * (8192 - 14)} HTTP/1.1"),
    get("X: " + "a" * (BIG - len(get("X: ")))),
    get(*(f"X-{number}: a" for number in range(99))),
]


@pytest.mark.parametrize("raw", FITTING, ids=["request line", "head", "fields"])
def test_heads_at_the_limits(raw: bytes) -> None:
    """A request line, a head and a number of fields of exactly the limit are accepted, in any reads."""
    assert all_of(raw) == all_of(*byte_by_byte(raw)) == [(head_of(raw), b"")]


def test_custom_limits() -> None:
    """The limits are those of ``Limits``."""
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


def test_empty_line_before_a_request() -> None:
    """One CRLF before each request is ignored (RFC 9112, section 2.2)."""
    raw = b"\r\n" + get() + b"\r\n" + get(start="GET /b HTTP/1.1")
    for reads in ([raw], byte_by_byte(raw)):
        assert [head.path for head, _ in all_of(*reads)] == ["/", "/b"]


def test_incomplete_head() -> None:
    """An incomplete head is neither a request nor an error."""
    raw = get("Connection: close")
    for size in range(len(raw)):
        assert all_of(raw[:size]) == []


@settings(max_examples=300, deadline=None, database=None)
@given(st.one_of(st.binary(max_size=60), st.sampled_from([raw for raw, _, _ in REFUSED.values()])), st.data())
def test_any_bytes_in_any_reads(raw: bytes, data: st.DataObject) -> None:
    """Any bytes in any reads result in requests, a BadRequest of 4xx or 5xx, or a wait for more."""
    status = 400
    try:
        all_of(*(piece for piece in cut(raw, data.draw(cuts(len(raw)))) if piece))
    except BadRequest as exc:
        status = exc.status
    assert 400 <= status < 600


def test_bytes_after_the_head_of_an_upgrade() -> None:
    """Bytes after the head of an upgrade are kept, and returned once."""
    reader = RequestReader(Limits())
    reader.receive(get("Upgrade: websocket") + b"\x81\x00")
    assert reader.next_head() is not None
    assert reader.buffered == 2
    assert reader.take_rest() == b"\x81\x00"
    assert reader.take_rest() == b""


def test_whitespace_around_list_members() -> None:
    """White space around the members of a list is SP and HTAB only (RFC 9110, section 5.6.3)."""
    reader = RequestReader(Limits())
    fields = "Host: a\r\nConnection: close\x85\r\nUpgrade: websocket\xa0\r\nConnection: \tupgrade \r\n"
    reader.receive(f"GET / HTTP/1.1\r\n{fields}\r\n".encode("latin-1"))
    head = reader.next_head()
    assert head is not None
    assert (head.close, head.wants_websocket) == (False, False)
