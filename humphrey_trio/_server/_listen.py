"""Listening sockets: opened all or none, and closed with the file that a Unix socket has.

Nothing is accepted here.
"""

from __future__ import annotations

import logging
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio

from .._http._address import UNIX_PREFIX, Address

if TYPE_CHECKING:
    from collections.abc import Iterable

logger = logging.getLogger("humphrey_trio.http")

#: How many clients may wait to be accepted.
BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket, the address that it really has, and for a Unix socket which file is its own."""

    socket: socket.socket
    address: Address
    file: tuple[int, int] | None = None

    def close(self) -> None:
        """Stop listening; the file of a Unix socket goes with it, unless somebody has replaced it."""
        if self.socket.fileno() < 0:
            return
        trio.lowlevel.notify_closing(self.socket)
        self.socket.close()
        path = self.address.host.removeprefix(UNIX_PREFIX)
        try:
            if self.file is not None and _identity(path) == self.file:
                os.unlink(path)
        except FileNotFoundError:
            pass
        except OSError as exc:
            logger.warning("the socket file %s stays: %s", path, exc.strerror)


async def open_listeners(addresses: Iterable[str]) -> list[Listener]:
    """Bind every address, or none of them.

    Raises:
        ValueError: there is no address, or one that cannot be read.
        OSError: one cannot be bound; the message says which.
    """
    wanted = [Address.parse(str(text)) for text in addresses]
    if not wanted:
        raise ValueError("give at least one address to listen on, such as '127.0.0.1:8080'")
    listeners: list[Listener] = []
    try:
        for address in wanted:
            await _open(address, listeners)
    except BaseException:
        for listener in listeners:
            listener.close()
        raise
    return listeners


async def _open(address: Address, listeners: list[Listener]) -> None:
    """Add the listeners of one address, one by one, so that none is forgotten when the next fails."""
    try:
        if address.host.startswith(UNIX_PREFIX):
            listeners.append(_open_unix(address))
            return
        found = await trio.socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, _, _, _, sockaddr in found:
            listeners.append(_open_tcp(family, sockaddr))
    except OSError as exc:
        # A path that is too long is an OSError without an errno.
        raise type(exc)(exc.errno, f"cannot listen on {address}: {exc.strerror or exc}") from exc


def _open_tcp(family: int, sockaddr: tuple[str | int, ...] | tuple[int, bytes]) -> Listener:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # The same address for IPv4 is another one here, and may be listened on beside it.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Small frames leave at once; the connections inherit it from here.
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.bind(sockaddr)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    host, port = sock.getsockname()[:2]
    return Listener(sock, Address(host, port))


def _open_unix(address: Address) -> Listener:
    path = address.host.removeprefix(UNIX_PREFIX)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        _remove_stale_file(path)
        sock.bind(path)
        sock.listen(BACKLOG)
    except BaseException:
        sock.close()
        raise
    return Listener(sock, address, _identity(path))


def _remove_stale_file(path: str) -> None:
    """Remove a socket that nobody listens on any more; anything else is left for bind to complain about."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
            except BlockingIOError:
                pass  # somebody listens, and has a full backlog


def _identity(path: str) -> tuple[int, int]:
    found = os.stat(path)
    return found.st_dev, found.st_ino
