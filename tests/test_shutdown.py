"""The graceful end: everybody who is served is told, what has begun is finished, and nobody can put it off."""

from __future__ import annotations

import itertools
import logging
import random
import resource
import socket
import textwrap
import threading
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Generator, Iterable, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing
from websockets.exceptions import ConnectionClosed as PeerClosed
from websockets.sync.client import connect as connect_peer

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    ConnectionClosed,
    Message,
    Request,
    Response,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio._http._drain import hard_stop_after
from humphrey_trio.http import Address, Drain, Timeouts
from humphrey_trio.testing import WebsocketClient, open_websocket
from humphrey_trio.websocket import CloseRecord, HandshakeError, Upgrade, WhenLeft
from tests.support import ANY_PORT, PATIENCE
from tests.support.apps import StreamPair
from tests.support.cancellation import INTERRUPTED, living_tasks, name_all, no_resource_warning, open_files, within
from tests.support.certificates import authority, server_context, trusting_in_threads, write_certificate
from tests.support.clients import RawClient, Reply
from tests.support.links import Link, each_link, is_refused, limit_send_buffers, memory_and_each_link
from tests.support.programs import assert_is_keyboard_interrupt_alone, running
from tests.support.steps import AtStep, at_step
from tests.support.times import SWEEP
from tests.support.wire import CLOSE, HANDSHAKE_FIELDS, TEXT, client_frame, close_frame, request_bytes

#: Bytes of a socket's buffers where little is to be held by the kernel.
SMALL = 8 * 1024

Clock = trio.testing.MockClock
AnyWebsocketApp = AsyncWebsocketApp[Any, Any]


# ------------------------------------------------------------------------------------ apps that are to end


class Run:
    """The run of an app that has to return by itself, and when it did."""

    def __init__(self) -> None:
        self.returned = trio.Event()
        self.at = inf

    async def __call__(
        self, run: Callable[..., Awaitable[None]], *args: Any, task_status: Any = trio.TASK_STATUS_IGNORED
    ) -> None:
        await run(*args, task_status=task_status)
        self.at = trio.current_time()
        self.returned.set()


class Stage:
    """An App and the WebSocket apps beside it while they run, and the connections of their clients."""

    def __init__(self, shutdown: trio.Event, connect: Callable[..., Awaitable[trio.abc.Stream]]) -> None:
        self._shutdown = shutdown
        self._connect = connect
        self._streams: list[trio.abc.Stream] = []
        self._begun = inf
        self.http = Run()
        self.websockets: list[Run] = []
        self.addresses: tuple[Address, ...] = ()

    async def connect(self, *args: Any) -> trio.abc.Stream:
        """A client's end of a new connection."""
        stream = await self._connect(*args)
        self._streams.append(stream)
        return stream

    async def raw(self) -> RawClient:
        """A client that sends any bytes."""
        return RawClient(await self.connect())

    async def open(self, path: str = "/ws") -> WebsocketClient:
        """A client with an open WebSocket."""
        return await open_websocket(await self.connect(), path)

    def end(self) -> None:
        """Begin the graceful end."""
        self._begun = trio.current_time()
        self._shutdown.set()

    def since(self, moment: float) -> float:
        """Seconds from the beginning of the end to a moment."""
        return moment - self._begun

    @property
    def now(self) -> float:
        """Seconds since the end began."""
        return self.since(trio.current_time())

    async def close(self) -> None:
        """Let all clients leave."""
        for stream in self._streams:
            await trio.aclose_forcefully(stream)


@asynccontextmanager
async def staged(
    shutdown: trio.Event,
    app: App[Any],
    websocket_apps: Iterable[AnyWebsocketApp],
    serve: Callable[..., Awaitable[None]],
    connect: Callable[..., Awaitable[trio.abc.Stream]],
    cancelled: Collection[object] = (),
) -> AsyncGenerator[Stage]:
    """Run apps, which have to return by themselves at the end of the block if the shutdown has begun.

    Args:
        shutdown: what ends them.
        app, websocket_apps: the apps.
        serve: runs ``app``.
        connect: makes a connection, and returns the client's end.
        cancelled: the apps that were not told of the shutdown. They are cancelled at the end of the block.
    """
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            stage = Stage(shutdown, connect)
            told = [] if app in cancelled else [stage.http]
            for websocket_app in websocket_apps:
                stage.websockets.append(run := Run())
                await nursery.start(run, websocket_app.run)
                told += [] if websocket_app in cancelled else [run]
            stage.addresses = await nursery.start(stage.http, serve)
            try:
                yield stage
                if shutdown.is_set():
                    for run in told:
                        await run.returned.wait()
            finally:
                await stage.close()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def in_memory(
    shutdown: trio.Event,
    app: App[Any],
    *websocket_apps: AnyWebsocketApp,
    stream_pair: StreamPair = trio.testing.memory_stream_pair,
    cancelled: Collection[object] = (),
) -> AsyncGenerator[Stage]:
    """Run an App on pairs of streams, and WebSocket apps beside it."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:

            async def connect() -> trio.abc.Stream:
                ours, theirs = stream_pair()
                nursery.start_soon(app.serve_stream, theirs)
                return ours

            serve = partial(app.run, ANY_PORT)
            async with staged(shutdown, app, websocket_apps, serve, connect, cancelled) as stage:
                yield stage


@asynccontextmanager
async def on_sockets(
    shutdown: trio.Event,
    app: App[Any],
    *websocket_apps: AnyWebsocketApp,
    addresses: Sequence[str] = (ANY_PORT,),
    link: Link = Link.PLAIN,
    buffer: int | None = None,
) -> AsyncGenerator[Stage]:
    """Run an App on sockets, whose buffers may have a size, and WebSocket apps beside it."""

    async def connect(number: int = 0) -> trio.abc.Stream:
        return await link.connect(stage.addresses[number], buffer=buffer)

    async with staged(shutdown, app, websocket_apps, partial(link.run(app), *addresses), connect) as stage:
        if buffer is not None:
            for address in stage.addresses:
                limit_send_buffers(address, buffer)
        yield stage


over_tls = partial(on_sockets, link=Link.TLS)


def linked(websocket_app: AnyWebsocketApp, **options: Any) -> App:
    """An App with a route to a WebSocket app."""
    return App(**options).with_websocket_route("/ws", async_websocket_handler(websocket_app.connect_hook()))


def linked_pair(
    shutdown: trio.Event,
    drain: Drain = Drain(),  # noqa: B008  (frozen)
    *,
    timeouts: Timeouts = Timeouts(),  # noqa: B008  (frozen)
    **options: Any,
) -> tuple[App, AnyWebsocketApp]:
    """A linked pair, both of which end with the same event."""
    websocket_app = AsyncWebsocketApp.new_unlinked(timeouts=timeouts, **options).with_shutdown(shutdown, drain)
    return linked(websocket_app, timeouts=timeouts).with_shutdown(shutdown, drain), websocket_app


class Farewell(NamedTuple):
    """What a client gets from now on, how it is closed, and when."""

    messages: list[str | None]
    code: int
    reason: str
    at: float


async def hear_out(client: WebsocketClient) -> Farewell:
    messages = []
    try:
        while True:
            messages.append((await client.receive()).text)
    except ConnectionClosed as closed:
        return Farewell(messages, closed.code, closed.reason, trio.current_time())


async def hear_close(client: RawClient) -> int:
    """The close code behind whatever comes first; the client answers it."""
    while (frame := await client.frame())[0] != CLOSE:
        pass
    code = int.from_bytes(frame[1][:2], "big")
    await client.send(close_frame(code))
    return code


async def hear_all_out(clients: Sequence[WebsocketClient]) -> list[Farewell]:
    """The farewells of clients, in their order."""
    farewells: dict[int, Farewell] = {}

    async def hear(number: int) -> None:
        farewells[number] = await hear_out(clients[number])

    async with trio.open_nursery() as nursery:
        for number in range(len(clients)):
            nursery.start_soon(hear, number)
    return [farewells[number] for number in range(len(clients))]


class Parted:
    """A disconnect handler that notes how each stream has ended."""

    def __init__(self) -> None:
        self.records: dict[int, CloseRecord | None] = {}

    async def __call__(self, stream: AsyncStream[Any], state: object) -> None:
        await trio.lowlevel.checkpoint()
        assert stream.id not in self.records
        self.records[stream.id] = stream.close_record

    @property
    def codes(self) -> list[int]:
        return [0 if record is None else record.code for record in self.records.values()]


def hello(_: Request) -> Response:
    return Response(200, "hello")


def get(path: str = "/", fields: Iterable[tuple[str, str]] = ()) -> bytes:
    return request_bytes(f"GET {path} HTTP/1.1", [("Host", "testserver"), *fields])


def assert_last(reply: Reply, status: int = 200) -> None:
    """That this is an answer behind which the connection ends, and says so."""
    assert (reply.status, reply.headers.get("Connection")) == (status, "close")


async def has_left(client: RawClient) -> bool:
    """Whether the server closes the connection without another byte, be it by a reset."""
    try:
        return await client.at_end()
    except trio.BrokenResourceError:
        return True


# ------------------------------------------------------------------------------------------------- values


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(
            ("code", code)
            for code in (0, 1000, 1002, 1005, 1006, 1011, 1015, 2999, 5000, 3000.5, 1001.0, "1001", None)
        ),
        *((name, value) for name in ("spread", "retry_after", "patience") for value in (-0.1, inf, nan, "1")),
        *((name, None) for name in ("spread", "patience")),
    ],
)
def test_drains_that_cannot_be(name: str, value: Any) -> None:
    """A Drain refuses codes that a server may not send, and times that are none, and says which."""
    with pytest.raises(ValueError, match=rf"^Drain\({name}="):
        Drain(**{name: value})


@pytest.mark.parametrize(
    ("seconds", "reason", "field"),
    [(None, "", "1"), (0, "retry-after=0", "1"), (2.5, "retry-after=2.5", "3"), (90, "retry-after=90", "90")],
)
@pytest.mark.parametrize("code", [1001, 1012, 1013, 3000, 4999])
def test_what_a_drain_says(code: int, seconds: float | None, reason: str, field: str) -> None:
    """A Drain says when to come back as it is in the close reason, and in whole seconds in Retry-After."""
    drain = Drain(code=code, retry_after=seconds)
    assert (drain.code, drain.reason, drain.retry_after_field) == (code, reason, field)


@pytest.mark.parametrize("seconds", [0, -1, nan])
def test_drain_times_that_cannot_be(seconds: float) -> None:
    """The hard deadline is above zero, and may be infinite."""
    with pytest.raises(ValueError, match=r"^Timeouts\(drain="):
        Timeouts(drain=seconds)
    assert Timeouts(drain=inf).drain == inf


@pytest.mark.parametrize("make", [App, AsyncWebsocketApp, AsyncWebsocketApp.new_unlinked])
def test_a_spread_beyond_the_deadline(make: Callable[..., App | AsyncWebsocketApp]) -> None:
    """Both apps refuse a spread that the hard deadline would cut off, and take the others."""
    app = make(timeouts=Timeouts(drain=10))
    with pytest.raises(ValueError, match=r"spread=10.*drain=10"):
        app.with_shutdown(trio.Event(), Drain(spread=10))
    assert app.with_shutdown(trio.Event(), Drain(spread=8)) is app


@pytest.mark.parametrize("make", [App, AsyncWebsocketApp, AsyncWebsocketApp.new_unlinked])
def test_an_event_of_somebody_else(make: Callable[..., App | AsyncWebsocketApp]) -> None:
    """Both apps refuse an event whose wait would block the thread."""
    event: Any = threading.Event()
    with pytest.raises(TypeError, match=r"takes a trio\.Event, not Event"):
        make().with_shutdown(event)


def test_half_of_the_time_is_grace() -> None:
    """However short the time is, a hard stop does not take more than half of it."""
    assert hard_stop_after(Timeouts(drain=30), 1.0) == 29
    assert hard_stop_after(Timeouts(drain=0.5), 1.0) == 0.25
    assert hard_stop_after(Timeouts(drain=inf, disconnect=inf), inf) == inf


async def test_a_tls_newcomer_in_the_backlog() -> None:
    """The same second goes to a silent one that was still waiting to be accepted."""
    shutdown = trio.Event()
    app = App().with_shutdown(shutdown).with_cert(server_context())
    with ExitStack() as stack, trio.fail_after(8):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(app.run_tls, ANY_PORT)
            stack.enter_context(socket.create_connection(("127.0.0.1", address.port or 0)))
            shutdown.set()


@pytest.mark.parametrize("drain", [None, 5])
@pytest.mark.parametrize("make", [App, AsyncWebsocketApp])
def test_what_is_no_drain(make: Callable[..., App | AsyncWebsocketApp], drain: Any) -> None:
    """Something else in the place of a Drain is refused when it is given."""
    with pytest.raises(TypeError, match="takes a Drain"):
        make().with_shutdown(trio.Event(), drain)


async def test_the_hard_stop_says_the_same(autojump_clock: Clock) -> None:
    """A client whose handler holds out until the hard stop gets the Drain's code and reason, too."""
    shutdown = trio.Event()
    drain = Drain(code=1012, retry_after=2, patience=60)
    app, websocket_app = linked_pair(shutdown, drain, timeouts=Timeouts(drain=10))
    websocket_app.with_message_handler(Slow(inf))
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.open()
        await client.send("a")
        await trio.testing.wait_all_tasks_blocked()
        stage.end()
        await trio.sleep(1)
        assert (await hear_out(client)).code == 1012
        await stage.websockets[0].returned.wait()


