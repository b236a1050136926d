"""Real clients that send while the server closes: the bytes sent to them arrive (RFC 9112, section 9.6).

Closing a socket that has unread input resets the connection, and the reset destroys what the peer has not
received yet. Each test runs a client several times, and counts every outcome.
``LINGERING_RUNS`` is the number of runs.
"""

from __future__ import annotations

import asyncio
import http.client
import os
import socket
import struct
import sys
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from math import ceil
from pathlib import Path

import pytest
import trio
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    Limits,
    Request,
    Response,
    Timeouts,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from tests.support import ANY_PORT, PATIENCE
from tests.support.certificates import client_context
from tests.support.links import Link, each_link, listening
from tests.support.nginx import needs_nginx, running_nginx
from tests.support.programs import free_port
from tests.support.wire import request_bytes

RUNS = int(os.environ.get("LINGERING_RUNS", "5"))
AT_ONCE = 5

#: The receive buffer of slow clients. Bytes that they have not read wait in the server's send buffer.
SMALL_BUFFER = 64 * 1024


async def outcomes(run: Callable[[int], Awaitable[str]]) -> Counter[str]:
    """Run a client ``RUNS`` times, some concurrently, each with its number. Returns the count of each outcome."""
    counts: Counter[str] = Counter()
    limiter = trio.CapacityLimiter(AT_ONCE)

    async def count(number: int) -> None:
        async with limiter:
            counts[await run(number)] += 1

    with trio.fail_after(ceil(RUNS / AT_ONCE) * PATIENCE):
        async with trio.open_nursery() as nursery:
            for number in range(RUNS):
                nursery.start_soon(count, number)
    return counts


@asynccontextmanager
async def serving(app: App, link: Link = Link.PLAIN) -> AsyncGenerator[int]:
    """Serve an app on 127.0.0.1. Yields its port."""
    async with listening(app, link) as address:
        assert address.port is not None
        yield address.port


