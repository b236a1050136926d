"""Responses that are produced while they are sent: framing, iterables, heads, files, and reading a body.

RFC 9112, sections 6.1 to 6.3 and 7.1; RFC 9110, section 9.3.2.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, Response, WhenLeft
from humphrey_trio._http._body import StreamedBody, TransformedBody
from humphrey_trio._http._file_body import FileBody, OpenFile
from humphrey_trio._http._ranges import ByteRange
from humphrey_trio.http import Request, Write, open_body, read_body
from humphrey_trio.testing import memory_connection
from tests.support.apps import StreamPair
from tests.support.logs import errors
from tests.support.streamed import Incomplete, app_of, each_stream, hello, is_alive, streaming

Clock = trio.testing.MockClock


# -------------------------------------------------------------------------------------------- framing


@each_stream
async def test_pieces_are_chunks(pair: StreamPair) -> None:
    """Each piece is a chunk, a str in UTF-8, and the connection is kept alive."""
    async with streaming(app_of(hello), pair) as connect:
        client = connect()
        for _ in range(2):
            await client.get()
            head = await client.head()
            assert head.status == 200
            assert head.headers.get("Transfer-Encoding") == "chunked"
            assert "Content-Length" not in head.headers
            assert "Connection" not in head.headers
            assert await client.chunks() == [b"hello ", "wörld".encode()]
        assert await is_alive(client)


@each_stream
async def test_a_plain_handler_may_stream(pair: StreamPair) -> None:
    """A handler that is not async returns a streamed response; requests behind it wait in order."""
    app = App().with_stateless_route("/", lambda _: Response.stream(hello))
    async with streaming(app, pair) as connect:
        client = connect()
        for _ in range(3):
            await client.get()
        for _ in range(3):
            assert await client.reply() == (200, "hello wörld".encode())


@each_stream
async def test_empty_pieces_do_not_end_the_body(pair: StreamPair) -> None:
    """An empty piece sends nothing: an empty chunk would end the body."""

    async def produce(write: Write) -> None:
        for piece in (b"", "", b"a", b"", b"b"):
            await write(piece)

    async with streaming(app_of(produce), pair) as connect:
        client = connect()
        await client.get()
        await client.head()
        assert await client.chunks() == [b"a", b"b"]
        assert await is_alive(client)


@each_stream
async def test_an_empty_body(pair: StreamPair) -> None:
    """A producer that writes nothing has a body without bytes."""

    async def produce(write: Write) -> None: ...

    async with streaming(app_of(produce), pair) as connect:
        client = connect()
        await client.get()
        assert await client.reply() == (200, b"")
        assert await is_alive(client)


@each_stream
async def test_a_length_is_sent(pair: StreamPair) -> None:
    """With a length, the body has a Content-Length and no chunks."""
    async with streaming(app_of(hello, length=12), pair) as connect:
        client = connect()
        await client.get()
        head = await client.head()
        assert head.headers.get("Content-Length") == "12"
        assert "Transfer-Encoding" not in head.headers
        assert await client.exactly(12) == "hello wörld".encode()
        assert await is_alive(client)


@each_stream
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_the_framing_belongs_to_the_server(pair: StreamPair, method: str) -> None:
    """A Content-Length of the handler does not contradict the chunks."""
    app = App().with_stateless_route("/", lambda _: Response.stream(hello, headers={"Content-Length": "3"}))
    async with streaming(app, pair) as connect:
        client = connect()
        await client.get(method=method)
        head = await client.head()
        assert "Content-Length" not in head.headers
        assert head.headers.get("Transfer-Encoding") == "chunked"


@each_stream
async def test_old_clients_get_the_body_until_the_end(pair: StreamPair) -> None:
    """For HTTP/1.0 the end of file ends the body."""
    async with streaming(app_of(hello), pair) as connect:
        client = connect()
        await client.get(version="1.0")
        head = await client.head()
        assert head.headers.get("Connection") == "close"
        assert "Transfer-Encoding" not in head.headers
        assert await client.rest() == "hello wörld".encode()


@each_stream
async def test_a_connection_that_ends_says_so(pair: StreamPair) -> None:
    """Connection: close of the client or of the handler holds for a stream, too."""
    app = app_of(hello).with_stateless_route(
        "/bye", lambda _: Response.stream(hello, headers={"Connection": "close"})
    )
    async with streaming(app, pair) as connect:
        for path, lines in (("/", ["Connection: close"]), ("/bye", [])):
            client = connect()
            await client.get(path, *lines)
            head = await client.head()
            assert head.headers.get_all("Connection") == ("close",)
            assert await client.body(head) == "hello wörld".encode()
            assert await client.rest() == b""


@each_stream
async def test_head_starts_no_producer(pair: StreamPair) -> None:
    """HEAD gets the fields of GET, and the body is not produced."""
    started: list[str] = []

    async def produce(write: Write) -> None:
        started.append("produced")
        await write(b"x" * 5)

    async with streaming(app_of(produce, length=5), pair) as connect:
        client = connect()
        await client.get(method="HEAD")
        head = await client.head()
        assert head.headers.get("Content-Length") == "5"
        assert await is_alive(client)
    assert started == []


@each_stream
async def test_large_pieces_are_whole(pair: StreamPair) -> None:
    """Pieces of any size arrive, to a client that is slower than the producer, too."""
    pieces = [os.urandom(size) for size in (1, 65536, 65537, 1_000_000, 3)]

    async def produce(write: Write) -> None:
        for piece in pieces:
            await write(piece)

    for length in (None, sum(map(len, pieces))):
        async with streaming(app_of(produce, length=length), pair) as connect:
            client = connect()
            await client.get()
            assert (await client.reply())[1] == b"".join(pieces)
            assert await is_alive(client)


async def test_a_buffer_may_change_after_the_call(autojump_clock: Clock) -> None:
    """A bytearray is copied when it is written."""

    async def produce(write: Any) -> None:
        piece = bytearray(b"abc")
        await write(piece)
        piece[:] = b"xyz"
        await write(memoryview(piece))

    async with streaming(app_of(produce), memory_connection) as connect:
        client = connect()
        await client.get()
        assert await client.reply() == (200, b"abcxyz")


# ---------------------------------------------------------------------------------------- iterables


@each_stream
async def test_an_async_generator_is_a_body(pair: StreamPair) -> None:
    """The pieces of an async generator are sent. Its nurseries and scopes may be open around its yields."""

    async def numbers() -> AsyncGenerator[str]:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            for number in range(3):
                with trio.move_on_after(100):
                    yield str(number)
                    await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()

    app = App().with_stateless_route("/", lambda _: Response.stream(numbers()))
    async with streaming(app, pair) as connect:
        client = connect()
        for _ in range(2):
            await client.get()
            await client.head()
            assert await client.chunks() == [b"0", b"1", b"2"]


async def test_an_async_generator_has_one_task(autojump_clock: Clock) -> None:
    """All steps of a generator, and its end, are in one task, although pieces wait for the client."""
    tasks: set[trio.lowlevel.Task] = set()

    async def pieces() -> AsyncGenerator[bytes]:
        try:
            for _ in range(20):
                tasks.add(trio.lowlevel.current_task())
                yield b"x" * 100_000
        finally:
            tasks.add(trio.lowlevel.current_task())

    app = App().with_stateless_route("/", lambda _: Response.stream(pieces()))
    async with streaming(app, memory_connection) as connect:
        client = connect()
        await client.get()
        await client.head()
        await client.chunk()
        await trio.sleep(1)
        await client.stream.aclose()
        await trio.sleep(1)
    assert len(tasks) == 1


@each_stream
async def test_an_iterable_is_closed(pair: StreamPair, autojump_clock: Clock) -> None:
    """Whether it is iterated to its end or its client leaves, an async iterable with ``aclose`` is closed."""

    class Pieces:
        def __init__(self) -> None:
            self.closed = False
            self._left = 3

        def __aiter__(self) -> AsyncIterator[bytes]:
            return self

        async def __anext__(self) -> bytes:
            self._left -= 1
            if self._left < 0:
                raise StopAsyncIteration
            return b"x" * 500_000

        async def aclose(self) -> None:
            self.closed = True

    made: list[Pieces] = []

    def handler(_: Request) -> Response:
        made.append(Pieces())
        return Response.stream(made[-1])

    async with streaming(App().with_stateless_route("/", handler), pair) as connect:
        client = connect()
        await client.get()
        assert len((await client.reply())[1]) == 1_500_000
        await client.get()
        await client.head()
        await client.stream.aclose()
        await trio.sleep(10)
        assert [pieces.closed for pieces in made] == [True, True]


@each_stream
async def test_the_failure_of_an_iterable(pair: StreamPair, caplog: pytest.LogCaptureFixture) -> None:
    """The exception of a generator is a failure of the response, as it was raised, and not in a group."""

    async def pieces() -> AsyncGenerator[bytes]:
        raise ZeroDivisionError
        yield b""

    async with streaming(App().with_stateless_route("/", lambda _: Response.stream(pieces())), pair) as connect:
        client = connect()
        await client.get()
        assert (await client.reply())[0] == 500
    (record,) = errors(caplog)
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_the_failure_of_a_cancelled_generator(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A generator that fails in its cleanup, when its client has left, is logged once."""

    async def pieces() -> AsyncGenerator[bytes]:
        try:
            yield b"begun"
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    app = App().with_stateless_route("/", lambda _: Response.stream(pieces()))
    async with streaming(app, memory_connection) as connect:
        client = connect()
        await client.get()
        await client.head()
        await client.stream.aclose()
        await trio.sleep(1)
    (record,) = errors(caplog)
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_a_second_failure_of_a_generator(caplog: pytest.LogCaptureFixture) -> None:
    """A generator that fails while its previous piece is refused: both failures are logged."""

    async def pieces() -> AsyncGenerator[bytes]:
        yield b"too long"
        raise ZeroDivisionError

    app = App().with_stateless_route("/", lambda _: Response.stream(pieces(), length=1))
    async with streaming(app, memory_connection) as connect:
        client = connect()
        await client.get()
        assert (await client.reply())[0] == 500
    kinds = {record.exc_info[0] for record in errors(caplog) if record.exc_info is not None}
    assert kinds == {ZeroDivisionError, ValueError}


