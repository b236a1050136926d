"""A drain that is cancelled or interrupted, and a drain that begins at every step of an exchange."""

from __future__ import annotations

import itertools
import logging
import socket
import textwrap
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from websockets.exceptions import ConnectionClosed as PeerClosed
from websockets.sync.client import connect as connect_peer

from humphrey_trio import App, AsyncStream, ConnectionClosed, Message, Request, Response
from humphrey_trio.http import Drain
from tests.support import ANY_PORT, PATIENCE
from tests.support.cancellation import (
    INTERRUPTED,
    Handlers,
    living_tasks,
    name_all,
    no_resource_warning,
    open_files,
    within,
)
from tests.support.certificates import authority, trusting_in_threads, write_certificate
from tests.support.clients import Reply
from tests.support.drain_clients import POST, get
from tests.support.drain_handlers import Held
from tests.support.draining import Clock, Stage, in_memory, linked_pair, on_sockets
from tests.support.links import Link, each_link, memory_and_each_link
from tests.support.programs import assert_is_keyboard_interrupt_alone, running
from tests.support.steps import AtStep, at_step
from tests.support.wire import TEXT, client_frame, close_frame, request_bytes


class BusyHandlers(Handlers):
    """Handlers that record which streams they ran for. Each stream has a task, and messages take 0.3 seconds."""

    async def connect(self, stream: AsyncStream, state: None) -> None:
        self.connected.append(stream.id)
        stream.start_soon(trio.sleep_forever)

    async def message(self, stream: AsyncStream, message: Message, state: None) -> None:
        await trio.sleep(0.3)
        await stream.send(message)


async def serve_streams(
    app: App[Any], streams: Sequence[trio.abc.Stream], *, task_status: trio.TaskStatus[None]
) -> None:
    """Serve an app's connections in memory until the app and the connections have ended."""
    async with trio.open_nursery() as nursery:
        await nursery.start(app.run, ANY_PORT)
        for stream in streams:
            nursery.start_soon(app.serve_stream, stream)
        task_status.started(None)


async def talk(stream: trio.abc.Stream, first: bytes, replies: list[bytes]) -> None:
    """Send ``first``, append the received bytes to ``replies``, and answer a Close frame."""
    with suppress(*INTERRUPTED):
        await stream.send_all(first)
        data = b""
        while piece := await stream.receive_some():
            data += piece
            if b"\x88" in data and not replies:
                replies.append(data)
                await stream.send_all(close_frame(1001))
        replies.append(data)


async def drain_and_cancel(link: Link | None, cancelled: set[str], step: int) -> bool:
    """Drain a busy pair, and cancel apps at a step. Returns False if the drain ended before that step."""
    files, tasks = open_files(), living_tasks()
    shutdown, recorded, released = trio.Event(), BusyHandlers(), trio.Event()

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
        # The nursery has to end by itself, whichever app was cancelled.
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
    assert sorted(recorded.disconnecting) == sorted(recorded.disconnected) == sorted(recorded.connected)
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
async def test_drain_cancelled_at_every_step(
    link: Link | None, cancelled: set[str], autojump_clock: Clock
) -> None:
    """A drain that is cancelled at any step leaves no task, file or open hook, and disconnects clients once."""
    step = 0
    with no_resource_warning():
        while await drain_and_cancel(link, cancelled, step):
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
    """Send two requests on one connection, and append the replies to ``answers``."""
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
async def test_drain_begins_at_every_step(
    link: Link | None, caplog: pytest.LogCaptureFixture, autojump_clock: Clock
) -> None:
    """A drain that begins at any step ends soon, disconnects each client once, and logs no warning."""
    for step in itertools.count():
        shutdown, recorded, held = trio.Event(), BusyHandlers(), Held()
        app, websocket_app = linked_pair(shutdown)
        recorded.attach(websocket_app)
        app.with_stateless_route("/", held)
        held.release.set()
        answers: list[Reply] = []
        make: Any = in_memory if link is None else partial(on_sockets, link=link)
        async with make(shutdown, app, websocket_app) as stage:
            with at_step(step + 1, stage.drain) as drain:
                async with trio.open_nursery() as clients:
                    clients.start_soon(converse, stage)
                    clients.start_soon(request_twice, stage, answers)
            await stage.close()
            if drain.fired:
                await stage.http.returned.wait()
                await stage.websockets[0].returned.wait()
                assert stage.now < 2
        assert recorded.disconnecting == recorded.disconnected == recorded.connected
        assert [answer.status for answer in answers] == [200] * len(held.paths)
        if not drain.fired:
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
            print("disconnected", flush=True)

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
def test_ctrl_c_in_a_drain(link: Link, tmp_path: Path) -> None:
    """Ctrl-C during a drain ends the program with KeyboardInterrupt alone; the client gets 1001."""
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
            with suppress(
                ConnectionRefusedError, ConnectionResetError
            ):  # the listener is closed when the program drains
                while True:
                    socket.create_connection(("127.0.0.1", port)).close()
                    assert time.monotonic() < give_up, "the program still listens"
            ending = program.interrupt()
            assert_is_keyboard_interrupt_alone(ending.stderr)
            assert (ending.status, ending.stdout) == (1, "disconnected\n")
            with pytest.raises(PeerClosed) as caught:
                client.recv(timeout=PATIENCE)
            assert caught.value.rcvd is not None
            assert caught.value.rcvd.code == 1001
