"""An exchange that is cancelled at every step, and checks that it leaves no task, file or unfinished handler."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import warnings
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import trio
import trio.testing

from humphrey_trio import App, AsyncStream, AsyncWebsocketApp, ConnectionClosed, Message
from humphrey_trio.testing import MemoryStream, WebsocketClient, open_websocket
from humphrey_trio.websocket import HandshakeError

from . import ANY_PORT
from .clients import ReceivingClient
from .links import TlsStream
from .steps import at_step

#: Seconds within which everything has ended that was cancelled; generous, because nothing waits for them.
PATIENCE = 10

Run = Callable[..., Awaitable[None]]
Connect = Callable[[], Awaitable[trio.abc.Stream]]
Talk = Callable[[WebsocketClient], Awaitable[None]]

#: The exceptions of a client whose server is cancelled: no listener, a reset, a 503, or no Close frame.
INTERRUPTED = (OSError, trio.BrokenResourceError, HandshakeError, ConnectionClosed)


class Handlers:
    """Handlers that record for which streams they began and ended, each with a checkpoint in between."""

    def __init__(self) -> None:
        self.connected: list[int] = []
        self.disconnecting: list[int] = []
        self.disconnected: list[int] = []

    async def connect(self, stream: AsyncStream[None], state: None) -> None:
        self.connected.append(stream.id)
        await trio.lowlevel.checkpoint()

    async def message(self, stream: AsyncStream[None], message: Message, state: None) -> None:
        await trio.sleep(2 if message.text == "sleep" else 0)
        await stream.broadcast(message)

    async def disconnect(self, stream: AsyncStream[None], state: None) -> None:
        self.disconnecting.append(stream.id)
        await trio.lowlevel.checkpoint()
        self.disconnected.append(stream.id)

    def attach(self, websocket_app: AsyncWebsocketApp) -> AsyncWebsocketApp:
        return (
            websocket_app.with_connect_handler(self.connect)
            .with_message_handler(self.message)
            .with_disconnect_handler(self.disconnect)
        )


def living_tasks() -> int:
    """The number of tasks of this run of trio."""
    return trio.lowlevel.current_statistics().tasks_living


def open_files() -> set[str]:
    """The file descriptors of this process."""
    return set(os.listdir("/dev/fd"))


async def all_ended(tasks: int) -> None:
    """Wait until only so many tasks are left."""
    with trio.fail_after(PATIENCE):
        while living_tasks() != tasks:
            await trio.testing.wait_all_tasks_blocked(0.001)


async def all_closed(files: set[str]) -> None:
    """Wait until only these files are open. A worker thread may still be reading a file that was closed.

    They need not be open any more: one of them may be that of a thread that a test before has abandoned.
    """
    with trio.fail_after(PATIENCE):
        while not open_files() <= files:  # noqa: ASYNC110  (no event tells)
            await trio.sleep(0.001)


async def talk_until(
    step: int,
    who: str,
    server: trio.CancelScope,
    client: ReceivingClient,
    stream: trio.abc.Stream,
    data: list[bytes],
) -> bool:
    """Let a client talk over a stream, and cut the exchange off at a step.

    Args:
        step: 0 for before the first step.
        who: ``"server"`` cancels the scope of the server, ``"client"`` closes the stream, which is in memory.
        server: the scope of the server.
        client, stream, data: what talks, where, and what it sends.

    Returns:
        Whether the exchange was not over before that step.
    """

    def cut() -> None:
        if who == "server":
            server.cancel()
        else:
            assert isinstance(stream, MemoryStream)
            stream.close()

    with at_step(step + 1, cut) as cancel:
        async with stream:
            await client.talk(stream, data)
    return cancel.fired


@contextlib.contextmanager
def no_resource_warning() -> Generator[None]:
    """Assert that the block leaves nothing to the garbage collector that should have been closed."""
    gc.collect()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        yield
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


async def within(scope: trio.CancelScope, run: Run, *args: object, task_status: trio.TaskStatus[Any]) -> None:
    """Run an app in a cancel scope."""
    with scope:
        await run(*args, task_status=task_status)


async def talk_to(connect: Connect, talk: Talk) -> bool:
    """Do the client's part of an exchange, from connect to close. Returns whether nothing interrupted it."""
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
    """Run apps and an exchange with them, and cancel some of the apps at a step.

    Args:
        apps: the function that runs each app, and its arguments, by the name of the app.
        connect: makes a client's connection, from what ``nursery.start`` has returned for each app.
        talk: what the client does between its handshake and its close.
        cancelled: the names of the apps that are cancelled.
        step: 0 for before the first step.

    Returns:
        Whether the exchange was not over before that step.
    """
    files, tasks = open_files(), living_tasks()
    scopes = {name: trio.CancelScope() for name in apps}
    started: dict[str, Any] = {}
    own_tasks: dict[str, int] = {}
    async with trio.open_nursery() as nursery:
        for name, (run, args) in apps.items():
            before = living_tasks()
            started[name] = await nursery.start(within, scopes[name], run, *args)
            own_tasks[name] = living_tasks() - before
        with at_step(step + 1, lambda: [scopes[name].cancel() for name in cancelled]) as cancel:
            undisturbed = await talk_to(connect(started), talk)
        assert undisturbed or cancel.fired

        survivors = set(apps) - (cancelled if cancel.fired else set())
        await all_ended(tasks + sum(own_tasks[name] for name in survivors))
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
    """Repeat an exchange with a cancellation at each of its steps. The last one is not cancelled.

    Args:
        make: makes the arguments ``apps`` and ``connect`` of ``exchange``.
        talk, cancelled: as for ``exchange``.
    """
    with no_resource_warning():
        for step in itertools.count():
            handlers = Handlers()
            apps, connect = make(handlers)
            fired = await exchange(apps, connect, talk, cancelled, step)
            assert handlers.disconnecting == handlers.disconnected == handlers.connected
            assert len(handlers.connected) <= 1
            if not fired:
                break
    # It was not over before it began.
    assert step > 20
    assert len(handlers.connected) == 1


async def serve_stream(app: App, stream: trio.abc.Stream, *, task_status: trio.TaskStatus[None]) -> None:
    """Run an app, and serve one connection of it in memory."""
    async with trio.open_nursery() as nursery:
        await nursery.start(app.run, ANY_PORT)
        task_status.started()
        await app.serve_stream(stream)


#: The apps of a linked pair that are cancelled.
BOTH = [{"http"}, {"websocket"}, {"http", "websocket"}]


def name_all(names: set[str]) -> str:
    """The name of a test that cancels these apps."""
    return "+".join(sorted(names))


async def echo(client: WebsocketClient) -> None:
    """Send a message, and receive it again."""
    await client.send("hello")
    assert (await client.receive()).text == "hello"