async def test_a_generator_is_sent_once(caplog: pytest.LogCaptureFixture) -> None:
    """A response with a generator that was sent already is an error, not an empty body."""

    async def pieces() -> AsyncGenerator[bytes]:
        yield b"once"

    response = Response.stream(pieces())
    async with streaming(App().with_stateless_route("/", lambda _: response), memory_connection) as connect:
        client = connect()
        await client.get()
        assert await client.reply() == (200, b"once")
        await client.get()
        assert (await client.reply())[0] == 500
    assert "sent already" in str(errors(caplog)[0].exc_info)


# -------------------------------------------------------------------------------------------- heads


@each_stream
async def test_the_head_waits_for_the_first_piece(pair: StreamPair, autojump_clock: Clock) -> None:
    """The head is sent with the first piece, or after 50 ms."""

    async def produce(write: Write) -> None:
        await trio.sleep(0.03)
        await write(b"first")
        await trio.sleep(10)
        await write(b"second")

    async def produce_late(write: Write) -> None:
        await trio.sleep(10)
        await write(b"first")

    app = app_of(produce).with_stateless_route("/late", lambda _: Response.stream(produce_late))
    async with streaming(app, pair) as connect:
        client = connect()
        start = trio.current_time()
        await client.get()
        await client.head()
        assert trio.current_time() - start == pytest.approx(0.03)
        assert await client.chunk() == b"first"
        assert trio.current_time() - start == pytest.approx(0.03)
        assert await client.chunks() == [b"second"]
        start = trio.current_time()
        await client.get("/late")
        await client.head()
        assert trio.current_time() - start == pytest.approx(0.05)
        assert await client.chunks() == [b"first"]
        assert trio.current_time() - start == pytest.approx(10)


