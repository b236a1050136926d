"""Clients that leave while their request is handled: the handler is cancelled, or finishes, and nothing blocks."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, Response, WhenLeft
from humphrey_trio.http import Request, Write
from humphrey_trio.layers import CallNext
from humphrey_trio.testing import MemoryStream, memory_connection
from tests.support.apps import StreamPair
from tests.support.clients import half_close
from tests.support.links import Link, listening, reset, tcp_of
from tests.support.logs import errors
from tests.support.streamed import StreamClient, each_stream, streaming
from tests.support.times import SWEEP, soon_after

Clock = trio.testing.MockClock


class Poll:
    """A handler that waits, and notes when it was called and how it ended."""

    def __init__(self, seconds: float = 1000) -> None:
        self.seconds = seconds
        self.began: list[float] = []
        self.ended: list[tuple[str, float]] = []
        self.begins, self.ends = trio.Event(), trio.Event()

    async def handle(self, request: Request) -> Response:
        self.began.append(trio.current_time())
        await self.wait()
        return Response(200, "done")

    async def stream(self, write: Write) -> None:
        self.began.append(trio.current_time())
        await write("begun")
        await self.wait()

    async def wait(self) -> None:
        self.begins.set()
        try:
            await trio.sleep(self.seconds)
        except trio.Cancelled:
            self.end("cancelled")
            raise
        self.end("finished")

    def end(self, how: str) -> None:
        self.ended.append((how, trio.current_time()))
        self.ends.set()

    def app(self, **settings: Any) -> App:
        return (
            App(**settings)
            .with_stateless_route("/", self.handle)
            .with_stateless_route("/stream", lambda _: Response.stream(self.stream))
            .with_stateless_route("/read", self.handle, stream=True)
            .with_stateless_route("/finish", self.handle, when_left=WhenLeft.FINISH)
            .with_stateless_route("/cancel", self.handle, when_left=WhenLeft.CANCEL)
        )


# ------------------------------------------------------------------------------------------- cancelling


@pytest.mark.parametrize("path", ["/", "/stream", "/read"])
@pytest.mark.parametrize("how", ["close", "half-close", "reset"])
async def test_a_client_that_leaves_cancels_its_handler(
    path: str, how: str, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """The next sweep cancels the handler or the producer, and the connection ends. That is no error."""
    poll = Poll()
    async with streaming(poll.app(), memory_connection) as connect:
        client = connect()
        await client.get(path)
        await trio.sleep(10)
        if how == "half-close":
            await half_close(client.stream)
        elif how == "reset":
            assert isinstance(client.stream, MemoryStream)
            client.stream.reset()
        else:
            await client.stream.aclose()
        left = trio.current_time()
        await trio.sleep(5)
        assert poll.ended == [("cancelled", soon_after(left))]
    assert errors(caplog) == []


@pytest.mark.parametrize(
    "head",
    [b"GET / HTTP/9.9\r\nHost: a\r\n\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n"],
    ids=["a malformed head", "a body that is too long"],
)
async def test_error_handler_for_an_invalid_request_is_cancelled(head: bytes, autojump_clock: Clock) -> None:
    """An error handler that waits is cancelled when the client of an invalid request leaves."""
    poll = Poll()

    async def error_page(status: int, request: Request | None, exception: Exception | None) -> Response:
        return await poll.handle(Request())

    async with streaming(poll.app().with_error_handler(error_page), memory_connection) as connect:
        client = connect()
        await client.stream.send_all(head)
        await trio.sleep(10)
        await client.stream.aclose()
        left = trio.current_time()
        await trio.sleep(5)
        assert poll.ended == [("cancelled", soon_after(left))]


@pytest.mark.parametrize("path", ["/", "/none"])
async def test_a_layer_is_cancelled(path: str, autojump_clock: Clock) -> None:
    """So is a layer, also around the response to a request that no route takes."""
    poll = Poll()

    async def layer(request: Request, state: None, call_next: CallNext) -> Response:
        return await poll.handle(request)

    async with streaming(poll.app().with_layer(layer), memory_connection) as connect:
        client = connect()
        await client.get(path)
        await trio.sleep(10)
        await client.stream.aclose()
        left = trio.current_time()
        await trio.sleep(5)
        assert poll.ended == [("cancelled", soon_after(left))]


@pytest.mark.parametrize("link", Link, ids=lambda link: link.value)
@pytest.mark.parametrize("how", ["close", "half-close", "reset", "end of file of TCP", "behind unread bytes"])
async def test_over_sockets(link: Link, how: str) -> None:
    """The same over TCP and TLS, also if unread bytes come before the end of file."""
    poll = Poll()
    async with listening(poll.app(), link) as address, await link.connect(address) as stream:
        client = StreamClient(stream)
        await client.get()
        await poll.begins.wait()
        if how == "half-close":
            await half_close(stream)
        elif how == "reset":
            reset(stream)
        elif how == "end of file of TCP":
            await tcp_of(stream).send_eof()
        else:
            if how == "behind unread bytes":
                await client.send(b"x" * 1000)
            await stream.aclose()
        await poll.ends.wait()
        assert poll.ended[0][0] == "cancelled"
        assert trio.current_time() - poll.began[0] < 5


async def test_without_hangup_events(monkeypatch: pytest.MonkeyPatch) -> None:
    """On systems whose ``poll`` has no event for it, an end of file is found if no unread bytes come before it."""
    monkeypatch.setattr("humphrey_trio._server._socket._HANGUP", 0)
    for leave in (half_close, trio.aclose_forcefully):
        poll = Poll()
        async with listening(poll.app()) as address, await Link.PLAIN.connect(address) as stream:
            await StreamClient(stream).get()
            await poll.begins.wait()
            await trio.sleep(3 * SWEEP)
            assert poll.ended == []
            await leave(stream)
            await poll.ends.wait()
            assert poll.ended[0][0] == "cancelled"


async def test_abandoned_polls_do_not_block_a_server() -> None:
    """At the limit of connections, connections whose clients have left make room for new ones."""
    poll = Poll()
    begun = trio.Event()

    async def handler(request: Request) -> Response:
        if len(poll.began) == 49:
            begun.set()
        return await poll.handle(request)

    app = App(max_connections=50).with_stateless_route("/", handler)
    app.with_stateless_route("/fine", lambda _: Response(200, "fine"))
    async with listening(app) as address:
        streams = [await Link.PLAIN.connect(address) for _ in range(50)]
        for stream in streams:
            await StreamClient(stream).get()
        await begun.wait()
        async with await Link.PLAIN.connect(address) as stream:
            client = StreamClient(stream)
            await client.get("/fine")
            for abandoned in streams:
                await abandoned.aclose()
            with trio.fail_after(10):
                assert await client.reply() == (200, b"fine")
        assert {how for how, _ in poll.ended} == {"cancelled"}


# --------------------------------------------------------------------------------------- not cancelling


async def test_a_quick_handler_answers_a_half_closed_client(autojump_clock: Clock) -> None:
    """A client that sends an end of file behind its request gets the answer of a quick handler."""
    poll = Poll(seconds=SWEEP - 0.01)
    async with streaming(poll.app(), memory_connection) as connect:
        for delay in range(10):
            await trio.sleep(delay / 40)
            for path, body in (("/", b"done"), ("/stream", b"begun")):
                client = connect()
                await client.get(path)
                await half_close(client.stream)
                assert await client.reply() == (200, body)
    assert {how for how, _ in poll.ended} == {"finished"}


async def test_quick_handlers_are_never_watched(autojump_clock: Clock) -> None:
    """Many quick handlers after another on one half-closed connection are all answered: each is timed alone."""
    poll = Poll(seconds=SWEEP * 0.6)
    async with streaming(poll.app(), memory_connection) as connect:
        client = connect()
        for _ in range(20):
            await client.get()
        await half_close(client.stream)
        for _ in range(20):
            assert await client.reply() == (200, b"done")
        assert await client.rest() == b""


async def test_a_client_that_stays(autojump_clock: Clock) -> None:
    """A client that waits, or sends further requests, is not cancelled."""
    poll = Poll(seconds=20)
    async with streaming(poll.app(), memory_connection) as connect:
        client = connect()
        await client.get()
        await trio.sleep(10)
        await client.get()
        assert await client.reply() == (200, b"done")
        assert await client.reply() == (200, b"done")


@each_stream
@pytest.mark.parametrize(("default", "path"), [(WhenLeft.FINISH, "/"), (WhenLeft.CANCEL, "/finish")])
async def test_a_handler_may_finish(
    pair: StreamPair, default: WhenLeft, path: str, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """With ``WhenLeft.FINISH`` of the app or of the route, the handler finishes."""
    poll = Poll(seconds=30)
    async with streaming(poll.app(when_left=default), pair) as connect:
        client = connect()
        await client.get(path)
        await trio.sleep(10)
        await client.stream.aclose()
        await trio.sleep(50)
        assert poll.ended == [("finished", poll.began[0] + 30)]
    assert errors(caplog) == []


async def test_a_route_may_cancel(autojump_clock: Clock) -> None:
    """The policy of a route replaces that of the app in both directions."""
    poll = Poll()
    async with streaming(poll.app(when_left=WhenLeft.FINISH), memory_connection) as connect:
        client = connect()
        await client.get("/cancel")
        await trio.sleep(10)
        await client.stream.aclose()
        await trio.sleep(10)
        assert poll.ended == [("cancelled", soon_after(poll.began[0] + 10))]


@pytest.mark.parametrize("path", ["/", "/finish"])
async def test_requests_behind_are_dropped(path: str, autojump_clock: Clock) -> None:
    """Requests behind the one whose client has left are not handled. One that finishes is still answered."""
    poll = Poll(seconds=10)
    async with streaming(poll.app(), memory_connection) as connect:
        client = connect()
        await client.get(path)
        await client.get(path)
        await client.get(path)
        await half_close(client.stream)
        received = await client.rest()
        await trio.sleep(50)
    assert len(poll.began) == 1
    if path == "/finish":
        assert received.count(b"HTTP/1.1 200") == 1
        assert b"Connection: close" in received
    else:
        assert received == b""


# ------------------------------------------------------------------------------------------- producers


@each_stream
async def test_a_producer_that_writes(
    pair: StreamPair, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A producer that writes to a client that has left gets a ``trio.BrokenResourceError``, or is cancelled."""
    ended: list[float] = []

    async def produce(write: Write) -> None:
        try:
            while True:
                await write("x")
                await trio.sleep(1)
        finally:
            ended.append(trio.current_time())

    async with streaming(App().with_stateless_route("/", lambda _: Response.stream(produce)), pair) as connect:
        client = connect()
        await client.get()
        await client.head()
        await trio.sleep(10)
        left = trio.current_time()
        await client.stream.aclose()
        await trio.sleep(10)
    assert ended
    assert ended[0] - left <= 1
    assert errors(caplog) == []


