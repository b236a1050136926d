"""Groups of clients with which the server lingers: it has half-closed their connections, and discards their input.

Each client has sent a request for a path without a route, whose body does not end. It has read the 404 and the end
of file. Then the server lingers.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from benchmarks import wire
from benchmarks.load import AT_ONCE, POLL_SECONDS, READ, REPLY_TIMEOUT
from benchmarks.payload import HELLO

REFUSED = b"POST /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % 2**40
UPLOAD = bytes(2**16)
TRICKLE_SECONDS = 1.0  # from one byte of a client to the next

#: Returns True when the measurement has ended.
Stopped = Callable[[], bool]


def lingering(port: int, count: int) -> list[socket.socket]:
    """Connect clients with which the server lingers."""
    return _answered(port, count, REFUSED)


def kept_alive(port: int, count: int) -> list[socket.socket]:
    """Connect clients that keep their connections alive. The server does not linger."""
    return _answered(port, count, wire.get().request)


def no_clients(port: int, count: int) -> list[socket.socket]:
    """Connect nothing."""
    return []


def _answered(port: int, count: int, request: bytes) -> list[socket.socket]:
    """Connect clients, send a request on each, and read the replies to the end of file or of the 200."""
    clients: list[socket.socket] = []
    while len(clients) < count:
        batch = [
            socket.create_connection(("127.0.0.1", port), timeout=REPLY_TIMEOUT)
            for _ in range(min(AT_ONCE, count - len(clients)))
        ]
        for client in batch:
            client.sendall(request)
        for client in batch:
            while (data := client.recv(READ)) and not data.endswith(HELLO):
                pass
        clients += batch
    return clients


def wait(clients: list[socket.socket], stopped: Stopped) -> int:
    """Send nothing."""
    while not stopped():
        time.sleep(POLL_SECONDS)
    return 0


def trickle(clients: list[socket.socket], stopped: Stopped) -> int:
    """Send one byte per second from each client."""
    sent = 0
    for some in _in_turns(clients):
        if stopped():
            break
        for client in some:
            with suppress(OSError):
                sent += client.send(b"x")
        time.sleep(POLL_SECONDS)
    return sent


def _in_turns(clients: list[socket.socket]) -> Iterator[list[socket.socket]]:
    """Yield parts of the clients, repeatedly. All of them are yielded in TRICKLE_SECONDS."""
    turns = round(TRICKLE_SECONDS / POLL_SECONDS)
    while True:
        for turn in range(turns):
            yield clients[turn::turns]


def flood(clients: list[socket.socket], stopped: Stopped) -> int:
    """Send from all clients as fast as the server receives."""
    ready = select.epoll()
    by_number = {client.fileno(): client for client in clients}
    for client in clients:
        client.setblocking(False)
        ready.register(client, select.EPOLLOUT)
    sent = 0
    while not stopped():
        for number, _ in ready.poll(POLL_SECONDS, AT_ONCE):
            try:
                sent += by_number[number].send(UPLOAD)
            except BlockingIOError:
                continue
            except OSError:  # the server has closed the connection
                ready.unregister(number)
    return sent


def burn(clients: list[socket.socket], stopped: Stopped) -> int:
    """Use all time of the core, without traffic."""
    while not stopped():
        sum(range(10_000))
    return 0


@dataclass(frozen=True)
class Group:
    """A group of clients.

    Attributes:
        name: its name in options and tables.
        about: one line for `--list`.
        connect: connects so many clients to a port.
        work: what they do while other clients are timed; returns the bytes that they have sent.
    """

    name: str
    about: str
    connect: Callable[[int, int], list[socket.socket]]
    work: Callable[[list[socket.socket], Stopped], int]


GROUPS = (
    Group("idle", "for comparison: keep-alive connections, no lingering; send nothing", kept_alive, wait),
    Group("silent", "do not close; send nothing", lingering, wait),
    Group("trickle", "do not close; send one byte per second each", lingering, trickle),
    Group("flood", "do not close; send as fast as the server receives", lingering, flood),
    Group("busy-core", "for comparison: no clients; a process uses their core as a flood does", no_clients, burn),
)
BY_NAME = {group.name: group for group in GROUPS}