async def connect_slowly(port: int) -> trio.SocketStream:
    """A connection with a small receive buffer."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
    await sock.connect(("127.0.0.1", port))
    return trio.SocketStream(sock)


# ----------------------------------------------------------------------- a long response, read slowly

LONG_BODY = b"".join(number.to_bytes(4, "big") for number in range(2 * 2**20))
READ = 64 * 1024
READ_SECONDS = 0.6  # for all of it


def app_with_long_response() -> App:
    """An app that answers ``/big`` with 8 MiB, and ``/last`` with the same and ``Connection: close``."""
    return (
        App()
        .with_stateless_route("/big", lambda _: Response(200, LONG_BODY))
        .with_stateless_route("/last", lambda _: Response(200, LONG_BODY, [("Connection", "close")]))
    )


@dataclass(frozen=True)
class SlowReader:
    """A client that reads a response of 8 MiB slowly, and sends more bytes at every eighth of it.

    Attributes:
        request: the request for the 8 MiB.
        more: the bytes that the client continues to send.
        pause: seconds for which it does not read, before the last quarter.
    """

    request: bytes
    more: bytes
    pause: float = 0.0

    async def run(self, port: int, begun: trio.Event) -> str:
        """Send the request and read.

        Args:
            port: where the server listens.
            begun: is set when the response has begun.

        Returns:
            "whole" if the response arrives whole and then the connection ends, otherwise a description.
        """
        async with await connect_slowly(port) as stream:
            await stream.send_all(self.request)
            head, _, body = (await stream.receive_some(READ)).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            begun.set()
            try:
                async for data in self._pieces(stream, len(body)):
                    body += data
                rest = await stream.receive_some(READ)
            except trio.BrokenResourceError:
                return f"reset after {len(body) >> 20} MiB"
        if len(body) < len(LONG_BODY):
            return f"end of file after {len(body) >> 20} MiB"
        return "whole" if body == LONG_BODY and not rest else "other bytes"

    async def _pieces(self, stream: trio.SocketStream, size: int) -> AsyncGenerator[bytes]:
        """The rest of the body in pieces, not faster than READ_SECONDS for the whole body."""
        start = trio.current_time()
        eighth = 0
        while size < len(LONG_BODY):
            if size * 8 >= eighth * len(LONG_BODY):
                if eighth == 6:
                    await trio.sleep(self.pause)
                    start += self.pause
                await stream.send_all(self.more)
                eighth += 1
            await trio.sleep_until(start + READ_SECONDS * size / len(LONG_BODY))
            data = await stream.receive_some(READ)
            if not data:
                return
            size += len(data)
            yield data


LAST_REQUESTS = {
    "client-closes": request_bytes("GET /big HTTP/1.1", [("Host", "testserver"), ("Connection", "close")]),
    "http-1.0": request_bytes("GET /big HTTP/1.0", [("Host", "testserver")]),
    "handler-closes": request_bytes("GET /last HTTP/1.1", [("Host", "testserver")]),
}
MORE = {
    "two-bytes": b"GE",
    "pipelined": request_bytes("GET /big HTTP/1.1", [("Host", "testserver")]),
}

each_last_request = pytest.mark.parametrize("request_", LAST_REQUESTS.values(), ids=LAST_REQUESTS)
each_more = pytest.mark.parametrize("more", MORE.values(), ids=MORE)


@each_more
@each_last_request
async def test_long_last_response_arrives_while_the_client_sends(request_: bytes, more: bytes) -> None:
    """The last 8 MiB of a connection arrive whole at a slow client that continues to send."""
    client = SlowReader(request_, more)
    async with serving(app_with_long_response()) as port:
        counts = await outcomes(lambda _: client.run(port, trio.Event()))
    assert counts == {"whole": RUNS}


async def test_long_response_arrives_in_a_drain() -> None:
    """A response of 8 MiB that is being sent when a drain begins arrives whole while the client sends.

    The client takes longer than the second for which idle connections linger in a drain.
    """
    request = request_bytes("GET /big HTTP/1.1", [("Host", "testserver")])
    clients = [SlowReader(request, more, pause=1.5) for more in MORE.values()]

    async def run(number: int) -> str:
        client = clients[number % len(clients)]
        shutdown, begun = trio.Event(), trio.Event()
        results: list[str] = []

        async def read(port: int) -> None:
            results.append(await client.run(port, begun))

        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(app_with_long_response().with_shutdown(shutdown).run, ANY_PORT)
            nursery.start_soon(read, address.port)
            await begun.wait()
            shutdown.set()
        return results[0]

    assert await outcomes(run) == {"whole": RUNS}


# ------------------------------------------------------------------------- WebSockets over a slow link

RATE = 1_000_000  # bytes a second, each way
DELAY = 0.03  # seconds, each way
PIECE = 16 * 1024  # bytes carried at once
ON_THE_WAY = 4  # pieces that wait for their time, each way

END_OF_FILE = b""
RESET = None


@dataclass(frozen=True)
class SlowLink:
    """A TCP proxy with a rate, in bytes a second each way, and a delay, in front of a port of 127.0.0.1."""

    port: int
    rate: int = RATE

    @asynccontextmanager
    async def open(self) -> AsyncGenerator[int]:
        """Listen, and yield the port of the proxy."""
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        # Bytes that were not carried wait in the sender.
        listener.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, self._carry, [listener])
            yield listener.socket.getsockname()[1]
            nursery.cancel_scope.cancel()

    async def _carry(self, client: trio.SocketStream) -> None:
        """Carry one connection, both ways, until both directions have ended."""
        async with client, await connect_slowly(self.port) as server, trio.open_nursery() as nursery:
            up, down = OneWay(client, server), OneWay(server, client)
            nursery.start_soon(up.carry, self.rate, down)
            nursery.start_soon(down.carry, self.rate, up)


@dataclass(eq=False)
class OneWay:
    """One direction of a connection over a slow link.

    Attributes:
        source, target: the streams that it reads and writes.
        broken: whether the target could not be written to.
        ended: the event that is set when nothing more is written to the target.
    """

    source: trio.SocketStream
    target: trio.SocketStream
    broken: bool = False
    ended: trio.Event = field(default_factory=trio.Event)

    async def carry(self, rate: int, back: OneWay) -> None:
        """Carry bytes, an end of file and a reset in order. ``back`` is the other direction."""
        sender, receiver = trio.open_memory_channel[tuple[float, bytes | None]](ON_THE_WAY)
        async with trio.open_nursery() as nursery, sender:
            nursery.start_soon(self._deliver, receiver)
            try:
                while data := bytes(await self.source.receive_some(PIECE)):
                    await sender.send((trio.current_time() + DELAY, data))
                    await trio.sleep(len(data) / rate)
                await sender.send((trio.current_time() + DELAY, END_OF_FILE))
                # A reset after the end of file is visible only by writing to the source.
                await back.ended.wait()
                is_reset = back.broken
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                is_reset = True
            if is_reset:
                await sender.send((trio.current_time() + DELAY, RESET))

    async def _deliver(self, receiver: trio.MemoryReceiveChannel[tuple[float, bytes | None]]) -> None:
        """Write each piece when it is due, and discard pieces that the target does not accept."""
        async for due, data in receiver:
            await trio.sleep_until(due)
            try:
                if data is RESET:
                    self.target.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("@ii", 1, 0))
                    await self.target.aclose()
                elif data == END_OF_FILE:
                    await self.target.send_eof()
                else:
                    await self.target.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                self.broken = True
            if self.broken or not data:
                self.ended.set()


BACKLOG = [number.to_bytes(2, "big") * 4096 for number in range(100)]


async def send_backlog(stream: WebsocketStream | AsyncStream) -> None:
    """Send 800 KiB in 100 messages, and a Ping at every tenth."""
    for number, message in enumerate(BACKLOG):
        await stream.send(message)
        if number % 10 == 0:
            await stream.ping()


async def send_backlog_and_read(stream: WebsocketStream, state: None) -> None:
    await send_backlog(stream)
    async for _ in stream:
        pass


async def send_backlog_first(stream: AsyncStream, state: None) -> None:
    await send_backlog(stream)


@asynccontextmanager
async def serving_backlog_by_coroutine(link: Link) -> AsyncGenerator[int]:
    app = App().with_websocket_route("/", websocket_handler(send_backlog_and_read))
    async with serving(app, link) as port:
        yield port


@asynccontextmanager
async def serving_backlog_by_app(link: Link) -> AsyncGenerator[int]:
    websocket_app = AsyncWebsocketApp.new_unlinked().with_connect_handler(send_backlog_first)
    app = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    async with trio.open_nursery() as nursery:
        await nursery.start(websocket_app.run)
        async with serving(app, link) as port:
            yield port
        nursery.cancel_scope.cancel()


def close_after_the_first_message(port: int, link: Link) -> str:
    """A ``websockets`` client closes after one message and continues to read. Returns how the connection ended."""
    return asyncio.run(close_and_read_on(port, link))


async def close_and_read_on(port: int, link: Link) -> str:
    # With asyncio: the client for threads sets a timeout while another thread reads. An SSLSocket that waited
    # without one may then say that the read has timed out.
    scheme, context = ("ws", None) if link is Link.PLAIN else ("wss", client_context())
    async with connect(f"{scheme}://127.0.0.1:{port}/", ssl=context, proxy=None) as client:
        received = [await client.recv()]
        closing = asyncio.ensure_future(client.close())  # this returns when the connection has ended
        with suppress(ConnectionClosed):
            while True:
                received.append(await client.recv())
        await closing
    if received != BACKLOG:
        return f"{client.close_code} after {len(received)} messages"
    return f"{client.close_code} after all"


@each_link
@pytest.mark.parametrize(
    "serving_backlog",
    [serving_backlog_by_coroutine, serving_backlog_by_app],
    ids=["websocket_handler", "AsyncWebsocketApp"],
)
async def test_client_that_closes_gets_the_backlog(
    serving_backlog: Callable[[Link], AbstractAsyncContextManager[int]], link: Link
) -> None:
    """A client that closes during a backlog of messages, and answers later Pings, gets all of them and 1000."""
    async with serving_backlog(link) as server, SlowLink(server).open() as port:

        async def run(_: int) -> str:
            return await trio.to_thread.run_sync(close_after_the_first_message, port, link)

        counts = await outcomes(run)
    assert counts == {"1000 after all": RUNS}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has the number of acknowledged bytes")
@each_link
async def test_silent_client_gets_the_backlog(link: Link) -> None:
    """A client that receives is not idle, though it sends nothing for longer than ``Timeouts.linger_idle``."""

    async def send_backlog_with_a_late_ping(stream: WebsocketStream, state: None) -> None:
        for number, message in enumerate(BACKLOG):
            await stream.send(message)
            if number == 70:
                await stream.ping()
        async for _ in stream:
            pass

    app = App(timeouts=Timeouts(linger_idle=0.5)).with_websocket_route(
        "/", websocket_handler(send_backlog_with_a_late_ping)
    )
    async with serving(app, link) as server, SlowLink(server, RATE // 3).open() as port:

        async def run(_: int) -> str:
            return await trio.to_thread.run_sync(close_after_the_first_message, port, link)

        counts = await outcomes(run)
    assert counts == {"1000 after all": RUNS}


async def test_client_that_does_not_receive_is_idle() -> None:
    """If a client acknowledges nothing, ``Timeouts.linger_idle`` closes the connection."""
    shutdown = trio.Event()
    body = bytes(200_000)  # more than the client's kernel buffers, and not more than the server's
    app = App(timeouts=Timeouts(linger_idle=0.5)).with_stateless_route("/", lambda _: Response(200, body))
    request = request_bytes("GET / HTTP/1.1", [("Host", "testserver"), ("Connection", "close")])
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as server:  # this ends with the connection
            (address,) = await server.start(app.with_shutdown(shutdown).run, ANY_PORT)
            client = await connect_slowly(address.port)
            await client.send_all(request)
            await client.receive_some(1)
            shutdown.set()
            started = trio.current_time()
        await client.aclose()
    assert trio.current_time() - started < 5


# ------------------------------------------------------------------------------------- refused uploads

UPLOAD = bytes(64_000_000)
SIZES = (1_000_000, 4_000_000, 16_000_000, 64_000_000)
BODY_LIMIT = 100_000
#: The client's kernel buffers up to 4 MiB. The rest is sent at the rate of the link, in bytes a second.
SLOW_UPLOAD, UPLOAD_RATE = 10_000_000, 2_500_000

TARGETS = {404: "/nothing", 413: "/upload"}

each_refusal = pytest.mark.parametrize(("status", "target"), TARGETS.items(), ids=map(str, TARGETS))


def app_that_refuses_uploads() -> App:
    """An app whose ``/upload`` accepts at most 100 kB, without other routes."""

    def upload(request: Request) -> Response:
        return Response.empty(204)

    return App(limits=Limits(body=BODY_LIMIT)).with_stateless_route("/upload", upload)


def upload_by_http_client(port: int, target: str, size: int) -> str:
    """Upload with ``http.client``, which sends everything before it reads. Returns the status or the error."""
    return upload(http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE), target, size)


def upload_by_https_client(port: int, target: str, size: int) -> str:
    """The same over TLS."""
    context = client_context()
    return upload(http.client.HTTPSConnection("127.0.0.1", port, timeout=PATIENCE, context=context), target, size)


def upload(connection: http.client.HTTPConnection, target: str, size: int) -> str:
    try:
        connection.request("POST", target, body=memoryview(UPLOAD)[:size])
        response = connection.getresponse()
        response.read()
    except (OSError, http.client.HTTPException) as exc:
        return type(exc).__name__
    finally:
        connection.close()
    return str(response.status)


def upload_in_chunks(port: int, target: str, size: int) -> str:
    """Send a chunked body, and then read to the end of file. Returns the status or the error."""
    fields = [("Host", "testserver"), ("Transfer-Encoding", "chunked")]
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as sock:
            sock.sendall(request_bytes(f"POST {target} HTTP/1.1", fields))
            for chunk in chunks(size):
                sock.sendall(chunk)
            response = b"".join(iter(partial(sock.recv, READ), b""))
    except OSError as exc:
        return type(exc).__name__
    return response.split(b" ", 2)[1].decode() if response else "end of file"


def chunks(size: int) -> Iterator[bytes]:
    """A body of so many zeros in chunks of at most 100 kB (RFC 9112, section 7.1)."""
    for start in range(0, size, 100_000):
        length = min(100_000, size - start)
        yield b"%x\r\n" % length + bytes(length) + b"\r\n"
    yield b"0\r\n\r\n"


Upload = Callable[[int, str, int], str]


async def upload_outcomes(port: int, upload: Upload, target: str) -> Counter[str]:
    """Upload 1, 4, 16 and 64 MB in turn."""

    async def run(number: int) -> str:
        return await trio.to_thread.run_sync(upload, port, target, SIZES[number % len(SIZES)])

    return await outcomes(run)


@pytest.mark.parametrize("upload", [upload_by_http_client, upload_in_chunks], ids=["http.client", "chunked"])
@each_refusal
async def test_refused_upload_of_a_client_that_reads_late(status: int, target: str, upload: Upload) -> None:
    """Clients that upload 1 to 64 MB before they read get 404 and 413."""
    async with serving(app_that_refuses_uploads()) as port:
        counts = await upload_outcomes(port, upload, target)
    assert counts == {str(status): RUNS}


@each_refusal
async def test_refused_upload_over_tls(status: int, target: str) -> None:
    """The same holds over TLS."""
    async with serving(app_that_refuses_uploads(), Link.TLS) as port:
        counts = await upload_outcomes(port, upload_by_https_client, target)
    assert counts == {str(status): RUNS}


async def test_refused_upload_over_a_slow_link() -> None:
    """Clients whose upload takes more than two seconds get 413."""
    async with (
        serving(app_that_refuses_uploads()) as server,
        SlowLink(server, UPLOAD_RATE).open() as port,
    ):

        async def run(_: int) -> str:
            return await trio.to_thread.run_sync(upload_by_http_client, port, "/upload", SLOW_UPLOAD)

        counts = await outcomes(run)
    assert counts == {"413": RUNS}


# ---------------------------------------------------------------------------------------- behind nginx

NGINX_SERVER = """
client_max_body_size 0;
server {{
    listen 127.0.0.1:{port};
    location / {{
        proxy_pass http://127.0.0.1:{upstream};
        proxy_http_version 1.1;
        proxy_request_buffering {buffering};
    }}
}}
"""


@needs_nginx
@pytest.mark.parametrize("buffering", ["on", "off"])
@each_refusal
async def test_refused_upload_behind_nginx(status: int, target: str, buffering: str, tmp_path: Path) -> None:
    """Clients that upload 1 to 64 MB through nginx, with or without request buffering, get 404 and 413."""
    port = free_port()
    async with serving(app_that_refuses_uploads()) as upstream:
        server = NGINX_SERVER.format(port=port, upstream=upstream, buffering=buffering)
        async with running_nginx(server, tmp_path):
            counts = await upload_outcomes(port, upload_by_http_client, target)
    assert counts == {str(status): RUNS}
