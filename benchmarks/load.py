"""The load generator: a process that sends requests to one server, and checks and times the replies.

It reads a Job from standard input and prints a Result. It has one thread with non-blocking sockets, and polls
epoll without waiting, because a core of a virtual machine that sleeps wakes up too slowly to measure times. All
connections are open, and have received a reply, before the measured time.
"""

from __future__ import annotations

import contextlib
import gc
import heapq
import json
import os
import select
import signal
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from functools import partial
from typing import NoReturn, Protocol, TypeVar

from benchmarks import downloads, wire
from benchmarks.clients import Client, TlsClient, client_context
from benchmarks.measure import LONGEST_CELL, Job, Result, Window, cpu_seconds, resident_bytes
from benchmarks.scenarios import Work
from benchmarks.wire import Exchange, ReplyError

AT_ONCE = 64  # connections that are opened together, and events of one poll
READ = 2**16
REPLY_TIMEOUT = 10.0  # seconds after which a reply counts as lost
SETTLE = 0.5  # seconds for the work of a server after its last reply
POLL_SECONDS = 0.02  # between two checks of a background process whether to stop
WELL_BEHAVED = 50  # clients
PACE = 0.05  # seconds from one request of a well-behaved client to the next
BACKGROUND_NICE = 10  # the priority of a background process, which shares a core with the timed clients
FLOOD = 2**16  # bytes of requests that a flooding client sends at once
FEW_AT_ONCE = 16  # events of other clients between two polls of the timed ones

clock = time.perf_counter
IN, OUT = select.EPOLLIN, select.EPOLLOUT


class Poller:
    """Clients with one epoll."""

    def __init__(self, clients: Iterable[Client] = ()) -> None:
        self._epoll = select.epoll()
        self.poll = self._epoll.poll
        self.clients: dict[int, Client] = {}
        for client in clients:
            self.add(client)

    def add(self, client: Client) -> None:
        self.clients[client.fd] = client
        self._epoll.register(client.fd, IN)

    def send(self, client: Client, data: bytes) -> None:
        sent = client.send(data)
        if sent != len(data):
            client.unsent = memoryview(data)[sent:]
            self._epoll.modify(client.fd, IN | OUT)

    def readable(self, client: Client, event: int) -> bool:
        """Send unsent bytes if the socket is writable. Returns whether it is readable."""
        if event & OUT:
            with contextlib.suppress(BlockingIOError):
                client.unsent = client.unsent[client.send(client.unsent) :]
            if not client.unsent:
                self._epoll.modify(client.fd, IN)
        return event & ~OUT != 0

    def remove(self, client: Client) -> None:
        del self.clients[client.fd]
        client.close()

    def remove_all(self) -> None:
        for client in list(self.clients.values()):
            self.remove(client)

    def release(self) -> None:
        """Close the epoll. The connections stay open."""
        self._epoll.close()


class Load(Protocol):
    """Work that can run for any time."""

    depth: int  # operations in one sample

    def run(self, seconds: float) -> list[float]:
        """Work for some time. Returns the duration in seconds of each operation that ended in this time."""

    def begun(self) -> list[float]:
        """Return the start times of the operations that have not ended."""


class ClosedLoop:
    """Each client sends one request or a batch, waits for the replies, and sends again."""

    def __init__(self, clients: list[Client], exchange: Exchange, depth: int = 1) -> None:
        self._poller = Poller(clients)
        self._batch = exchange.request * depth
        self._replies = exchange.replies
        self.depth = depth
        for client in clients:
            client.expects = depth
            client.since = clock()
            self._poller.send(client, self._batch)

    def run(self, seconds: float) -> list[float]:
        poll, clients, readable, send = (
            self._poller.poll,
            self._poller.clients,
            self._poller.readable,
            self._poller.send,
        )
        batch, replies, depth = self._batch, self._replies, self.depth
        right = replies.one * depth
        read = max(READ, min(len(batch), 4 * READ))
        took: list[float] = []
        now = clock()
        end = now + seconds
        while now < end:
            for fd, event in poll(0, AT_ONCE):
                client = clients[fd]
                if event != IN and not readable(client, event):
                    continue
                data = client.recv(read)
                if data != right or client.partial:
                    if not client.collect(data, replies, depth):
                        continue
                    right = replies.one * depth
                now = clock()
                took.append(now - client.since)
                client.since = now
                send(client, batch)
            now = clock()
        return took

    def begun(self) -> list[float]:
        return [client.since for client in self._poller.clients.values()]


