"""Streamed responses that fail: before and after the head, with a wrong length, or with a wrong piece."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import HttpError, Response
from humphrey_trio.http import Request, Write
from humphrey_trio.testing import memory_connection
from humphrey_trio.websocket import Upgrade
from tests.support.apps import StreamPair
from tests.support.links import Link, listening
from tests.support.logs import errors
from tests.support.streamed import Incomplete, StreamClient, app_of, each_stream, hello, is_alive, streaming
from tests.support.wire import request_bytes

Clock = trio.testing.MockClock


# ----------------------------------------------------------------------------------------- failures


@each_stream
async def test_a_failure_before_the_head(pair: StreamPair, caplog: pytest.LogCaptureFixture) -> None:
    """A producer that fails before its first piece gets an ordinary error response, and the connection lives."""

    async def fail(write: Write) -> None:
        raise ZeroDivisionError

    async def refuse(write: Write) -> None:
        raise HttpError(404, "no such item", headers={"X-Reason": "gone"})

    app = app_of(fail).with_stateless_route("/refuse", lambda _: Response.stream(refuse))
    async with streaming(app, pair) as connect:
        client = connect()
        await client.get()
        assert (await client.reply())[0] == 500
        assert len(errors(caplog)) == 1
        await client.get("/refuse")
        head = await client.head()
        assert (head.status, head.headers.get("X-Reason")) == (404, "gone")
        assert b"no such item" in await client.body(head)
        assert await is_alive(client)
    assert len(errors(caplog)) == 1


@each_stream
@pytest.mark.parametrize("length", [None, 100])
async def test_a_failure_after_the_head(
    pair: StreamPair, length: int | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A producer that fails later ends the connection, so that the body is incomplete. The failure is logged."""

    async def fail(write: Write) -> None:
        await write(b"a part")
        raise ZeroDivisionError

    async with streaming(app_of(fail, length=length), pair) as connect:
        client = connect()
        await client.get()
        head = await client.head()
        assert head.status == 200
        with pytest.raises(Incomplete):
            await client.body(head)
    (record,) = errors(caplog)
    assert "GET /" in record.getMessage()


@each_stream
@pytest.mark.parametrize("begun", [False, True])
async def test_a_failure_while_the_app_is_cancelled(
    pair: StreamPair, begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """A body that fails in the very step in which its app is cancelled is logged, once."""

    async def fail(write: Write) -> None:
        if begun:
            await write(b"a part")
        nursery.cancel_scope.cancel()
        raise ZeroDivisionError

    async def generate() -> AsyncIterator[bytes]:
        if begun:
            yield b"a part"
        nursery.cancel_scope.cancel()
        raise ZeroDivisionError

    app = app_of(fail).with_stateless_route("/generator", lambda _: Response.stream(generate()))
    app.with_stateless_route("/events", lambda _: Response.events(lambda events: fail(lambda _: events.send("x"))))
    for path in ("/", "/generator", "/events"):
        caplog.clear()
        ours, theirs = pair()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.serve_stream, theirs)
            await StreamClient(ours).get(path)
            await trio.sleep_forever()
        (record,) = errors(caplog)
        assert record.exc_info is not None
        assert record.exc_info[0] is ZeroDivisionError


@each_stream
async def test_a_failure_after_the_last_byte(pair: StreamPair, caplog: pytest.LogCaptureFixture) -> None:
    """With a length, the response is complete then (RFC 9112, section 6.3). The failure is logged."""

    async def fail(write: Write) -> None:
        await write(b"all of it")
        raise ZeroDivisionError

    async with streaming(app_of(fail, length=9), pair) as connect:
        client = connect()
        await client.get()
        assert await client.body(await client.head()) == b"all of it"
        assert await client.rest() == b""
    assert len(errors(caplog)) == 1


@pytest.mark.parametrize("link", Link, ids=lambda link: link.value)
async def test_a_failure_until_close_is_a_reset(link: Link, caplog: pytest.LogCaptureFixture) -> None:
    """A body that ends with the connection is cut off by a reset, because an end of file would complete it."""

    async def fail(write: Write) -> None:
        await write(b"a part")
        await trio.sleep(0.1)  # so that the client has received it
        raise ZeroDivisionError

    async with listening(app_of(fail), link) as address, await link.connect(address) as stream:
        client = StreamClient(stream)
        await client.get(version="1.0")
        await client.head()
        assert await client.exactly(6) == b"a part"
        with pytest.raises(trio.BrokenResourceError):
            await client.rest()
    assert len(errors(caplog)) == 1


