"""What several test modules need: apps that serve without sockets, and clients on any stream."""

from __future__ import annotations

import enum
import os
import re
import select
import signal
import socket
import ssl
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing
import trustme

from humphrey_trio import App, AsyncWebsocketApp, ConnectionClosed, async_websocket_handler
from humphrey_trio._server._certificate import GivenContext
from humphrey_trio._server._server import HttpServer
from humphrey_trio._server._transport import StreamTransport
from humphrey_trio._testing._clients import _open_websocket
from humphrey_trio._websocket._protocol._decoder import Decoder, Event, Part
from humphrey_trio.http import Address, Headers
from humphrey_trio.testing import WebsocketClient

#: Seconds after which a test has hung; in virtual time they cost nothing.
PATIENCE = 120


@asynccontextmanager
async def linked(websocket_app: AsyncWebsocketApp[Any, Any], path: str = "/") -> AsyncGenerator[App]:
    """An App that leads to a WebSocket app, which runs until the end of the block."""
    app = App().with_websocket_route(path, async_websocket_handler(websocket_app.connect_hook()))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(websocket_app.run)
            yield app
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def served_in_memory(
    app: App[Any],
    stream_pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]] = trio.testing.memory_stream_pair,
) -> AsyncGenerator[Callable[[], trio.abc.Stream]]:
    """Serve an app on pairs of streams; what it gives makes a connection and returns the client's end."""
    async with trio.open_nursery() as nursery:
        server = app._server()
        await nursery.start(server.run)

        def connect() -> trio.abc.Stream:
            ours, theirs = stream_pair()
            nursery.start_soon(server.serve, StreamTransport(theirs, Address("memory")))
            return ours

        yield connect
        nursery.cancel_scope.cancel()


@dataclass(frozen=True)
class Stage:
    """A linked pair in memory, whose apps can be cancelled one by one.

    Attributes:
        connect: makes a connection and returns the client's end.
        http, websocket: what cancels the apps.
    """

    connect: Callable[[], trio.abc.Stream]
    http: trio.CancelScope
    websocket: trio.CancelScope