# -------------------------------------------------------------------------------- without a connection


def layered(inner: StreamedBody) -> TransformedBody:
    """A body whose pieces are in upper case, with an end."""

    class Upper:
        async def transform(self, piece: bytes) -> bytes:
            return piece.upper().replace(b"SKIP", b"")

        def finish(self) -> bytes:
            return b"!"

    return TransformedBody(inner, Upper)


async def numbered() -> AsyncGenerator[str]:
    for number in range(3):
        yield f"n{number}"


async def test_read_body() -> None:
    """``read_body`` and ``open_body`` read any response, such as one of ``App.handle``."""
    app = app_of(hello)
    assert await read_body(await app.handle(Request())) == "hello wörld".encode()
    assert await read_body(await app.handle(Request(path="/fine"))) == b"fine"
    assert await read_body(Response.stream(numbered())) == b"n0n1n2"
    async with open_body(Response.stream(numbered())) as pieces:
        assert [piece async for piece in pieces] == [b"n0", b"n1", b"n2"]
    async with open_body(Response.empty(204)) as pieces:
        assert [piece async for piece in pieces] == []


async def test_a_late_writer_without_a_connection(nursery: trio.Nursery) -> None:
    """A task that outlives the producer is told that the response is over, as on a connection."""
    begun, ended = trio.Event(), trio.Event()

    async def write_late(write: Write) -> None:
        begun.set()
        await write(b"late")
        with pytest.raises(RuntimeError, match="the response is over"):
            await write(b"too late")
        ended.set()

    async def produce(write: Write) -> None:
        nursery.start_soon(write_late, write)
        await begun.wait()

    assert await read_body(Response.stream(produce)) == b"late"
    await ended.wait()


