"""The load generator: a process of its own that keeps one server busy, checks its replies and times them.

It reads a Job from standard input and prints a Result. One thread, non-blocking sockets and epoll, which it
asks without waiting: on a virtual machine a core that sleeps wakes up too slowly to time anything. All
connections are open, and have had a reply, before the clock runs.
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

from benchmarks import wire
from benchmarks.clients import Client, TlsClient, client_context
from benchmarks.measure import LONGEST_CELL, Job, Result, Window, cpu_seconds, resident_bytes
from benchmarks.scenarios import Work
from benchmarks.wire import Exchange, ReplyError

AT_ONCE = 64  # connections opened side by side, and events taken at once
READ = 2**16
PATIENCE = 10.0  # seconds until a reply counts as lost
SETTLE = 0.5  # seconds for a server to finish what it does after its last reply
WELL_BEHAVED = 50
PACE = 0.05  # seconds from one request of a well-behaved client to its next
FLOOD_NICE = 10  # it shares a core with those who are timed, and must not take it from them
FLOOD = 2**16  # bytes of requests that a flooding client offers at a time
FEW_AT_ONCE = 16  # events of a crowd taken between two looks at the clients that are timed

clock = time.perf_counter
IN, OUT = select.EPOLLIN, select.EPOLLOUT


class Switchboard:
    """Clients that are waited for together."""

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
        """Send what is left over if there is room now; tell whether there is something to read."""
        if event & OUT:
            with contextlib.suppress(BlockingIOError):
                client.unsent = client.unsent[client.send(client.unsent) :]
            if not client.unsent:
                self._epoll.modify(client.fd, IN)
        return event & ~OUT != 0

    def drop(self, client: Client) -> None:
        del self.clients[client.fd]
        client.close()

    def drop_all(self) -> None:
        for client in list(self.clients.values()):
            self.drop(client)

    def release(self) -> None:
        """Wait for these clients no longer; their connections stay open."""
        self._epoll.close()


class Load(Protocol):
    """Work that goes on for as long as it is run."""

    depth: int  # operations that one sample stands for

    def run(self, seconds: float) -> list[float]:
        """Work so long; return how many seconds each operation took that ended in this time."""

    def begun(self) -> list[float]:
        """When the operations began that have not ended yet."""


class ClosedLoop:
    """Every client sends a request (or a batch of them), waits for the replies and sends again."""

    def __init__(self, clients: list[Client], exchange: Exchange, depth: int = 1) -> None:
        self._board = Switchboard(clients)
        self._batch = exchange.request * depth
        self._replies = exchange.replies
        self.depth = depth
        for client in clients:
            client.expects = depth
            client.since = clock()
            self._board.send(client, self._batch)

    def run(self, seconds: float) -> list[float]:
        poll, clients, readable, send = (
            self._board.poll,
            self._board.clients,
            self._board.readable,
            self._board.send,
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
        return [client.since for client in self._board.clients.values()]


class NewConnections:
    """Some clients at a time connect, go through the steps and leave, each followed by the next."""

    depth = 1

    def __init__(
        self, connect: Callable[[], Client], steps: list[Exchange], at_a_time: int, server_closes: bool
    ) -> None:
        self._board = Switchboard()
        self._connect = connect
        self._steps = steps
        self._server_closes = server_closes
        self.ended = 0
        self.cut_short = 0  # ended by the server before its last reply
        for _ in range(at_a_time):
            self._come()

    def run(self, seconds: float) -> list[float]:
        board = self._board
        took: list[float] = []
        end = clock() + seconds
        while clock() < end:
            for fd, _ in board.poll(0, AT_ONCE):
                client = board.clients[fd]
                if self._is_done(client, client.recv(READ)):
                    took.append(clock() - client.since)
                    self.ended += 1
                    board.drop(client)
                    self._come()
        return took

    def begun(self) -> list[float]:
        return [client.since for client in self._board.clients.values()]

    def _come(self) -> None:
        since = clock()
        client = self._connect()
        client.since = since
        self._board.add(client)
        self._board.send(client, self._steps[0].request)

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
            self._board.send(client, self._steps[client.step].request)
            return False
        return not self._server_closes


class Broadcasts:
    """The first client sends a message to all; when everybody has it, it sends the next."""

    depth = 1

    def __init__(self, clients: list[Client], size: int) -> None:
        self._board = Switchboard(clients)
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
        """Send the next message if it is time, and look once for deliveries."""
        if not self._missing:
            self._send_next()
        clients, took, since = self._board.clients, self._took, self._since
        replies = self._messages[self._number].replies
        right = replies.one
        for fd, _ in self._board.poll(0, at_once):
            client = clients[fd]
            data = client.recv(READ)
            if (data == right and not client.partial) or client.collect(data, replies):
                took.append(clock() - since)
                self._missing -= 1
        if clock() - since > PATIENCE:
            raise ReplyError(f"a broadcast did not reach {self._missing} of {len(clients)} clients")

    def _send_next(self) -> None:
        self._number = (self._number + 1) % len(self._messages)
        self._missing = len(self._board.clients)
        self._since = clock()
        self._board.send(self._sender, self._messages[self._number].request)


class Flood:
    """One client that pipelines requests as fast as the server takes them, and reads the replies."""

    def __init__(self, client: Client, exchange: Exchange) -> None:
        self._client = client
        self._replies = exchange.replies
        self._requests = memoryview(exchange.request * (FLOOD // len(exchange.request)))
        self._sent = 0
        self._right = b""
        self._answered = 0

    def run(self, enough: Callable[[], bool]) -> dict[str, float]:
        """Flood until it is enough."""
        ready = select.poll()
        ready.register(self._client.fd, select.POLLIN | select.POLLOUT)
        while not enough():
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
            raise ReplyError("the server closed the connection of the client that floods")
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
    """Clients that send a request at a fixed pace, one at a time.

    A request is timed from when it was due, so that a server which holds clients up cannot hide it by
    getting fewer requests.
    """

    depth = 1

    def __init__(self, clients: list[Client], exchange: Exchange, pace: float = PACE) -> None:
        self._board = Switchboard(clients)
        self._exchange = exchange
        self._pace = pace
        self._clock = clock
        self.beside: Callable[[], None] | None = None  # what goes on at the same time

    def run(self, seconds: float) -> list[float]:
        board, request = self._board, self._exchange.request
        due = self._first_requests()
        took: list[float] = []
        asked = 0
        now = self._clock()
        end = now + seconds
        while now < end or asked:
            while now < end and due and due[0][0] <= now:
                when, fd = heapq.heappop(due)
                client = board.clients[fd]
                client.since = self._since(client, when)
                board.send(client, request)
                asked += 1
            for fd, _ in board.poll(0, AT_ONCE):
                client = board.clients[fd]
                arrived = self._replied(client)
                if arrived is not None:
                    took.append(arrived - client.since)
                    heapq.heappush(due, (client.since + self._pace, fd))
                    asked -= 1
            if self.beside:
                self.beside()
            now = self._clock()
            if now > end + PATIENCE:
                raise ReplyError(f"{asked} well-behaved clients have no reply after {PATIENCE:.0f} s")
        return took

    def begun(self) -> list[float]:
        return []

    def _first_requests(self) -> list[tuple[float, int]]:
        now = self._clock()
        step = self._pace / len(self._board.clients)
        return [(now + number * step, fd) for number, fd in enumerate(self._board.clients)]

    def _since(self, client: Client, due: float) -> float:
        """From when on a request counts that is sent now."""
        return due

    def _replied(self, client: Client) -> float | None:
        """When the reply came; None if it is not there, or not whole."""
        return clock() if client.collect(client.recv(READ), self._exchange.replies) else None


class StampedClients(WellBehaved):
    """Well-behaved clients that do not count how long their own process waits for its core.

    A reply has come when the kernel says so. A request counts from when it was sent; only if the server has
    held it up, because the reply before it came too late, from when it was due. A server that is late may take
    its clients for silent, so they answer its pings.
    """

    _ping = wire.server_frame(wire.PING, b"heartbeat")  # so they look from humphrey_trio
    _pong = wire.client_frame(wire.PONG, b"heartbeat")

    def __init__(self, clients: list[Client], exchange: Exchange, pace: float = PACE) -> None:
        super().__init__(clients, exchange, pace)
        self._clock = time.time
        self._last = dict.fromkeys(self._board.clients, 0.0)
        for client in clients:
            client.stamp()

    def _since(self, client: Client, due: float) -> float:
        return due if self._last[client.fd] > due else self._clock()

    def _replied(self, client: Client) -> float | None:
        data, arrived = client.recv_stamped(READ)
        if self._ping in data:
            self._board.send(client, self._pong)
            data = data.replace(self._ping, b"")
            if not data:
                return None
        if not client.collect(data, self._exchange.replies):
            return None
        self._last[client.fd] = arrived
        return arrived


def opened(port: int, count: int, exchange: Exchange, kind: Callable[[int], Client] = Client) -> list[Client]:
    """So many connections, each of which has had one reply."""
    clients: list[Client] = []
    while len(clients) < count:
        batch = [kind(port) for _ in range(min(AT_ONCE, count - len(clients)))]
        converse(batch, exchange)
        clients += batch
    return clients


def converse(clients: list[Client], exchange: Exchange) -> None:
    """Let every client send one request and have its reply."""
    board = Switchboard(clients)
    for client in clients:
        board.send(client, exchange.request)
    missing = len(clients)
    deadline = clock() + PATIENCE
    while missing:
        for fd, event in board.poll(0, AT_ONCE):
            client = board.clients[fd]
            if board.readable(client, event):
                missing -= client.collect(client.recv(READ), exchange.replies)
        if clock() > deadline:
            raise ReplyError(f"{missing} of {len(clients)} new connections got no reply")
    board.release()


def percentile(samples: list[float], share: float) -> float:
    return sorted(samples)[min(len(samples) - 1, int(len(samples) * share))]


def measured(load: Load, job: Job, shared: bool = False) -> Result:
    """Warm up, measure, and work out the figures per operation; `shared` is as for a Window."""
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
    return wire.post(work.size) if work.size else wire.get()


def greeting_for(work: Work, request: Exchange) -> Exchange:
    """The first exchange on a connection."""
    return wire.upgrade("/ws") if work.protocol == "ws" else request


def client_for(work: Work) -> Callable[[int], Client]:
    """What makes a connection to a port."""
    return partial(TlsClient, context=client_context()) if work.tls else Client


def resuming_client(port: int) -> Callable[[int], Client]:
    """What makes a connection that resumes a session of TLS, the one of a first connection to this port."""
    context = client_context()
    first = TlsClient(port, context)
    converse([first], wire.get())
    session = first.session
    first.close()
    return partial(TlsClient, context=context, session=session)


def closed_loop(job: Job) -> Result:
    request = request_for(job.work)
    greeting = greeting_for(job.work, request)
    clients = opened(job.port, job.work.connections, greeting, client_for(job.work))
    return measured(ClosedLoop(clients, request, job.work.depth), job)


def new_connections(job: Job) -> Result:
    websocket = job.work.protocol == "ws"
    steps = [wire.upgrade("/ws"), wire.close()] if websocket else [wire.get(close=True)]
    kind = resuming_client(job.port) if job.work.resumed else client_for(job.work)
    load = NewConnections(partial(kind, job.port), steps, job.work.connections, server_closes=websocket)
    result = measured(load, job)
    if load.cut_short:
        result.extra["% closed without a Close frame"] = 100 * load.cut_short / load.ended
    return result


def newcomers(job: Job) -> Result:
    """Many busy clients come at once, several times; the figure is the time until the last is served."""
    request = wire.get()
    ClosedLoop(opened(job.port, 1, request), request).run(job.warmup)
    took: list[float] = []
    last: list[float] = []
    end = clock() + job.seconds
    while len(last) < 3 or clock() < end:
        first_replies = come_at_once(job.port, job.work.connections, request)
        last.append(max(first_replies) * 1e3)
        took += first_replies
        time.sleep(SETTLE / 2)
    result = timed(took)
    result.value = statistics.median(last)
    return result


def come_at_once(port: int, count: int, request: Exchange) -> list[float]:
    """Connect, keep asking on every connection, and tell after what time each had its first reply."""
    board = Switchboard()
    started = clock()
    for _ in range(count):
        client = Client(port)
        board.add(client)
        board.send(client, request.request)
    first: dict[int, float] = {}
    while len(first) < count:
        for fd, _ in board.poll(0, AT_ONCE):
            client = board.clients[fd]
            if client.collect(client.recv(READ), request.replies):
                first.setdefault(fd, clock() - started)
                board.send(client, request.request)
        if clock() > started + PATIENCE:
            raise ReplyError(f"only {len(first)} of {count} newcomers served within {PATIENCE:.0f} s")
    board.drop_all()
    return list(first.values())


def broadcasts(job: Job) -> Result:
    clients = opened(job.port, job.work.connections, wire.upgrade("/broadcast"), client_for(job.work))
    time.sleep(SETTLE)
    return measured(Broadcasts(clients, job.work.size), job)


def idle(job: Job) -> Result:
    """The memory of the server before and after many connections have come that then do nothing."""
    greeting = greeting_for(job.work, request_for(job.work))
    kind = client_for(job.work)
    first = opened(job.port, AT_ONCE, greeting, kind)
    time.sleep(SETTLE)
    before, cpu = resident_bytes(job.pids), cpu_seconds(job.pids)
    more = opened(job.port, job.work.connections, greeting, kind)
    time.sleep(SETTLE)
    after, cpu = resident_bytes(job.pids), cpu_seconds(job.pids) - cpu
    converse(first + more, request_for(job.work))
    return Result(value=(after - before) / len(more), extra={"CPU to open, us": cpu / len(more) * 1e6})


def flood(job: Job) -> Result:
    """Well-behaved clients, first alone and then beside one that floods."""
    request = request_for(job.work)
    greeting = greeting_for(job.work, request)
    clients = WellBehaved(opened(job.port, job.work.connections, greeting), request)
    alone = measured(clients, job)
    with aside(Flood(opened(job.port, 1, greeting)[0], request_for(job.work)).run, FLOOD_NICE) as other:
        beside = measured(clients, job)
    if not other.get("answered"):
        raise ReplyError("the client that floods got no reply")
    return compared(alone, beside)


@contextlib.contextmanager
def aside(work: Callable[[Callable[[], bool]], dict[str, float]], nice: int) -> Iterator[dict[str, float]]:
    """Let something work in a process of its own, so that it does not hold up those who are timed.

    It is given a function that says when it is enough: when the block is left. What it returns is in the
    block's value then; nothing is, if it failed.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        _work_aside(work, nice, writing)
    os.close(writing)
    answer: dict[str, float] = {}
    try:
        yield answer
    finally:
        os.kill(child, signal.SIGTERM)
        os.waitpid(child, 0)
        with open(reading, "rb") as pipe:
            answer.update(json.loads(pipe.read() or b"{}"))