@pytest.mark.parametrize("when_left", list(WhenLeft))
async def test_no_handler_begins_for_a_parted_client(when_left: WhenLeft, autojump_clock: Clock) -> None:
    """The messages of a client that has left are not handled any more when the end has begun."""
    shutdown, handler = trio.Event(), Slow(3)
    app, websocket_app = linked_pair(shutdown, when_left=when_left)
    websocket_app.with_message_handler(handler)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.open()
        for number in range(12):
            await client.send(str(number))
        await trio.sleep(1)
        await client.close()
        began = trio.current_time()
        stage.end()
        await stage.websockets[0].returned.wait()
        assert trio.current_time() - began < 3


async def test_a_tls_newcomer_that_is_silent(autojump_clock: Clock) -> None:
    """One that has not even begun its TLS handshake gets a second at the end, instead of the handshake's ten."""
    shutdown = trio.Event()
    app = App().with_shutdown(shutdown).with_cert(server_context())
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(app.run_tls, ANY_PORT)
        async with await trio.open_tcp_stream("127.0.0.1", address.port or 0) as client:
            await trio.testing.wait_all_tasks_blocked(0.01)
            began = trio.current_time()
            shutdown.set()
            with suppress(trio.BrokenResourceError):
                assert await client.receive_some() == b""
            assert trio.current_time() - began == pytest.approx(1)


# -------------------------------------------------------------------- the WebSocket app: codes and messages

SAYINGS = [Drain(), Drain(code=1012, retry_after=2.5), Drain(code=4000, retry_after=30, spread=2)]


@pytest.mark.parametrize("drain", SAYINGS, ids=lambda drain: str(drain.code))
async def test_every_stream_is_closed(drain: Drain, autojump_clock: Clock) -> None:
    """Every stream is closed with the Drain's code and reason, and its disconnect handler runs once."""
    shutdown, parted = trio.Event(), Parted()
    websocket_app = AsyncWebsocketApp.new_unlinked().with_disconnect_handler(parted)
    websocket_app.with_shutdown(shutdown, drain)
    app = linked(websocket_app)
    async with in_memory(shutdown, app, websocket_app, cancelled=[app]) as stage:
        clients = [await stage.open() for _ in range(4)]
        stage.end()
        farewells = await hear_all_out(clients)
        assert [(farewell.code, farewell.reason) for farewell in farewells] == [(drain.code, drain.reason)] * 4
        await stage.websockets[0].returned.wait()
        assert stage.now <= drain.spread
    assert len(parted.records) == 4
    for record in parted.records.values():
        assert record is not None
        assert (record.initiator, record.code, record.reason) == ("server", drain.code, drain.reason)
        assert record.cause == "the server ends"
    assert websocket_app.statistics().connections == 0


QUEUED = [f"{number:04} {'x' * 1000}" for number in range(150)]


async def send_queued(stream: AsyncStream, state: None) -> None:
    for text in QUEUED:
        await stream.send(text)


async def test_what_was_queued_goes_out_first(autojump_clock: Clock) -> None:
    """A client that reads slowly gets all that was sent before the end, in order, then the Close."""
    shutdown = trio.Event()
    app, websocket_app = linked_pair(shutdown)
    websocket_app.with_connect_handler(send_queued)
    async with in_memory(shutdown, app, websocket_app, stream_pair=trio.testing.lockstep_stream_pair) as stage:
        client = await stage.open()
        await trio.testing.wait_all_tasks_blocked()
        assert websocket_app.statistics().queued_messages == len(QUEUED)
        stage.end()
        messages = []
        for _ in QUEUED:
            await trio.sleep(0.05)  # in the whole more than the close timeout
            messages.append((await client.receive()).text)
        farewell = await hear_out(client)
        assert messages == QUEUED
        assert (farewell.messages, farewell.code) == ([], 1001)
        await trio.aclose_forcefully(client.stream)


@each_link
async def test_what_was_queued_goes_out_first_over_sockets(link: Link) -> None:
    """The same holds over sockets, where the kernel's buffers are small."""
    shutdown = trio.Event()
    app, websocket_app = linked_pair(shutdown)
    websocket_app.with_connect_handler(send_queued)
    async with on_sockets(shutdown, app, websocket_app, link=link, buffer=SMALL) as stage:
        client = await stage.open()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert websocket_app.statistics().queued_messages > len(QUEUED) / 2
        stage.end()
        farewell = await hear_out(client)
        assert (farewell.messages, farewell.code) == (QUEUED, 1001)


async def test_the_closes_are_spread(autojump_clock: Clock) -> None:
    """The closes are spread evenly over the time that was set; who leaves before takes no one's moment."""
    shutdown = trio.Event()
    app, websocket_app = linked_pair(shutdown, Drain(spread=5))
    async with in_memory(shutdown, app, websocket_app) as stage:
        clients = [await stage.open() for _ in range(10)]
        stage.end()
        await clients[6].close()
        farewells = await hear_all_out(clients)
        moments = [round(stage.since(farewell.at), 6) for farewell in farewells]
        assert moments == [0, 0.5, 1, 1.5, 2, 2.5, 0, 3.5, 4, 4.5]
        assert [farewell.code for farewell in farewells] == [1001] * 6 + [1000] + [1001] * 3
        await stage.http.returned.wait()
        assert stage.now == pytest.approx(4.5)


# --------------------------------------------------------------------------- the WebSocket app: handlers


