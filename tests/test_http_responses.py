"""Responses as bytes: status line, fields, and body."""

from __future__ import annotations

import re
from email.utils import parsedate_to_datetime

import pytest

from humphrey_trio._server._response_writer import ResponseWriter
from humphrey_trio.http import Response
from tests.support.parsers import each_parser as each_parser  # the fixture

# Every test runs with each parser of request heads.
pytestmark = pytest.mark.usefixtures("each_parser")

DATE = re.compile(rb"Date: ([A-Z][a-z]{2}, \d\d [A-Z][a-z]{2} \d{4} \d\d:\d\d:\d\d GMT)\r\n")


def encoded(response: Response, *, head_only: bool = False, close: bool = False, server: str = "s") -> bytes:
    """The bytes of a response. Its Date is checked and replaced."""
    raw = ResponseWriter(server).encode(response, head_only=head_only, close=close)
    found = DATE.search(raw)
    assert found is not None
    parsedate_to_datetime(found[1].decode())
    return raw.replace(found[0], b"Date: now\r\n")


def test_automatic_fields() -> None:
    """A response has Date, Server, Content-Type and Content-Length by default."""
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
def test_content_type_and_length(response: Response, behind_server: bytes) -> None:
    """A response with a body has its type and length; one that cannot have a body has no length."""
    assert encoded(response).partition(b"Server: s\r\n")[2] == behind_server


def test_fields_of_the_handler_keep_their_order() -> None:
    """The fields of a handler keep their order, letter case and repetitions."""
    fields = [("Set-Cookie", "a=1"), ("x-b", "2"), ("Set-Cookie", "c=3"), ("A", "é")]
    assert b"Server: s\r\nSet-Cookie: a=1\r\nx-b: 2\r\nSet-Cookie: c=3\r\nA: \xe9\r\n" in encoded(
        Response(200, b"", fields)
    )


def test_fields_of_the_handler_replace_automatic_ones() -> None:
    """Date, Server and Content-Type of a handler replace the automatic ones, whatever their letter case."""
    fields = [("content-type", "a/b"), ("SERVER", "me"), ("date", "today")]
    raw = ResponseWriter("s").encode(Response(200, "x", fields), head_only=False, close=False)
    assert raw == (
        b"HTTP/1.1 200 OK\r\ncontent-type: a/b\r\nSERVER: me\r\ndate: today\r\nContent-Length: 1\r\n\r\nx"
    )


def test_wrong_content_length_is_replaced() -> None:
    """The length of the body replaces a wrong Content-Length of the handler."""
    raw = encoded(Response(200, "four", {"Content-Length": "1000", "X": "y"}))
    assert re.findall(rb"(?i)content-length: (\d+)", raw) == [b"4"]


@pytest.mark.parametrize(
    ("response", "length"),
    [
        (Response(200, "four"), b"4"),
        (Response(200), b"0"),
        (Response(200, headers={"Content-Length": "1000"}), b"1000"),
        (Response(200, headers=[("Content-Length", "5"), ("content-length", "1000")]), b"1000"),
    ],
)
def test_response_to_head(response: Response, length: bytes) -> None:
    """The response to HEAD has no body, and the Content-Length of the response to GET."""
    raw = encoded(response, head_only=True)
    assert raw.endswith(b"\r\n\r\n")
    assert raw.count(b"\r\n\r\n") == 1
    assert re.findall(rb"Content-Length: (\d+)\r\n", raw) == [length]


def test_head_without_the_length_of_the_coded_body() -> None:
    """The response to HEAD has no Content-Length if only the response to GET would be compressed."""
    raw = encoded(Response(200, headers={"Content-Encoding": "gzip"}), head_only=True)
    assert b"Content-Length" not in raw
    raw = encoded(Response(200, b"coded", {"Content-Encoding": "gzip"}), head_only=True)
    assert b"Content-Length: 5\r\n" in raw


def test_last_response_has_connection_close() -> None:
    """The last response of a connection has ``Connection: close`` once, even if the handler has set it."""
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
    """A response has at most one Connection field, and it does not contradict the end of the connection."""
    response = Response(200, "x", [("connection", value) for value in given])
    for close, values in ((False, kept_alive), (True, closed)):
        assert re.findall(rb"(?i)connection: (.*)\r\n", encoded(response, close=close)) == values


@pytest.mark.parametrize(("status", "line"), [(404, b"HTTP/1.1 404 Not Found"), (799, b"HTTP/1.1 799 ")])
def test_status_lines(status: int, line: bytes) -> None:
    """A status line has the standard phrase, or an empty one (RFC 9112, section 4)."""
    assert encoded(Response(status)).startswith(line + b"\r\n")


def test_no_server_field_without_a_name() -> None:
    """A server without a name sends no Server field."""
    assert b"Server" not in encoded(Response(200), server="")
    assert b"Server" not in encoded(Response(200, headers={"X": "y"}), server="")


def test_date_changes_every_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Date is that of the second in which a response is sent."""
    writer = ResponseWriter("s")
    for now, date in [(1628437415.2, b"Sun, 08 Aug 2021 15:43:35"), (1628437416, b"Sun, 08 Aug 2021 15:43:36")]:
        monkeypatch.setattr("time.time", lambda now=now: now)
        for _ in range(2):
            assert b"\r\nDate: %b GMT\r\n" % date in writer.encode(Response(200), head_only=False, close=False)
