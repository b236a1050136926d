"""The encoding of responses with fields of the handler, and the values that it depends on."""

from __future__ import annotations

import pytest

from humphrey_trio._server._response_writer import ResponseWriter
from humphrey_trio.http import Headers, Response

FIVE = [
    ("Content-Type", "application/json"),
    ("Cache-Control", "no-store"),
    ("X-Request-Id", "\xe9"),
    ("Vary", "Accept"),
    ("Set-Cookie", "a=b; Path=/"),
]


@pytest.fixture(autouse=True)
def stopped_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """The Date is always the same."""
    monkeypatch.setattr("time.time", lambda: 0.0)


START = b"HTTP/1.1 200 OK\r\nDate: Thu, 01 Jan 1970 00:00:00 GMT\r\nServer: s\r\n"
FIELDS = (
    b"Content-Type: application/json\r\nCache-Control: no-store\r\nX-Request-Id: \xe9\r\nVary: Accept\r\n"
    b"Set-Cookie: a=b; Path=/\r\n"
)


@pytest.mark.parametrize(
    ("head_only", "close", "rest"),
    [
        (False, False, b"Content-Length: 2\r\n\r\n{}"),
        (True, False, b"Content-Length: 2\r\n\r\n"),
        (False, True, b"Content-Length: 2\r\nConnection: close\r\n\r\n{}"),
    ],
)
@pytest.mark.parametrize("fields", [FIVE, dict(FIVE), Headers(FIVE)], ids=["pairs", "a mapping", "Headers"])
def test_a_response_with_fields(
    fields: list[tuple[str, str]] | dict[str, str] | Headers, head_only: bool, close: bool, rest: bytes
) -> None:
    """The fields of the handler are between the automatic ones, in any kind of collection."""
    writer = ResponseWriter("s")
    for _ in range(2):
        assert (
            writer.encode(Response(200, b"{}", fields), head_only=head_only, close=close) == START + FIELDS + rest
        )


@pytest.mark.parametrize("name", ["Connection", "connection", "DATE", "server", "Content-length"])
def test_automatic_fields_are_not_repeated(name: str) -> None:
    """An automatic field that the handler has set occurs once, whatever the letter case of its name."""
    raw = ResponseWriter("s").encode(Response(200, "x", [(name, "5"), *FIVE]), head_only=False, close=True)
    names = [line.partition(b":")[0].lower() for line in raw.partition(b"\r\n\r\n")[0].split(b"\r\n")[1:]]
    assert len(set(names)) == len(names)
    assert {b"date", b"server", b"content-length", b"connection"} <= set(names)


def test_names_of_headers() -> None:
    """The names of header fields are in lower case, each once."""
    headers = Headers([("A", "1"), ("a", "2"), ("B-c", "3")])
    assert headers.names == Headers(headers).names == {"a", "b-c"}
    assert headers.without_header("A").names == {"b-c"}
    assert headers.with_header("D", "4").names == {"a", "b-c", "d"}
    assert Headers().names == frozenset()


def test_a_response_keeps_its_content() -> None:
    """A buffer that changes later does not change the response."""
    buffer = bytearray(b"one")
    response = Response(200, buffer)
    buffer[:] = b"two"
    assert response.content == b"one"