class Slow:
    """A handler that takes its time, answers, and notes how it ended."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self.began: list[str | None] = []
        self.ended = 0
        self.cancelled_at: list[float] = []

    async def __call__(self, stream: AsyncStream, message: Message | None, state: None = None) -> None:
        text = None if message is None else message.text
        self.began.append(text)
        try:
            await trio.sleep(self._seconds)
        except trio.Cancelled:
            self.cancelled_at.append(trio.current_time())
            raise
        with suppress(ConnectionClosed):
            await stream.send(f"{text} is answered")
        self.ended += 1


def attach(websocket_app: AnyWebsocketApp, handler: Slow, messages: Sequence[str]) -> None:
    """Let an app have a slow message handler; without messages it is the connect handler."""
    if messages:
        websocket_app.with_message_handler(handler)
    else:
        websocket_app.with_connect_handler(handler)


async def send_one_by_one(client: RawClient, messages: Sequence[str]) -> None:
    for message in messages:
        await client.send(client_frame(TEXT, message.encode()))
        await trio.testing.wait_all_tasks_blocked()


HANDLERS: Any = pytest.mark.parametrize(
    ("messages", "concurrency"),
    [(["a"], 1), (["a"], 3), (["a", "b"], 3), ([], 1), ([], 3)],
    ids=["one", "one of three", "two of three", "connect", "connect of three"],
)


@HANDLERS
async def test_a_handler_that_runs_may_answer(
    messages: list[str], concurrency: int, autojump_clock: Clock
) -> None:
    """A handler that runs has the patience of the Drain to answer; its stream is closed when it has ended."""
    shutdown, handler, parted = trio.Event(), Slow(2), Parted()
    app, websocket_app = linked_pair(shutdown, Drain(patience=4), concurrency=concurrency)
    attach(websocket_app.with_disconnect_handler(parted), handler, messages)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await (await stage.raw()).open("/ws")
        await send_one_by_one(client, messages)
        stage.end()
        answers = sorted([await client.frame() for _ in messages or [None]])
        assert answers == [(TEXT, f"{message} is answered".encode()) for message in messages or [None]]
        assert await hear_close(client) == 1001
        assert stage.now == pytest.approx(2)
    assert parted.codes == [1001]


@HANDLERS
@pytest.mark.parametrize("patience", [4, 0])
async def test_patience_has_an_end(
    messages: list[str], concurrency: int, patience: float, autojump_clock: Clock
) -> None:
    """Then the stream is closed, and when the client has answered, its handlers are cancelled."""
    shutdown, handler, parted = trio.Event(), Slow(inf), Parted()
    app, websocket_app = linked_pair(shutdown, Drain(patience=patience), concurrency=concurrency)
    attach(websocket_app.with_disconnect_handler(parted), handler, messages)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await (await stage.raw()).open("/ws")
        await send_one_by_one(client, messages)
        stage.end()
        assert await client.close_code() == 1001
        assert patience <= stage.now <= patience + SWEEP
        await trio.sleep(2)
        assert not handler.cancelled_at
        await client.send(close_frame(1001))
        assert await client.at_end()
        await stage.http.returned.wait()
        # At once, but for a reader that is there to hear the answer.
        assert stage.now <= patience + SWEEP + 2
        assert [stage.since(moment) for moment in handler.cancelled_at] == [stage.now] * len(handler.began)
        assert len(handler.began) == len(messages or [None])
    assert parted.codes == [1001]


async def test_a_handler_that_may_finish(autojump_clock: Clock) -> None:
    """With ``WhenLeft.FINISH`` the handlers go on behind the Close, and the app waits for them; tasks do not."""
    shutdown, handler, parted = trio.Event(), Slow(20), Parted()
    app, websocket_app = linked_pair(shutdown, Drain(patience=1), when_left=WhenLeft.FINISH)
    attach(websocket_app.with_disconnect_handler(parted), handler, ["a"])
    cancelled_at: list[float] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            cancelled_at.append(trio.current_time())

    async def start(stream: AsyncStream, state: None) -> None:
        stream.start_soon(work)

    websocket_app.with_connect_handler(start)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.open()
        await client.send("a")
        await trio.testing.wait_all_tasks_blocked()
        stage.end()
        assert stage.since((await hear_out(client)).at) <= 1 + SWEEP
        await stage.websockets[0].returned.wait()
        assert stage.now == pytest.approx(20)
        assert [stage.since(moment) <= 1 + SWEEP for moment in cancelled_at] == [True]
    assert (handler.ended, parted.codes) == (1, [1001])


@pytest.mark.parametrize(("concurrency", "begun"), [(1, 1), (2, 2)])
async def test_no_handler_begins(concurrency: int, begun: int, autojump_clock: Clock) -> None:
    """What was read ahead by then, and what still comes, goes to no handler, and is counted."""
    shutdown, handler, parted = trio.Event(), Slow(2), Parted()
    app, websocket_app = linked_pair(shutdown, concurrency=concurrency)
    attach(websocket_app.with_disconnect_handler(parted), handler, "abcdef")
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await (await stage.raw()).open("/ws")
        await send_one_by_one(client, "a")
        await trio.sleep(1)
        await send_one_by_one(client, "bcde")
        stage.end()
        await send_one_by_one(client, "f")
        assert await hear_close(client) == 1001
        assert stage.now == pytest.approx(1 if concurrency == 1 else 2)
    assert handler.began == list("abcdef")[:begun]
    assert handler.ended == begun
    (record,) = parted.records.values()
    assert record is not None
    assert (record.messages_received, record.unhandled) == (6, 6 - begun)


async def test_tasks_of_a_client_are_cancelled(autojump_clock: Clock) -> None:
    """Tasks of ``start_soon`` are cancelled when the client has answered, and have ended when it has parted."""
    shutdown = trio.Event()
    app, websocket_app = linked_pair(shutdown, Drain(patience=4))
    steps: list[str] = []

    async def work() -> None:
        try:
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True):
                await trio.sleep(1)
            steps.append("worked")

    async def start(stream: AsyncStream, state: None) -> None:
        stream.start_soon(work)
        stream.start_soon(work)

    async def disconnect(stream: AsyncStream, state: None) -> None:
        steps.append("parted")

    websocket_app.with_connect_handler(start).with_disconnect_handler(disconnect)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.open()
        stage.end()
        farewell = await hear_out(client)
        assert (farewell.code, stage.since(farewell.at)) == (1001, 0)
        await stage.websockets[0].returned.wait()
        assert stage.now == pytest.approx(1)
    assert steps == ["worked", "worked", "parted"]


@pytest.mark.parametrize("path", ["/ws", "/own"])
@pytest.mark.parametrize(
    ("deadline", "code", "at"), [(1, 4001, 1), (60, 1001, 6)], ids=["an earlier one", "a later one"]
)
async def test_deadlines_stay(
    path: str, deadline: float, code: int, at: float, monkeypatch: pytest.MonkeyPatch, autojump_clock: Clock
) -> None:
    """An end postpones no deadline of a stream, and no deadline postpones the end."""
    shutdown = trio.Event()

    async def message(stream: AsyncStream, message: Message, state: None) -> None:
        await hold(stream)

    async def own(stream: WebsocketStream, state: None) -> None:
        await hold(stream)

    async def hold(stream: AsyncStream | WebsocketStream) -> None:
        stream.set_deadline(deadline, 4001)
        await shutdown.wait()
        await trio.testing.wait_all_tasks_blocked()
        if deadline > at:
            stream.set_deadline(deadline, 4001)
        await trio.sleep_forever()

    monkeypatch.setattr(random, "uniform", lambda least, most: most)
    app, websocket_app = linked_pair(shutdown, Drain(spread=6, patience=6))
    app.with_websocket_route("/own", websocket_handler(own))
    websocket_app.with_message_handler(message)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.open(path)
        await client.send("hold")
        await trio.testing.wait_all_tasks_blocked()
        stage.end()
        farewell = await hear_out(client)
        assert farewell.code == code
        assert at <= stage.since(farewell.at) <= at + SWEEP


@pytest.mark.parametrize("call", ["close", "raise"])
@pytest.mark.parametrize("concurrency", [1, 2])
async def test_a_handler_that_closes_itself(call: str, concurrency: int, autojump_clock: Clock) -> None:
    """A handler that closes its stream, or fails, while the app waits for it decides the code."""
    shutdown = trio.Event()

    async def close_later(stream: AsyncStream, message: Message, state: None) -> None:
        await trio.sleep(1)
        if call == "raise":
            raise ValueError("as planned")
        await stream.close(4000)

    app, websocket_app = linked_pair(shutdown, concurrency=concurrency)
    websocket_app.with_message_handler(close_later)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.open()
        await client.send("text")
        await trio.testing.wait_all_tasks_blocked()
        stage.end()
        farewell = await hear_out(client)
        assert (farewell.code, stage.since(farewell.at)) == (4000 if call == "close" else 1011, pytest.approx(1))


# -------------------------------------------------------------------- the WebSocket app: who is on the way

BUSY = Drain(code=1012, retry_after=29.5)


async def test_streams_that_wait_in_the_hook(autojump_clock: Clock) -> None:
    """Streams that wait in the hook are closed with the same code and reason, and no handler hears of them."""
    shutdown, parted = trio.Event(), Parted()
    websocket_app = AsyncWebsocketApp.new_unlinked(max_connections=1).with_disconnect_handler(parted)
    app = linked(websocket_app.with_shutdown(shutdown, BUSY))
    async with in_memory(shutdown, app, websocket_app, cancelled=[app]) as stage:
        clients = [await stage.open() for _ in range(3)]
        assert websocket_app.statistics().waiting_in_hook == 2
        stage.end()
        farewells = await hear_all_out(clients)
        assert [(farewell.code, farewell.reason) for farewell in farewells] == [(1012, BUSY.reason)] * 3
    assert parted.codes == [1012]


@pytest.mark.parametrize("http_ends", [False, True])
async def test_streams_that_wait_for_a_place(http_ends: bool, autojump_clock: Clock) -> None:
    """A client that waits for a place in the hook gets a 503, at the latest when it has waited for that."""
    shutdown = trio.Event()
    websocket_app = AsyncWebsocketApp.new_unlinked(max_connections=1)
    app = linked(websocket_app)
    told = app if http_ends else websocket_app
    told.with_shutdown(shutdown, BUSY)
    async with in_memory(shutdown, app, websocket_app, cancelled={app, websocket_app} - {told}) as stage:
        clients = [await stage.open() for _ in range(65)]
        late = await stage.raw()
        await late.send(request_bytes("GET /ws HTTP/1.1"))
        await trio.testing.wait_all_tasks_blocked()
        assert websocket_app.statistics().waiting_for_hook == 1
        stage.end()
        reply = await late.reply()
        assert (reply.status, reply.headers.get("Retry-After")) == (503, "30" if http_ends else "1")
        assert (reply.headers.get("Connection") == "close") == http_ends
        assert stage.now <= http_ends
        assert {farewell.code for farewell in await hear_all_out(clients)} == {1012}


@pytest.mark.parametrize("http_ends", [False, True])
async def test_streams_in_the_moment_of_the_end(http_ends: bool, autojump_clock: Clock) -> None:
    """A stream that comes through the hook in the very moment of the end is closed with the same code."""
    for _ in range(20):
        shutdown, parted = trio.Event(), Parted()

        async def end(request: Request, state: None, shutdown: trio.Event = shutdown) -> None:
            shutdown.set()  # and no checkpoint from here to the 101

        websocket_app = AsyncWebsocketApp.new_unlinked().with_disconnect_handler(parted)
        route = async_websocket_handler(websocket_app.connect_hook(), accept=end)
        app = App().with_websocket_route("/ws", route)
        if http_ends:
            app.with_shutdown(shutdown, BUSY)
        websocket_app.with_shutdown(shutdown, BUSY)
        cancelled = [] if http_ends else [app]
        async with in_memory(shutdown, app, websocket_app, cancelled=cancelled) as stage:
            farewell = await hear_out(await stage.open())
            assert (farewell.code, farewell.reason) == (1012, BUSY.reason)
        assert parted.codes in ([], [1012])


# ------------------------------------------------------------------------------------- upgrades meanwhile


async def test_upgrades_behind_a_closed_hook(autojump_clock: Clock) -> None:
    """Where only the WebSocket app ends, upgrades get 503 with Retry-After from then on, and may try again."""
    shutdown = trio.Event()
    websocket_app = AsyncWebsocketApp.new_unlinked().with_shutdown(shutdown, Drain(spread=5))
    app = linked(websocket_app).with_stateless_route("/", hello)
    async with in_memory(shutdown, app, websocket_app, cancelled=[app]) as stage:
        clients = [await stage.open() for _ in range(2)]
        late = await stage.raw()
        stage.end()
        for _ in range(3):
            await trio.sleep(1)
            await late.send(request_bytes("GET /ws HTTP/1.1"))
            reply = await late.reply()
            assert (reply.status, reply.headers.get("Retry-After")) == (503, "1")
            assert "Connection" not in reply.headers
        await late.send(get())
        assert (await late.reply()).status == 200
        assert [stage.since(farewell.at) for farewell in await hear_all_out(clients)] == [3, 3]


class Upgrades:
    """Routes that take their time before they let a client in, until they are told to go on."""

    def __init__(self, hook: Any) -> None:
        self.go_on = trio.Event()
        self.refused: list[HandshakeError] = []
        self._hook_route = async_websocket_handler(hook)

    async def accept(self, request: Request, state: None) -> None:
        await self.go_on.wait()

    async def converse(self, stream: WebsocketStream, state: None) -> None:
        raise AssertionError("nobody is let in")

    async def own(self, upgrade: Upgrade, state: None) -> Response | None:
        await self.go_on.wait()
        try:
            await upgrade.accept()
        except HandshakeError as exc:
            self.refused.append(exc)
            raise
        raise AssertionError("nobody is let in")

    async def through_the_hook(self, upgrade: Upgrade, state: None) -> Response | None:
        await self.go_on.wait()
        return await self._hook_route(upgrade, state)


@pytest.mark.parametrize("path", ["/accept", "/accept-hook", "/own", "/through-the-hook"])
async def test_upgrades_that_are_being_decided(path: str, autojump_clock: Clock) -> None:
    """An upgrade that is let in when the server has begun to end gets the 503, and the time from the Drain."""
    shutdown = trio.Event()
    app, websocket_app = linked_pair(shutdown, BUSY)
    upgrades = Upgrades(websocket_app.connect_hook())
    app.with_websocket_route("/accept", websocket_handler(upgrades.converse, accept=upgrades.accept))
    hook_route = async_websocket_handler(websocket_app.connect_hook(), accept=upgrades.accept)
    app.with_websocket_route("/accept-hook", hook_route)
    app.with_websocket_route("/own", upgrades.own).with_websocket_route(
        "/through-the-hook", upgrades.through_the_hook
    )
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.raw()
        await client.send(request_bytes(f"GET {path} HTTP/1.1"))
        await trio.testing.wait_all_tasks_blocked()
        stage.end()
        await trio.sleep(3)
        assert not stage.http.returned.is_set()
        upgrades.go_on.set()
        reply = await client.reply()
        assert_last(reply, 503)
        assert reply.headers.get("Retry-After") == "30"
        assert await client.at_end()
        assert stage.now == pytest.approx(3)
    assert [exc.status for exc in upgrades.refused] == [503] * (path == "/own")


@pytest.mark.parametrize("served", [True, False], ids=["kept alive", "new"])
async def test_upgrades_on_a_connection_that_is_open(served: bool, autojump_clock: Clock) -> None:
    """The head of an upgrade that was on its way gets the 503, on a new connection and on one kept alive."""
    shutdown = trio.Event()
    app, websocket_app = linked_pair(shutdown, BUSY)
    app.with_stateless_route("/", hello)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.raw()
        if served:
            await client.send(get())
            assert (await client.reply()).status == 200
        head = request_bytes("GET /ws HTTP/1.1")
        await client.send(head[:20])
        await trio.testing.wait_all_tasks_blocked()
        stage.end()
        await trio.sleep(3)
        await client.send(head[20:])
        reply = await client.reply()
        assert_last(reply, 503)
        assert reply.headers.get("Retry-After") == "30"
        assert await client.at_end()


# ------------------------------------------------------------------------------------------- both apps


@each_link
@pytest.mark.parametrize("order", [1, -1])
async def test_the_nursery_of_both_ends(order: int, link: Link) -> None:
    """Both runs return, so that the nursery around them ends by itself, in whichever order they were started."""
    shutdown, parted = trio.Event(), Parted()
    app, websocket_app = linked_pair(shutdown)
    websocket_app.with_disconnect_handler(parted)
    runs = [partial(link.run(app), ANY_PORT), websocket_app.run][::order]
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (address,) = [address for run in runs for address in await nursery.start(run)]
            async with await link.connect(address) as stream:
                client = await open_websocket(stream, "/ws")
                shutdown.set()
                assert (await hear_out(client)).code == 1001
        assert not nursery.cancel_scope.cancelled_caught
    assert parted.codes == [1001]


@each_link
async def test_an_event_that_was_set_before(link: Link) -> None:
    """Apps whose event was set before they run return at once; who waits in the hook by then is closed."""
    shutdown, parted = trio.Event(), Parted()
    app, websocket_app = linked_pair(shutdown, BUSY)
    websocket_app.with_disconnect_handler(parted)
    inside = AsyncWebsocketApp().with_address(ANY_PORT).with_shutdown(shutdown)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (early,) = await nursery.start(link.run(linked(websocket_app)), ANY_PORT)
            async with await link.connect(early) as stream:
                client = await open_websocket(stream, "/ws")
                shutdown.set()
                async with trio.open_nursery() as ending:
                    ending.start_soon(websocket_app.run)
                    addresses = [*await ending.start(link.run(app), ANY_PORT), *await ending.start(inside.run)]
                    farewell = await hear_out(client)
            assert (farewell.code, farewell.reason) == (1012, BUSY.reason)
            assert [await is_refused(address) for address in addresses] == [True, True]
            nursery.cancel_scope.cancel()
    assert parted.codes in ([], [1012])


async def test_an_event_that_is_never_set(autojump_clock: Clock) -> None:
    """An event that is never set changes nothing: clients stay, and a cancelled app does not return."""
    shutdown = trio.Event()
    drain = Drain(code=1012, spread=1, retry_after=1, patience=1)
    app, websocket_app = linked_pair(shutdown, drain, timeouts=Timeouts(drain=3, idle=50))
    app.with_stateless_route("/", hello)
    websocket_app.with_message_handler(Slow(20))
    async with in_memory(shutdown, app, websocket_app) as stage:
        client, other = await stage.open(), await stage.raw()
        for _ in range(3):
            await client.send("text")
            await other.send(get())
            assert "Connection" not in (await other.reply()).headers
            assert (await client.receive()).text == "text is answered"
    assert not stage.http.returned.is_set()
    assert not stage.websockets[0].returned.is_set()


# ------------------------------------------------------------------------------ cancelled, and interrupted


class Recorded:
    """Handlers that note for which streams they began and ended; messages take a while, and there is a task."""

    def __init__(self) -> None:
        self.connected: list[int] = []
        self.parting: list[int] = []
        self.parted: list[int] = []

    async def connect(self, stream: AsyncStream, state: None) -> None:
        self.connected.append(stream.id)
        stream.start_soon(trio.sleep_forever)

    async def message(self, stream: AsyncStream, message: Message, state: None) -> None:
        await trio.sleep(0.3)
        await stream.send(message)

    async def disconnect(self, stream: AsyncStream, state: None) -> None:
        self.parting.append(stream.id)
        await trio.lowlevel.checkpoint()
        self.parted.append(stream.id)

    def attach(self, websocket_app: AnyWebsocketApp) -> AnyWebsocketApp:
        websocket_app.with_connect_handler(self.connect).with_message_handler(self.message)
        return websocket_app.with_disconnect_handler(self.disconnect)


async def serve_streams(
    app: App[Any], streams: Sequence[trio.abc.Stream], *, task_status: trio.TaskStatus[None]
) -> None:
    """Serve an app's connections in memory, until it has ended gracefully and they have."""
    async with trio.open_nursery() as nursery:
        await nursery.start(app.run, ANY_PORT)
        for stream in streams:
            nursery.start_soon(app.serve_stream, stream)
        task_status.started(None)