class NewConnections:
    """A number of clients connect, execute the steps and disconnect. Each is replaced by a new one.

    Args:
        connect: opens a connection.
        steps: the exchanges on each connection.
        at_a_time: the number of connections.
        server_closes: whether the server closes the connection first.
    """

    depth = 1

    def __init__(
        self, connect: Callable[[], Client], steps: list[Exchange], at_a_time: int, server_closes: bool
    ) -> None:
        self._poller = Poller()
        self._connect = connect
        self._steps = steps
        self._server_closes = server_closes
        self.ended = 0
        self.cut_short = 0  # closed by the server before the last reply
        for _ in range(at_a_time):
            self._connect_next()

    def run(self, seconds: float) -> list[float]:
        poller = self._poller
        took: list[float] = []
        end = clock() + seconds
        while clock() < end:
            for fd, _ in poller.poll(0, AT_ONCE):
                client = poller.clients[fd]
                if self._is_done(client, client.recv(READ)):
                    took.append(clock() - client.since)
                    self.ended += 1
                    poller.remove(client)
                    self._connect_next()
        return took

    def begun(self) -> list[float]:
        return [client.since for client in self._poller.clients.values()]

    def _connect_next(self) -> None:
        since = clock()
        client = self._connect()
        client.since = since
        self._poller.add(client)
        self._poller.send(client, self._steps[0].request)

    def _is_done(self, client: Client, data: bytes | None) -> bool:
        if data is None:
            return False
        if client.step == len(self._steps):
            if data:
                raise ReplyError(f"unexpected bytes at the end: {data[:60]!r}")
            return True
        if not data and self._server_closes and client.step == len(self._steps) - 1:
            self.cut_short += 1
            return True
        replies = self._steps[client.step].replies
        if (data != replies.one or client.partial) and not client.collect(data, replies):
            return False
        client.step += 1
        if client.step < len(self._steps):
            self._poller.send(client, self._steps[client.step].request)
            return False
        return not self._server_closes


class Broadcasts:
    """The first client sends a broadcast. When all clients have received it, it sends the next."""

    depth = 1

    def __init__(self, clients: list[Client], size: int) -> None:
        self._poller = Poller(clients)
        self._sender = clients[0]
        body = wire.some_bytes(size - 2)
        self._messages = [wire.message(wire.TEXT, body + b"%02d" % number) for number in range(100)]
        self._number = 0
        self._missing = 0
        self._since = 0.0
        self._took: list[float] = []

    def run(self, seconds: float) -> list[float]:
        self._took = []
        end = clock() + seconds
        while clock() < end or self._missing:
            self.step(AT_ONCE)
        return self._took

    def begun(self) -> list[float]:
        return []

    def step(self, at_once: int) -> None:
        """Send the next message if the previous one was delivered to all, and poll once for deliveries."""
        if not self._missing:
            self._send_next()
        clients, took, since = self._poller.clients, self._took, self._since
        replies = self._messages[self._number].replies
        right = replies.one
        for fd, _ in self._poller.poll(0, at_once):
            client = clients[fd]
            data = client.recv(READ)
            if (data == right and not client.partial) or client.collect(data, replies):
                took.append(clock() - since)
                self._missing -= 1
        if clock() - since > REPLY_TIMEOUT:
            raise ReplyError(f"a broadcast did not reach {self._missing} of {len(clients)} clients")

    def _send_next(self) -> None:
        self._number = (self._number + 1) % len(self._messages)
        self._missing = len(self._poller.clients)
        self._since = clock()
        self._poller.send(self._sender, self._messages[self._number].request)


