"""Measures what it costs to find clients that leave during a handler: `python -m benchmarks.departures`.

No public setting disables it. So this measures the two steps themselves, which are methods of
`humphrey_trio._server._departures`: what each request does, and what each sweep does for a connection whose
handler still runs.
"""

from __future__ import annotations

import os
import select
import socket
import timeit
from collections.abc import Callable
from typing import cast

import trio

from benchmarks import command, measure
from humphrey_trio import WhenLeft
from humphrey_trio._server._control import ConnectionControl
from humphrey_trio._server._departures import Departures, HandlerScope
from humphrey_trio._server._transport import Transport

REQUESTS = 200_000
WATCHED = 1000  # connections
SWEEPS = 200
REPEATS = 5  # the quickest counts


class Watched:
    """The part of a transport that a sweep uses."""

    def __init__(self, file: int) -> None:
        self.hangup_events = file, select.POLLRDHUP


def main() -> None:
    command.check_machine()
    measure.raise_file_limit()
    os.sched_setaffinity(0, {measure.SERVER_CORE})
    trio.run(report)


async def report() -> None:
    print(f"each request with an async handler: {per_request():.3f} us")
    print(f"each sweep, for one of {WATCHED:,} connections whose handler waits: {per_watched(WATCHED):.2f} us")


def per_request(requests: int = REQUESTS) -> float:
    """Return the microseconds of the begin and the end of a handler, in a task."""
    transport = cast(Transport, None)  # used only when the client has left
    scope = HandlerScope(transport, ConnectionControl(False), Departures(), WhenLeft.CANCEL)

    def handle() -> None:
        scope.begin(None)
        scope.end()

    with scope:
        handle()  # the first one opens a cancel scope, once for each connection
        return microseconds(handle, requests)


def per_watched(count: int, sweeps: int = SWEEPS) -> float:
    """Return the microseconds of a sweep for each of so many watched connections, whose clients stay."""
    pairs = [socket.socketpair() for _ in range(count)]
    departures = Departures()
    for server, _ in pairs:
        departures.watch(cast(Transport, Watched(server.fileno())), stays)
    taken = microseconds(departures.check, sweeps) / count
    for pair in pairs:
        for end in pair:
            end.close()
    return taken


def stays() -> None:
    raise AssertionError("no client has left")


def microseconds(work: Callable[[], None], times: int) -> float:
    return min(timeit.repeat(work, number=times, repeat=REPEATS)) / times * 1e6


if __name__ == "__main__":
    main()