async def test_read_body_has_a_limit() -> None:
    """A body that is longer than the limit is an error, and its producer is cancelled."""
    cancelled: list[bool] = []

    async def produce(write: Write) -> None:
        try:
            while True:
                await write(b"x" * 1000)
        except trio.Cancelled:
            cancelled.append(True)
            raise

    with pytest.raises(ValueError, match="longer than 5000 bytes"):
        await read_body(Response.stream(produce), limit=5000)
    assert cancelled == [True]
    assert await read_body(Response(200, b"x" * 100), limit=100) == b"x" * 100


async def test_a_body_can_be_left_early() -> None:
    """A generator is closed when the block of ``open_body`` ends. Exceptions are not in a group."""
    closed: list[bool] = []

    async def endless() -> AsyncGenerator[bytes]:
        try:
            while True:
                yield b"x"
        finally:
            closed.append(True)

    async def read_one() -> None:
        async with open_body(Response.stream(endless())) as pieces:
            assert await anext(pieces) == b"x"
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await read_one()
    assert closed == [True]


async def test_open_body_raises_the_failure_of_the_body() -> None:
    """The exception of a producer is raised after the pieces before it."""

    async def produce(write: Write) -> None:
        await write(b"a")
        raise ZeroDivisionError

    async with open_body(Response.stream(produce)) as pieces:
        assert await anext(pieces) == b"a"
        with pytest.raises(ZeroDivisionError):
            await anext(pieces)


@pytest.mark.parametrize("written", [2, 4])
async def test_read_body_checks_the_length(written: int) -> None:
    """A body that a connection would not send as a whole is an error without a connection as well."""

    async def produce(write: Write) -> None:
        await write(b"x" * written)

    with pytest.raises(ValueError, match="its length of 3 bytes"):
        await read_body(Response.stream(produce, length=3))


