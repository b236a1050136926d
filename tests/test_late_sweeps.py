"""Deadlines when the process itself was held up: bytes that have arrived in the meantime count."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Heartbeat,
    Request,
    Response,
    Timeouts,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.websocket import WebsocketStream
from tests.support import ANY_PORT, PATIENCE
from tests.support.certificates import server_context
from tests.support.clients import RawClient
from tests.support.links import Link, TlsStream, each_link, tcp_of
from tests.support.programs import running
from tests.support.wire import BINARY, PING, PONG, client_frame, close_frame

Clock = trio.testing.MockClock

#: The number of attempts of each case, because the scheduler runs the tasks of one pass in a random order.
TRIES = 8

#: Seconds for which the process is held up: longer than any timeout.
HELD_UP = 200.0

#: Seconds of virtual time between two sweeps of a process that is not held up.
STEP = 0.25


@asynccontextmanager
async def serving(
    app: App[Any], *websocket_apps: AsyncWebsocketApp[Any, Any], link: Link = Link.PLAIN
) -> AsyncGenerator[Callable[[], Awaitable[RawClient]]]:
    """Serve an app on a socket and its WebSocket apps. Yields a function that connects a client."""
    with trio.move_on_after(PATIENCE * 100):
        async with trio.open_nursery() as nursery:
            for websocket_app in websocket_apps:
                await nursery.start(websocket_app.run)
            (address,) = await nursery.start(link.run(app), ANY_PORT)
            streams: list[trio.abc.Stream] = []

            async def connect() -> RawClient:
                streams.append(await link.connect(address))
                return RawClient(streams[-1])

            try:
                yield connect
            finally:
                for stream in streams:
                    await trio.aclose_forcefully(stream)
            nursery.cancel_scope.cancel()


async def settle() -> None:
    """Let the server read what was sent."""
    await trio.testing.wait_all_tasks_blocked(0.01)


async def pass_time(clock: Clock, seconds: float) -> None:
    """Let virtual time pass in small steps, as in a process that is not held up."""
    for _ in range(int(seconds / STEP)):
        clock.jump(STEP)
        await trio.testing.wait_all_tasks_blocked()


async def size(request: Request) -> Response:
    return Response(200, str(len(request.content)))


def http_app() -> App:
    return App().with_stateless_route("/", size)


GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 50000\r\n\r\n"


def send_and_hold_up(client: RawClient, data: bytes, clock: Clock) -> None:
    """Send bytes to the kernel, and let the process of the server run after every deadline has passed."""
    if isinstance(client.stream, TlsStream):
        data = client.stream.encrypt(data)
    assert os.write(tcp_of(client.stream).socket.fileno(), data) == len(data)
    clock.jump(HELD_UP)


@each_link
@pytest.mark.parametrize(
    ("first", "second", "status"),
    [(b"", GET, 200), (GET[:10], GET[10:], 200), (POST, bytes(50_000), 200)],
    ids=["the first head", "half a head", "a body"],
)
async def test_request_that_arrived_during_a_delay(
    first: bytes, second: bytes, status: int, link: Link, mock_clock: Clock
) -> None:
    """The deadlines of heads and bodies do not fire before bytes that arrived while the process was held up."""
    async with serving(http_app(), link=link) as connect:
        for _ in range(TRIES):
            client = await connect()
            await client.send(first or b"\r\n")
            await settle()
            send_and_hold_up(client, second, mock_clock)
            assert (await client.reply()).status == status


@each_link
async def test_idle_timeout_after_a_delay(link: Link, mock_clock: Clock) -> None:
    """The idle timeout does not fire before a request that arrived while the process was held up."""
    async with serving(http_app(), link=link) as connect:
        client = await connect()
        for _ in range(TRIES):
            await client.send(GET)
            assert (await client.reply()).status == 200
            await settle()
            send_and_hold_up(client, GET, mock_clock)
            assert (await client.reply()).status == 200


@each_link
async def test_delay_in_the_pass_of_a_sweep(link: Link, mock_clock: Clock) -> None:
    """The same holds if a task blocks in the pass of the scheduler in which the deadlines are checked."""
    async with serving(http_app(), link=link) as connect:
        begun = trio.current_time()  # the sweep is due a whole number of steps later
        for _ in range(TRIES):
            client = await connect()
            await client.send(GET)
            assert (await client.reply()).status == 200
            await settle()

            async def block(client: RawClient, moment: float) -> None:
                await trio.sleep_until(moment)
                send_and_hold_up(client, GET, mock_clock)

            steps = (trio.current_time() - begun) // STEP + 1
            async with trio.open_nursery() as nursery:
                nursery.start_soon(block, client, begun + steps * STEP)
                await settle()
                mock_clock.jump(STEP)
            assert (await client.reply()).status == 200
            begun = trio.current_time()
            await settle()


@each_link
async def test_write_timeout_after_a_delay(link: Link, mock_clock: Clock) -> None:
    """The write timeout does not fire for a client that read while the process was held up."""
    app = App().with_stateless_route("/", lambda _: Response(200, bytes(20_000_000)))
    async with serving(app, link=link) as connect:
        client = await connect()
        await client.send(GET)
        await settle()
        for _ in range(TRIES):
            assert len(await client.stream.receive_some(1_000_000)) > 0
            mock_clock.jump(HELD_UP)
            await settle()
        received = 0
        while received < 10_000_000:
            received += len(await client.stream.receive_some(1_000_000))


def heartbeat_pair() -> tuple[App, AsyncWebsocketApp]:
    websocket_app = AsyncWebsocketApp.new_unlinked().with_heartbeat(Heartbeat(interval=5, timeout=5))
    return App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook())), websocket_app


@each_link
async def test_heartbeat_after_a_delay(link: Link, mock_clock: Clock) -> None:
    """The heartbeat does not cut off a client whose pong arrived while the process was held up."""
    app, websocket_app = heartbeat_pair()
    async with serving(app, websocket_app, link=link) as connect:
        client = await (await connect()).open()
        for _ in range(TRIES):
            await pass_time(mock_clock, 6)
            opcode, payload = await client.frame()
            assert opcode == PING
            send_and_hold_up(client, client_frame(PONG, payload), mock_clock)
            await settle()
        assert websocket_app.statistics().connections == 1


@each_link
async def test_heartbeat_of_a_silent_client_with_delays(link: Link, mock_clock: Clock) -> None:
    """A client that answers nothing is cut off, even if the process is held up repeatedly."""
    app, websocket_app = heartbeat_pair()
    async with serving(app, websocket_app, link=link) as connect:
        client = await (await connect()).open()
        for _ in range(60):
            mock_clock.jump(1)
            await trio.testing.wait_all_tasks_blocked()
        assert (await client.frame())[0] == PING
        with pytest.raises((EOFError, trio.BrokenResourceError)):
            await client.frame()
        assert websocket_app.statistics().connections == 0


@each_link
async def test_close_timeout_after_a_delay(link: Link, mock_clock: Clock) -> None:
    """The close timeout does not fire before the client's Close that arrived while the process was held up."""
    codes: list[int | None] = []

    async def close(stream: AsyncStream, state: None) -> None:
        await stream.close(4000)

    async def on_disconnect(stream: AsyncStream, state: None) -> None:
        assert stream.statistics().slow_closes == 0
        codes.append(stream.close_code)

    websocket_app = AsyncWebsocketApp.new_unlinked().with_connect_handler(close)
    websocket_app.with_disconnect_handler(on_disconnect)
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    async with serving(app, websocket_app, link=link) as connect:
        for number in range(TRIES):
            client = await (await connect()).open()
            assert await client.close_code() == 4000
            await settle()
            send_and_hold_up(client, client_frame(BINARY, b"behind") + close_frame(4000), mock_clock)
            assert await client.at_end()
            await settle()
            assert codes == [4000] * (number + 1)
            assert websocket_app.statistics().slow_closes == 0