async def talk(stream: trio.abc.Stream, first: bytes, replies: list[bytes]) -> None:
    """A client's part while the server ends: what it gets goes to ``replies``, a Close is answered."""
    with suppress(*INTERRUPTED):
        await stream.send_all(first)
        data = b""
        while piece := await stream.receive_some():
            data += piece
            if b"\x88" in data and not replies:
                replies.append(data)
                await stream.send_all(close_frame(1001))
        replies.append(data)


async def end_and_cancel(link: Link | None, cancelled: set[str], step: int) -> bool:
    """End a pair while it is busy, and cancel some of it at a step; False if all had ended before that step."""
    files, tasks = open_files(), living_tasks()
    shutdown, recorded, released = trio.Event(), Recorded(), trio.Event()

    async def slow(request: Request) -> Response:
        await released.wait()
        return Response(200, "slow")

    app, websocket_app = linked_pair(shutdown, Drain(spread=0.2))
    recorded.attach(websocket_app)
    app.with_stateless_route("/", slow)
    scopes = {"http": trio.CancelScope(), "websocket": trio.CancelScope()}
    firsts = [
        request_bytes("GET /ws HTTP/1.1"),
        request_bytes("GET /ws HTTP/1.1") + client_frame(TEXT, b"a"),
        get(),
    ]
    replies: list[list[bytes]] = [[] for _ in firsts]
    pairs = [trio.testing.memory_stream_pair() for _ in firsts]
    streams: list[trio.abc.Stream] = [ours for ours, _ in pairs]
    with trio.fail_after(PATIENCE):
        # It has to end by itself, whatever was cancelled.
        async with trio.open_nursery() as nursery:
            await nursery.start(within, scopes["websocket"], websocket_app.run)
            if link is not None:
                (address,) = await nursery.start(within, scopes["http"], link.run(app), ANY_PORT)
                streams = [await link.connect(address) for _ in firsts]
            else:
                served = [theirs for _, theirs in pairs]
                await nursery.start(within, scopes["http"], serve_streams, app, served)
            async with trio.open_nursery() as clients:
                for stream, first, reply in zip(streams, firsts, replies, strict=True):
                    clients.start_soon(talk, stream, first, reply)
                await trio.testing.wait_all_tasks_blocked(0.001)
                cancel = AtStep(step + 1, lambda: [scopes[name].cancel() for name in cancelled])
                trio.lowlevel.add_instrument(cancel)
                shutdown.set()
                released.set()
            for stream in streams:
                await trio.aclose_forcefully(stream)
        trio.lowlevel.remove_instrument(cancel)
    assert sorted(recorded.parting) == sorted(recorded.parted) == sorted(recorded.connected)
    assert len(recorded.connected) == 2
    assert websocket_app.connect_hook().statistics().open_receive_channels == 0
    assert living_tasks() == tasks
    assert open_files() == files
    if not cancel.fired:
        idle, busy, http = (b"".join(reply) for reply in replies)
        assert idle.endswith(b"\x88\x02\x03\xe9")
        assert busy.endswith(b"\x81\x01a\x88\x02\x03\xe9")
        assert http.startswith(b"HTTP/1.1 200")
    return cancel.fired


