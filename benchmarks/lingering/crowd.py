"""A crowd of clients whose connections the server has closed on its side, while they stay or go on sending.

Each has asked for something that is not there, with a body that does not end, and has read the 404 and the end
of file behind it. From then on the server lingers: it reads and discards.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from benchmarks import wire
from benchmarks.load import AT_ONCE, PATIENCE, READ

REFUSED = b"POST /nothing HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n" % 2**40
UPLOAD = bytes(2**16)
LOOK = 0.02  # seconds between two looks at whether it is enough
TRICKLE = 1.0  # seconds from one byte of a client to its next

Enough = Callable[[], bool]


def lingering(port: int, count: int) -> list[socket.socket]:
    """So many clients, with each of which the server lingers."""
    return _answered(port, count, REFUSED)


def idle(port: int, count: int) -> list[socket.socket]:
    """So many clients that keep their connections alive; the server does not linger with them."""
    return _answered(port, count, wire.get().request)


def _answered(port: int, count: int, request: bytes) -> list[socket.socket]:
    """So many clients, each of which has read its reply: to the end of file, or to the end of the greeting."""
    clients: list[socket.socket] = []
    while len(clients) < count:
        batch = [
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)
            for _ in range(min(AT_ONCE, count - len(clients)))
        ]
        for client in batch:
            client.sendall(request)
        for client in batch:
            while (data := client.recv(READ)) and not data.endswith(wire.HELLO):
                pass
        clients += batch
    return clients


def nobody(port: int, count: int) -> list[socket.socket]:
    """No clients."""
    return []


def wait(clients: list[socket.socket], enough: Enough) -> int:
    """Do nothing."""
    while not enough():
        time.sleep(LOOK)
    return 0


def trickle(clients: list[socket.socket], enough: Enough) -> int:
    """Let each client send a byte a second, some of them at a time."""
    sent = 0
    for some in _in_turns(clients):
        if enough():
            break
        for client in some:
            with suppress(OSError):
                sent += client.send(b"x")
        time.sleep(LOOK)
    return sent


def _in_turns(clients: list[socket.socket]) -> Iterator[list[socket.socket]]:
    """Some clients after the other, again and again; all of them in TRICKLE seconds."""
    turns = round(TRICKLE / LOOK)
    while True:
        for turn in range(turns):
            yield clients[turn::turns]


def flood(clients: list[socket.socket], enough: Enough) -> int:
    """Let all clients send as fast as the server takes it."""
    ready = select.epoll()
    by_number = {client.fileno(): client for client in clients}
    for client in clients:
        client.setblocking(False)
        ready.register(client, select.EPOLLOUT)
    sent = 0
    while not enough():
        for number, _ in ready.poll(LOOK, AT_ONCE):
            try:
                sent += by_number[number].send(UPLOAD)
            except BlockingIOError:
                continue
            except OSError:  # the server has closed the connection
                ready.unregister(number)
    return sent


def burn(clients: list[socket.socket], enough: Enough) -> int:
    """Take as much of the core as there is, and leave the server alone."""
    while not enough():
        sum(range(10_000))
    return 0


@dataclass(frozen=True)
class Crowd:
    """How many clients come, and what they do while others are timed; `do` returns the bytes that they sent."""

    name: str
    about: str
    come: Callable[[int, int], list[socket.socket]]
    do: Callable[[list[socket.socket], Enough], int]


CROWDS = (
    Crowd("idle", "keep their connections alive and send nothing; no lingering, for comparison", idle, wait),
    Crowd("silent", "never close, and send nothing", lingering, wait),
    Crowd("trickle", "never close, and send a byte a second each", lingering, trickle),
    Crowd("flood", "never close, and send as fast as they can", lingering, flood),
    Crowd("bystander", "no clients; a process that keeps their core busy as a flood does", nobody, burn),
)
BY_NAME = {crowd.name: crowd for crowd in CROWDS}
