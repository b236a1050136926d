"""Listening sockets that the application has opened: which ones can be served, and what their addresses are.

The server that serves such a socket owns it from then on, and closes it. It neither creates nor removes the file
of a Unix socket here.
"""

from __future__ import annotations

import socket
from contextlib import suppress
from typing import TypeAlias, cast

import trio

from .._http._address import UNIX_PREFIX, Address, address_advice
from ._listener import Listener, send_immediately

#: What ``App.run`` listens on: an address, or a socket that listens already.
ListenTarget: TypeAlias = str | Address | socket.socket | trio.SocketListener

_FAMILIES = (socket.AF_INET, socket.AF_INET6, socket.AF_UNIX)
_TAKES = "an address such as '127.0.0.1:8080', or a socket.socket or trio.SocketListener that listens"


def check_target(target: object) -> None:
    """Check what an application passes to listen on.

    Raises:
        ValueError: an address is malformed; or a socket is closed, does not listen, is not a stream socket, or is
            neither of TCP nor a Unix socket.
        TypeError: it is neither an address nor a socket.
    """
    if isinstance(target, str | Address):
        Address.parse(str(target))
    elif isinstance(target, trio.SocketListener):
        _check(target.socket)
    elif isinstance(target, socket.socket):
        _check(target)
    else:
        raise TypeError(f"the server listens on {_TAKES}, not on {target!r}{_advice(target)}")


def take_listener(given: socket.socket | trio.SocketListener) -> Listener:
    """Make a listener of a socket that was checked. It owns the socket from then on.

    A ``trio.SocketListener`` is closed: the listener has its descriptor.
    """
    if isinstance(given, trio.SocketListener):
        given = socket.socket(fileno=given.socket.detach())
    given.setblocking(False)
    if given.family != socket.AF_UNIX:
        send_immediately(given)
    return Listener(given, _address_of(given))


def close_given(target: object) -> None:
    """Close a socket that the application has passed. Does nothing for an address."""
    if isinstance(target, trio.SocketListener):
        target.socket.close()
    elif isinstance(target, socket.socket):
        target.close()


def address_of(target: ListenTarget) -> Address:
    """Return the address of a target that was checked, as it is before the server listens."""
    if isinstance(target, str | Address):
        return Address.parse(str(target))
    return _address_of(target.socket if isinstance(target, trio.SocketListener) else target)


def _advice(target: object) -> str:
    if isinstance(target, trio.SSLListener):
        return ": for TLS, call with_cert and run_tls"
    return f": {address_advice(cast('object', target))}" if isinstance(target, int | tuple | list) else ""


def _check(sock: socket.socket | trio.socket.SocketType) -> None:
    if sock.fileno() < 0:
        raise ValueError("the server cannot listen on a socket that is closed")
    if sock.type != socket.SOCK_STREAM or sock.family not in _FAMILIES:
        raise ValueError(f"the server listens on stream sockets of TCP, and on Unix sockets, not on {sock!r}")
    listens = True
    with suppress(OSError):  # a system without the option: then accept fails
        listens = bool(sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    if not listens:
        raise ValueError(f"{sock!r} does not listen: call its listen() first, or use socket.create_server")


def _address_of(sock: socket.socket | trio.socket.SocketType) -> Address:
    name: tuple[str, int] | str | bytes = sock.getsockname()
    if isinstance(name, tuple):
        return Address(name[0], name[1])
    # The name of an abstract socket of Linux begins with a NUL, which is written as @.
    file = name if isinstance(name, str) else name.decode(errors="backslashreplace").replace("\0", "@", 1)
    return Address(f"{UNIX_PREFIX}{file}")