async def test_a_failure_until_close_is_a_reset_in_memory() -> None:
    """Over a ``DirectStream``, too."""

    async def fail(write: Write) -> None:
        await write(b"a part")
        await trio.testing.wait_all_tasks_blocked()
        raise ZeroDivisionError

    async with streaming(app_of(fail), memory_connection) as connect:
        client = connect()
        await client.get(version="1.0")
        with pytest.raises(trio.BrokenResourceError):
            await client.rest()


@each_stream
@pytest.mark.parametrize("written", [0, 3, 11])
async def test_a_body_that_is_too_short(pair: StreamPair, written: int, caplog: pytest.LogCaptureFixture) -> None:
    """Fewer bytes than the length are the producer's mistake: a 500 without any, else an incomplete body."""

    async def produce(write: Write) -> None:
        await write(b"x" * written)

    async with streaming(app_of(produce, length=12), pair) as connect:
        client = connect()
        await client.get()
        head = await client.head()
        if written:
            with pytest.raises(Incomplete):
                await client.body(head)
        else:
            assert head.status == 500
    assert f"{written} bytes, less than its length of 12" in str(errors(caplog)[0].exc_info)


@each_stream
@pytest.mark.parametrize("first", [0, 12, 13])
async def test_a_body_that_is_too_long(pair: StreamPair, first: int, caplog: pytest.LogCaptureFixture) -> None:
    """More bytes than the length are never sent, and are the producer's mistake."""

    async def produce(write: Write) -> None:
        await write(b"x" * first)
        await write(b"y" * 13)

    async with streaming(app_of(produce, length=12), pair) as connect:
        client = connect()
        await client.get()
        head = await client.head()
        assert head.status == (200 if first == 12 else 500)
        body = await client.body(head)
        if first == 12:
            assert body == b"x" * 12
            assert await client.rest() == b""
    assert "longer than its length of 12" in str(errors(caplog)[0].exc_info)


@pytest.mark.parametrize("piece", [None, 5, ["a"]])
async def test_a_piece_of_another_type(piece: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A piece is bytes or str."""

    async def produce(write: Write) -> None:
        await write(piece)

    async with streaming(app_of(produce), memory_connection) as connect:
        client = connect()
        await client.get()
        assert (await client.reply())[0] == 500
    assert "bytes or str" in str(errors(caplog)[0].exc_info)


async def test_a_producer_is_async(caplog: pytest.LogCaptureFixture) -> None:
    """A plain function as producer is an error that says what to write."""

    def produce(write: Write) -> None: ...

    async with streaming(app_of(produce), memory_connection) as connect:
        client = connect()
        await client.get()
        assert (await client.reply())[0] == 500
    assert "async def produce(write)" in str(errors(caplog)[0].exc_info)


@each_stream
async def test_the_response_is_over(pair: StreamPair, nursery: trio.Nursery) -> None:
    """A piece that is written after the producer has returned is an error of the caller, and is not sent."""
    writes: list[Write] = []

    async def produce(write: Write) -> None:
        writes.append(write)
        await write(b"a")

    async with streaming(app_of(produce), pair) as connect:
        client = connect()
        await client.get()
        assert await client.reply() == (200, b"a")
        with pytest.raises(RuntimeError, match="over"):
            await writes[0](b"b")
        assert await is_alive(client)


@each_stream
async def test_an_error_page_may_be_streamed(pair: StreamPair) -> None:
    """The error handler may stream; if that fails as well, its status is sent without a body."""

    async def fail(write: Write) -> None:
        raise ZeroDivisionError

    def on_error(status: int, request: Request | None, exception: Exception | None) -> Response:
        return Response.stream(hello if status == 404 else fail, status=status)

    async with streaming(app_of(fail).with_error_handler(on_error), pair) as connect:
        client = connect()
        await client.get("/nowhere")
        assert await client.reply() == (404, "hello wörld".encode())
        await client.get()
        assert await client.reply() == (500, b"")
        await client.send(b"nonsense\r\n\r\n")
        assert await client.reply() == (500, b"")
        assert await client.rest() == b""


@each_stream
async def test_an_upgrade_may_be_refused_with_a_stream(pair: StreamPair) -> None:
    """A websocket route returns a streamed response, and the connection is kept alive."""

    async def refuse(upgrade: Upgrade, state: None) -> Response:
        return Response.stream(hello, status=403)

    async with streaming(app_of(hello).with_websocket_route("/ws", refuse), pair) as connect:
        client = connect()
        await client.send(request_bytes("GET /ws HTTP/1.1"))
        assert await client.reply() == (403, "hello wörld".encode())
        assert await is_alive(client)