class Flood:
    """A client that pipelines requests as fast as the server receives them, and reads the replies."""

    def __init__(self, client: Client, exchange: Exchange) -> None:
        self._client = client
        self._replies = exchange.replies
        self._requests = memoryview(exchange.request * (FLOOD // len(exchange.request)))
        self._sent = 0
        self._right = b""
        self._answered = 0

    def run(self, stopped: Callable[[], bool]) -> dict[str, float]:
        """Flood until `stopped` returns True."""
        ready = select.poll()
        ready.register(self._client.fd, select.POLLIN | select.POLLOUT)
        while not stopped():
            ready.poll(100)
            self.step()
        return {"answered": self._answered}

    def step(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._sent += self._client.send(self._requests[self._sent :])
            self._sent %= len(self._requests)
        with contextlib.suppress(BlockingIOError):
            self._check(self._client.recv(READ))

    def _check(self, data: bytes | None) -> None:
        if not data:
            raise ReplyError("the server closed the connection of the flooding client")
        pending = self._client.pending
        pending += data
        one = len(self._replies.one)
        whole = len(pending) // one if one else 0
        if whole and self._right.startswith(pending[: whole * one]):
            del pending[: whole * one]
            self._answered += whole
            return
        count, _ = self._replies.take(pending)
        self._answered += count
        self._right = self._replies.one * (2 * READ // len(self._replies.one)) if count else b""


class WellBehaved:
    """Clients that send one request at a time, at a fixed pace.

    The latency of a request counts from the time at which it was due. So a slow server, which delays later
    requests, does not get better figures because of that.
    """

    depth = 1

    def __init__(self, clients: list[Client], exchange: Exchange, pace: float = PACE) -> None:
        self._poller = Poller(clients)
        self._exchange = exchange
        self._pace = pace
        self._clock = clock
        self.between_polls: Callable[[], None] | None = None

    def run(self, seconds: float) -> list[float]:
        poller, request = self._poller, self._exchange.request
        due = self._first_requests()
        took: list[float] = []
        asked = 0
        now = self._clock()
        end = now + seconds
        while now < end or asked:
            while now < end and due and due[0][0] <= now:
                when, fd = heapq.heappop(due)
                client = poller.clients[fd]
                client.since = self._since(client, when)
                poller.send(client, request)
                asked += 1
            for fd, _ in poller.poll(0, AT_ONCE):
                client = poller.clients[fd]
                arrived = self._replied(client)
                if arrived is not None:
                    took.append(arrived - client.since)
                    heapq.heappush(due, (client.since + self._pace, fd))
                    asked -= 1
            if self.between_polls:
                self.between_polls()
            now = self._clock()
            if now > end + REPLY_TIMEOUT:
                raise ReplyError(f"{asked} well-behaved clients have no reply after {REPLY_TIMEOUT:.0f} s")
        return took

    def begun(self) -> list[float]:
        return []

    def _first_requests(self) -> list[tuple[float, int]]:
        now = self._clock()
        step = self._pace / len(self._poller.clients)
        return [(now + number * step, fd) for number, fd in enumerate(self._poller.clients)]

    def _since(self, client: Client, due: float) -> float:
        """Return the time from which the latency of a request counts that is sent now."""
        return due

    def _replied(self, client: Client) -> float | None:
        """Return the time of the reply; None if it is not complete yet."""
        return clock() if client.collect(client.recv(READ), self._exchange.replies) else None


class StampedClients(WellBehaved):
    """Well-behaved clients whose latency does not include the time that their process waits for its core.

    The time of a reply is the timestamp of the kernel. The latency counts from the time at which the request was
    sent. If the previous reply arrived after the request was due, it counts from the time at which it was due.
    A slow server may ping its clients, so they answer pings.
    """

    _ping = wire.server_frame(wire.PING, b"heartbeat")  # the Ping of humphrey_trio
    _pong = wire.client_frame(wire.PONG, b"heartbeat")

    def __init__(self, clients: list[Client], exchange: Exchange, pace: float = PACE) -> None:
        super().__init__(clients, exchange, pace)
        self._clock = time.time
        self._last = dict.fromkeys(self._poller.clients, 0.0)
        for client in clients:
            client.stamp()

    def _since(self, client: Client, due: float) -> float:
        return due if self._last[client.fd] > due else self._clock()

    def _replied(self, client: Client) -> float | None:
        data, arrived = client.recv_stamped(READ)
        if self._ping in data:
            self._poller.send(client, self._pong)
            data = data.replace(self._ping, b"")
            if not data:
                return None
        if not client.collect(data, self._exchange.replies):
            return None
        self._last[client.fd] = arrived
        return arrived


def opened(port: int, count: int, exchange: Exchange, kind: Callable[[int], Client] = Client) -> list[Client]:
    """Open connections. Each has received one reply."""
    clients: list[Client] = []
    while len(clients) < count:
        batch = [kind(port) for _ in range(min(AT_ONCE, count - len(clients)))]
        exchange_once(batch, exchange)
        clients += batch
    return clients


def exchange_once(clients: list[Client], exchange: Exchange) -> None:
    """Send one request on each connection, and wait for the replies."""
    poller = Poller(clients)
    for client in clients:
        poller.send(client, exchange.request)
    missing = len(clients)
    deadline = clock() + REPLY_TIMEOUT
    while missing:
        for fd, event in poller.poll(0, AT_ONCE):
            client = poller.clients[fd]
            if poller.readable(client, event):
                missing -= client.collect(client.recv(READ), exchange.replies)
        if clock() > deadline:
            raise ReplyError(f"{missing} of {len(clients)} new connections got no reply")
    poller.release()


def percentile(samples: list[float], share: float) -> float:
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * share))]


def measured(load: Load, job: Job, shared: bool = False) -> Result:
    """Warm up, measure, and compute the figures of an operation. `shared` is as for `Window`."""
    load.run(job.warmup)
    window = Window(job.pids, shared)
    took = load.run(job.seconds)
    window.close()
    if not took:
        raise ReplyError(f"no reply within {job.seconds} s")
    begun = load.begun()
    operations = len(took) * load.depth
    result = timed(took)
    result.value = operations / window.elapsed
    result.slowest_ms = max([result.slowest_ms or 0.0, *((clock() - since) * 1e3 for since in begun)])
    result.cpu_us = window.cpu / operations * 1e6
    result.busy = window.busy
    result.disturbed = window.disturbed
    if starved := sum(since < window.started for since in begun):
        result.extra["connections without a reply"] = starved
    return result


def timed(took: list[float]) -> Result:
    return Result(
        value=0.0,
        p50_ms=percentile(took, 0.50) * 1e3,
        p99_ms=percentile(took, 0.99) * 1e3,
        slowest_ms=max(took) * 1e3,
    )


def request_for(work: Work) -> Exchange:
    if work.protocol == "ws":
        return wire.echo(work.size, work.binary)
    if work.size:
        return wire.post(work.size)
    return wire.get(work.path, wire.BROWSER_FIELDS if work.browser else b"")


def first_exchange(work: Work, request: Exchange) -> Exchange:
    """Return the first exchange of a connection."""
    return wire.upgrade("/ws") if work.protocol == "ws" else request


def client_for(work: Work) -> Callable[[int], Client]:
    """Return a function that connects to a port."""
    return partial(TlsClient, context=client_context()) if work.tls else Client


def resuming_client(port: int) -> Callable[[int], Client]:
    """Open a connection, and return a function that connects to a port and resumes its TLS session."""
    context = client_context()
    first = TlsClient(port, context)
    exchange_once([first], wire.get())
    session = first.session
    first.close()
    return partial(TlsClient, context=context, session=session)


def closed_loop(job: Job) -> Result:
    request = request_for(job.work)
    opening = first_exchange(job.work, request)
    clients = opened(job.port, job.work.connections, opening, client_for(job.work))
    return measured(ClosedLoop(clients, request, job.work.depth), job)


def new_connections(job: Job) -> Result:
    websocket = job.work.protocol == "ws"
    steps = [wire.upgrade("/ws"), wire.close()] if websocket else [wire.get(fields=wire.CLOSE_FIELD)]
    kind = resuming_client(job.port) if job.work.resumed else client_for(job.work)
    load = NewConnections(partial(kind, job.port), steps, job.work.connections, server_closes=websocket)
    result = measured(load, job)
    if load.cut_short:
        result.extra["% closed without a Close frame"] = 100 * load.cut_short / load.ended
    return result


def connect_at_once(job: Job) -> Result:
    """Many busy clients connect at once, several times. The figure is the time until the last is served."""
    request = wire.get()
    ClosedLoop(opened(job.port, 1, request), request).run(job.warmup)
    took: list[float] = []
    last: list[float] = []
    end = clock() + job.seconds
    while len(last) < 3 or clock() < end:
        first_replies = times_of_first_replies(job.port, job.work.connections, request)
        last.append(max(first_replies) * 1e3)
        took += first_replies
        time.sleep(SETTLE / 2)
    result = timed(took)
    result.value = statistics.median(last)
    return result


def times_of_first_replies(port: int, count: int, request: Exchange) -> list[float]:
    """Connect, send requests on all connections, and return the times until each has received its first reply."""
    poller = Poller()
    started = clock()
    for _ in range(count):
        client = Client(port)
        poller.add(client)
        poller.send(client, request.request)
    first: dict[int, float] = {}
    while len(first) < count:
        for fd, _ in poller.poll(0, AT_ONCE):
            client = poller.clients[fd]
            if client.collect(client.recv(READ), request.replies):
                first.setdefault(fd, clock() - started)
                poller.send(client, request.request)
        if clock() > started + REPLY_TIMEOUT:
            raise ReplyError(f"only {len(first)} of {count} new clients were served within {REPLY_TIMEOUT:.0f} s")
    poller.remove_all()
    return list(first.values())


def broadcasts(job: Job) -> Result:
    clients = opened(job.port, job.work.connections, wire.upgrade("/broadcast"), client_for(job.work))
    time.sleep(SETTLE)
    return measured(Broadcasts(clients, job.work.size), job)


def idle(job: Job) -> Result:
    """The memory that idle connections add to the server. The figure is that of one connection."""
    opening = first_exchange(job.work, request_for(job.work))
    kind = client_for(job.work)
    first = opened(job.port, AT_ONCE, opening, kind)
    time.sleep(SETTLE)
    before, cpu = resident_bytes(job.pids), cpu_seconds(job.pids)
    more = opened(job.port, job.work.connections, opening, kind)
    time.sleep(SETTLE)
    after, cpu = resident_bytes(job.pids), cpu_seconds(job.pids) - cpu
    exchange_once(first + more, request_for(job.work))
    return Result(value=(after - before) / len(more), extra={"CPU to open, us": cpu / len(more) * 1e6})


def flood(job: Job) -> Result:
    """Time well-behaved clients, first alone and then with a flooding client."""
    request = request_for(job.work)
    opening = first_exchange(job.work, request)
    clients = WellBehaved(opened(job.port, job.work.connections, opening), request)
    alone = measured(clients, job)
    with in_background(
        Flood(opened(job.port, 1, opening)[0], request_for(job.work)).run, BACKGROUND_NICE
    ) as figures:
        disturbed = measured(clients, job)
    if not figures.get("answered"):
        raise ReplyError("the flooding client received no reply")
    return compared(alone, disturbed)


@contextlib.contextmanager
def in_background(work: Callable[[Callable[[], bool]], dict[str, float]], nice: int) -> Iterator[dict[str, float]]:
    """Run a function in another process during a block, so that it does not delay the timed clients.

    Args:
        work: called with a function that returns True when the block has ended. Returns figures.
        nice: the priority of the process.

    Yields:
        A dict that contains the figures after the block. It is empty if the function failed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _run_in_background(work, nice, writing)
    os.close(writing)
    figures: dict[str, float] = {}
    try:
        yield figures
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        with open(reading, "rb") as pipe:
            figures.update(json.loads(pipe.read() or b"{}"))


def _run_in_background(work: Callable[[Callable[[], bool]], dict[str, float]], nice: int, pipe: int) -> NoReturn:
    signals: list[int] = []
    try:
        signal.signal(signal.SIGTERM, lambda *_: signals.append(1))
        signal.alarm(LONGEST_CELL)
        os.nice(nice)
        os.write(pipe, json.dumps(work(lambda: bool(signals))).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def during_broadcasts(job: Job) -> Result:
    """Time well-behaved clients, first alone and then during broadcasts to many others. All are always open."""
    receivers = opened(job.port, job.work.connections, wire.upgrade("/broadcast"))
    echo = wire.echo(32)
    clients = WellBehaved(opened(job.port, WELL_BEHAVED, wire.upgrade("/ws")), echo)
    time.sleep(SETTLE)
    alone = measured(clients, job)
    broadcasts_to_others = Broadcasts(receivers, job.work.size)
    clients.between_polls = lambda: broadcasts_to_others.step(FEW_AT_ONCE)
    return compared(alone, measured(clients, job))


def compared(alone: Result, disturbed: Result) -> Result:
    """Return the second result, with the quotient of the two p99 as its value."""
    assert alone.p99_ms is not None
    assert disturbed.p99_ms is not None
    disturbed.value = disturbed.p99_ms / alone.p99_ms
    disturbed.cpu_us = None
    disturbed.disturbed = max(alone.disturbed or 0.0, disturbed.disturbed or 0.0)
    disturbed.extra = {"p99 alone, ms": alone.p99_ms}
    return disturbed


def idle_connections(job: Job) -> Result:
    """Measure clients in a closed loop, first alone and then with many idle connections."""
    echo = wire.echo(job.work.size)
    loop = ClosedLoop(opened(job.port, AT_ONCE, wire.upgrade("/ws")), echo)
    alone = measured(loop, job)
    idle_clients = opened(job.port, job.work.connections - AT_ONCE, wire.upgrade("/ws"))
    together = measured(loop, job)
    exchange_once(idle_clients[:AT_ONCE], echo)
    assert alone.cpu_us is not None
    assert together.cpu_us is not None
    together.value = together.cpu_us / alone.cpu_us
    together.disturbed = max(alone.disturbed or 0.0, together.disturbed or 0.0)
    together.extra = {"CPU alone, us": alone.cpu_us}
    return together


MODES: dict[str, Callable[[Job], Result]] = {
    mode.__name__: mode
    for mode in (
        closed_loop,
        new_connections,
        connect_at_once,
        broadcasts,
        idle,
        flood,
        during_broadcasts,
        idle_connections,
        downloads.downloads,
    )
}


SomeJob = TypeVar("SomeJob", bound=Job)


def answer(kind: type[SomeJob], run: Callable[[SomeJob], Result]) -> None:
    """Read a job of some kind from standard input, run it, and print the result."""
    given = json.load(sys.stdin)
    job = kind(**{**given, "work": Work(**given["work"])})
    gc.disable()
    try:
        print(json.dumps(asdict(run(job))))
    except (ReplyError, OSError) as problem:
        sys.exit(f"{type(problem).__name__}: {problem}")


if __name__ == "__main__":
    answer(Job, lambda job: MODES[job.work.mode](job))
