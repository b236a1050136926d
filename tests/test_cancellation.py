"""Cancelling either app, or both, at every step of an exchange: whatever it interrupts, nothing is left behind."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import warnings
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import pytest
import trio
import trio.testing
from helpers import Link, TlsStream, open_websocket

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    ConnectionClosed,
    Message,
    Response,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio._server._transport import StreamTransport
from humphrey_trio.http import Address
from humphrey_trio.testing import WebsocketClient
from humphrey_trio.websocket import HandshakeError, Upgrade

#: Seconds within which everything has ended that was cancelled; generous, because nothing waits for them.
PATIENCE = 10

Run = Callable[..., Awaitable[None]]
Connect = Callable[[], Awaitable[trio.abc.Stream]]
Talk = Callable[[WebsocketClient], Awaitable[None]]

#: What a client may meet whose server is cancelled, apart from a Close: no listener, a reset, a 503.
INTERRUPTED = (OSError, trio.BrokenResourceError, HandshakeError, ConnectionClosed)


class CancelAt(trio.abc.Instrument):
    """Cancels scopes before the n-th step that any task makes from now on."""

    def __init__(self, step: int, scopes: list[trio.CancelScope]) -> None:
        self._left = step
        self._scopes = scopes
        self.fired = False

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        if self._left == 0:
            self.fired = True
            for scope in self._scopes:
                scope.cancel()
        self._left -= 1


class Handlers:
    """Handlers that note for which streams they began and ended, each with a checkpoint in between."""

    def __init__(self) -> None:
        self.connected: list[int] = []
        self.parting: list[int] = []
        self.parted: list[int] = []

    async def connect(self, stream: AsyncStream[None], state: None) -> None:
        self.connected.append(stream.id)
        await trio.lowlevel.checkpoint()

    async def message(self, stream: AsyncStream[None], message: Message, state: None) -> None:
        await trio.sleep(2 if message.text == "sleep" else 0)
        await stream.broadcast(message)

    async def disconnect(self, stream: AsyncStream[None], state: None) -> None:
        self.parting.append(stream.id)
        await trio.lowlevel.checkpoint()
        self.parted.append(stream.id)

    def attach(self, websocket_app: AsyncWebsocketApp) -> AsyncWebsocketApp:
        return (
            websocket_app.with_connect_handler(self.connect)
            .with_message_handler(self.message)
            .with_disconnect_handler(self.disconnect)
        )


def living_tasks() -> int:
    return trio.lowlevel.current_statistics().tasks_living


def open_files() -> int:
    return len(os.listdir("/dev/fd"))


@contextlib.contextmanager
def no_resource_warning() -> Generator[None]:
    """Nothing is left to the garbage collector that should have been closed."""
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


async def within(scope: trio.CancelScope, run: Run, *args: object, task_status: trio.TaskStatus[Any]) -> None:
    with scope:
        await run(*args, task_status=task_status)


async def talk_to(connect: Connect, talk: Talk) -> bool:
    """A client's part of an exchange, from connect to close; whether it came to its end undisturbed."""
    with trio.fail_after(PATIENCE):
        try:
            async with await connect() as stream:
                client = await open_websocket(stream)
                await talk(client)
                await client.close()
                if client.close_code == 1000:
                    return True  # behind the server's end of file
                # A cancelled write over a foreign stream may have left half a frame, so that no Close may follow.
                assert client.close_code == 1001 or not isinstance(stream, trio.SocketStream | TlsStream)
        except INTERRUPTED:
            pass
    return False


async def exchange(
    apps: dict[str, tuple[Run, tuple[object, ...]]],
    connect: Callable[[dict[str, Any]], Connect],
    talk: Talk,
    cancelled: set[str],
    step: int,
) -> bool:
    """Run apps and an exchange with them, cancel some at a step; False if the exchange ended before that step."""
    files, tasks = open_files(), living_tasks()
    scopes = {name: trio.CancelScope() for name in apps}
    started: dict[str, Any] = {}
    own_tasks: dict[str, int] = {}
    async with trio.open_nursery() as nursery:
        for name, (run, args) in apps.items():
            before = living_tasks()
            started[name] = await nursery.start(within, scopes[name], run, *args)
            own_tasks[name] = living_tasks() - before
        cancel = CancelAt(step, [scopes[name] for name in cancelled])
        trio.lowlevel.add_instrument(cancel)
        try:
            undisturbed = await talk_to(connect(started), talk)
        finally:
            trio.lowlevel.remove_instrument(cancel)
        assert undisturbed or cancel.fired

        survivors = set(apps) - (cancelled if cancel.fired else set())
        expected = tasks + sum(own_tasks[name] for name in survivors)
        with trio.fail_after(PATIENCE):
            while living_tasks() != expected:
                await trio.testing.wait_all_tasks_blocked(0.001)
        nursery.cancel_scope.cancel()
    assert living_tasks() == tasks
    assert open_files() == files
    return cancel.fired


async def cancel_at_every_step(
    make: Callable[
        [Handlers], tuple[dict[str, tuple[Run, tuple[object, ...]]], Callable[[dict[str, Any]], Connect]]
    ],
    talk: Talk,
    cancelled: set[str],
) -> None:
    """An exchange for each of its steps, with a cancellation there, and a last one without."""
    with no_resource_warning():
        for step in itertools.count():
            handlers = Handlers()
            apps, connect = make(handlers)
            fired = await exchange(apps, connect, talk, cancelled, step)
            assert handlers.parting == handlers.parted == handlers.connected
            assert len(handlers.connected) <= 1
            if not fired:
                break
    # It was not over before it began.
    assert step > 20
    assert len(handlers.connected) == 1