def _work_aside(work: Callable[[Callable[[], bool]], dict[str, float]], nice: int, answer: int) -> NoReturn:
    asked: list[int] = []
    try:
        signal.signal(signal.SIGTERM, lambda *_: asked.append(1))
        signal.alarm(LONGEST_CELL)
        os.nice(nice)
        os.write(answer, json.dumps(work(lambda: bool(asked))).encode())
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(0)


def beside_broadcasts(job: Job) -> Result:
    """Well-behaved clients, first alone and then while messages go to a crowd (there all the time)."""
    crowd = opened(job.port, job.work.connections, wire.upgrade("/broadcast"))
    echo = wire.echo(32)
    clients = WellBehaved(opened(job.port, WELL_BEHAVED, wire.upgrade("/ws")), echo)
    time.sleep(SETTLE)
    alone = measured(clients, job)
    other = Broadcasts(crowd, job.work.size)
    clients.beside = lambda: other.step(FEW_AT_ONCE)
    return compared(alone, measured(clients, job))


def compared(alone: Result, beside: Result) -> Result:
    """The figures of the clients that were not alone; the value is how many times their p99 has grown."""
    assert alone.p99_ms is not None
    assert beside.p99_ms is not None
    beside.value = beside.p99_ms / alone.p99_ms
    beside.cpu_us = None
    beside.disturbed = max(alone.disturbed or 0.0, beside.disturbed or 0.0)
    beside.extra = {"p99 alone, ms": alone.p99_ms}
    return beside