@asynccontextmanager
async def staged(
    websocket_app: AsyncWebsocketApp[Any, Any],
    app: App[Any] | None = None,
    stream_pair: Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]] = trio.testing.memory_stream_pair,
) -> AsyncGenerator[Stage]:
    """Run a pair, linked at ``/``, and serve it in memory; what it gives has a scope for each app."""
    if app is None:
        app = App()
    app.with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))

    async def run_websocket_app(*, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                await nursery.start(websocket_app.run)
                task_status.started(scope)

    async def serve(*, task_status: trio.TaskStatus[tuple[Any, trio.CancelScope]]) -> None:
        with trio.CancelScope() as scope:
            async with served_in_memory(app, stream_pair) as connect:
                task_status.started((connect, scope))
                await trio.sleep_forever()

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            websocket = await nursery.start(run_websocket_app)
            connect, http = await nursery.start(serve)
            yield Stage(connect, http, websocket)
            nursery.cancel_scope.cancel()


async def open_websocket(
    stream: trio.abc.Stream, path: str = "/", headers: Mapping[str, str] = MappingProxyType({})
) -> WebsocketClient:
    """Do the handshake on a stream; raises HandshakeError if it is refused."""
    return WebsocketClient(stream, *await _open_websocket(stream, path, headers))


async def vanish(client: WebsocketClient) -> None:
    """Leave without a Close frame, as a client does whose network is gone."""
    client._closed = ConnectionClosed(1006)
    await trio.aclose_forcefully(client._stream)


# ------------------------------------------------------------------------------------ plain TCP, and TLS


@cache
def authority() -> trustme.CA:
    """The authority that has issued the certificates of all servers."""
    return trustme.CA()


@cache
def server_context() -> ssl.SSLContext:
    """What servers use, with a certificate for this machine."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().issue_cert("127.0.0.1", "localhost").configure_cert(context)
    return context


def write_certificate(folder: Path) -> Path:
    """Write a certificate for this machine, with its key, to a file."""
    file = folder / "certificate.pem"
    authority().issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(file)
    return file


@cache
def client_context() -> ssl.SSLContext:
    """What clients use that trust the authority."""
    context = ssl.create_default_context()
    authority().configure_trust(context)
    return context


def trusting_in_threads(authority: trustme.CA) -> ssl.SSLContext:
    """What clients use that receive in one thread and send in another, as those of ``websockets.sync`` do.

    OpenSSL does not support that. In TLS 1.3 such a client loses its first request now and then, when it receives
    the session ticket at the same time (5 of 6,000 connections, with servers of asyncio as well). In TLS 1.2 the
    server sends nothing between the handshake and the first response.
    """
    context = ssl.create_default_context()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    authority.configure_trust(context)
    return context


class Link(enum.Enum):
    """What an app and its clients speak over their sockets."""

    PLAIN = "plain"
    TLS = "tls"

    def run(self, app: App[Any]) -> Callable[..., Awaitable[None]]:
        """The method that runs an app on addresses; over TLS it has a certificate."""
        if self is Link.PLAIN:
            return app.run
        return app.with_cert(server_context()).run_tls

    def server(self, app: App[Any]) -> HttpServer:
        """A server of an app, for sockets that a test has made itself."""
        return app._server(None if self is Link.PLAIN else GivenContext(server_context()))

    async def connect(self, address: Address, *, buffer: int | None = None) -> trio.abc.HalfCloseableStream:
        """A client's end of a connection; ``buffer`` is the size of its kernel's buffer, in bytes."""
        sock = trio.socket.socket()
        try:
            if buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            await sock.connect((address.host, address.port))
        except BaseException:
            sock.close()
            raise
        return await self.over(trio.SocketStream(sock))

    async def over(self, stream: trio.SocketStream) -> trio.abc.HalfCloseableStream:
        """A client's end on a connection of TCP; over TLS it has shaken hands."""
        if self is Link.PLAIN:
            return stream
        tls = TlsStream(stream)
        try:
            await tls.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return tls


class TlsStream(trio.abc.HalfCloseableStream):
    """A client's end over TLS, which takes an end of file without close_notify for a broken connection.

    Unlike a ``trio.SSLStream`` it can end one direction, and be closed when its connection was.

    Attributes:
        tcp: the connection.
        outgoing: what TLS has encrypted, and was not sent yet.
    """

    def __init__(self, tcp: trio.SocketStream) -> None:
        self.tcp = tcp
        self._incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = client_context().wrap_bio(self._incoming, self.outgoing, server_hostname="127.0.0.1")

    async def do_handshake(self) -> None:
        """Shake hands."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.flush()
                await self._fill()
        await self.flush()

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        """What has to be sent over TCP next, for content."""
        self._tls.write(data)
        return self.outgoing.read()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.tcp.send_all(self.encrypt(data))

    async def wait_send_all_might_not_block(self) -> None:
        await self.tcp.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        while True:
            try:
                data = self._tls.read(65536 if max_bytes is None else max_bytes)
            except ssl.SSLWantReadError:
                await self._fill()
                continue
            except ssl.SSLZeroReturnError:
                data = b""
            except ssl.SSLError as exc:
                raise trio.BrokenResourceError(str(exc)) from exc
            await trio.lowlevel.checkpoint()
            return data

    async def send_eof(self) -> None:
        self._end()
        await self.flush()
        await self.tcp.send_eof()

    async def aclose(self) -> None:
        self._end()
        try:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.flush()
        finally:
            await self.tcp.aclose()

    def _end(self) -> None:
        with suppress(ssl.SSLError):  # it sends close_notify, and complains that the peer's is missing
            self._tls.unwrap()

    async def flush(self) -> None:
        """Send what TLS has encrypted."""
        await self.tcp.send_all(self.outgoing.read())

    async def _fill(self) -> None:
        if data := await self.tcp.receive_some():
            self._incoming.write(data)
        else:
            self._incoming.write_eof()


#: Runs a test over plain TCP and over TLS.
each_link = pytest.mark.parametrize("link", Link, ids=lambda link: link.value)
#: The same, and in memory, where there is no link.
memory_and_each_link = pytest.mark.parametrize(
    "link", [None, *Link], ids=lambda link: "memory" if link is None else link.value
)


def tcp_of(stream: trio.abc.Stream) -> trio.SocketStream:
    """The connection of TCP below a client's end."""
    below = stream.tcp if isinstance(stream, TlsStream) else stream
    assert isinstance(below, trio.SocketStream)
    return below


def reset(stream: trio.abc.Stream) -> None:
    """Close a connection with a reset, at once, as a process that is killed."""
    tcp = tcp_of(stream)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    tcp.socket.close()


# ------------------------------------------------------------------------------- WebSockets on the wire

TEXT, BINARY, CONTINUATION, CLOSE, PING, PONG = 0x1, 0x2, 0x0, 0x8, 0x9, 0xA

HANDSHAKE_FIELDS = (
    ("Host", "testserver"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)


def request_bytes(line: str, fields: Iterable[tuple[str, str]] = HANDSHAKE_FIELDS) -> bytes:
    """A request's head; by default with the fields of an opening handshake."""
    return "".join([f"{line}\r\n", *(f"{name}: {value}\r\n" for name, value in fields), "\r\n"]).encode("latin-1")


def client_frame(opcode: int, payload: bytes = b"", *, fin: bool = True, rsv: int = 0) -> bytes:
    """A frame as a client sends it, masked; ``rsv`` is the three reserved bits."""
    mask = b"\x69\x00\x5a\xff"
    first, size = (fin << 7) | (rsv << 4) | opcode, len(payload)
    if size < 126:
        header = bytes((first, 0x80 | size))
    elif size < 2**16:
        header = bytes((first, 0xFE)) + size.to_bytes(2, "big")
    else:
        header = bytes((first, 0xFF)) + size.to_bytes(8, "big")
    key = int.from_bytes((mask * (size // 4 + 1))[:size], "big")
    return header + mask + (int.from_bytes(payload, "big") ^ key).to_bytes(size, "big")


def close_frame(code: int, reason: str = "") -> bytes:
    """A client's Close frame."""
    return client_frame(CLOSE, code.to_bytes(2, "big") + reason.encode())


def split_frames(data: bytes) -> tuple[list[tuple[int, bytes]], bytes]:
    """The whole frames at the start of what a server sent, as opcode and payload, and what is left over.

    It asserts what holds for every frame of this server: final, no reserved bit, no mask.
    """
    frames: list[tuple[int, bytes]] = []
    end = 0
    while len(data) >= end + 2:
        opcode, size, start = data[end] & 0x0F, data[end + 1], end + 2
        assert data[end] == 0x80 | opcode
        assert size < 128
        if size > 125:
            start += 2 if size == 126 else 8
            size = int.from_bytes(data[end + 2 : start], "big")
        if len(data) < start + size:
            break
        end = start + size
        frames.append((opcode, data[start:end]))
    return frames, data[end:]


def events_of(decoder: Decoder, *reads: bytes) -> list[Event]:
    """What a decoder says to some reads, one after the other; pieces of messages left out."""
    events: list[Event] = []
    for data in reads:
        decoder.receive(data)
        while (event := decoder.next()) is not None:
            if not isinstance(event, Part):
                events.append(event)
    return events


class Reply(NamedTuple):
    """An HTTP response as a client sees it."""

    status: int
    headers: Headers
    content: bytes


class RawClient:
    """A client that sends any bytes and shows what comes back, HTTP replies, then frames.

    It answers nothing, but closes its side at the server's end of file.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._received = b""
        self._frames: deque[tuple[int, bytes]] = deque()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        await self.stream.send_all(data)

    async def open(self, path: str = "/") -> RawClient:
        """Do the handshake, which has to succeed."""
        await self.send(request_bytes(f"GET {path} HTTP/1.1"))
        assert (await self.reply()).status == 101
        return self

    async def reply(self) -> Reply:
        """The next HTTP reply; EOFError if there is none."""
        while b"\r\n\r\n" not in self._received:
            await self._fill()
        head, _, self._received = self._received.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        headers = Headers([(name, value) for name, _, value in (field.partition(": ") for field in lines)])
        size = int(headers.get("Content-Length", "0"))
        while len(self._received) < size:
            await self._fill()
        content, self._received = self._received[:size], self._received[size:]
        return Reply(int(line.split(" ")[1]), headers, content)

    async def frame(self) -> tuple[int, bytes]:
        """The next frame, as opcode and payload; EOFError if the connection has ended."""
        while not self._frames:
            frames, self._received = split_frames(self._received)
            self._frames.extend(frames)
            if not frames:
                await self._fill()
        return self._frames.popleft()

    async def close_code(self) -> int:
        """The code of the next frame, which is a Close."""
        opcode, payload = await self.frame()
        assert opcode == CLOSE
        return int.from_bytes(payload[:2], "big")

    async def rest(self) -> list[tuple[int, bytes]]:
        """All frames up to the end of the connection."""
        frames: list[tuple[int, bytes]] = []
        with suppress(EOFError):
            while True:
                frames.append(await self.frame())
        return frames

    async def at_end(self) -> bool:
        """Whether the connection ends without another byte."""
        if self._frames or self._received or await self.stream.receive_some():
            return False
        await self.stream.aclose()
        return True

    async def _fill(self) -> None:
        data = await self.stream.receive_some()
        if not data:
            await self.stream.aclose()
            raise EOFError(f"the connection has ended behind {self._received!r}")
        self._received += data


# ------------------------------------------------------------------------------ programs of their own

ROOT = Path(__file__).parent.parent

#: Seconds in which a program has begun, and in which one has ended: bounds for a machine that is busy.
BEGINNING, ENDING = 60, 5


class Program:
    """A Python program in a process of its own."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process

    def read_line(self) -> str:
        """The next line of its standard output."""
        out = self._process.stdout
        assert out is not None
        assert select.select([out], [], [], BEGINNING)[0], "the program prints nothing"
        return out.readline().decode()

    def write_line(self, line: str) -> None:
        """Type a line at it."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n".encode())

    def wait_for_port(self, port: int) -> None:
        """Wait until it listens, for a program that does not say so."""
        give_up = time.monotonic() + BEGINNING
        while True:
            assert self._process.poll() is None, "the program has ended"
            try:
                return socket.create_connection(("127.0.0.1", port)).close()
            except ConnectionRefusedError:
                assert time.monotonic() < give_up, "the program does not listen"
                time.sleep(0.02)

    def send_signal(self, number: int) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    def interrupt(self) -> Ending:
        """Press Ctrl-C, and wait until it has ended."""
        self._process.send_signal(signal.SIGINT)
        return self.finish()

    def finish(self) -> Ending:
        """Wait until it has ended, which it must soon."""
        stdout, stderr = self._process.communicate(timeout=ENDING)
        return Ending(self._process.returncode, stdout.decode(), stderr.decode())


class Ending(NamedTuple):
    """How a program has ended, and what it wrote that was not read."""

    status: int
    stdout: str
    stderr: str


@contextmanager
def running(*arguments: str) -> Iterator[Program]:
    """Run ``python arguments...`` with the package as it is here; every warning goes to standard error."""
    # A shell's background job ignores SIGINT, and so would its children.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        process = subprocess.Popen(
            [sys.executable, "-W", "always", *arguments],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            bufsize=0,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    finally:
        signal.signal(signal.SIGINT, handler)
    with process:
        try:
            yield Program(process)
        finally:
            process.kill()


def first_program() -> str:
    """The first block of Python in the README."""
    found = re.search(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert found, "the README has no program"
    return found[1]


def free_port() -> int:
    """A port of 127.0.0.1 on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
    return port


# ------------------------------------------------------------------------------------------ cancellation


async def cancelled_at(step: int, function: Callable[[], Awaitable[object]], *, resumed: bool = False) -> bool:
    """Run a function, and cancel it when its task stops running for so many times; what it raises comes out.

    Args:
        step: 1 for the first time that it lets other tasks run.
        function: what is run.
        resumed: whether to cancel it only when it may run again, which it notices at its next checkpoint.

    Returns:
        Whether it came so far; False once every checkpoint has had its turn.
    """
    scope = trio.CancelScope()
    instrument = _CancelAt(step, trio.lowlevel.current_task(), scope, resumed)
    trio.lowlevel.add_instrument(instrument)
    try:
        with scope:
            await function()
    finally:
        trio.lowlevel.remove_instrument(instrument)
    return instrument.steps >= step


class _CancelAt(trio.abc.Instrument):
    def __init__(self, step: int, task: trio.lowlevel.Task, scope: trio.CancelScope, resumed: bool) -> None:
        self.steps = 0
        self._step = step
        self._task = task
        self._scope = scope
        self._resumed = resumed

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        if task is self._task:
            self.steps += 1
            if self.steps == self._step and not self._resumed:
                self._scope.cancel()

    def task_scheduled(self, task: trio.lowlevel.Task) -> None:
        if task is self._task and self.steps == self._step and self._resumed:
            self._scope.cancel()
