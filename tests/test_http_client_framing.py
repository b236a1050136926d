"""The HTTP client of ``humphrey_trio.testing`` with scripted servers: what it accepts, and what it rejects."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager

import pytest
import trio

from humphrey_trio._testing._response_reader import ResponseEnd, ResponseHead, ResponseReader
from humphrey_trio.http import Headers
from humphrey_trio.testing import HttpClient, MemoryStream, ResponseError, memory_connection
from tests.support import PATIENCE

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


@asynccontextmanager
async def scripted(*replies: bytes, end: bool = True) -> AsyncGenerator[HttpClient]:
    """A client of a server that sends the next reply after each head, and then an end of file."""

    async def serve(stream: MemoryStream) -> None:
        received = b""
        for reply in replies:
            while b"\r\n\r\n" not in received:
                received += await stream.receive_some()
            _, _, received = received.partition(b"\r\n\r\n")
            await stream.send_all(reply)
        if end:
            await stream.send_eof()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def connect() -> trio.abc.Stream:
                ours, theirs = memory_connection()
                nursery.start_soon(serve, theirs)
                return ours

            async with HttpClient(connect) as client:
                yield client
            nursery.cancel_scope.cancel()


ACCEPTED = {
    "a length": (OK + b"Content-Length: 2\r\n\r\nab", b"ab"),
    "no reason phrase": (b"HTTP/1.1 200 \r\nContent-Length: 2\r\n\r\nab", b"ab"),
    "another letter case, and white space": (OK + b"content-length:  2\t\r\n\r\nab", b"ab"),
    "the end of the connection": (OK + b"\r\nab", b"ab"),
    "HTTP/1.0": (b"HTTP/1.0 200 OK\r\n\r\nab", b"ab"),
    "chunks": (CHUNKED + b"1\r\na\r\n1\r\nb\r\n0\r\n\r\n", b"ab"),
    "extensions": (CHUNKED + b'2;a="b" ; c\r\nab\r\n0;d\r\n\r\n', b"ab"),
    "a hexadecimal size": (CHUNKED + b"0A\r\n0123456789\r\n000\r\n\r\n", b"0123456789"),
    "trailers": (CHUNKED + b"2\r\nab\r\n0\r\nA: b\r\nC:\r\n\r\n", b"ab"),
    "interim responses": (
        b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\nHTTP/1.1 100 \r\n\r\n" + OK + b"Content-Length: 2\r\n\r\nab",
        b"ab",
    ),
    "204": (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
    "205": (b"HTTP/1.1 205 Reset Content\r\nContent-Length: 0\r\n\r\n", b""),
    "304 with a length": (b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n", b""),
}


@pytest.mark.parametrize("name", ACCEPTED)
async def test_accepted(name: str) -> None:
    """A valid response is read to its end."""
    reply, content = ACCEPTED[name]
    async with scripted(reply) as client:
        assert (await client.get("/")).content == content


REJECTED = {
    "another protocol": (b"SSH-2.0-x\r\n\r\n", "the status line is malformed"),
    "another version": (b"HTTP/2.0 200 OK\r\n\r\n", "the status line is malformed"),
    "no space after the status": (b"HTTP/1.1 200\r\n\r\n", "the status line is malformed"),
    "a status of two digits": (b"HTTP/1.1 20 OK\r\n\r\n", "the status line is malformed"),
    "LF": (b"HTTP/1.1 200 OK\nContent-Length: 0\n\n", "a line ends in LF without CR"),
    "LF in a field": (OK + b"A: b\nContent-Length: 0\r\n\r\n", "a header line is malformed"),
    "CR in a field": (OK + b"A: b\rc\r\n\r\n", "a header line is malformed"),
    "NUL in a field": (OK + b"A: \0\r\n\r\n", "a header line is malformed"),
    "a folded field": (OK + b"A: b\r\n c\r\n\r\n", "a header line is malformed"),
    "a space before a colon": (OK + b"Content-Length : 0\r\n\r\n", "a header line is malformed"),
    "a line without a colon": (OK + b"Content-Length\r\n\r\n", "a header line is malformed"),
    "two equal lengths": (OK + b"Content-Length: 1\r\nContent-Length: 1\r\n\r\na", "repeated or not a number"),
    "a list of lengths": (OK + b"Content-Length: 1, 1\r\n\r\na", "repeated or not a number"),
    "a negative length": (OK + b"Content-Length: -1\r\n\r\n", "repeated or not a number: '-1'"),
    "an empty length": (OK + b"Content-Length:\r\n\r\n", "repeated or not a number"),
    "a length of other digits": (OK + b"Content-Length: \xb2\r\n\r\n", "repeated or not a number"),
    "a length and chunks": (
        OK + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Content-Length and Transfer-Encoding",
    ),
    "a coding": (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n", "did not accept this .*: 'gzip, chunked'"),
    "chunked twice": (OK + b"Transfer-Encoding: chunked\r\n" * 2 + b"\r\n", ": 'chunked, chunked'"),
    "a short body": (OK + b"Content-Length: 3\r\n\r\nab", "before the end of the body"),
    "a long body": (OK + b"Content-Length: 1\r\n\r\nab", "bytes after the end of the response: b'b'"),
    "a body without a length that is not its own": (OK + b"Content-Length: 0\r\n\r\nab", "bytes after the end"),
    "no last chunk": (CHUNKED + b"2\r\nab\r\n", "before the end of the body"),
    "no end of the trailers": (CHUNKED + b"0\r\n", "before the end of the body"),
    "a size that is no number": (CHUNKED + b"g\r\n", "the size line of a chunk is malformed: b'g'"),
    "an empty size": (CHUNKED + b"\r\n", "the size line of a chunk is malformed"),
    "a size with white space": (CHUNKED + b"2 \r\nab\r\n0\r\n\r\n", "the size line of a chunk is malformed"),
    "LF after a size": (CHUNKED + b"2\nab\r\n0\r\n\r\n", "the size line of a chunk is malformed"),
    "LF alone after a size": (CHUNKED + b"2\n", "a line ends in LF without CR"),
    "a long chunk": (CHUNKED + b"1\r\nab\r\n0\r\n\r\n", "a chunk is longer than its size"),
    "a malformed trailer": (CHUNKED + b"0\r\nA b\r\n\r\n", "a header line is malformed"),
    "bytes after the last chunk": (CHUNKED + b"0\r\n\r\nHTTP", "bytes after the end of the response"),
    "a head that ends": (OK + b"Content-", "closed the connection in a head"),
    "an endless head": (OK + b"A: b\r\n" * 50_000, "longer than 262144 bytes"),
    "an endless size line": (CHUNKED + b"1;" + b"a" * 300_000, "longer than 262144 bytes"),
    "204 with a length": (b"HTTP/1.1 204 No\r\nContent-Length: 0\r\n\r\n", "a 204 must not have Content-Length"),
    "204 with a body": (b"HTTP/1.1 204 No\r\n\r\nab", "bytes after the end of the response: b'ab'"),
    "204 with chunks": (b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n", "must not have Transfer-Enc"),
    "205 with a body": (b"HTTP/1.1 205 Reset\r\nContent-Length: 2\r\n\r\nab", "a 205 must have Content-Length: 0"),
    "304 with a body": (b"HTTP/1.1 304 Same\r\nContent-Length: 2\r\n\r\nab", "bytes after the end"),
    "an interim response with a length": (b"HTTP/1.1 100 Go\r\nContent-Length: 0\r\n\r\n", "a 100 must not have"),
    "101": (b"HTTP/1.1 101 Switch\r\nUpgrade: x\r\n\r\n", "switched the protocol: use client.websocket"),
}


@pytest.mark.parametrize("name", REJECTED)
async def test_rejected(name: str) -> None:
    """A response that violates HTTP is an error that says how. The next request has a new connection."""
    reply, error = REJECTED[name]
    async with scripted(reply) as client:
        for _ in range(2):
            with pytest.raises(ResponseError, match=error):
                await client.get("/")


async def test_a_body_in_the_response_to_head() -> None:
    """The response to HEAD has no body, whatever its length."""
    async with scripted(OK + b"Content-Length: 2\r\n\r\n") as client:
        assert (await client.head("/")).headers["Content-Length"] == "2"
    async with scripted(OK + b"Content-Length: 2\r\n\r\nab") as client:
        with pytest.raises(ResponseError, match="bytes after the end of the response: b'ab'"):
            await client.head("/")


async def test_no_response() -> None:
    """A connection that ends or is reset without a response is a ConnectionError."""
    async with scripted(b"") as client:
        with pytest.raises(ConnectionError, match="closed the connection without a response") as caught:
            await client.get("/")
        assert not isinstance(caught.value, ResponseError)

    async def connect() -> trio.abc.Stream:
        ours, theirs = memory_connection()
        theirs.reset()
        return ours

    async with HttpClient(connect) as client:
        with pytest.raises(ConnectionError, match="the server has reset the connection"):
            await client.get("/")


async def test_trailers_and_interim_responses() -> None:
    """A streamed response has its trailers, and the status codes before its own."""
    reply = b"HTTP/1.1 103 Early Hints\r\n\r\n" + CHUNKED + b"0\r\nA:  b \r\n\r\n"
    async with scripted(reply) as client, client.stream("GET", "/") as response:
        assert (response.status, response.informational) == (200, (103,))
        assert await response.read() == b""
        assert response.trailers == Headers([("A", "b")])


@pytest.mark.parametrize(
    ("reply", "connections"),
    [
        (OK + b"Content-Length: 0\r\n\r\n", 1),
        (OK + b"Content-Length: 0\r\nConnection: Keep-Alive, Close\r\n\r\n", 2),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n", 2),
    ],
)
async def test_connections_that_end(reply: bytes, connections: int) -> None:
    """A connection is used again unless the response says that it ends. Its version counts, too."""
    opened: list[MemoryStream] = []

    async def connect() -> trio.abc.Stream:
        ours, theirs = memory_connection()
        theirs.send_nowait(reply)
        opened.append(theirs)
        return ours

    async with HttpClient(connect) as client:
        await client.get("/")
        if connections == 1:
            opened[0].send_nowait(reply)
        await client.get("/")
    assert len(opened) == connections
    assert all(stream.hung_up for stream in opened)


def parts_of(reads: Iterable[bytes], method: str = "GET") -> list[object]:
    """The parts of the responses in some reads, with neighbouring pieces joined."""
    reader = ResponseReader()
    reader.begin(method)
    found: list[object] = []
    for data in reads:
        reader.receive(data)
        while not (found and isinstance(found[-1], ResponseEnd)) and (part := reader.next()) is not None:
            if isinstance(part, bytes) and isinstance(found[-1], bytes):
                part = found.pop() + part
            found.append(part)
    return found


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_split(name: str) -> None:
    """A response means the same however it is cut into reads."""
    reply, _ = ACCEPTED[name]
    whole = parts_of([reply])
    assert isinstance(whole[0], ResponseHead)
    assert parts_of([reply[at : at + 1] for at in range(len(reply))]) == whole
    for at in range(1, len(reply)):
        assert parts_of([reply[:at], reply[at:]]) == whole