# -------------------------------------------------------------------------------------- what is cancelled


def linked_pair(handlers: Handlers) -> tuple[App, AsyncWebsocketApp]:
    websocket_app = handlers.attach(AsyncWebsocketApp.new_unlinked())
    return App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook())), websocket_app


async def serve_stream(app: App, stream: trio.abc.Stream, *, task_status: trio.TaskStatus[None]) -> None:
    """Serve an app's one connection in memory."""
    async with trio.open_nursery() as nursery:
        server = app._server()
        await nursery.start(server.run)
        task_status.started()
        await server.serve(StreamTransport(stream, Address("memory")))


def in_memory(handlers: Handlers) -> Any:
    app, websocket_app = linked_pair(handlers)
    ours, theirs = trio.testing.memory_stream_pair()

    async def connect() -> trio.abc.Stream:
        return ours

    return {"http": (serve_stream, (app, theirs)), "websocket": (websocket_app.run, ())}, lambda started: connect


def connect_to(name: str, link: Link = Link.PLAIN) -> Callable[[dict[str, Any]], Connect]:
    """Connections to where the app of that name listens."""

    def connect_to_started(started: dict[str, Any]) -> Connect:
        async def connect() -> trio.abc.Stream:
            (address,) = started[name]
            return await link.connect(address)

        return connect

    return connect_to_started


def over_sockets(handlers: Handlers, link: Link = Link.PLAIN) -> Any:
    app, websocket_app = linked_pair(handlers)
    apps = {"http": (link.run(app), ("127.0.0.1:0",)), "websocket": (websocket_app.run, ())}
    return apps, connect_to("http", link)


def over_tls(handlers: Handlers) -> Any:
    return over_sockets(handlers, Link.TLS)


def by_own_route(handlers: Handlers, link: Link = Link.PLAIN) -> Any:
    websocket_app = handlers.attach(AsyncWebsocketApp.new_unlinked())
    hook_route = async_websocket_handler(websocket_app.connect_hook())

    async def route(upgrade: Upgrade, state: None) -> Response | None:
        await trio.lowlevel.checkpoint()
        return await hook_route(upgrade, state)

    app = App().with_websocket_route("/", route)
    apps = {"http": (link.run(app), ("127.0.0.1:0",)), "websocket": (websocket_app.run, ())}
    return apps, connect_to("http", link)


def by_own_route_over_tls(handlers: Handlers) -> Any:
    return by_own_route(handlers, Link.TLS)


def internally_linked(handlers: Handlers) -> Any:
    websocket_app = handlers.attach(AsyncWebsocketApp().with_address("127.0.0.1:0"))
    return {"websocket": (websocket_app.run, ())}, connect_to("websocket")


def own_coroutine(handlers: Handlers, link: Link = Link.PLAIN) -> Any:
    async def converse(stream: WebsocketStream, state: None) -> None:
        handlers.connected.append(stream.id)
        try:
            async for message in stream:
                await stream.send(message)
        finally:
            handlers.parting.append(stream.id)
            handlers.parted.append(stream.id)

    app = App().with_websocket_route("/", websocket_handler(converse))
    return {"http": (link.run(app), ("127.0.0.1:0",))}, connect_to("http", link)


def own_coroutine_over_tls(handlers: Handlers) -> Any:
    return own_coroutine(handlers, Link.TLS)


async def echo(client: WebsocketClient) -> None:
    await client.send("hello")
    assert (await client.receive()).text == "hello"


async def echo_slowly(client: WebsocketClient) -> None:
    await client.send("sleep")
    await client.ping()
    await client.send("behind")
    assert [(await client.receive()).text for _ in range(2)] == ["sleep", "behind"]


BOTH = [{"http"}, {"websocket"}, {"http", "websocket"}]


def name_all(names: set[str]) -> str:
    return "+".join(sorted(names))


# ------------------------------------------------------------------------------------------------- tests


@pytest.mark.parametrize("cancelled", BOTH, ids=name_all)
@pytest.mark.parametrize("make", [in_memory, over_sockets, over_tls, by_own_route, by_own_route_over_tls])
async def test_cancelled_at_every_step(make: Any, cancelled: set[str]) -> None:
    """Cancelled anywhere in connect, echo and close, a pair leaves no task or file, and disconnects once."""
    await cancel_at_every_step(make, echo, cancelled)


@pytest.mark.parametrize(
    ("make", "name"),
    [(internally_linked, "websocket"), (own_coroutine, "http"), (own_coroutine_over_tls, "http")],
)
async def test_single_app_cancelled_at_every_step(make: Any, name: str) -> None:
    """The same holds for an app that has its peer inside, and for one whose route runs a coroutine."""
    await cancel_at_every_step(make, echo, {name})


@pytest.mark.parametrize("cancelled", BOTH, ids=name_all)
async def test_cancelled_at_every_step_of_a_slow_handler(
    cancelled: set[str], autojump_clock: trio.testing.MockClock
) -> None:
    """The same holds while a handler is slow and its client's messages are read ahead."""
    await cancel_at_every_step(in_memory, echo_slowly, cancelled)
