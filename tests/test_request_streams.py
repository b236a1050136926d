"""Routes with ``stream=True``: the handler reads the body, and the connection survives what it leaves unread."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, HttpError, Limits, Response, Timeouts
from humphrey_trio.http import Request, Write
from humphrey_trio.testing import memory_connection
from tests.support.apps import StreamPair
from tests.support.clients import half_close
from tests.support.links import Link, listening
from tests.support.logs import errors
from tests.support.steps import cancelled_at
from tests.support.streamed import Incomplete, StreamClient, each_stream, streaming

Clock = trio.testing.MockClock
Handler = Callable[[Request], Response | Awaitable[Response]]

CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(piece: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def upload(size: int, *lines: str) -> bytes:
    """The head of an upload."""
    fields = ["POST / HTTP/1.1", "Host: a", f"Content-Length: {size}", *lines, "", ""]
    return "\r\n".join(fields).encode()


def app_of(handler: Handler, *, max_body: int | None = None, **settings: Any) -> App:
    """An app whose handler reads the body of ``/``, and that says fine at ``/fine``."""
    return (
        App(**settings)
        .with_stateless_route("/", handler, stream=True, max_body=max_body)
        .with_stateless_route("/fine", lambda _: Response(200, "fine"))
    )


async def is_alive(client: StreamClient) -> bool:
    """Whether the connection serves another request."""
    await client.get("/fine")
    return await client.reply() == (200, b"fine")


async def is_over(client: StreamClient) -> bool:
    """Whether the server has ended the connection, without another byte."""
    return await client.rest() == b""


async def count(request: Request) -> Response:
    """Answer with the size of the body."""
    return Response(200, str(sum([len(piece) async for piece in request.body])))


async def whole(request: Request) -> Response:
    return Response(200, await request.read(limit=1000))


async def ignore(request: Request) -> Response:
    return Response(200, "ignored")


# -------------------------------------------------------------------------------------------- reading


@each_stream
async def test_a_body_is_read_as_it_arrives(pair: StreamPair, autojump_clock: Clock) -> None:
    """The handler runs after the head, and gets each piece when it arrives, with a length and chunked."""
    received: list[tuple[float, bytes]] = []

    async def handler(request: Request) -> Response:
        start = trio.current_time()
        async for piece in request.body:
            received.append((trio.current_time() - start, piece))
        return Response(200, "done")

    async with streaming(app_of(handler), pair) as connect:
        client = connect()
        for head, frame, end in ((upload(6), bytes, b""), (CHUNKED, chunk, b"0\r\n\r\n")):
            received.clear()
            await client.send(head)
            for piece in (b"abc", b"def"):
                await trio.sleep(1)
                await client.send(frame(piece))
            await client.send(end)
            assert await client.reply() == (200, b"done")
            assert [(round(seconds, 3), piece) for seconds, piece in received] == [(1, b"abc"), (2, b"def")]
        assert await is_alive(client)


@each_stream
async def test_read_returns_the_rest(pair: StreamPair) -> None:
    """``request.read`` returns what was not read before."""

    async def handler(request: Request) -> Response:
        first = await anext(aiter(request.body))
        return Response(200, first + b"|" + await request.read(limit=100))

    async with streaming(app_of(handler), pair) as connect:
        client = connect()
        await client.send(CHUNKED + chunk(b"ab") + chunk(b"cd") + chunk(b"ef") + b"0\r\n\r\n")
        assert await client.reply() == (200, b"ab|cdef")
        assert await is_alive(client)


@each_stream
async def test_a_cancelled_step_loses_nothing(pair: StreamPair, autojump_clock: Clock) -> None:
    """A step that is cancelled, at any moment, has taken no piece: the next step returns it."""
    pieces = [b"%d," % number for number in range(20)]

    async def handler(request: Request) -> Response:
        found: list[bytes] = []

        async def take() -> None:
            async for piece in request.body:
                found.append(piece)

        await cancelled_at(int(request.query), take)
        with suppress(RuntimeError):  # everything was read before that step
            found.extend([piece async for piece in request.body])
        return Response(200, b"".join(found))

    async with streaming(app_of(handler), pair) as connect:
        client = connect()
        for step in range(1, 12):
            await client.send(CHUNKED.replace(b"/", b"/?%d" % step, 1))
            await client.send(b"".join(map(chunk, pieces)) + b"0\r\n\r\n")
            assert await client.reply() == (200, b"".join(pieces))


@each_stream
@pytest.mark.parametrize("handler", [count, whole, ignore])
async def test_a_request_without_a_body(pair: StreamPair, handler: Handler) -> None:
    """A request without a body has no pieces."""
    async with streaming(app_of(handler), pair) as connect:
        client = connect()
        await client.get()
        assert (await client.reply())[0] == 200
        assert await is_alive(client)


async def test_content_is_not_there() -> None:
    """``request.content`` says what to use instead."""

    def handler(request: Request) -> Response:
        with pytest.raises(RuntimeError, match="stream=True"):
            _ = request.content
        return Response(200)

    async with streaming(app_of(handler), memory_connection) as connect:
        client = connect()
        await client.post("/", b"abc")
        assert (await client.reply())[0] == 200


# ------------------------------------------------------------------------------------- 100 Continue


@each_stream
async def test_the_100_waits_for_the_first_step(pair: StreamPair, autojump_clock: Clock) -> None:
    """A client that expects a 100 gets it when the handler begins to read."""

    async def handler(request: Request) -> Response:
        await trio.sleep(5)
        return await count(request)

    async with streaming(app_of(handler), pair) as connect:
        client = connect()
        start = trio.current_time()
        await client.send(upload(3, "Expect: 100-continue"))
        assert (await client.head()).status == 100
        assert trio.current_time() - start == pytest.approx(5)
        await client.send(b"abc")
        assert await client.reply() == (200, b"3")
        assert await is_alive(client)


@each_stream
@pytest.mark.parametrize(
    "head", [upload(3, "Expect: 100-continue"), CHUNKED[:-2] + b"Expect: 100-continue\r\n\r\n"]
)
@pytest.mark.parametrize("streamed", [False, True])
async def test_an_unread_body_behind_an_unsent_100(pair: StreamPair, head: bytes, streamed: bool) -> None:
    """If the handler does not read, no 100 is sent, and the connection ends: the body may follow or not."""

    async def produce(write: Write) -> None:
        await write(b"no")

    def handler(request: Request) -> Response:
        return Response.stream(produce, status=403) if streamed else Response(403, "no")

    async with streaming(app_of(handler), pair) as connect:
        client = connect()
        await client.send(head)
        response = await client.head()
        assert (response.status, response.headers.get("Connection")) == (403, "close")
        assert await client.body(response) == b"no"
        assert await is_over(client)


@each_stream
@pytest.mark.parametrize("failure", [HttpError(403, "no"), ValueError("no")])
async def test_a_failed_response_behind_an_unsent_100(pair: StreamPair, failure: Exception) -> None:
    """If the body of the response fails before its head, the connection ends, too: the body may follow or not."""

    async def produce(write: Write) -> None:
        raise failure

    def handler(request: Request) -> Response:
        return Response.stream(produce)

    async with streaming(app_of(handler), pair) as connect:
        client = connect()
        await client.send(upload(100, "Expect: 100-continue"))
        response = await client.head()
        assert response.status == (403 if isinstance(failure, HttpError) else 500)
        assert response.headers.get("Connection") == "close"
        await client.body(response)
        await client.get("/fine")  # must not be taken for the body
        assert await is_over(client)


# ------------------------------------------------------------------------------------------- limits


@each_stream
async def test_a_declared_size_beyond_the_limit(pair: StreamPair) -> None:
    """A Content-Length beyond the limit is a 413 without a call of the handler, and with a request."""
    called: list[Request] = []
    refused: list[tuple[int, str]] = []

    def handler(request: Request) -> Response:
        called.append(request)
        return Response(200)

    def on_error(status: int, request: Request | None, exception: Exception | None) -> Response:
        assert request is not None
        refused.append((status, request.path))
        return Response(status)

    async with streaming(app_of(handler, max_body=10).with_error_handler(on_error), pair) as connect:
        client = connect()
        await client.send(upload(11))
        assert (await client.reply())[0] == 413
        assert await is_over(client)
    assert (called, refused) == ([], [(413, "/")])


@each_stream
async def test_a_chunked_body_beyond_the_limit(pair: StreamPair, caplog: pytest.LogCaptureFixture) -> None:
    """Beyond the limit, reading raises a 413. It is the response if the handler does not catch it."""
    async with streaming(app_of(count, limits=Limits(body=5)), pair) as connect:
        client = connect()
        await client.send(CHUNKED + chunk(b"abc") + chunk(b"def"))
        head = await client.head()
        assert (head.status, head.headers.get("Connection")) == (413, "close")
        assert b"longer than 5 bytes" in await client.body(head)
        assert await is_over(client)
    assert errors(caplog) == []


@each_stream
async def test_a_limit_of_the_handler(pair: StreamPair) -> None:
    """``read`` has a limit of its own, before anything is read if the size is declared."""
    async with streaming(app_of(whole, max_body=10**9), pair) as connect:
        for data in (upload(1001, "Expect: 100-continue"), CHUNKED + chunk(b"x" * 900) + chunk(b"x" * 101)):
            client = connect()
            await client.send(data)
            assert (await client.reply())[0] == 413
            assert await is_over(client)


@each_stream
async def test_a_failure_is_raised_again(pair: StreamPair) -> None:
    """After reading has failed, each further call raises the same exception."""
    statuses: list[int] = []

    async def handler(request: Request) -> Response:
        for _ in range(2):
            try:
                await count(request)
            except HttpError as exc:
                statuses.append(exc.status)
        return Response(200, "caught")

    async with streaming(app_of(handler, max_body=1), pair) as connect:
        client = connect()
        await client.send(CHUNKED + chunk(b"abc"))
        assert await client.reply() == (200, b"caught")
        assert await is_over(client)
    assert statuses == [413, 413]


@each_stream
async def test_a_malformed_chunk(pair: StreamPair) -> None:
    """A malformed body is a 400, raised where it is read."""
    async with streaming(app_of(count), pair) as connect:
        client = connect()
        await client.send(CHUNKED + chunk(b"abc") + b"nonsense\r\n")
        assert (await client.reply())[0] == 400
        assert await is_over(client)


# ----------------------------------------------------------------------------------------- timeouts


@each_stream
async def test_the_timeout_is_for_each_wait(pair: StreamPair, autojump_clock: Clock) -> None:
    """``Timeouts.body`` limits each wait for bytes, not the whole body, and only while the handler reads."""

    async def handler(request: Request) -> Response:
        size = 0
        async for piece in request.body:
            size += len(piece)
            await trio.sleep(20)  # the client has sent the next piece long ago
        return Response(200, str(size))

    async with streaming(app_of(handler, timeouts=Timeouts(body=5)), pair) as connect:
        client = connect()
        await client.send(upload(30))
        for _ in range(10):
            await client.send(b"abc")
            await trio.sleep(4)
        assert await client.reply() == (200, b"30")
        await client.send(upload(30) + b"abc")
        start = trio.current_time()
        assert (await client.reply())[0] == 408
        assert trio.current_time() - start == pytest.approx(25, abs=0.1)
        assert await is_over(client)


async def test_cancelled_reads_do_not_delay_the_timeout(autojump_clock: Clock) -> None:
    """``Timeouts.body`` also counts if the handler cancels each read, but not while it does something else."""

    async def handler(request: Request) -> Response:
        pieces = aiter(request.body)
        for _ in range(4):
            with trio.move_on_after(2):
                await anext(pieces)
            await trio.sleep(10)
        return Response(200)

    async with streaming(app_of(handler, timeouts=Timeouts(body=7)), memory_connection) as connect:
        client = connect()
        start = trio.current_time()
        await client.send(upload(3))
        assert (await client.reply())[0] == 408
        assert trio.current_time() - start == pytest.approx(37, abs=0.6)
        client = connect()
        await client.send(upload(3))
        for _ in range(3):
            await trio.sleep(13)
            await client.send(b"a")
        assert (await client.reply())[0] == 200


async def test_a_blocked_process_does_not_time_out(autojump_clock: Clock) -> None:
    """Time in which the process was blocked does not count."""

    async def handler(request: Request) -> Response:
        with suppress(HttpError):
            return await count(request)
        return Response(408, "too slow")

    async with streaming(app_of(handler, timeouts=Timeouts(body=5)), memory_connection) as connect:
        client = connect()
        await client.send(upload(3))
        await trio.sleep(1)
        autojump_clock.jump(100)
        await trio.sleep(3)
        await client.send(b"abc")
        assert await client.reply() == (200, b"3")


@each_stream
async def test_the_error_handler_gets_an_overdue_request(pair: StreamPair, autojump_clock: Clock) -> None:
    """If a whole body takes too long, the error handler gets the request whose head was read."""
    seen: list[Request | None] = []

    def on_error(status: int, request: Request | None, exception: Exception | None) -> Response:
        seen.append(request)
        return Response(status)

    app = App(timeouts=Timeouts(body=5)).with_stateless_route("/", ignore).with_error_handler(on_error)
    async with streaming(app, pair) as connect:
        client = connect()
        await client.send(upload(30) + b"abc")
        assert (await client.reply())[0] == 408
        client = connect()
        await client.send(CHUNKED + b"nonsense\r\n")
        assert (await client.reply())[0] == 400
        client = connect()
        await client.send(upload(10**9))
        assert (await client.reply())[0] == 413
    assert [request and request.method for request in seen] == ["POST"] * 3


# ------------------------------------------------------------------------------------- early ends


@each_stream
async def test_a_client_that_ends_early(pair: StreamPair, caplog: pytest.LogCaptureFixture) -> None:
    """An end of file inside of the body is raised in the handler. It is no failure, and gets no response."""
    caught: list[BaseException] = []

    async def handler(request: Request) -> Response:
        try:
            return await count(request)
        except trio.BrokenResourceError as exc:
            caught.append(exc)
            raise

    async with streaming(app_of(handler), pair) as connect:
        client = connect()
        await client.send(upload(10) + b"abc")
        await half_close(client.stream)
        assert await is_over(client)
    assert len(caught) == 1
    assert errors(caplog) == []


@each_stream
async def test_a_client_that_ends_early_behind_the_head(
    pair: StreamPair, caplog: pytest.LogCaptureFixture
) -> None:
    """If a producer reads the body, an end of file inside of it cuts its response short. It is no error."""

    async def handler(request: Request) -> Response:
        async def produce(write: Write) -> None:
            await write("begun")
            async for _ in request.body:
                pass

        return Response.stream(produce)

    async with streaming(app_of(handler), pair) as connect:
        client = connect()
        await client.send(upload(10) + b"abc")
        assert (await client.head()).status == 200
        assert await client.chunk() == b"begun"
        await half_close(client.stream)
        with pytest.raises(Incomplete):
            await client.chunk()
    assert errors(caplog) == []


async def test_a_reset(caplog: pytest.LogCaptureFixture) -> None:
    """A connection that breaks inside of the body is the same."""
    caught = trio.Event()

    async def handler(request: Request) -> Response:
        try:
            return await count(request)
        except trio.BrokenResourceError:
            caught.set()
            raise

    async with streaming(app_of(handler), memory_connection) as connect:
        client = connect()
        await client.send(upload(10) + b"abc")
        await trio.testing.wait_all_tasks_blocked()
        client.stream.reset()  # type: ignore[attr-defined]
        await caught.wait()
    assert errors(caplog) == []


# --------------------------------------------------------------------------------------------- the rest


@each_stream
@pytest.mark.parametrize("size", [0, 100, 256 * 1024])
async def test_a_small_rest_is_discarded(pair: StreamPair, size: int) -> None:
    """A rest of up to 256 KiB is read and dropped, and the next request is served."""
    async with streaming(app_of(ignore), pair) as connect:
        for data in (upload(size) + b"x" * size, CHUNKED + chunk(b"x" * size) * (size > 0) + b"0\r\n\r\n"):
            client = connect()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send, data)
                assert await client.reply() == (200, b"ignored")
            assert await is_alive(client)


@each_stream
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_request_behind_a_body_that_was_read(pair: StreamPair, chunked: bool) -> None:
    """Requests that arrive together are answered in order, also if the handler does not ask for the end."""

    async def first_piece(request: Request) -> Response:
        return Response(200, await anext(aiter(request.body)))

    def message(piece: bytes) -> bytes:
        return CHUNKED + chunk(piece) + b"0\r\n\r\n" if chunked else upload(len(piece)) + piece

    async with streaming(app_of(first_piece), pair) as connect:
        client = connect()
        await client.send(message(b"abc") + message(b"de"))
        assert await client.reply() == (200, b"abc")
        assert await client.reply() == (200, b"de")
        assert await is_alive(client)


@each_stream
async def test_the_response_does_not_wait_for_the_rest(pair: StreamPair, autojump_clock: Clock) -> None:
    """The response is sent before the rest has arrived, and the rest is waited for."""
    async with streaming(app_of(ignore), pair) as connect:
        client = connect()
        await client.send(upload(100) + b"x" * 50)
        assert await client.reply() == (200, b"ignored")
        await trio.sleep(10)
        await client.send(b"x" * 50)
        assert await is_alive(client)


@each_stream
async def test_a_large_rest_ends_the_connection(pair: StreamPair) -> None:
    """Beyond, the connection ends; the response says so if the size was declared."""
    size = 256 * 1024 + 1
    async with streaming(app_of(ignore), pair) as connect:
        client = connect()
        await client.send(upload(size))
        head = await client.head()
        assert head.headers.get("Connection") == "close"
        assert await client.body(head) == b"ignored"
        assert await is_over(client)
        client = connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, CHUNKED + chunk(b"x" * size))
            assert await client.reply() == (200, b"ignored")
        assert await is_over(client)


@each_stream
async def test_a_rest_that_does_not_come(pair: StreamPair, autojump_clock: Clock) -> None:
    """The rest has ``Timeouts.body`` to arrive. Afterwards the connection ends, without a second response."""
    async with streaming(app_of(ignore, timeouts=Timeouts(body=5)), pair) as connect:
        client = connect()
        await client.send(upload(100) + b"x" * 50)
        assert await client.reply() == (200, b"ignored")
        start = trio.current_time()
        assert await is_over(client)
        assert trio.current_time() - start == pytest.approx(5, abs=0.3)


# ------------------------------------------------------------------------------------------- misuse


@each_stream
async def test_a_body_is_read_once(pair: StreamPair) -> None:
    """After its end, reading again is an error that says so."""

    async def handler(request: Request) -> Response:
        await count(request)
        with pytest.raises(RuntimeError, match="read once"):
            await count(request)
        with pytest.raises(RuntimeError, match="read once"):
            await request.read(limit=10)
        return Response(200, "fine")

    async with streaming(app_of(handler), pair) as connect:
        client = connect()
        await client.post("/", b"abc")
        assert await client.reply() == (200, b"fine")
        assert await is_alive(client)


@each_stream
async def test_one_task_reads(pair: StreamPair) -> None:
    """Two tasks that read at the same time are an error in the second one."""

    async def handler(request: Request) -> Response:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(count, request)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(RuntimeError, match="another task"):
                await count(request)
            nursery.cancel_scope.cancel()
        # A cancelled step loses nothing.
        return await whole(request)

    async with streaming(app_of(handler), pair) as connect:
        client = connect()
        await client.send(upload(3))
        await trio.testing.wait_all_tasks_blocked()
        await client.send(b"abc")
        assert await client.reply() == (200, b"abc")
        assert await is_alive(client)


@each_stream
async def test_the_request_is_over(pair: StreamPair) -> None:
    """After the handler has returned, the body cannot be read."""
    requests: list[Request] = []

    def handler(request: Request) -> Response:
        requests.append(request)
        return Response(200, "returned")

    async with streaming(app_of(handler), pair) as connect:
        client = connect()
        await client.send(upload(3))
        assert await client.reply() == (200, b"returned")
        with pytest.raises(RuntimeError, match="over"):
            await count(requests[0])
        await client.send(b"abc")
        assert await is_alive(client)


@each_stream
@pytest.mark.parametrize("lines", [(), ("Expect: 100-continue",)])
async def test_a_task_that_reads_longer_than_the_handler(
    pair: StreamPair, lines: tuple[str, ...], nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    """A task that still reads when the handler returns gets an error. The connection ends after the response."""
    errors_of_reads: list[Exception] = []

    async def read(request: Request) -> None:
        try:
            await count(request)
        except RuntimeError as exc:
            errors_of_reads.append(exc)

    async def handler(request: Request) -> Response:
        nursery.start_soon(read, request)
        await trio.testing.wait_all_tasks_blocked()
        return Response(200, "returned")

    async with streaming(app_of(handler), pair) as connect:
        client = connect()
        await client.send(upload(3, *lines))
        response = await client.head()
        if lines:
            assert response.status == 100
            response = await client.head()
        assert response.headers.get("Connection") == "close"
        assert await client.body(response) == b"returned"
        await client.send(b"abc")
        assert await is_over(client)
        await trio.testing.wait_all_tasks_blocked()
        assert "over" in str(*errors_of_reads)
    assert not errors(caplog)


async def test_without_a_connection() -> None:
    """``App.handle`` gives such a handler the content of the request as a stream."""
    app = app_of(count).with_stateless_route("/whole", whole, stream=True)
    assert (await app.handle(Request("POST", content=b"abc"))).content == b"3"
    assert (await app.handle(Request("POST"))).content == b"0"
    assert (await app.handle(Request("POST", "/whole", content=b"abc"))).content == b"abc"
    assert (await app.handle(Request("POST", "/whole", content=b"x" * 1001))).status == 413


# ---------------------------------------------------------------------------------- in both directions


async def echo(request: Request) -> Response:
    """Send the body back while it arrives."""

    async def produce(write: Write) -> None:
        async for piece in request.body:
            await write(piece.upper())

    return Response.stream(produce)


@each_stream
async def test_a_producer_may_read(pair: StreamPair, autojump_clock: Clock) -> None:
    """The producer of a streamed response reads the request while it responds."""
    async with streaming(app_of(echo), pair) as connect:
        client = connect()
        for _ in range(2):
            await client.send(CHUNKED)
            await client.head()
            for piece in (b"abc", b"def"):
                await trio.sleep(1)
                await client.send(chunk(piece))
                assert await client.chunk() == piece.upper()
            await client.send(b"0\r\n\r\n")
            assert await client.chunks() == []
        assert await is_alive(client)


@each_stream
@pytest.mark.parametrize("in_nursery", [False, True])
@pytest.mark.parametrize("rest", [b"nonsense\r\n", b"", None], ids=["malformed", "end of file", "silence"])
async def test_a_producer_reads_what_is_wrong(
    pair: StreamPair, rest: bytes | None, in_nursery: bool, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """If the body of the request ends the body of the response, that is incomplete, and nothing is logged."""

    async def copy(request: Request, write: Write) -> None:
        async for piece in request.body:
            await write(piece)

    async def handler(request: Request) -> Response:
        async def produce(write: Write) -> None:
            if not in_nursery:
                await copy(request, write)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(copy, request, write)

        return Response.stream(produce)

    async with streaming(app_of(handler, timeouts=Timeouts(body=5)), pair) as connect:
        client = connect()
        await client.send(CHUNKED + chunk(b"abc"))
        assert (await client.head()).status == 200
        assert await client.chunk() == b"abc"
        if rest:
            await client.send(rest)
        elif rest is not None:
            await half_close(client.stream)
        with pytest.raises(Incomplete):
            await client.chunk()
    assert errors(caplog) == []


@each_stream
async def test_a_producer_may_read_behind_a_100(pair: StreamPair) -> None:
    """If the producer reads before its first piece, the client gets its 100 before the response."""
    async with streaming(app_of(echo), pair) as connect:
        client = connect()
        await client.send(upload(3, "Expect: 100-continue"))
        assert (await client.head()).status == 100
        await client.send(b"abc")
        assert await client.reply() == (200, b"ABC")
        assert await is_alive(client)


@each_stream
async def test_an_iterable_may_read(pair: StreamPair) -> None:
    """An async generator that reads the body is a response, too; its task is another one."""

    async def shout(request: Request) -> AsyncIterator[bytes]:
        async for piece in request.body:
            yield piece.upper()

    async with streaming(app_of(lambda request: Response.stream(shout(request))), pair) as connect:
        client = connect()
        await client.post("/", b"abc")
        assert await client.reply() == (200, b"ABC")
        assert await is_alive(client)


@pytest.mark.parametrize("link", Link, ids=lambda link: link.value)
async def test_an_echo_over_sockets(link: Link) -> None:
    """A large body is sent back while it arrives, by two tasks that read and write at the same time."""

    async def handler(request: Request) -> Response:
        async def produce(write: Write) -> None:
            send, receive = trio.open_memory_channel[bytes](10)

            async def read() -> None:
                async with send:
                    async for piece in request.body:
                        await send.send(piece)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                async for piece in receive:
                    await write(piece)

        return Response.stream(produce)

    content = os.urandom(5_000_000)
    async with (
        listening(app_of(handler, max_body=10**7), link) as address,
        await link.connect(address) as stream,
        trio.open_nursery() as nursery,
    ):
        client = StreamClient(stream)
        nursery.start_soon(client.send, upload(len(content)) + content)
        assert await client.reply() == (200, content)
