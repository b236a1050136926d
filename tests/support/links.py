"""Plain TCP and TLS: how an app listens, and the client's end of a connection."""

from __future__ import annotations

import enum
import os
import socket
import ssl
import stat
import struct
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import trio

from humphrey_trio import App
from humphrey_trio.http import Address

from . import ANY_PORT, PATIENCE
from .certificates import client_context, server_context


class Link(enum.Enum):
    """How an app and its clients use a TCP connection."""

    PLAIN = "plain"
    TLS = "tls"

    def run(self, app: App[Any]) -> Callable[..., Awaitable[None]]:
        """The ``run`` or ``run_tls`` method of an app. For TLS, the app gets a certificate."""
        if self is Link.PLAIN:
            return app.run
        return app.with_cert(server_context()).run_tls

    async def connect(self, address: Address, *, buffer: int | None = None) -> trio.abc.HalfCloseableStream:
        """Connect a client.

        Args:
            address: where an app listens, which may be a Unix socket if the link is plain.
            buffer: the size of the kernel's buffer for received bytes; None for that of the system.

        Returns:
            The client's end of the connection.
        """
        if address.host.startswith("unix:"):
            return await trio.open_unix_socket(address.host.removeprefix("unix:"))
        sock = trio.socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET)
        try:
            if buffer is not None:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            await sock.connect((address.host, address.port))
        except BaseException:
            sock.close()
            raise
        return await self.over(trio.SocketStream(sock))

    async def over(self, stream: trio.SocketStream) -> trio.abc.HalfCloseableStream:
        """Use an open TCP connection. For TLS, execute the handshake."""
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
    """A client's end over TLS, for which an end of file without close_notify is a broken connection.

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
        """Execute the handshake."""
        while True:
            try:
                self._tls.do_handshake()
                break
            except ssl.SSLWantReadError:
                await self.flush()
                await self._fill()
        await self.flush()

    def encrypt(self, data: bytes | bytearray | memoryview) -> bytes:
        """The ciphertext of some content."""
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
        """Send the ciphertext that was not sent yet."""
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


@asynccontextmanager
async def listening(app: App[Any], link: Link = Link.PLAIN) -> AsyncGenerator[Address]:
    """Run an app on a port of 127.0.0.1 until the end of the block."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(link.run(app), ANY_PORT)
            yield address
            nursery.cancel_scope.cancel()


async def is_refused(address: Address) -> bool:
    """Whether nothing listens on an address."""
    try:
        await trio.aclose_forcefully(await Link.PLAIN.connect(address))
    except OSError:
        return True
    return False


def limit_send_buffers(address: Address, size: int) -> None:
    """Give the connections that will be accepted on an address a send buffer of so many bytes.

    An app does not hand out its listening sockets, so this looks for it among the open files of the process.
    """
    for file in map(int, os.listdir("/dev/fd")):
        with suppress(OSError):  # the file of listdir itself is closed
            if stat.S_ISSOCK(os.fstat(file).st_mode):
                with socket.socket(fileno=os.dup(file)) as sock:
                    if sock.getsockname()[:2] == tuple(address):
                        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)
                        return
    raise AssertionError(f"this process does not listen on {address}")


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