@pytest.mark.parametrize("cancelled", [{"http"}, {"websocket"}, {"http", "websocket"}], ids=name_all)
@memory_and_each_link
async def test_cancelled_at_every_step_of_the_end(
    link: Link | None, cancelled: set[str], autojump_clock: Clock
) -> None:
    """Cancelled anywhere in a graceful end, a pair leaves no task, file or open hook; clients part once each."""
    step = 0
    with no_resource_warning():
        while await end_and_cancel(link, cancelled, step):
            step += 1
    assert step > 20


async def converse(stage: Stage) -> None:
    """Open a WebSocket, get an echo, and close."""
    with suppress(*INTERRUPTED):
        client = await stage.open()
        await client.send("a")
        with suppress(ConnectionClosed):
            assert (await client.receive()).text == "a"
        await client.close()
        assert client.close_code in (1000, 1001)


async def request_twice(stage: Stage, answers: list[Reply]) -> None:
    """Two requests on one connection; their answers go to ``answers``."""
    with suppress(*INTERRUPTED, EOFError):
        client = await stage.raw()
        for _ in range(2):
            await client.send(POST[:10])
            await trio.lowlevel.checkpoint()
            await client.send(POST[10:] + b"bo")
            await trio.lowlevel.checkpoint()
            await client.send(b"dy")
            answers.append(await client.reply())
            if answers[-1].headers.get("Connection") == "close":
                assert await client.at_end()
                break


@memory_and_each_link
async def test_ended_at_every_step(
    link: Link | None, caplog: pytest.LogCaptureFixture, autojump_clock: Clock
) -> None:
    """Whatever a pair is doing when the end begins, it returns soon, its clients part once each, nothing fails."""
    for step in itertools.count():
        shutdown, recorded, held = trio.Event(), Recorded(), Held()
        app, websocket_app = linked_pair(shutdown)
        recorded.attach(websocket_app)
        app.with_stateless_route("/", held)
        held.release.set()
        answers: list[Reply] = []
        make: Any = in_memory if link is None else partial(on_sockets, link=link)
        async with make(shutdown, app, websocket_app) as stage:
            with at_step(step + 1, stage.end) as end:
                async with trio.open_nursery() as clients:
                    clients.start_soon(converse, stage)
                    clients.start_soon(request_twice, stage, answers)
            await stage.close()
            if end.fired:
                await stage.http.returned.wait()
                await stage.websockets[0].returned.wait()
                assert stage.now < 2
        assert recorded.parting == recorded.parted == recorded.connected
        assert [answer.status for answer in answers] == [200] * len(held.paths)
        if not end.fired:
            break
    assert len(answers) == 2
    assert step > 20
    assert len(recorded.connected) == 1
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


INTERRUPTED_PROGRAM = """
    import sys
    import trio
    from humphrey_trio import App, AsyncWebsocketApp, async_websocket_handler
    from humphrey_trio.http import Drain

    async def main():
        shutdown = trio.Event()

        async def end(stream, message, state):
            shutdown.set()
            await trio.sleep_forever()

        async def disconnect(stream, state):
            print("parted", flush=True)

        websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(end)
        websocket_app.with_disconnect_handler(disconnect).with_shutdown(shutdown, Drain(patience=20))
        app = App().with_websocket_route("/ws", async_websocket_handler(websocket_app.connect_hook()))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(websocket_app.run)
            run = app.with_shutdown(shutdown).run
            if sys.argv[1:]:
                run = app.with_cert(sys.argv[1]).run_tls
            (address,) = await nursery.start(run, "127.0.0.1:0")
            print(address.port, flush=True)

    trio.run(main)
"""


@each_link
def test_ctrl_c_in_the_end(link: Link, tmp_path: Path) -> None:
    """Ctrl-C while a program ends gracefully ends it soon, with KeyboardInterrupt alone; its client sees 1001."""
    file = tmp_path / "program.py"
    file.write_text(textwrap.dedent(INTERRUPTED_PROGRAM))
    scheme, context, certificate = "ws", None, []
    if link is Link.TLS:
        scheme, context = "wss", trusting_in_threads(authority())
        certificate = [str(write_certificate(tmp_path))]
    with running(str(file), *certificate) as program:
        port = int(program.read_line())
        with connect_peer(f"{scheme}://127.0.0.1:{port}/ws", ssl=context, proxy=None) as client:
            client.send("end")
            give_up = time.monotonic() + PATIENCE
            with suppress(ConnectionRefusedError, ConnectionResetError):  # by then it ends
                while True:
                    socket.create_connection(("127.0.0.1", port)).close()
                    assert time.monotonic() < give_up, "the program still listens"
            ending = program.interrupt()
            assert_is_keyboard_interrupt_alone(ending.stderr)
            assert (ending.status, ending.stdout) == (1, "parted\n")
            with pytest.raises(PeerClosed) as caught:
                client.recv(timeout=PATIENCE)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1001


# ------------------------------------------------------------------------------- the HTTP app: newcomers


class Held:
    """A handler that answers when it is told to."""

    def __init__(self) -> None:
        self.release = trio.Event()
        self.paths: list[str] = []

    async def __call__(self, request: Request) -> Response:
        self.paths.append(request.path)
        await self.release.wait()
        return Response(200, "held")


async def test_nobody_is_accepted(tmp_path: Path) -> None:
    """From the end on no listener takes anybody, and the file of a Unix socket is gone, while requests run."""
    shutdown, held = trio.Event(), Held()
    app = App().with_stateless_route("/", held).with_shutdown(shutdown)
    file = tmp_path / "socket"
    async with on_sockets(shutdown, app, addresses=[ANY_PORT, ANY_PORT, f"unix:{file}"]) as stage:
        clients = [RawClient(await stage.connect(number)) for number in range(3)]
        for client in clients:
            await client.send(get())
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert file.exists()
        stage.end()
        await trio.testing.wait_all_tasks_blocked()
        assert [await is_refused(address) for address in stage.addresses] == [True] * 3
        assert not file.exists()
        assert not stage.http.returned.is_set()
        held.release.set()
        for client in clients:
            reply = await client.reply()
            assert_last(reply)
            assert reply.content == b"held"
            assert await client.at_end()


async def test_who_waits_in_the_backlog() -> None:
    """Those whom the kernel has connected by then are served once, however many they are."""
    shutdown = trio.Event()
    app = App().with_stateless_route("/", hello).with_shutdown(shutdown)
    async with on_sockets(shutdown, app) as stage:
        with ExitStack() as stack:
            (address,) = stage.addresses
            to = (address.host, address.port)
            socks = [stack.enter_context(socket.create_connection(to, PATIENCE)) for _ in range(200)]
            for sock in socks:
                sock.sendall(get())
            stage.end()  # no checkpoint since they came
            await stage.http.returned.wait()
            for sock in socks:
                answer = sock.recv(1000)
                assert answer.startswith(b"HTTP/1.1 200")
                assert b"\r\nConnection: close\r\n" in answer
                assert sock.recv(1) == b""


async def test_newcomers_in_the_moment_of_the_end() -> None:
    """Whoever connects in the very moment of the end does not disturb it."""
    for _ in range(20):
        shutdown = trio.Event()
        app = App().with_stateless_route("/", hello).with_shutdown(shutdown)
        async with on_sockets(shutdown, app) as stage:
            await trio.testing.wait_all_tasks_blocked()
            (address,) = stage.addresses
            with socket.create_connection((address.host, address.port)):
                stage.end()