@each_stream
async def test_a_transformed_body(pair: StreamPair) -> None:
    """A layer changes the pieces; pieces that become empty are not sent."""

    async def produce(write: Write) -> None:
        for piece in (b"a", "b", b"skip"):
            await write(piece)

    async def handler(_: Request) -> Response:
        response = Response.stream(produce)
        assert response.body is not None
        return response.with_body(layered(layered(response.body)))

    async with streaming(App().with_stateless_route("/", handler), pair) as connect:
        client = connect()
        await client.get()
        await client.head()
        assert await client.chunks() == [b"A", b"B", b"!", b"!"]


@each_stream
@pytest.mark.parametrize("written", [11, 13])
async def test_a_transformed_body_has_its_length(
    pair: StreamPair, written: int, caplog: pytest.LogCaptureFixture
) -> None:
    """The length of a body that a layer changes is checked, too: a wrong body never looks complete."""

    async def produce(write: Write) -> None:
        await write("a")
        await write("b" * (written - 1))

    async def handler(_: Request) -> Response:
        response = Response.stream(produce, length=12)
        assert response.body is not None
        return response.with_body(layered(response.body))

    async with streaming(App().with_stateless_route("/", handler), pair) as connect:
        client = connect()
        await client.get()
        with pytest.raises(Incomplete):
            await client.body(await client.head())
    assert "its length of 12 bytes" in str(errors(caplog)[0].exc_info)


# ---------------------------------------------------------------------------------------------- files


def file_response(path: Path, size: int, bodies: list[FileBody]) -> Response:
    file = OpenFile()
    file.adopt(os.open(path, os.O_RDONLY))
    bodies.append(FileBody(file, [b"<", ByteRange(0, size - 1), b">"]))
    return Response(200).with_body(bodies[-1])


@each_stream
@pytest.mark.parametrize("method", ["GET", "HEAD"])
async def test_a_file_is_sent_and_closed(tmp_path: Path, pair: StreamPair, method: str) -> None:
    """A file is read in pieces, and closed for a HEAD request as well."""
    content = os.urandom(1_000_000)
    (tmp_path / "file").write_bytes(content)
    bodies: list[FileBody] = []
    app = App().with_stateless_route("/", lambda _: file_response(tmp_path / "file", 1_000_000, bodies))
    async with streaming(app, pair) as connect:
        client = connect()
        await client.get(method=method)
        head = await client.head()
        assert head.headers.get("Content-Length") == "1000002"
        if method == "GET":
            assert await client.body(head) == b"<" + content + b">"
        await client.get("/nowhere")
        assert (await client.reply())[0] == 404
    assert bodies[0].file.is_closed


@each_stream
async def test_a_file_that_shrinks(tmp_path: Path, pair: StreamPair, caplog: pytest.LogCaptureFixture) -> None:
    """A file that has become shorter ends the connection."""
    (tmp_path / "file").write_bytes(b"short")
    bodies: list[FileBody] = []
    app = App().with_stateless_route("/", lambda _: file_response(tmp_path / "file", 1000, bodies))
    async with streaming(app, pair) as connect:
        client = connect()
        await client.get()
        head = await client.head()
        with pytest.raises(Incomplete):
            await client.body(head)
    assert bodies[0].file.is_closed
    assert "shorter" in str(errors(caplog)[0].exc_info)


# ------------------------------------------------------------------------------------------ settings


def test_the_policy_is_checked() -> None:
    """``when_left`` is a ``WhenLeft``."""
    with pytest.raises(ValueError, match="WhenLeft"):
        App(when_left="never")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="WhenLeft"):
        App().with_route("/", lambda request, state: Response(200), when_left="never")  # type: ignore[arg-type]
    App(when_left=WhenLeft.FINISH)