@each_link
async def test_close_timeout_of_a_coroutine_after_a_delay(link: Link, mock_clock: Clock) -> None:
    """The same holds for a coroutine that closes its stream and no longer receives."""
    slow: list[int] = []

    async def close(stream: WebsocketStream, state: None) -> None:
        try:
            await stream.close(4000)
            await trio.sleep_forever()
        finally:
            slow.append(stream.statistics().slow_closes)

    async with serving(App().with_websocket_route("/", websocket_handler(close)), link=link) as connect:
        client = await (await connect()).open()
        assert await client.close_code() == 4000
        await settle()
        send_and_hold_up(client, close_frame(4000), mock_clock)
        assert await client.at_end()
        await pass_time(mock_clock, 2)
    assert slow == [0]


@each_link
async def test_deadline_set_after_a_delay(link: Link, mock_clock: Clock) -> None:
    """A deadline that is set after a delay, before a sweep has seen it, does not include the delay."""

    def block(request: Request) -> Response:
        mock_clock.jump(HELD_UP)
        return Response(200, "")

    app = App(timeouts=Timeouts(idle=2, linger_idle=1)).with_stateless_route("/block", block)
    async with serving(app, link=link) as connect:
        client = await connect()
        await settle()
        await client.send(GET.replace(b"/ ", b"/block "))
        assert (await client.reply()).status == 200
        await pass_time(mock_clock, 3)
        assert await client.at_end()


