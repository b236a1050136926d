"""The time of the parsers of the HTTP test client is linear in the size of what a server sends."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from humphrey_trio._testing._cookie_jar import CookieJar
from humphrey_trio._testing._event_decoder import EventDecoder
from humphrey_trio._testing._response_reader import ResponseEnd, ResponseError, ResponseReader
from tests.support.growth import assert_linear, made_before

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def read_response(reads: list[bytes]) -> None:
    """Read a response, until it ends or is rejected."""
    reader = ResponseReader()
    reader.begin("GET")
    with suppress(ResponseError):
        for data in reads:
            reader.receive(data)
            while (part := reader.next()) is not None and not isinstance(part, ResponseEnd):
                pass


def decode_events(reads: list[bytes]) -> None:
    """Decode a stream of events."""
    decoder = EventDecoder()
    for data in reads:
        decoder.receive(data)
        while decoder.next() is not None:
            pass


def at_once(data: bytes) -> list[bytes]:
    return [data]


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[at : at + 1] for at in range(len(data))]


RESPONSES: dict[str, Callable[[int], bytes]] = {
    "a reason": lambda size: b"HTTP/1.1 200 " + b"a \t" * size + b"\r\n\r\n",
    "fields": lambda size: OK + b"a:\r\n" * size + b"\r\n",
    "a name": lambda size: OK + b"a" * size + b"\r\n\r\n",
    "white space": lambda size: OK + b"a:" + b" \t" * size + b"\0\r\n\r\n",
    "connection options": lambda size: OK + b"Connection: " + b", a" * size + b"\r\n\r\n",
    "codings": lambda size: OK + b"Transfer-Encoding: " + b", a" * size + b"\r\n\r\n",
    "lengths": lambda size: OK + b"Content-Length: 1\r\n" * size + b"\r\n",
    "CR": lambda size: OK + b"\r" * size,
    "a body": lambda size: OK + b"Content-Length: %d\r\n\r\n" % size + b"a" * size,
    "a body without a length": lambda size: OK + b"\r\n" + b"a" * size,
    "chunks": lambda size: CHUNKED + b"1\r\na\r\n" * size,
    "a chunk extension": lambda size: CHUNKED + b"1;" + b" ;" * size,
    "white space in a size line": lambda size: CHUNKED + b"1" + b" " * size + b"\r\n",
    "trailers": lambda size: CHUNKED + b"0\r\n" + b"a:\r\n" * size + b"\r\n",
    "interim responses": lambda size: b"HTTP/1.1 103 \r\n\r\n" * size,
}
EVENTS: dict[str, Callable[[int], bytes]] = {
    "events": lambda size: b"data:a\n\n" * size,
    "lines": lambda size: b"data:a\r\n" * size + b"\n",
    "a line": lambda size: b"data:" + b"a" * size + b"\n\n",
    "colons": lambda size: b":" * size + b"\n\n",
    "ends": lambda size: b"\r" * size,
}


@pytest.mark.parametrize(("deliver", "size"), [(at_once, 8_000), (byte_by_byte, 3_000)])
@pytest.mark.parametrize("data", RESPONSES)
def test_responses(data: str, deliver: Callable[[bytes], list[bytes]], size: int) -> None:
    """The time for a response is linear, however it arrives."""
    make = RESPONSES[data]
    assert_linear(made_before(read_response, lambda size: deliver(make(size)), size), size)


@pytest.mark.parametrize(("deliver", "size"), [(at_once, 8_000), (byte_by_byte, 3_000)])
@pytest.mark.parametrize("data", EVENTS)
def test_events(data: str, deliver: Callable[[bytes], list[bytes]], size: int) -> None:
    """The time for events is linear, however they arrive."""
    make = EVENTS[data]
    assert_linear(made_before(decode_events, lambda size: deliver(make(size)), size), size)


@pytest.mark.parametrize("text", ["a=b;" + "c;", "a=" + "; ", "a=b;path=/" + "=", "a=b;max-age=" + "1"])
def test_cookies(text: str) -> None:
    """The time for a Set-Cookie field is linear."""

    def store(field: str) -> None:
        CookieJar().store([field], "host", "/", 0)

    assert_linear(made_before(store, lambda size: text + text[-2:] * size, 20_000), 20_000)