async def test_who_waits_for_a_full_server() -> None:
    """At ``max_connections`` the end takes nobody from the backlog, and still comes."""
    shutdown, held = trio.Event(), Held()
    app = App(max_connections=1).with_stateless_route("*", held).with_shutdown(shutdown)
    async with on_sockets(shutdown, app) as stage:
        first = await stage.raw()
        await first.send(get("/first"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        second = await stage.raw()
        await second.send(get("/second"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        stage.end()
        await trio.testing.wait_all_tasks_blocked()
        held.release.set()
        assert_last(await first.reply())
        assert await has_left(second)
    assert held.paths == ["/first"]


@pytest.mark.parametrize("sent", [b"", b"GET / HTTP/1.1\r\n"], ids=["nothing", "a part"])
async def test_a_newcomer_that_is_silent(sent: bytes, autojump_clock: Clock) -> None:
    """A newcomer that has sent nothing gets about a second; one that has begun gets the time for a head."""
    shutdown = trio.Event()
    app = App(timeouts=Timeouts(header=10)).with_stateless_route("/", hello).with_shutdown(shutdown)
    async with in_memory(shutdown, app) as stage:
        client = await stage.raw()
        if sent:
            await client.send(sent)
        await trio.testing.wait_all_tasks_blocked()
        stage.end()
        if sent:
            assert_last(await client.reply(), 408)
        assert await client.at_end()
        assert (10 if sent else 1) <= stage.now <= (10 if sent else 1) + 2 * SWEEP


@pytest.mark.parametrize("seconds", [0, 5], ids=["at once", "with pauses"])
async def test_a_newcomer_that_sends_in_time(seconds: float, autojump_clock: Clock) -> None:
    """A newcomer whose request begins within the second is answered, also when the rest takes longer."""
    shutdown = trio.Event()
    app = App().with_stateless_route("/", hello).with_shutdown(shutdown)
    async with in_memory(shutdown, app) as stage:
        client = await stage.raw()
        await trio.testing.wait_all_tasks_blocked()
        stage.end()
        await trio.sleep(0.9)
        head = get()
        await client.send(head[:10])
        await trio.sleep(seconds)
        await client.send(head[10:])
        assert_last(await client.reply())
        assert await client.at_end()
        assert stage.now == pytest.approx(0.9 + seconds)


# --------------------------------------------------------------------- the HTTP app: requests that have begun

POST = request_bytes("POST / HTTP/1.1", [("Host", "testserver"), ("Content-Length", "4")])


@pytest.mark.parametrize("served", [0, 1], ids=["the first", "the second"])
@pytest.mark.parametrize(
    ("begun", "rest"),
    [(b"G", get()[1:]), (get()[:-2], get()[-2:]), (POST, b"body"), (POST + b"bod", b"y"), (get("/held"), b"")],
    ids=["a byte", "half a head", "no body", "half a body", "a handler"],
)
async def test_requests_that_have_begun(begun: bytes, rest: bytes, served: int, autojump_clock: Clock) -> None:
    """A request of which a byte has come is answered, and behind the answer the connection ends."""
    shutdown, held = trio.Event(), Held()
    app = App().with_stateless_route("/", hello).with_stateless_route("/held", held).with_shutdown(shutdown)
    async with in_memory(shutdown, app) as stage:
        client = await stage.raw()
        for _ in range(served):
            await client.send(get())
            assert "Connection" not in (await client.reply()).headers
        await client.send(begun)
        await trio.testing.wait_all_tasks_blocked()
        stage.end()
        await trio.sleep(5)
        held.release.set()
        if rest:
            await client.send(rest)
        assert_last(await client.reply())
        assert await client.at_end()
        await stage.http.returned.wait()
        assert stage.now == pytest.approx(5)


@pytest.mark.parametrize("begun", [0, 1000], ids=["before the first byte", "in the middle"])
async def test_a_client_that_reads_its_answer_slowly(begun: int, autojump_clock: Clock) -> None:
    """An answer that is being sent is sent to its end; then the connection ends, without a further request."""
    shutdown, body = trio.Event(), b"x" * 200_000
    app = App().with_stateless_route("/", lambda _: Response(200, body)).with_shutdown(shutdown)
    async with in_memory(shutdown, app, stream_pair=trio.testing.lockstep_stream_pair) as stage:
        client = await stage.connect()
        await client.send_all(get())
        await trio.testing.wait_all_tasks_blocked()
        answer = bytes(await client.receive_some(begun)) if begun else b""
        stage.end()
        while piece := await client.receive_some(10_000):
            answer += piece
            await trio.sleep(0.5)
        assert answer.endswith(b"\r\n\r\n" + body)
        await client.aclose()  # until then the server lingers
        await stage.http.returned.wait()
        assert stage.now < 15


async def test_pipelined_requests(autojump_clock: Clock) -> None:
    """Of requests that came together, the one that is being handled is answered, and none behind it is handled."""
    shutdown, held = trio.Event(), Held()
    app = App().with_stateless_route("*", held).with_shutdown(shutdown)
    async with in_memory(shutdown, app) as stage:
        client = await stage.raw()
        await client.send(get("/1") + get("/2") + get("/3"))
        await trio.testing.wait_all_tasks_blocked()
        stage.end()
        await trio.testing.wait_all_tasks_blocked()
        held.release.set()
        assert_last(await client.reply())
        assert await client.at_end()
    assert held.paths == ["/1"]


@pytest.mark.parametrize("size", [10, len(get())], ids=["a part", "the whole"])
@pytest.mark.parametrize("make", [in_memory, on_sockets, over_tls])
async def test_requests_in_the_moment_of_the_end(make: Any, size: int, autojump_clock: Clock) -> None:
    """A request that comes on a kept-alive connection in the very moment of the end is answered if it is handled.

    In memory it always is; a socket may be closed before its bytes are noticed.
    """
    handled = answered = 0

    def count(_: Request) -> Response:
        nonlocal handled
        handled += 1
        return Response(200)

    for _ in range(20):
        shutdown = trio.Event()
        app = App().with_stateless_route("/", count).with_shutdown(shutdown)
        async with make(shutdown, app) as stage:
            client = await stage.raw()
            await client.send(get())
            await client.reply()
            await trio.testing.wait_all_tasks_blocked()
            await client.send(get()[:size])
            stage.end()  # in the same pass of the scheduler
            try:
                if size < len(get()):
                    await trio.sleep(2)
                    await client.send(get()[size:])
                assert (await client.reply()).status == 200
                assert await client.at_end()
                answered += 1
            except (EOFError, trio.BrokenResourceError):
                assert make is not in_memory
    assert handled == 20 + answered
    assert answered > 0


@pytest.mark.parametrize("make", [in_memory, on_sockets, over_tls])
@pytest.mark.parametrize("path", ["/", "/unknown", "/ws"])
async def test_idle_connections(make: Any, path: str, autojump_clock: Clock) -> None:
    """Connections that wait for a further request are closed at once, those of a refused upgrade too."""
    shutdown = trio.Event()

    async def refuse(upgrade: Upgrade, state: None) -> Response | None:
        return Response(403)

    app = App().with_stateless_route("/", hello).with_websocket_route("/ws", refuse).with_shutdown(shutdown)
    async with make(shutdown, app) as stage:
        clients = [await stage.raw() for _ in range(3)]
        for client in clients:
            await client.send(get(path, HANDSHAKE_FIELDS[1:] if path == "/ws" else ()))
            assert (await client.reply()).headers.get("Connection") is None
        await trio.testing.wait_all_tasks_blocked()
        stage.end()
        for client in clients:
            assert await client.at_end()
        await stage.http.returned.wait()
        assert stage.now == 0


# ----------------------------------------------------------------------------- the HTTP app: its WebSockets


class Conversed:
    """A coroutine of ``websocket_handler`` that notes how each of its streams has ended."""

    def __init__(self) -> None:
        self.codes: list[int | None] = []

    async def __call__(self, stream: WebsocketStream, state: None) -> None:
        async for message in stream:
            await stream.send(message)
        self.codes.append(stream.close_code)


async def test_streams_of_own_coroutines(autojump_clock: Clock) -> None:
    """Streams of ``websocket_handler`` are closed at random moments of the spread, and their coroutines end."""
    shutdown, conversed = trio.Event(), Conversed()
    app = App().with_websocket_route("/ws", websocket_handler(conversed))
    app.with_shutdown(shutdown, Drain(code=1012, spread=20, retry_after=7))
    async with in_memory(shutdown, app) as stage:
        clients = [await stage.open() for _ in range(40)]
        stage.end()
        farewells = await hear_all_out(clients)
        assert {(farewell.code, farewell.reason) for farewell in farewells} == {(1012, "retry-after=7")}
        moments = [stage.since(farewell.at) for farewell in farewells]
        assert all(0 <= moment <= 20 + SWEEP for moment in moments)
        # Nobody can tell where each one is, but for less than one in a million million runs they are these.
        assert len(set(moments)) > 10
        assert min(moments) < 10 < max(moments)
        assert moments != sorted(moments)
        await stage.http.returned.wait()
        assert stage.now == max(moments)
    assert conversed.codes == [1012] * 40


async def test_own_coroutines_that_go_on(autojump_clock: Clock) -> None:
    """Without a spread they are closed at once; a coroutine that goes on has ``Timeouts.disconnect`` to end."""
    shutdown = trio.Event()

    async def go_on(stream: WebsocketStream, state: None) -> None:
        with pytest.raises(ConnectionClosed) as caught:
            await stream.receive()
        codes.append(caught.value.code)
        await trio.sleep_forever()

    codes: list[int] = []
    app = App(timeouts=Timeouts(disconnect=3)).with_websocket_route("/ws", websocket_handler(go_on))
    async with in_memory(shutdown, app.with_shutdown(shutdown)) as stage:
        client = await stage.open()
        stage.end()
        farewell = await hear_out(client)
        assert (farewell.code, stage.since(farewell.at)) == (1001, 0)
        await stage.http.returned.wait()
        assert stage.now == pytest.approx(3)
    assert codes == [1001]


@pytest.mark.parametrize("event", ["none", "another", "another that was set"])
async def test_streams_of_an_app_that_does_not_end(event: str, autojump_clock: Clock) -> None:
    """The HTTP app closes the streams of a linked app that has no shutdown, or another; that app goes on."""
    shutdown, other, parted = trio.Event(), trio.Event(), Parted()
    websocket_app = AsyncWebsocketApp.new_unlinked().with_disconnect_handler(parted)
    if event != "none":
        websocket_app.with_shutdown(other, Drain(code=4000, spread=20))
    app = linked(websocket_app).with_shutdown(shutdown, Drain(code=1012))
    async with in_memory(shutdown, app, websocket_app, cancelled=[websocket_app]) as stage:
        clients = [await stage.open() for _ in range(3)]
        if event == "another that was set":
            other.set()
            await trio.testing.wait_all_tasks_blocked()
        stage.end()
        farewells = await hear_all_out(clients)
        codes = [4000, 4000, 4000] if event == "another that was set" else [1012, 1012, 1012]
        assert [farewell.code for farewell in farewells] == codes
        assert (stage.now == 0) == (event != "another that was set")
        await stage.http.returned.wait()
        assert stage.websockets[0].returned.is_set() == (event == "another that was set")
    assert parted.codes == codes


async def test_streams_of_an_app_that_ends_too(autojump_clock: Clock) -> None:
    """Streams of a linked app with the same event are left to it: its codes, its spread, its patience."""
    shutdown, handler, parted = trio.Event(), Slow(3), Parted()
    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(handler)
    websocket_app.with_disconnect_handler(parted).with_shutdown(shutdown, Drain(code=4000, spread=10))
    app = linked(websocket_app).with_shutdown(shutdown, Drain(code=1012))
    async with in_memory(shutdown, app, websocket_app) as stage:
        clients = [await stage.open() for _ in range(5)]
        await clients[0].send("a")
        await trio.testing.wait_all_tasks_blocked()
        stage.end()
        farewells = await hear_all_out(clients)
        assert farewells[0].messages == ["a is answered"]
        assert [round(stage.since(farewell.at), 6) for farewell in farewells] == [3, 2, 4, 6, 8]
        assert [farewell.code for farewell in farewells] == [4000] * 5
        await stage.http.returned.wait()
        assert stage.now == pytest.approx(8)
    assert parted.codes == [4000] * 5


async def test_streams_that_nobody_takes(autojump_clock: Clock) -> None:
    """Streams in a channel of one's own, taken or not, are closed by the HTTP app."""
    shutdown = trio.Event()
    hook, incoming = trio.open_memory_channel[WebsocketStream](10)
    app = App().with_websocket_route("/ws", async_websocket_handler(hook)).with_shutdown(shutdown, BUSY)
    async with in_memory(shutdown, app) as stage:
        clients = [await stage.open() for _ in range(2)]
        taken = await incoming.receive()
        stage.end()
        farewells = await hear_all_out(clients)
        assert [(farewell.code, farewell.reason) for farewell in farewells] == [(1012, BUSY.reason)] * 2
        assert stage.now == 0
        assert taken.close_code == 1012


async def test_an_internally_linked_app(autojump_clock: Clock) -> None:
    """An internally linked app ends its own HTTP app with itself, and keeps its spread."""
    shutdown, parted = trio.Event(), Parted()
    websocket_app = AsyncWebsocketApp().with_address(ANY_PORT).with_disconnect_handler(parted)
    websocket_app.with_shutdown(shutdown, Drain(code=1012, spread=4, retry_after=9))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(websocket_app.run)
            streams = [await Link.PLAIN.connect(address) for _ in range(4)]
            clients = [await open_websocket(stream, "/anywhere") for stream in streams]
            late = RawClient(await Link.PLAIN.connect(address))
            began = trio.current_time()
            await trio.testing.wait_all_tasks_blocked(0.01)
            shutdown.set()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert await is_refused(address)
            await late.send(request_bytes("GET / HTTP/1.1"))
            reply = await late.reply()
            assert_last(reply, 503)
            assert reply.headers.get("Retry-After") == "9"
            farewells = await hear_all_out(clients)
            assert [(farewell.code, farewell.reason) for farewell in farewells] == [(1012, "retry-after=9")] * 4
            moments = [farewell.at - began for farewell in farewells]
            assert moments == pytest.approx([0, 1, 2, 3], abs=0.1)
            for stream in (*streams, late.stream):
                await trio.aclose_forcefully(stream)
    assert parted.codes == [1012] * 4


@each_link
async def test_two_runs_of_one_app(link: Link) -> None:
    """An App that runs twice at once ends both runs, with one event."""
    shutdown, held = trio.Event(), Held()
    app, websocket_app = linked_pair(shutdown)
    app.with_stateless_route("/", held)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(websocket_app.run)
            addresses = [(await nursery.start(link.run(app), ANY_PORT))[0] for _ in range(2)]
            streams = [await link.connect(address) for address in addresses * 2]
            clients = [await open_websocket(stream, "/ws") for stream in streams[:2]]
            others = [RawClient(stream) for stream in streams[2:]]
            for other in others:
                await other.send(get())
            await trio.testing.wait_all_tasks_blocked(0.01)
            shutdown.set()
            assert [farewell.code for farewell in await hear_all_out(clients)] == [1001] * 2
            assert [await is_refused(address) for address in addresses] == [True] * 2
            held.release.set()
            for other in others:
                assert_last(await other.reply())
            for stream in streams:
                await trio.aclose_forcefully(stream)


# ------------------------------------------------------------------------------------------- both links


@each_link
async def test_everything_over_sockets(link: Link, autojump_clock: Clock) -> None:
    """The same holds over sockets: answers that say close, Close frames, idle connections closed, and a return."""
    shutdown, held = trio.Event(), Held()
    app, websocket_app = linked_pair(shutdown, BUSY)
    app.with_stateless_route("/", hello).with_stateless_route("/held", held)
    async with on_sockets(shutdown, app, websocket_app, link=link) as stage:
        client, idle, busy = await stage.open(), await stage.raw(), await stage.raw()
        await idle.send(get())
        assert (await idle.reply()).status == 200
        await busy.send(get("/held"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        stage.end()
        assert await idle.at_end()
        farewell = await hear_out(client)
        assert (farewell.code, farewell.reason) == (1012, BUSY.reason)
        assert await is_refused(stage.addresses[0])
        assert not stage.http.returned.is_set()
        held.release.set()
        assert_last(await busy.reply())
        assert await busy.at_end()


# ---------------------------------------------------------------------------------------- the hard deadline

#: So large that no system takes it all from one who does not read.
FLOOD = bytes(2**24)


async def sleep_on(seconds: float = inf, *, shielded: float = 0) -> None:
    """Sleep; cancelled, go on for a moment all the same."""
    try:
        await trio.sleep(seconds)
    finally:
        with trio.CancelScope(shield=True):
            await trio.sleep(shielded)


class Obstacles:
    """Handlers that do what a client asks for, and a route for each of them."""

    def __init__(self, shutdown: trio.Event, timeouts: Timeouts, **options: Any) -> None:
        self.app, self.websocket_app = linked_pair(shutdown, timeouts=timeouts, **options)
        self.websocket_app.with_message_handler(self.message).with_disconnect_handler(self.disconnect)
        self.app.with_websocket_route("/own", websocket_handler(self.own))
        self.app.with_stateless_route("*", self.http)
        self.parting = 0

    async def message(self, stream: AsyncStream, message: Message, state: None) -> None:
        await self.do(message.text or "", stream)

    async def own(self, stream: WebsocketStream, state: None) -> None:
        async for message in stream:
            await self.do(message.text or "", stream)

    async def http(self, request: Request) -> Response:
        await self.do(request.path[1:])
        return Response(200, FLOOD)

    async def do(self, what: str, stream: Any = None) -> None:
        if what == "sleep":
            await sleep_on()
        elif what == "shield":
            await sleep_on(shielded=0.3)
        elif what == "task":
            stream.start_soon(partial(sleep_on, shielded=0.3))
        elif what == "flood" and stream is not None:
            await stream.send(FLOOD)
            await stream.send("never")

    async def disconnect(self, stream: AsyncStream, state: None) -> None:
        self.parting += 1
        await sleep_on()


Obstacle = Callable[[Stage, str], Awaitable[None]]


async def is_silent(stage: Stage, what: str) -> None:
    """A client that asks for something and reads no more."""
    client = await (await stage.raw()).open("/ws")
    await client.send(client_frame(TEXT, what.encode()))


async def is_silent_with_a_coroutine(stage: Stage, what: str) -> None:
    client = await (await stage.raw()).open("/own")
    await client.send(client_frame(TEXT, what.encode()))


async def is_silent_in_http(stage: Stage, what: str) -> None:
    await (await stage.raw()).send(get(f"/{what}"))


async def stops_in_the_middle(stage: Stage, what: str) -> None:
    await (await stage.raw()).send(POST[:-2])


OBSTACLES: Any = pytest.mark.parametrize(
    ("obstacle", "what"),
    [
        *((is_silent, what) for what in ("nothing", "flood", "sleep", "shield", "task")),
        *((is_silent_with_a_coroutine, what) for what in ("nothing", "flood", "sleep", "shield")),
        *((is_silent_in_http, what) for what in ("flood", "sleep", "shield")),
        (stops_in_the_middle, ""),
    ],
)

#: With them nothing but the end itself ends anything.
ENDLESS = Timeouts(drain=10, close=90, write=90, header=90, body=90)


@OBSTACLES
@each_link
async def test_the_hard_deadline(obstacle: Obstacle, what: str, link: Link, autojump_clock: Clock) -> None:
    """Whatever a client does, and whatever a handler waits for, both runs return by the hard deadline."""
    shutdown = trio.Event()
    obstacles = Obstacles(shutdown, ENDLESS)
    async with on_sockets(shutdown, obstacles.app, obstacles.websocket_app, link=link) as stage:
        bystander = await stage.raw()
        await bystander.send(get("/x")[:-2])
        await obstacle(stage, what)
        await trio.testing.wait_all_tasks_blocked(0.01)
        stage.end()
        await bystander.send(b"\r\n")
        assert (await bystander.stream.receive_some(12))[:12] == b"HTTP/1.1 200"
        await trio.aclose_forcefully(bystander.stream)
        await stage.http.returned.wait()
        await stage.websockets[0].returned.wait()
        assert 8 <= stage.now <= 10
    assert obstacles.parting == (obstacle is is_silent)


async def test_the_hard_deadline_of_an_internally_linked_app(autojump_clock: Clock) -> None:
    """The same holds for an app that has its HTTP app inside, whose client does not read its Close."""
    shutdown, handler = trio.Event(), Slow(inf)

    async def part(stream: AsyncStream, state: None) -> None:
        await trio.sleep_forever()

    websocket_app = AsyncWebsocketApp(timeouts=ENDLESS).with_address(ANY_PORT).with_message_handler(handler)
    websocket_app.with_disconnect_handler(part).with_shutdown(shutdown)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(websocket_app.run)
            client = await RawClient(await Link.PLAIN.connect(address)).open()
            await client.send(client_frame(TEXT, b"a"))
            await trio.testing.wait_all_tasks_blocked(0.01)
            began = trio.current_time()
            shutdown.set()
        assert 8 <= trio.current_time() - began <= 10
    await trio.aclose_forcefully(client.stream)
    assert len(handler.cancelled_at) == 1


@each_link
@pytest.mark.parametrize(
    ("size", "timeouts"),
    [(1, ENDLESS), (8192, Timeouts(drain=10))],
    ids=["a byte a second", "always in time for the other timeouts"],
)
async def test_a_client_that_reads_slowly(
    size: int, timeouts: Timeouts, link: Link, autojump_clock: Clock
) -> None:
    """A client that always makes a little progress does not put off the hard deadline."""
    shutdown = trio.Event()
    obstacles = Obstacles(shutdown, timeouts)
    async with on_sockets(shutdown, obstacles.app, obstacles.websocket_app, link=link, buffer=SMALL) as stage:
        client = await (await stage.raw()).open("/ws")
        await client.send(client_frame(TEXT, b"flood"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        read: list[bytes] = []

        async def read_slowly() -> None:
            with suppress(trio.BrokenResourceError):  # over TLS the hard deadline may cut off a record
                while True:
                    read.append(bytes(await client.stream.receive_some(size)))
                    await trio.sleep(1)

        async with trio.open_nursery() as nursery:
            stage.end()
            nursery.start_soon(read_slowly)
            await stage.http.returned.wait()
            await stage.websockets[0].returned.wait()
            assert 8 <= stage.now <= 10
            nursery.cancel_scope.cancel()
        assert sum(map(len, read)) > 7 * size
    assert obstacles.parting == 1


@pytest.mark.parametrize("seconds", [0, 9])
async def test_a_disconnect_handler_that_hangs(seconds: float, autojump_clock: Clock) -> None:
    """A disconnect handler that never ends has what tasks leave it until the hard deadline, and no more."""
    shutdown = trio.Event()
    obstacles = Obstacles(shutdown, ENDLESS)

    async def start(stream: AsyncStream, state: None) -> None:
        stream.start_soon(partial(sleep_on, shielded=seconds))

    obstacles.websocket_app.with_connect_handler(start)
    async with in_memory(shutdown, obstacles.app, obstacles.websocket_app) as stage:
        client = await stage.open()
        stage.end()
        assert (await hear_out(client)).code == 1001
        await stage.http.returned.wait()
        assert stage.now == 0
        await trio.sleep(seconds)
        await trio.testing.wait_all_tasks_blocked()
        assert obstacles.parting == 1
        await stage.websockets[0].returned.wait()
        assert stage.now == pytest.approx(10)


@pytest.mark.parametrize(("drain", "disconnect"), [(10, 60), (10, inf), (inf, inf)])
async def test_the_time_of_disconnect_handlers(drain: float, disconnect: float, autojump_clock: Clock) -> None:
    """However long disconnect handlers may take, the end leaves handlers their time, and comes in time."""
    shutdown, handler, steps = trio.Event(), Slow(2), []

    async def part(stream: AsyncStream, state: None) -> None:
        steps.append("began")
        await trio.sleep(20)
        steps.append("ended")

    app, websocket_app = linked_pair(shutdown, timeouts=Timeouts(drain=drain, disconnect=disconnect))
    websocket_app.with_message_handler(handler).with_disconnect_handler(part)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.open()
        await client.send("a")
        await trio.testing.wait_all_tasks_blocked()
        stage.end()
        farewell = await hear_out(client)
        assert (farewell.messages, farewell.code) == (["a is answered"], 1001)
        await stage.websockets[0].returned.wait()
        assert stage.now == pytest.approx(min(drain, 22))
    assert steps == (["began"] if drain == 10 else ["began", "ended"])


@pytest.mark.parametrize(("disconnect", "seconds"), [(0.5, 0.4), (60, 4.9)])
async def test_disconnect_handlers_at_the_hard_stop(
    disconnect: float, seconds: float, autojump_clock: Clock
) -> None:
    """What is cancelled at the hard stop has the time for its disconnect handlers, before the deadline."""
    shutdown, handler, parted = trio.Event(), Slow(inf), []

    async def part(stream: AsyncStream, state: None) -> None:
        await trio.sleep(seconds)
        parted.append(stream.id)

    timeouts = Timeouts(drain=10, disconnect=disconnect)
    app, websocket_app = linked_pair(shutdown, timeouts=timeouts, when_left=WhenLeft.FINISH)
    websocket_app.with_message_handler(handler).with_disconnect_handler(part)
    async with in_memory(shutdown, app, websocket_app) as stage:
        client = await stage.open()
        await client.send("a")
        await trio.testing.wait_all_tasks_blocked()
        stage.end()
        assert (await hear_out(client)).code == 1001
        await stage.websockets[0].returned.wait()
        assert stage.now == pytest.approx(9.9)
    assert len(handler.cancelled_at) == len(parted) == 1


async def test_the_hard_deadline_in_real_time() -> None:
    """In real time, with clients that never read, over sockets and TLS, and handlers that never end."""
    shutdown, timeouts = trio.Event(), replace(ENDLESS, drain=2)
    obstacles, tls_obstacles = Obstacles(shutdown, timeouts), Obstacles(shutdown, timeouts)
    async with (
        on_sockets(shutdown, obstacles.app, obstacles.websocket_app) as stage,
        over_tls(shutdown, tls_obstacles.app, tls_obstacles.websocket_app) as tls_stage,
    ):
        for place in (stage, tls_stage):
            for what in ("flood", "sleep"):
                for obstacle in (is_silent, is_silent_with_a_coroutine, is_silent_in_http):
                    await obstacle(place, what)
        await trio.testing.wait_all_tasks_blocked(0.1)
        began = time.monotonic()
        stage.end()
        for place in (stage, tls_stage):
            await place.http.returned.wait()
            await place.websockets[0].returned.wait()
        assert 0.5 < time.monotonic() - began < 2 + 3  # what a busy machine may add


# ------------------------------------------------------------------------------------ a thousand connections

THOUSAND, DEAF = 1000, 10
NEWS = [f"news {number} {'x' * 8000}" for number in range(8)]


@contextmanager
def enough_files(count: int) -> Generator[None]:
    """Let the process have so many files open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(count, hard)), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def end_many(
    stage: Stage, websocket_app: AnyWebsocketApp, streams: Sequence[AsyncStream[Any]], count: int = THOUSAND
) -> dict[int, float]:
    """Open many connections, send all the news, and end; when each of those that read was closed."""
    clients = [await (await stage.raw()).open("/ws") for _ in range(count)]
    deaf = set(range(0, count, count // DEAF))
    while websocket_app.statistics().connections < count:  # a stream is taken a moment after its 101
        await trio.testing.wait_all_tasks_blocked()
    await trio.testing.wait_all_tasks_blocked(0.01)
    assert len(streams) == count
    for text in NEWS:
        await websocket_app.sender().broadcast(text)
    assert all(stream.statistics().queued_messages > len(NEWS) / 4 for stream in streams)
    closed_at: dict[int, float] = {}

    async def hear(number: int, client: RawClient) -> None:
        for text in NEWS:
            assert await client.frame() == (TEXT, text.encode())
        assert await client.frame() == (CLOSE, (1012).to_bytes(2, "big") + b"retry-after=2")
        closed_at[number] = stage.now
        await client.send(close_frame(1012))
        assert await has_left(client)

    async with trio.open_nursery() as nursery:
        for number, client in enumerate(clients):
            if number not in deaf:
                nursery.start_soon(hear, number, client)
        stage.end()
    assert len(closed_at) == count - DEAF
    await stage.http.returned.wait()
    await stage.websockets[0].returned.wait()
    return closed_at


def thousand(
    shutdown: trio.Event, spread: float, timeouts: Timeouts
) -> tuple[App, AnyWebsocketApp, Parted, list[Any]]:
    app, websocket_app = linked_pair(shutdown, Drain(code=1012, spread=spread, retry_after=2), timeouts=timeouts)
    parted, streams = Parted(), list[Any]()

    async def note(stream: AsyncStream[Any], state: Any) -> None:
        streams.append(stream)

    return app, websocket_app.with_connect_handler(note).with_disconnect_handler(parted), parted, streams


async def test_a_thousand_connections(autojump_clock: Clock) -> None:
    """Of a thousand clients the 990 that read get all that was queued and their code, each at its moment.

    Ten never read; the whole ends within the hard deadline, and a disconnect handler runs for each of them.
    """
    shutdown = trio.Event()
    app, websocket_app, parted, streams = thousand(shutdown, 10, Timeouts())
    async with in_memory(shutdown, app, websocket_app, stream_pair=trio.testing.lockstep_stream_pair) as stage:
        moments = await end_many(stage, websocket_app, streams)
        for number, moment in moments.items():
            assert moment == pytest.approx(10 * number / THOUSAND)
        assert stage.now < 10 + 5 + 2 * SWEEP  # the close timeout of the last that does not read
    assert len(parted.records) == THOUSAND
    assert set(parted.codes) == {1012}
    assert websocket_app.statistics().slow_closes == DEAF


@pytest.mark.parametrize(("link", "count"), [(Link.PLAIN, THOUSAND), (Link.TLS, 200)], ids=["plain", "tls"])
async def test_many_connections_over_sockets(link: Link, count: int) -> None:
    """The same holds over sockets, in real time."""
    shutdown = trio.Event()
    app, websocket_app, parted, streams = thousand(shutdown, 1, Timeouts(close=4, drain=20))
    with enough_files(2 * count + 200):
        async with on_sockets(shutdown, app, websocket_app, link=link, buffer=SMALL) as stage:
            moments = await end_many(stage, websocket_app, streams, count)
            assert stage.now < 15
            # One that is late may be so because the machine is busy; an early one would be a mistake.
            assert all(moment >= number / count for number, moment in moments.items())
    assert len(parted.records) == count
    assert set(parted.codes) == {1012}
    assert websocket_app.statistics().slow_closes == DEAF