def crowd(job: Job) -> Result:
    """The same clients in a closed loop, first alone and then with a crowd of idle connections."""
    echo = wire.echo(job.work.size)
    loop = ClosedLoop(opened(job.port, AT_ONCE, wire.upgrade("/ws")), echo)
    alone = measured(loop, job)
    idle_clients = opened(job.port, job.work.connections - AT_ONCE, wire.upgrade("/ws"))
    crowded = measured(loop, job)
    converse(idle_clients[:AT_ONCE], echo)
    assert alone.cpu_us is not None
    assert crowded.cpu_us is not None
    crowded.value = crowded.cpu_us / alone.cpu_us
    crowded.disturbed = max(alone.disturbed or 0.0, crowded.disturbed or 0.0)
    crowded.extra = {"CPU alone, us": alone.cpu_us}
    return crowded


MODES: dict[str, Callable[[Job], Result]] = {
    mode.__name__: mode
    for mode in (closed_loop, new_connections, newcomers, broadcasts, idle, flood, beside_broadcasts, crowd)
}


SomeJob = TypeVar("SomeJob", bound=Job)


def answer(kind: type[SomeJob], run: Callable[[SomeJob], Result]) -> None:
    """Read a job from standard input, do it and print its result."""
    order = json.load(sys.stdin)
    job = kind(**{**order, "work": Work(**order["work"])})
    gc.disable()
    try:
        print(json.dumps(asdict(run(job))))
    except (ReplyError, OSError) as problem:
        sys.exit(f"{type(problem).__name__}: {problem}")


if __name__ == "__main__":
    answer(Job, lambda job: MODES[job.work.mode](job))