@each_stream
async def test_a_producer_with_a_nursery(
    pair: StreamPair, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A piece that cannot be sent, beside the cancellation because of it, is no error of the producer."""
    sent: list[float] = []

    async def produce(write: Write) -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.sleep_forever)
            while True:
                await write("x")
                sent.append(trio.current_time())
                await trio.sleep(0.05)

    async with streaming(App().with_stateless_route("/", lambda _: Response.stream(produce)), pair) as connect:
        client = connect()
        await client.get()
        await client.head()
        await client.stream.aclose()
        left = trio.current_time()
        await trio.sleep(10)
    assert sent[-1] - left <= 1
    assert errors(caplog) == []


@each_stream
async def test_a_producer_that_finishes(
    pair: StreamPair, autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """With ``WhenLeft.FINISH``, a producer notices at its next piece, and may go on without writing."""
    log: list[str] = []

    async def produce(write: Write) -> None:
        for _ in range(5):
            await trio.sleep(1)
            try:
                await write("x")
                log.append("sent")
            except trio.BrokenResourceError:
                log.append("left")
        await trio.sleep(20)
        log.append("end")

    app = App().with_stateless_route("/", lambda _: Response.stream(produce), when_left=WhenLeft.FINISH)
    async with streaming(app, pair) as connect:
        client = connect()
        await client.get()
        await trio.sleep(2.5)
        await client.stream.aclose()
        await trio.sleep(50)
    assert log == ["sent", "sent", "left", "left", "left", "end"]
    assert errors(caplog) == []


async def test_a_failure_after_the_client_has_left(
    autojump_clock: Clock, caplog: pytest.LogCaptureFixture
) -> None:
    """A handler that fails while it is cancelled is logged, as always."""

    async def handler(_: Request) -> Response:
        try:
            await trio.sleep_forever()
        finally:
            raise ZeroDivisionError

    async with streaming(App().with_stateless_route("/", handler), memory_connection) as connect:
        client = connect()
        await client.get()
        await trio.sleep(1)
        await client.stream.aclose()
        await trio.sleep(1)
    (record,) = errors(caplog)
    assert record.exc_info is not None
    assert record.exc_info[0] is ZeroDivisionError


async def test_a_departure_is_a_debug_line(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A departure is logged at level DEBUG."""
    caplog.set_level(logging.DEBUG, logger="humphrey_trio.http")
    async with streaming(Poll().app(), memory_connection) as connect:
        client = connect()
        await client.get()
        await trio.sleep(1)
        await client.stream.aclose()
        await trio.sleep(1)
    assert any("has ended while a request was handled" in record.getMessage() for record in caplog.records)
