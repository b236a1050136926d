"""Listening sockets: opened all or none.

Nothing is accepted here.
"""

from __future__ import annotations

import errno
import logging
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

import trio

from .._http._address import UNIX_PREFIX, Address
from ._unix_socket import UnixSocket

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

logger = logging.getLogger("humphrey_trio.http")

#: How many clients may wait to be accepted.
BACKLOG = 4096

# What bind and socket say of an address that this machine does not have, such as ::1 where there is no IPv6.
_NOT_OURS = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
# A free port of one address may be taken at another; so many are tried until one is free at all of them.
_PORTS_TRIED = 16

_SocketAddress: TypeAlias = "tuple[str | int, ...] | tuple[int, bytes]"
#: The family of a socket, and what it is bound to.
_Target: TypeAlias = "tuple[int, _SocketAddress]"


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket, and the address that it really has.

    Attributes:
        unix: what owns the socket, if it is a Unix socket.
    """

    socket: socket.socket
    address: Address
    unix: UnixSocket | None = None

    def close(self) -> None:
        """Stop listening, and remove the file of a Unix socket; does nothing the second time."""
        if self.socket.fileno() < 0:
            return
        trio.lowlevel.notify_closing(self.socket)
        (self.unix or self.socket).close()


async def open_listeners(addresses: Iterable[str]) -> list[Listener]:
    """Listen on every address, or on none of them.

    An IP address has to be one of this machine. A host name stands for all of its addresses that this machine has,
    and for one at least; those that it does not have are logged.

    Raises:
        ValueError: there is no address, or one that cannot be read.
        OSError: one cannot be listened on; the message says which.
    """
    wanted = [Address.parse(str(text)) for text in addresses]
    if not wanted:
        raise ValueError("give at least one address to listen on, such as '127.0.0.1:8080'")
    listeners: list[Listener] = []
    try:
        for address in wanted:
            listeners += await _open(address)
    except BaseException:
        _close(listeners)
        raise
    return listeners


async def _open(address: Address) -> list[Listener]:
    """The listeners of one address. Cancelled, it has opened none."""
    try:
        if address.host.startswith(UNIX_PREFIX):
            return [_open_unix(address)]
        literal = _parse_literal(address)
        if literal is not None:
            return [_open_tcp(literal)]
        return _open_name(address, await _resolve(address))
    except OSError as exc:
        # A path that is too long is an OSError without an errno.
        raise type(exc)(exc.errno, f"cannot listen on {address}: {exc.strerror or exc}") from exc


def _open_unix(address: Address) -> Listener:
    unix = UnixSocket(address.host.removeprefix(UNIX_PREFIX), BACKLOG)
    return Listener(unix.socket, address, unix)


def _open_tcp(target: _Target) -> Listener:
    family, sockaddr = target
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


def _close(listeners: Iterable[Listener]) -> None:
    for listener in listeners:
        listener.close()


# ---------------------------------------------------------------------------------------------- host names


def _parse_literal(address: Address) -> _Target | None:
    """What to bind for an IP address; None for a host name."""
    try:
        found = socket.getaddrinfo(
            address.host,
            address.port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE | socket.AI_NUMERICHOST,
        )
    except socket.gaierror:
        return None
    family, _, _, _, sockaddr = found[0]
    return family, sockaddr


async def _resolve(address: Address) -> list[_Target]:
    """What to bind for a host name; a name may list an address twice."""
    found = await trio.socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))


def _open_name(name: Address, targets: Sequence[_Target]) -> list[Listener]:
    """Listen on the addresses of a name; port 0 is the same port at all of them, if one can be found."""
    if name.port == 0 and len(targets) > 1:
        for _ in range(_PORTS_TRIED):
            try:
                return _open_targets(name, targets, same_port=True)
            except OSError as exc:
                if exc.errno != errno.EADDRINUSE:
                    raise
    return _open_targets(name, targets)


def _open_targets(name: Address, targets: Sequence[_Target], *, same_port: bool = False) -> list[Listener]:
    """Listen on those that this machine has.

    Raises:
        OSError: it has none of them, or one cannot be listened on for another reason.
    """
    listeners: list[Listener] = []
    missing: list[tuple[_Target, OSError]] = []
    try:
        for target in targets:
            if same_port and listeners:
                target = _with_port(target, listeners[0].address.port)
            try:
                listeners.append(_open_tcp(target))
            except OSError as exc:
                if exc.errno not in _NOT_OURS:
                    raise
                missing.append((target, exc))
        if not listeners:
            raise missing[0][1]
    except BaseException:
        _close(listeners)
        raise
    for (_, sockaddr), reason in missing:
        skipped = Address(str(sockaddr[0]), name.port)
        logger.warning("%s: skipped %s, which this machine does not have: %s", name, skipped, reason.strerror)
    return listeners


def _with_port(target: _Target, port: int) -> _Target:
    family, (host, _, *rest) = target
    return family, (host, port, *rest)
