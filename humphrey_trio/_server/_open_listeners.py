"""Open and close listening sockets. The server accepts the connections."""

from __future__ import annotations

import errno
import logging
import socket
from typing import TYPE_CHECKING, TypeAlias

import trio

from .._http._address import UNIX_PREFIX, Address
from ._given_listener import ListenTarget, check_target, close_given, take_listener
from ._listener import BACKLOG, Listener, send_immediately
from ._unix_socket import UnixSocket

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

logger = logging.getLogger("humphrey_trio.http")

#: The beginning of the message of an OSError about an address.
CANNOT_LISTEN = "cannot listen on"

# Errors of bind and socket for an address that this machine does not have, such as ::1 without IPv6.
_NOT_LOCAL = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}
# A port that is free for one address of a name may be in use for another. Attempts to find one that is free for
# all.
_PORTS_TRIED = 16

_SocketAddress: TypeAlias = "tuple[str | int, ...] | tuple[int, bytes]"
#: The family of a socket, and the address to bind it to.
_Target: TypeAlias = "tuple[int, _SocketAddress]"


async def open_listeners(targets: Sequence[ListenTarget], unix_mode: int | None = None) -> list[Listener]:
    """Listen on all targets, or on none of them.

    Args:
        targets: addresses for ``Address.parse``, and sockets that listen. An IP address must belong to this
            machine. A host name means all its addresses that belong to this machine, of which there must be one.
            The others are logged at level WARNING.
        unix_mode: the mode of the files of Unix sockets that are created; None for that of the umask.

    Returns:
        The listeners, in the order of the targets.

    Raises:
        ValueError, TypeError: there is no target, one cannot be used, or the mode is not one.
        OSError: an address cannot be listened on. The message contains the address.

    If it fails, no socket is left open, and the sockets of the targets are closed as well.
    """
    listeners: list[Listener] = []
    try:
        check_targets(targets, unix_mode)
        for target in targets:
            if isinstance(target, str | Address):
                listeners += await _open(Address.parse(str(target)), unix_mode)
            else:
                listeners.append(take_listener(target))
    except BaseException:
        _close(listeners)
        for target in targets:
            close_given(target)
        raise
    return listeners


def check_targets(targets: Sequence[ListenTarget], unix_mode: int | None = None) -> None:
    """Check the arguments of ``open_listeners``, without listening.

    Raises:
        ValueError, TypeError: as for ``open_listeners``.
    """
    if not targets:
        raise ValueError("pass at least one address to listen on, such as '127.0.0.1:8080'")
    for target in targets:
        check_target(target)
    if unix_mode is not None:
        _check_mode(unix_mode, targets)


def _check_mode(mode: object, targets: Sequence[ListenTarget]) -> None:
    if not isinstance(mode, int) or not 0 <= mode <= 0o777:
        raise ValueError(f"unix_mode is a mode from 0 to 0o777, such as 0o660, not {mode!r}")
    if not any(isinstance(target, str | Address) and str(target).startswith(UNIX_PREFIX) for target in targets):
        raise ValueError("unix_mode is the mode of Unix sockets, and no address is one: write 'unix:/path'")


async def _open(address: Address, unix_mode: int | None) -> list[Listener]:
    """Open the listeners of one address. If cancelled, no socket is left open."""
    try:
        if address.host.startswith(UNIX_PREFIX):
            return [_open_unix(address, unix_mode)]
        literal = _parse_literal(address)
        if literal is not None:
            return [_open_tcp(literal)]
        return _open_name(address, await _resolve(address))
    except OSError as exc:
        # If the path of a Unix socket is too long, Python raises an OSError without errno and strerror.
        raise type(exc)(exc.errno, f"{CANNOT_LISTEN} {address}: {exc.strerror or exc}") from exc


def _open_unix(address: Address, mode: int | None) -> Listener:
    unix = UnixSocket(address.host.removeprefix(UNIX_PREFIX), BACKLOG, mode)
    return Listener(unix.socket, address, unix)


def _open_tcp(target: _Target) -> Listener:
    family, sockaddr = target
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            # Without this option, [::]:80 would also listen on 0.0.0.0:80, and could not be combined with it.
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        send_immediately(sock)
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
    """Parse an IP address.

    Returns:
        The target to bind; None if the host is a name.
    """
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
    """Look up the targets of a host name, without duplicates."""
    found = await trio.socket.getaddrinfo(
        address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
    )
    return list(dict.fromkeys((family, sockaddr) for family, _, _, _, sockaddr in found))


def _open_name(name: Address, targets: Sequence[_Target]) -> list[Listener]:
    """Listen on the addresses of a name. For port 0, try to use the same port for all of them."""
    tries = _PORTS_TRIED if name.port == 0 and len(targets) > 1 else 0
    for _ in range(tries):
        try:
            return _open_targets(name, targets, same_port=True)
        except OSError as exc:
            if exc.errno != errno.EADDRINUSE:
                raise
    return _open_targets(name, targets)


def _open_targets(name: Address, targets: Sequence[_Target], *, same_port: bool = False) -> list[Listener]:
    """Listen on the targets that belong to this machine.

    Raises:
        OSError: none belongs to this machine, or binding one failed for another reason.
    """
    listeners: list[Listener] = []
    missing: list[tuple[_Target, OSError]] = []
    try:
        for target in targets:
            if same_port and listeners:
                target = _with_port(target, listeners[0].address.port)
            opened = _open_if_local(target)
            if isinstance(opened, OSError):
                missing.append((target, opened))
            else:
                listeners.append(opened)
        if not listeners:
            raise missing[0][1]
    except BaseException:
        _close(listeners)
        raise
    for (_, sockaddr), reason in missing:
        skipped = Address(str(sockaddr[0]), name.port)
        logger.warning("%s: skipped %s, which this machine does not have: %s", name, skipped, reason.strerror)
    return listeners


def _open_if_local(target: _Target) -> Listener | OSError:
    """Listen on a target. Returns the error if this machine does not have the address."""
    try:
        return _open_tcp(target)
    except OSError as exc:
        if exc.errno not in _NOT_LOCAL:
            raise
        return exc


def _with_port(target: _Target, port: int) -> _Target:
    family, (host, _, *rest) = target
    return family, (host, port, *rest)
