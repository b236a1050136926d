"""A listening socket of the server, and its end."""

from __future__ import annotations

import socket
from dataclasses import dataclass

import trio

from .._http._address import Address
from ._unix_socket import UnixSocket

#: Connections that the kernel queues until they are accepted.
BACKLOG = 4096


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening socket.

    Attributes:
        socket: the socket, non-blocking.
        address: the address it is bound to. The port is the actual one, also if port 0 was requested.
        unix: the owner of the socket and its file, if the server has created a Unix socket.
    """

    socket: socket.socket
    address: Address
    unix: UnixSocket | None = None

    def close(self) -> None:
        """Stop listening, and remove the file of a Unix socket. Does nothing if it is closed already."""
        if self.socket.fileno() < 0:
            return
        trio.lowlevel.notify_closing(self.socket)
        (self.unix or self.socket).close()


def send_immediately(sock: socket.socket) -> None:
    """Let the accepted connections of a TCP listener send small frames immediately. They inherit the option."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