class HoldsUp(TlsStream):
    """A client that blocks the process after a part of its handshake has reached the kernel of the server."""

    def __init__(self, tcp: trio.SocketStream, clock: Clock) -> None:
        super().__init__(tcp)
        self._clock = clock

    async def flush(self) -> None:
        if data := self.outgoing.read():
            assert os.write(self.tcp.socket.fileno(), data) == len(data)
            self._clock.jump(HELD_UP)


async def test_tls_handshake_timeout_after_a_delay(mock_clock: Clock) -> None:
    """The handshake timeout does not fire before a part of it that arrived while the process was held up."""
    app = http_app().with_cert(server_context())
    with trio.move_on_after(PATIENCE * 100):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(app.run_tls, ANY_PORT)
            for _ in range(TRIES):
                tcp = await trio.open_tcp_stream(address.host, address.port)
                await settle()
                stream = HoldsUp(tcp, mock_clock)
                await stream.do_handshake()
                client = RawClient(stream)
                send_and_hold_up(client, GET, mock_clock)
                assert (await client.reply()).status == 200
                await stream.aclose()
            nursery.cancel_scope.cancel()


@each_link
async def test_deadlines_still_fire(link: Link, mock_clock: Clock) -> None:
    """Time in which the process was not held up counts: half a head gets a 408 after the timeout."""
    async with serving(App(timeouts=Timeouts(header=10)), link=link) as connect:
        client = await connect()
        await client.send(GET[:10])
        await settle()
        mock_clock.jump(HELD_UP)
        await settle()
        await pass_time(mock_clock, 9)
        await pass_time(mock_clock, 2)
        assert (await client.reply()).status == 408


PROGRAM = """
import sys, trio
from humphrey_trio import App, Response, Timeouts

async def main():
    app = App(timeouts=Timeouts(idle=1, header=1, body=1))
    app.with_stateless_route("/", lambda _: Response(200, "fine"))
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(app.run, "127.0.0.1:0")
        print(address.port, flush=True)

trio.run(main)
"""


async def test_stopped_process() -> None:
    """Requests that a client sends while the process is stopped are served when it continues."""
    with running("-c", PROGRAM) as program, trio.fail_after(PATIENCE):
        port = int(program.read_line())
        clients = [RawClient(await trio.open_tcp_stream("127.0.0.1", port)) for _ in range(20)]
        for client in clients:
            await client.send(GET)
            assert (await client.reply()).status == 200
        program.send_signal(signal.SIGSTOP)
        for client in clients:
            await client.send(GET)
        await trio.sleep(2)  # more time passes in the process than its timeouts
        program.send_signal(signal.SIGCONT)
        for client in clients:
            assert (await client.reply()).status == 200
            await client.stream.aclose()
        program.interrupt()
