"""HTTP connections: exchanges, timeouts and limits in virtual time; what only sockets can show, on sockets."""

from __future__ import annotations

import errno
import gc
import logging
import os
import socket
import tracemalloc
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing

from humphrey_trio import WebsocketStream, websocket_handler
from humphrey_trio.http import Address, App, Headers, Limits, Request, Response, Timeouts
from humphrey_trio.websocket import Upgrade
from tests.support import ANY_PORT, PATIENCE
from tests.support.apps import served_in_memory
from tests.support.cancellation import open_files
from tests.support.links import Link, is_refused
from tests.support.links import reset as reset_connection
from tests.support.parsers import each_parser as each_parser  # the fixture
from tests.support.programs import free_port
from tests.support.steps import at_step
from tests.support.wire import HANDSHAKE_FIELDS, request_bytes

# Every test runs with each parser of request heads.
pytestmark = pytest.mark.usefixtures("each_parser")

# -------------------------------------------------------------------------------------------- the client


class Answer(NamedTuple):
    """A response as it came."""

    status: int
    headers: Headers
    content: bytes


class Closed(Exception):
    """The server has closed the connection instead of answering."""


class Client:
    """A client's end of a connection: bytes out, whole responses in."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self._buffer = b""

    async def send(self, *data: bytes) -> None:
        for piece in data:
            await self.stream.send_all(piece)

    async def receive(self, *, head_only: bool = False) -> Answer:
        """The next response; what comes behind it is kept."""
        raw, self._buffer = await self._until(b"\r\n\r\n")
        status_line, *lines = raw.decode("latin-1").removesuffix("\r\n\r\n").split("\r\n")
        headers = Headers([(name, value) for name, _, value in (line.partition(": ") for line in lines)])
        size = 0 if head_only else int(headers.get("Content-Length", "0"))
        while len(self._buffer) < size:
            self._buffer += await self._more()
        content, self._buffer = self._buffer[:size], self._buffer[size:]
        return Answer(int(status_line.split()[1]), headers, content)

    async def ask(self, *data: bytes) -> Answer:
        await self.send(*data)
        return await self.receive()

    async def rest(self) -> bytes:
        """All that still comes, up to the server's end of file."""
        while data := await self.stream.receive_some():
            self._buffer += data
        return self._buffer

    async def _until(self, mark: bytes) -> tuple[bytes, bytes]:
        while mark not in self._buffer:
            self._buffer += await self._more()
        found, _, rest = self._buffer.partition(mark)
        return found + mark, rest

    async def _more(self) -> bytes:
        data = await self.stream.receive_some()
        if not data:
            raise Closed(f"behind {self._buffer!r}")
        return bytes(data)


def get(path: str = "/", *lines: str, version: str = "1.1") -> bytes:
    return "\r\n".join([f"GET {path} HTTP/{version}", "Host: a", *lines, "", ""]).encode()


def post(path: str, *lines: str, content: bytes = b"", version: str = "1.1") -> bytes:
    return "\r\n".join([f"POST {path} HTTP/{version}", "Host: a", *lines, "", ""]).encode() + content


def sized(path: str, content: bytes) -> bytes:
    return post(path, f"Content-Length: {len(content)}", content=content)


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)


def echo(request: Request) -> Response:
    return Response(200, request.content)


async def wait_a_second(_: Request) -> Response:
    await trio.sleep(1)
    return Response(200, "waited")


def small_app(**settings: Any) -> App:
    """An app that says fine at ``/``, echoes a body at ``/echo`` and takes a second for ``/wait``."""
    return (
        App(**settings)
        .with_stateless_route("/", lambda _: Response(200, "fine"))
        .with_stateless_route("/echo", echo)
        .with_stateless_route("/wait", wait_a_second)
    )


Connect = Callable[[], Client]


@asynccontextmanager
async def in_memory(app: App[Any], *, patience: float = PATIENCE, **options: Any) -> AsyncGenerator[Connect]:
    """Serve an app without sockets; gives a function that connects."""
    with trio.fail_after(patience):
        async with served_in_memory(app, **options) as connect:
            yield lambda: Client(connect())


@asynccontextmanager
async def listening(app: App[Any], *addresses: str) -> AsyncGenerator[tuple[Address, ...]]:
    """Run an app on sockets until the end of the block; gives its addresses."""
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(app.run, *(addresses or (ANY_PORT,)))
            nursery.cancel_scope.cancel()


async def dial(address: Address) -> Client:
    return Client(await Link.PLAIN.connect(address))


async def is_served(address: Address) -> bool:
    """Whether a new client gets its answer."""
    client = await dial(address)
    async with client.stream:
        return (await client.ask(get())).content == b"fine"


async def reset(client: Client) -> None:
    """Leave with a TCP reset."""
    reset_connection(client.stream)
    await trio.lowlevel.checkpoint()


# -------------------------------------------------------------------------------------------- exchanges


async def test_a_connection_is_kept_alive() -> None:
    """A connection serves one request after the other, and says nothing about it."""
    async with in_memory(small_app()) as connect:
        client = connect()
        for _ in range(3):
            answer = await client.ask(get())
            assert (answer.status, answer.content) == (200, b"fine")
            assert "Connection" not in answer.headers


async def test_pipelined_requests_are_answered_in_order(autojump_clock: trio.testing.MockClock) -> None:
    """Requests that come at once are answered one after the other, however long each one takes."""
    running: list[str] = []

    async def slow_first(request: Request) -> Response:
        running.append(request.path)
        await trio.sleep(10 - int(request.path[1:]))
        assert running.pop() == request.path
        assert running == []
        return Response(200, request.path)

    async with in_memory(App().with_stateless_route("/*", slow_first)) as connect:
        client = connect()
        await client.send(b"".join(get(f"/{number}") for number in range(10)))
        assert [(await client.receive()).content for _ in range(10)] == [b"/%d" % number for number in range(10)]


async def test_pipelining_does_not_hold_up_others() -> None:
    """While a client's thousand requests are answered, another client gets its turn."""
    done = 0
    done_at_mark: int | None = None

    def count(request: Request) -> Response:
        nonlocal done, done_at_mark
        done += 1
        if request.path == "/mark":
            done_at_mark = done
        return Response.empty(204)

    async with in_memory(App().with_stateless_route("/*", count)) as connect:
        greedy, other = connect(), connect()
        await greedy.send(get() * 1000)
        await other.ask(get("/mark"))
        for _ in range(1000):
            await greedy.receive()
    assert done_at_mark is not None
    assert done_at_mark < 200


async def test_head_is_get_without_the_body() -> None:
    """HEAD is answered as GET, length included, but for the body; the next response is where it belongs."""
    async with in_memory(small_app()) as connect:
        client = connect()
        for path in ("/", "/nowhere"):
            whole = await client.ask(get(path))
            await client.send(get(path).replace(b"GET", b"HEAD"))
            head = await client.receive(head_only=True)
            assert head.status == whole.status
            assert head.headers.without_header("Date") == whole.headers.without_header("Date")
        assert (await client.ask(get())).content == b"fine"


@pytest.mark.parametrize(
    "request_",
    [
        get(version="1.0"),
        get("/", "Connection: close"),
        get("/", "Connection: keep-alive", version="1.0"),
        get("/bye"),
    ],
    ids=["HTTP/1.0", "client", "HTTP/1.0 keep-alive", "handler"],
)
async def test_a_connection_is_closed_when_one_side_says_so(request_: bytes) -> None:
    """Behind the response to HTTP/1.0, or to a close from either side, nothing is served; the response says so."""
    app = small_app().with_stateless_route("/bye", lambda _: Response(200, "fine", {"Connection": "close"}))
    async with in_memory(app) as connect:
        client = connect()
        answer = await client.ask(request_ + get())
        assert (answer.content, answer.headers.get_all("Connection")) == (b"fine", ("close",))
        assert await client.rest() == b""


async def test_a_client_may_end_its_side_early() -> None:
    """A client that has sent its requests and an end of file gets all of its answers."""
    async with in_memory(small_app()) as connect:
        client = connect()
        await client.send(get() + sized("/echo", b"body"))
        assert isinstance(client.stream, trio.abc.HalfCloseableStream)
        await client.stream.send_eof()
        assert [(await client.receive()).content, (await client.receive()).content] == [b"fine", b"body"]
        assert await client.rest() == b""


@pytest.mark.parametrize("sent", [b"", b"\r", get()[:-1], sized("/echo", b"body")[:-1]])
async def test_what_is_cut_off_is_not_answered(sent: bytes) -> None:
    """A request that the client does not finish is dropped without a word, and no handler sees it."""
    seen: list[Request] = []

    def see(request: Request) -> Response:
        seen.append(request)
        return Response.empty(204)

    app = App().with_stateless_route("/*", see)
    async with in_memory(app) as connect:
        client = connect()
        await client.send(sent)
        assert isinstance(client.stream, trio.abc.HalfCloseableStream)
        await client.stream.send_eof()
        assert await client.rest() == b""
    assert seen == []


# Bodies...


@pytest.mark.parametrize(
    ("lines", "sent"),
    [
        (["Content-Length: 10"], [b"01234", b"56789"]),
        (["Transfer-Encoding: chunked"], [chunks(b"0123", b"4567"), chunks(b"89") + b"0\r\n\r\n"]),
        (["Transfer-Encoding: chunked"], [b"a;x=y\r\n012", b"3456789\r\n0\r\nX-Trailer: 1\r\n", b"\r\n"]),
    ],
)
async def test_bodies_arrive_whole(lines: list[str], sent: list[bytes]) -> None:
    """A handler gets the whole body, however it is framed and cut; the connection goes on behind it."""
    async with in_memory(small_app()) as connect:
        client = connect()
        assert (await client.ask(post("/echo", *lines), *sent)).content == b"0123456789"
        assert (await client.ask(get())).content == b"fine"


async def test_a_request_behind_a_body_is_served() -> None:
    """What stands behind a body, in the same read, is the next request."""
    async with in_memory(small_app()) as connect:
        client = connect()
        for body in (
            sized("/echo", b"body"),
            post("/echo", "Transfer-Encoding: chunked", content=b"4\r\nbody\r\n0\r\n\r\n"),
        ):
            await client.send(body + get())
            assert [(await client.receive()).content, (await client.receive()).content] == [b"body", b"fine"]


EXPECT = "Expect: 100-continue"


@pytest.mark.parametrize(
    ("line", "sent"), [("Content-Length: 4", b"body"), ("Transfer-Encoding: chunked", b"4\r\nbody\r\n0\r\n\r\n")]
)
async def test_a_client_that_waits_is_told_to_continue(line: str, sent: bytes) -> None:
    """A client that expects a 100 gets it when its body is wanted, and behind the body the response."""
    async with in_memory(small_app()) as connect:
        client = connect()
        assert await client.ask(post("/echo", line, EXPECT)) == (100, Headers(), b"")
        assert (await client.ask(sent)).content == b"body"
        assert (await client.ask(get())).content == b"fine"


@pytest.mark.parametrize(
    ("sent", "status", "closes"),
    [
        (post("/nowhere", "Content-Length: 4", EXPECT), 404, True),
        (post("/echo", "Content-Length: 99", EXPECT), 413, True),
        (post("/echo", "Content-Length: 0", EXPECT), 200, False),
        (get("/", EXPECT), 200, False),
        (post("/echo", "Content-Length: 4", EXPECT, content=b"body"), 200, False),
        (post("/echo", "Content-Length: 4", EXPECT, content=b"body", version="1.0"), 200, True),
    ],
    ids=["no route", "too large", "empty", "none", "sent already", "HTTP/1.0"],
)
async def test_nobody_is_told_to_continue_in_vain(sent: bytes, status: int, closes: bool) -> None:
    """There is no 100 for a body that nobody wants, that there is not, or that has come already."""
    async with in_memory(small_app(limits=Limits(body=98))) as connect:
        client = connect()
        answer = await client.ask(sent)
        assert (answer.status, "Connection" in answer.headers) == (status, closes)


async def test_a_body_that_nobody_reads_is_no_request() -> None:
    """The body of a request without a route is not taken for a request: the connection ends behind the 404."""
    async with in_memory(small_app()) as connect:
        client = connect()
        answer = await client.ask(sized("/nowhere", get()))
        assert (answer.status, answer.headers["Connection"]) == (404, "close")
        assert await client.rest() == b""


@pytest.mark.parametrize(
    ("fits", "too_large"),
    [
        (sized("/echo", b"0123456789"), post("/echo", "Content-Length: 11")),
        (sized("/echo", b"0123456789"), post("/echo", f"Content-Length: {10**19}")),
        (
            post("/echo", "Transfer-Encoding: chunked", content=chunks(b"01234", b"56789") + b"0\r\n\r\n"),
            post("/echo", "Transfer-Encoding: chunked", content=chunks(b"01234", b"567890")),
        ),
        (
            post("/echo", "Transfer-Encoding: chunked", content=chunks(b"0123456789") + b"0\r\n\r\n"),
            post("/echo", "Transfer-Encoding: chunked", content=b"ffffffffffff\r\n0123456789a"),
        ),
    ],
    ids=["Content-Length", "lying Content-Length", "chunks", "lying chunk"],
)
async def test_a_body_has_a_limit(fits: bytes, too_large: bytes) -> None:
    """A body may be as long as its limit; one that says or shows that it is longer is a 413 at once."""
    async with in_memory(small_app(limits=Limits(body=10))) as connect:
        client = connect()
        assert (await client.ask(fits)).content == b"0123456789"
        answer = await client.ask(too_large)
        assert (answer.status, answer.headers["Connection"]) == (413, "close")
        assert b"longer than 10 bytes" in answer.content


async def test_a_body_of_tiny_chunks_is_stored_once() -> None:
    """What a body costs is its size, whatever the size of its chunks."""
    size = 64 * 1024
    wire = chunks(*[b"x"] * size) + b"0\r\n\r\n"
    async with in_memory(small_app()) as connect:
        client = connect()
        tracemalloc.start()
        try:
            await client.send(post("/echo", "Transfer-Encoding: chunked"))
            for start in range(0, len(wire), 4096):
                await client.send(wire[start : start + 4096])
                await trio.testing.wait_all_tasks_blocked()
            assert len((await client.receive()).content) == size
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    # The request's, the response's and the client's copy, and what lets a buffer grow.
    assert peak < 10 * size


async def test_an_error_comes_behind_the_answers_before_it() -> None:
    """Bad bytes behind good requests are answered in their turn, and end the connection."""
    async with in_memory(small_app()) as connect:
        client = connect()
        await client.send(get() + sized("/echo", b"body") + b"\x00" + get())
        assert [(await client.receive()).status for _ in range(3)] == [200, 200, 400]
        assert await client.rest() == b""


class Later:
    """An awaitable that is no coroutine."""

    def __await__(self) -> Generator[Any, Any, Response]:
        return wait_a_second(Request()).__await__()


@pytest.mark.parametrize(
    "handler", [wait_a_second, lambda _: wait_a_second(_), lambda _: Later()], ids=["async def", "plain", "object"]
)
@pytest.mark.parametrize("cancelled", [False, True])
async def test_a_handler_behind_a_reply_that_cannot_be_sent(
    handler: Callable[[Request], Awaitable[Response]], cancelled: bool
) -> None:
    """When the reply before it cannot be sent, a handler is not awaited, and Python has nothing to warn of."""
    app = small_app().with_stateless_route("/handler", handler)
    async with in_memory(app, stream_pair=trio.testing.lockstep_stream_pair) as connect:
        client = connect()
        await client.send(get() + get("/handler"))
        await trio.testing.wait_all_tasks_blocked()
        if not cancelled:
            await trio.aclose_forcefully(client.stream)
            await trio.testing.wait_all_tasks_blocked()
    gc.collect()


async def test_a_failure_behind_a_reply_that_cannot_be_sent(caplog: pytest.LogCaptureFixture) -> None:
    """A plain handler that raises is logged, also if the reply before it cannot be sent."""

    def fail(request: Request) -> Response:
        raise ValueError("boom")

    app = small_app().with_stateless_route("/fail", fail)
    async with in_memory(app, stream_pair=trio.testing.lockstep_stream_pair) as connect:
        client = connect()
        await client.send(get() + get("/fail"))
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(client.stream)
        await trio.testing.wait_all_tasks_blocked()
    assert caplog.messages == ["the handler of GET /fail failed"]


# Upgrades...


async def refuse(upgrade: Upgrade, state: None) -> Response:
    return Response(403, "no")


UPGRADE = request_bytes("GET /ws HTTP/1.1")


async def test_a_refused_upgrade_is_an_exchange_like_any_other() -> None:
    """Requests around a refused upgrade are answered in order, those in the same read, too."""
    async with in_memory(small_app().with_websocket_route("/ws", refuse)) as connect:
        client = connect()
        await client.send(get() + UPGRADE * 2 + get())
        assert [(await client.receive()).status for _ in range(4)] == [200, 403, 403, 200]


async def test_a_refused_upgrade_that_closes_closes() -> None:
    """A refused upgrade that says close gets its answer and nothing behind it."""
    fields = [(name, "upgrade, close" if name == "Connection" else value) for name, value in HANDSHAKE_FIELDS]
    async with in_memory(small_app().with_websocket_route("/ws", refuse)) as connect:
        client = connect()
        answer = await client.ask(request_bytes("GET /ws HTTP/1.1", fields) + get())
        assert (answer.status, answer.headers["Connection"]) == (403, "close")
        assert await client.rest() == b""


async def test_an_upgrade_without_a_websocket_is_an_ordinary_request() -> None:
    """A site behind a proxy that sends the fields of an upgrade with every request is served all the same."""
    head = request_bytes("GET / HTTP/1.1")
    fields = [*HANDSHAKE_FIELDS, ("Content-Length", "4")]
    async with in_memory(small_app()) as connect:
        client = connect()
        await client.send(head + request_bytes("POST /echo HTTP/1.1", fields) + b"body" + head)
        assert [(await client.receive()).content for _ in range(3)] == [b"fine", b"body", b"fine"]
        await client.send(request_bytes("HEAD / HTTP/1.1") + request_bytes("GET /nowhere HTTP/1.1"))
        assert (await client.receive(head_only=True)).status == 200
        assert (await client.receive()).status == 404


# --------------------------------------------------------------------------------------------- timeouts


async def drip(client: Client, data: bytes) -> None:
    """Send one byte a second, until the server has had enough."""
    with suppress(trio.BrokenResourceError):
        for at in range(len(data)):
            await client.send(data[at : at + 1])
            await trio.sleep(1)


async def seconds_until_end(
    client: Client, while_sending: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
) -> tuple[float, bytes]:
    """How long the server takes to say its last words, and these."""
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(while_sending)
        last = await client.rest()
        elapsed = trio.current_time() - start
        nursery.cancel_scope.cancel()
    return elapsed, last


Virtual = trio.testing.MockClock


@pytest.mark.parametrize("silence", [0, 9])
async def test_a_dripping_head_is_cut_off(silence: float, autojump_clock: Virtual) -> None:
    """A head that comes byte by byte is a 408 at the header timeout from the accept on, whenever it began."""
    async with in_memory(small_app()) as connect:
        client = connect()

        async def wait_and_drip() -> None:
            await trio.sleep(silence)
            await drip(client, get("/" + "a" * 100))

        seconds, last = await seconds_until_end(client, wait_and_drip)
    assert 10 <= seconds <= 10.25
    assert last.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"\r\nConnection: close\r\n" in last


async def test_a_head_that_comes_in_time_is_served(autojump_clock: Virtual) -> None:
    """The header timeout ends with the head: a client that drips quickly enough is served."""
    async with in_memory(small_app()) as connect:
        client = connect()
        await client.send(get()[:-5])
        await drip(client, get()[-5:])
        await trio.sleep(30)
        assert (await client.receive()).content == b"fine"


async def test_a_silent_client_is_closed_silently(autojump_clock: Virtual) -> None:
    """A client that never sends anything is closed without a word at the header timeout."""
    async with in_memory(small_app(timeouts=Timeouts(header=3))) as connect:
        seconds, last = await seconds_until_end(connect())
    assert 3 <= seconds <= 3.25
    assert last == b""


async def test_an_idle_connection_is_closed_silently(autojump_clock: Virtual) -> None:
    """Between two requests a connection may be idle for its timeout; then it is closed without a word."""
    async with in_memory(small_app(timeouts=Timeouts(idle=20))) as connect:
        client = connect()
        for _ in range(3):
            assert (await client.ask(get())).content == b"fine"
            await trio.sleep(19)
        seconds, last = await seconds_until_end(client)
    assert 1 <= seconds <= 1.25
    assert last == b""


async def test_a_later_head_has_its_own_time(autojump_clock: Virtual) -> None:
    """The head of a later request is due within the header timeout from its first byte on."""
    async with in_memory(small_app()) as connect:
        client = connect()
        await client.ask(get())
        await trio.sleep(50)
        seconds, last = await seconds_until_end(client, lambda: drip(client, get("/" + "a" * 100)))
    assert 10 <= seconds <= 10.25
    assert last.startswith(b"HTTP/1.1 408 ")


async def test_half_a_request_behind_another_has_its_time(autojump_clock: Virtual) -> None:
    """A head that began in the read of the request before it is due within the header timeout too."""
    async with in_memory(small_app()) as connect:
        client = connect()
        assert (await client.ask(get() + b"GET /")).content == b"fine"
        seconds, last = await seconds_until_end(client)
    assert 10 <= seconds <= 10.25
    assert last.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("line", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_a_dripping_body_is_cut_off(line: str, autojump_clock: Virtual) -> None:
    """A body that does not come whole within its timeout from its head on is a 408, however it drips."""
    async with in_memory(small_app(timeouts=Timeouts(body=40))) as connect:
        client = connect()
        await client.send(post("/echo", line))
        seconds, last = await seconds_until_end(client, lambda: drip(client, b"3e8\r\n" + b"0" * 1000))
    assert 40 <= seconds <= 40.25
    assert last.startswith(b"HTTP/1.1 408 ")


async def test_a_handler_has_all_the_time_it_wants(autojump_clock: Virtual) -> None:
    """No timeout counts while a handler runs."""

    async def take_long(request: Request) -> Response:
        await trio.sleep(1_000)
        return Response(200, request.content)

    async with in_memory(App().with_stateless_route("/", take_long), patience=10_000) as connect:
        client = connect()
        for _ in range(2):
            assert (await client.ask(sized("/", b"late"))).content == b"late"


async def test_timeouts_can_be_switched_off(autojump_clock: Virtual) -> None:
    """A timeout of infinity waits for ever."""
    forever = float("inf")
    app = small_app(timeouts=Timeouts(header=forever, idle=forever))
    async with in_memory(app, patience=10_000) as connect:
        client = connect()
        for _ in range(2):
            await trio.sleep(1_000)
            await client.send(get()[:5])
            await trio.sleep(1_000)
            assert (await client.ask(get()[5:])).content == b"fine"


def big_app(size: int, **settings: Any) -> App:
    """An app whose ``/big`` says very much."""
    return small_app(**settings).with_stateless_route("/big", lambda _: Response(200, bytes(size)))


async def test_a_client_that_never_reads_is_cut_off(autojump_clock: Virtual) -> None:
    """A client that takes nothing of its response is gone after the write timeout, and others are served."""
    async with in_memory(big_app(10**6), stream_pair=trio.testing.lockstep_stream_pair) as connect:
        stuck, other = connect(), connect()
        await stuck.send(get("/big"))
        start = trio.current_time()
        assert (await other.ask(get())).content == b"fine"
        with pytest.raises(trio.BrokenResourceError):
            await stuck.send(get())
        assert 30 <= trio.current_time() - start <= 31


async def test_a_slow_client_gets_everything(autojump_clock: Virtual) -> None:
    """The write timeout counts from the last byte that was taken, so a slow reader is not a stuck one."""
    async with in_memory(
        big_app(500_000), patience=1_000, stream_pair=trio.testing.lockstep_stream_pair
    ) as connect:
        client = connect()
        await client.send(get("/big", "Connection: close"))
        received = b""
        while data := await client.stream.receive_some(40_000):
            received += data
            await trio.sleep(10)
    assert received.endswith(b"\r\n\r\n" + bytes(500_000))


async def test_a_client_that_reads_no_error_is_cut_off(autojump_clock: Virtual) -> None:
    """An error answer of which nothing is taken ends with ``Timeouts.write``, as every response does."""
    app = small_app(timeouts=Timeouts(write=7))
    async with in_memory(app, stream_pair=trio.testing.lockstep_stream_pair) as connect:
        client = connect()
        start = trio.current_time()
        await client.send(b"\x00")
        with pytest.raises(trio.BrokenResourceError):
            await client.send(b"x")
        assert trio.current_time() - start == pytest.approx(7, abs=0.5)


async def test_a_slow_client_reads_a_long_error_answer(autojump_clock: Virtual) -> None:
    """A client that reads slowly gets all of an error handler's page for a request that cannot be served."""
    page = "x" * 300_000
    app = small_app().with_error_handler(lambda status, request, exception: Response(status, page))
    async with in_memory(app, patience=1000, stream_pair=trio.testing.lockstep_stream_pair) as connect:
        client = connect()
        await client.send(b"\x00")
        received = b""
        while data := await client.stream.receive_some(20_000):
            received += data
            await trio.sleep(5)
    assert received.endswith(page.encode())


# ------------------------------------------------------------------------------------------- on sockets

MUCH = b"x" * 500_000

BAD: dict[str, tuple[bytes, int]] = {
    "no HTTP": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "malformed line": (b"GET\r\n\r\n", 400),
    "bare LF": (b"GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", 400),
    "two lengths": (get("/echo", "Content-Length: 1", "Content-Length: 2"), 400),
    "length beside chunked": (get("/echo", "Content-Length: 1", "Transfer-Encoding: chunked"), 400),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", 400),
    "malformed chunk": (post("/echo", "Transfer-Encoding: chunked", content=b"x\r\n"), 400),
    "body of an unknown path": (post("/nowhere", "Content-Length: 10000000"), 404),
    "large body": (post("/echo", "Content-Length: 10000000"), 413),
    "large chunk": (post("/echo", "Transfer-Encoding: chunked", content=b"1e8480\r\n" + bytes(2**20)), 413),
    "long request line": (b"GET /", 414),
    "long head": (get()[:-2] + b"X: ", 431),
    "many fields": (get("/", *(["X: y"] * 200)), 431),
    "CONNECT": (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 501),
    "unknown coding": (post("/echo", "Transfer-Encoding: gzip"), 501),
    "HTTP/2.0": (b"PRI * HTTP/2.0\r\n\r\n", 505),
}


@pytest.mark.parametrize("fault", BAD)
async def test_every_error_answer_can_be_read(fault: str, caplog: pytest.LogCaptureFixture) -> None:
    """A client that sends far more than was read gets the whole error page and an end of file, not a reset.

    The next client is served, and a client's fault is none of the server's.
    """
    raw, status = BAD[fault]
    async with listening(small_app()) as [address]:
        client = await dial(address)
        async with client.stream:
            await client.send(raw + MUCH)
            answer = await client.receive()
            assert (answer.status, answer.headers["Connection"]) == (status, "close")
            assert answer.content.startswith(b"%d " % status)
            assert answer.content.endswith(b"\n")
            assert await client.rest() == b""
        assert await is_served(address)
    assert caplog.records == []


@pytest.mark.parametrize("path", ["/nowhere", "/echo"])
async def test_an_early_answer_can_be_read_late(path: str) -> None:
    """A client that sends all of a body that nobody wants, and reads only then, finds the answer and no reset."""
    async with listening(small_app()) as [address]:
        client = await dial(address)
        async with client.stream:
            await client.send(post(path, "Content-Length: 10000000"))
            await trio.testing.wait_all_tasks_blocked()
            await client.send(MUCH)
            await trio.testing.wait_all_tasks_blocked()
            assert (await client.receive()).status in (404, 413)
            assert await client.rest() == b""


async def test_half_closed_sockets_get_their_answers() -> None:
    """Over a socket too, a client that has ended its side gets all of its answers, then an end of file."""
    async with listening(big_app(3_000_000)) as [address]:
        client = await dial(address)
        async with client.stream:
            await client.send(get() + get("/big") + sized("/echo", MUCH))
            assert isinstance(client.stream, trio.SocketStream)
            await client.stream.send_eof()
            sizes = [len((await client.receive()).content) for _ in range(3)]
            assert sizes == [4, 3_000_000, len(MUCH)]
            assert await client.rest() == b""


async def test_a_socket_that_is_never_read_is_cut_off(autojump_clock: Virtual) -> None:
    """A client that takes nothing off its socket is cut off after the write timeout, and others are served."""
    async with listening(big_app(30_000_000)) as [address]:
        stuck = await dial(address)
        async with stuck.stream:
            await stuck.send(get("/big"))
            await trio.sleep(31)
            received = 0
            with suppress(trio.BrokenResourceError):
                while data := await stuck.stream.receive_some():
                    received += len(data)
            assert 0 < received < 30_000_000
        assert await is_served(address)


Stage = Callable[[Client, "Handshake"], Awaitable[None]]


class Handshake(NamedTuple):
    """Tells a test that a handler has begun, and the handler that it may end."""

    begun: trio.Event
    may_end: trio.Event


async def before_anything(client: Client, _: Handshake) -> None:
    pass


async def in_the_head(client: Client, _: Handshake) -> None:
    await client.send(get()[:-4])


async def in_the_body(client: Client, _: Handshake) -> None:
    await client.send(post("/echo", "Content-Length: 1000000") + b"x")


async def in_the_handler(client: Client, handler: Handshake) -> None:
    await client.send(get("/handler"))
    await handler.begun.wait()


async def in_the_response(client: Client, _: Handshake) -> None:
    await client.send(get("/big"))
    await client.stream.receive_some(1)


async def between_requests(client: Client, _: Handshake) -> None:
    await client.ask(get())


async def in_the_drain(client: Client, _: Handshake) -> None:
    await client.ask(b"\x00")


async def in_a_pipeline(client: Client, handler: Handshake) -> None:
    await client.send(get("/handler") + get("/big") * 10)
    await handler.begun.wait()


@pytest.mark.parametrize(
    "stage",
    [
        before_anything,
        in_the_head,
        in_the_body,
        in_the_handler,
        in_the_response,
        between_requests,
        in_the_drain,
        in_a_pipeline,
    ],
)
async def test_a_reset_ends_one_connection_only(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A client may reset its connection at any moment: others are served, and it is nothing to log."""
    handler = Handshake(trio.Event(), trio.Event())

    async def answer_late(_: Request) -> Response:
        handler.begun.set()
        await handler.may_end.wait()
        return Response(200, "late")

    async with listening(big_app(10_000_000).with_stateless_route("/handler", answer_late)) as [address]:
        client = await dial(address)
        await stage(client, handler)
        await reset(client)
        handler.may_end.set()
        await trio.testing.wait_all_tasks_blocked()
        assert await is_served(address)
    assert caplog.records == []


async def test_a_defect_ends_one_connection_only(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What goes wrong in the server itself costs one connection and is logged; the next client is served."""
    async with listening(small_app()) as [address]:
        with monkeypatch.context() as broken:
            broken.setattr("humphrey_trio._server._response_writer.ResponseWriter.encode", None)
            client = await dial(address)
            async with client.stream:
                await client.send(get())
                assert await client.rest() == b""
        assert await is_served(address)
    [record] = caplog.records
    assert record.getMessage().startswith("connection from 127.0.0.1:")
    assert record.exc_info is not None


# Accepting...


def knock(address: Address, data: bytes = b"") -> socket.socket:
    """A client that connects without letting other tasks run: the kernel takes it into the backlog."""
    sock = socket.create_connection(address)
    sock.sendall(data)
    sock.setblocking(False)
    return sock


async def answered(sock: socket.socket) -> bool:
    """Whether something has come for this client, once the server has done all it can."""
    await trio.testing.wait_all_tasks_blocked(0.01)
    try:
        return sock.recv(2**16) != b""
    except BlockingIOError:
        return False


class PassCounter(trio.abc.Instrument):
    """Counts the scheduler's passes."""

    passes = 0

    def after_io_wait(self, timeout: float) -> None:
        self.passes += 1


async def test_newcomers_are_accepted_in_bursts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Newcomers are taken 64 a pass of the scheduler, so that neither they nor the others starve."""
    scheduler = PassCounter()
    accepted_in: list[int] = []
    accept = socket.socket.accept

    def counted(self: socket.socket) -> tuple[socket.socket, Any]:
        found = accept(self)
        accepted_in.append(scheduler.passes)
        return found

    monkeypatch.setattr(socket.socket, "accept", counted)
    trio.lowlevel.add_instrument(scheduler)
    async with listening(small_app()) as [address]:
        clients = [knock(address, get()) for _ in range(100)]
        await trio.testing.wait_all_tasks_blocked(0.01)
        for client in clients:
            assert client.recv(2**16).startswith(b"HTTP/1.1 200 ")
            client.close()
    assert list(Counter(accepted_in).values()) == [64, 36]


async def test_beyond_max_connections_newcomers_wait() -> None:
    """Beyond max_connections nobody is accepted; who waits in the backlog is served when a slot is free."""
    async with listening(small_app(max_connections=2)) as [address]:
        clients = [knock(address, get()) for _ in range(4)]
        assert [await answered(client) for client in clients] == [True, True, False, False]
        for leaving, coming in ((0, 2), (2, 3)):
            clients[leaving].close()
            assert await answered(clients[coming])
            clients[1].send(get())
            assert await answered(clients[1])
        for client in clients:
            client.close()


async def test_max_connections_holds_over_all_addresses() -> None:
    """A freed slot goes to whoever waits, at whichever of the app's addresses."""
    async with listening(small_app(max_connections=1), ANY_PORT, ANY_PORT) as [one, other]:
        first = knock(one, get())
        assert await answered(first)
        waiting = [knock(one, get()), knock(other, get()), knock(one, get())]
        assert not any([await answered(client) for client in waiting])
        leaving = first
        while waiting:
            leaving.close()
            [leaving] = [client for client in waiting if await answered(client)]
            waiting.remove(leaving)
        leaving.close()


async def test_upgraded_connections_count() -> None:
    """A connection that became a WebSocket holds its slot until it ends."""

    async def hold(stream: WebsocketStream, state: None) -> None:
        async for _ in stream:
            pass

    app = small_app(max_connections=1).with_websocket_route("/ws", websocket_handler(hold))
    async with listening(app) as [address]:
        websocket = knock(address, request_bytes("GET /ws HTTP/1.1"))
        assert await answered(websocket)
        with knock(address, get()) as client:
            assert not await answered(client)
            websocket.close()
            assert await answered(client)


class FailingAccept:
    """A stand-in for ``socket.accept`` that fails a few times first."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, number: int, times: int) -> None:
        self.left = times
        accept = socket.socket.accept

        def fail_first(sock: socket.socket) -> tuple[socket.socket, Any]:
            if self.left:
                self.left -= 1
                raise OSError(number, os.strerror(number))
            return accept(sock)

        monkeypatch.setattr(socket.socket, "accept", fail_first)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM])
async def test_without_room_accepting_pauses(
    number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: Virtual
) -> None:
    """Out of file descriptors or memory, accepting pauses for 100 ms at a time; the log says so once a second."""
    async with listening(small_app()) as [address]:
        settled = await dial(address)
        assert (await settled.ask(get())).content == b"fine"
        failing = FailingAccept(monkeypatch, number, times=13)
        start = trio.current_time()
        newcomer = await dial(address)
        await newcomer.send(get())
        assert (await settled.ask(get())).content == b"fine"
        assert (await newcomer.receive()).content == b"fine"
        assert failing.left == 0
        assert trio.current_time() - start >= 1.3
        await settled.stream.aclose()
        await newcomer.stream.aclose()
    first, second = caplog.messages
    assert first == f"accepting pauses: {os.strerror(number)} (pauses since the last warning: 1)"
    assert second.startswith(f"accepting pauses: {os.strerror(number)} (pauses since the last warning: 1")
    assert {record.levelno for record in caplog.records} == {logging.WARNING}


@pytest.mark.parametrize("number", [errno.ECONNABORTED, errno.EPROTO, errno.EPERM])
async def test_a_newcomer_that_fails_is_passed_over(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that breaks before it is accepted costs nobody else anything."""
    FailingAccept(monkeypatch, number, times=3)
    async with listening(small_app()) as [address]:
        assert await is_served(address)


async def test_another_accept_error_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is about the listener itself ends the server with it."""
    FailingAccept(monkeypatch, errno.EINVAL, times=1)
    with pytest.RaisesGroup(
        pytest.RaisesExc(OSError, check=lambda exc: exc.errno == errno.EINVAL), flatten_subgroups=True
    ):
        async with listening(small_app()) as [address]:
            knock(address).close()
            await trio.sleep(10)


# Addresses...


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


def address_app() -> App:
    """An app that says from where it was asked."""
    return small_app().with_stateless_route("/who", lambda request: Response(200, str(request.address)))


@pytest.mark.parametrize(
    ("wanted", "host"),
    [
        (ANY_PORT, "127.0.0.1"),
        pytest.param("[::1]:0", "::1", marks=needs_ipv6),
    ],
)
async def test_a_started_server_has_a_real_port(wanted: str, host: str) -> None:
    """Port 0 takes a free port, which ``nursery.start`` gives; a request has the client's address."""
    async with listening(address_app(), wanted) as [address]:
        assert address.host == host
        assert address.port > 0
        client = await dial(address)
        async with client.stream:
            assert isinstance(client.stream, trio.SocketStream)
            ours = Address(*client.stream.socket.getsockname()[:2])
            assert (await client.ask(get("/who"))).content == str(ours).encode()
    assert await is_refused(address)


async def test_a_unix_socket_is_a_file_as_long_as_it_is_served(tmp_path: Path) -> None:
    """``unix:/path`` is served at that path; the file is there from the start to the end."""
    path = tmp_path / "socket"
    async with listening(address_app(), f"unix:{path}") as [address]:
        assert address == Address(f"unix:{path}")
        assert path.is_socket()
        client = await dial(address)
        async with client.stream:
            assert (await client.ask(get("/who"))).content == b"unix:"
    assert not path.exists()


async def test_a_stale_socket_file_is_replaced(tmp_path: Path) -> None:
    """A socket file that a dead server left behind does not keep the next one from starting."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
        dead.listen()
    async with listening(small_app(), f"unix:{path}") as [address]:
        assert await is_served(address)
    assert not path.exists()


async def test_a_live_socket_file_is_not_stolen(tmp_path: Path) -> None:
    """A socket file that somebody listens on is left to them, and the second server says so."""
    path = tmp_path / "socket"
    async with listening(small_app(), f"unix:{path}") as [address]:
        with pytest.raises(OSError, match=f"cannot listen on unix:{path}: Address already in use"):
            await small_app().run(f"unix:{path}")
        assert await is_served(address)


async def test_another_file_is_not_removed(tmp_path: Path) -> None:
    """A file that is no socket is never removed, neither at the start nor at the end."""
    path = tmp_path / "file"
    path.write_text("precious")
    with pytest.raises(OSError, match=f"cannot listen on unix:{path}: "):
        await small_app().run(f"unix:{path}")
    async with listening(small_app(), f"unix:{tmp_path / 'socket'}"):
        path.replace(tmp_path / "socket")
    assert (tmp_path / "socket").read_text() == "precious"


async def test_several_addresses_are_served_at_once(tmp_path: Path) -> None:
    """An app listens on all of its addresses, and gives them in the order in which they were asked for."""
    wanted = [ANY_PORT, f"unix:{tmp_path / 'socket'}", ANY_PORT, *(["[::1]:0"] if has_ipv6() else [])]
    async with listening(small_app(), *wanted) as addresses:
        assert [address.host for address in addresses] == [Address.parse(text).host for text in wanted]
        for address in addresses:
            assert await is_served(address)
    for address in addresses:
        assert await is_refused(address)


@pytest.mark.parametrize("bad", ["taken", "foreign", "no directory", "long path"])
async def test_one_bad_address_leaves_nothing_behind(bad: str, tmp_path: Path) -> None:
    """When one address cannot be had, the error names it and its reason, and none of the others is listened on."""
    good = [Address("127.0.0.1", free_port()), Address(f"unix:{tmp_path / 'socket'}")]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        text, reason = {
            "taken": (str(Address(*taken.getsockname())), "Address already in use"),
            "foreign": ("192.0.2.1:80", "Cannot assign requested address"),
            "no directory": (f"unix:{tmp_path}/missing/socket", "No such file or directory"),
            "long path": (f"unix:{tmp_path}/{'a' * 200}", "AF_UNIX path too long"),
        }[bad]
        with pytest.raises(OSError) as refused:  # noqa: PT011  (the message is checked below)
            await small_app().run(*map(str, good), text)
    assert f"cannot listen on {text}: {reason}" in str(refused.value)
    for address in good:
        assert await is_refused(address)
    assert not (tmp_path / "socket").exists()


class TwoAddresses(trio.abc.HostnameResolver):
    """A resolver that knows two addresses for every name: two ports of 127.0.0.1."""

    def __init__(self, *ports: int) -> None:
        self.ports = ports

    async def getaddrinfo(self, *_: object, **__: object) -> list[Any]:
        await trio.lowlevel.checkpoint()
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)) for port in self.ports]

    async def getnameinfo(self, *_: object, **__: object) -> Any:
        raise AssertionError("nobody asks for a name")


async def test_a_name_is_listened_on_at_all_its_addresses() -> None:
    """A host name that stands for several addresses is served at each of them."""
    trio.socket.set_custom_hostname_resolver(TwoAddresses(free_port(), free_port()))
    async with listening(small_app(), "name.test:80") as addresses:
        assert len(addresses) == 2
        assert [await is_served(address) for address in addresses] == [True, True]


async def test_a_name_with_a_bad_address_leaves_nothing_behind() -> None:
    """When one address of a host name cannot be had, the others of the name are given back too."""
    good = Address("127.0.0.1", free_port())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        trio.socket.set_custom_hostname_resolver(TwoAddresses(good.port, taken.getsockname()[1]))
        with pytest.raises(OSError, match=r"cannot listen on name\.test:80: Address already in use"):
            await small_app().run("name.test:80")
    gc.collect()  # a forgotten socket would warn
    assert await is_refused(good)


async def test_a_server_needs_an_address() -> None:
    """``run`` without an address, or with a text that is none, says what would be one."""
    with pytest.raises(ValueError, match=r"pass at least one address to listen on, such as '127\.0\.0\.1:8080'"):
        await small_app().run()
    with pytest.raises(ValueError, match=r"'8080' is not an address: write '127\.0\.0\.1:80'"):
        await small_app().run("8080")


# Cancelling...


async def hold_a_conversation(address: Address) -> bool:
    """All that a connection can do: a body, a 100, a handler that waits, much to send, an error; whether it came
    to its end."""
    client = await dial(address)
    async with client.stream:
        with suppress(trio.BrokenResourceError, Closed):  # the server may leave at any moment
            statuses = [
                (await client.ask(post("/echo", "Transfer-Encoding: chunked", EXPECT))).status,
                (await client.ask(b"4\r\nbo", b"dy\r\n0\r\n\r\n")).status,
                (await client.ask(get("/pause") + get("/big"))).status,
                (await client.receive()).status,
                (await client.ask(b"\x00")).status,
            ]
            return statuses == [100, 200, 200, 200, 400] and await client.rest() == b""
    return False


async def pause(_: Request) -> Response:
    await trio.lowlevel.checkpoint()
    return Response(200, "paused")


async def test_an_app_can_be_cancelled_at_every_step() -> None:
    """Cancelled at any checkpoint of an exchange, an app leaves no task and no socket, and its client knows."""
    app = big_app(6_000_000).with_stateless_route("/pause", pause)
    tasks, files = trio.lowlevel.current_statistics().tasks_living, open_files()

    async def run_app(scope: trio.CancelScope, task_status: trio.TaskStatus[tuple[Address, ...]]) -> None:
        with scope:
            await app.run(ANY_PORT, task_status=task_status)

    step = 0
    complete = False
    while not complete:
        step += 1
        scope = trio.CancelScope()
        async with trio.open_nursery() as nursery:
            [address] = await nursery.start(run_app, scope)
            with (
                at_step(step, scope.cancel),
                trio.fail_after(10),
                suppress(OSError),
            ):  # nobody may listen any more
                complete = await hold_a_conversation(address)
            assert complete or scope.cancel_called
            scope.cancel()
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert open_files() == files
        assert await is_refused(address)
    gc.collect()  # a forgotten socket would warn
    assert step > 30


async def test_a_start_can_be_cancelled_at_every_step(tmp_path: Path) -> None:
    """Cancelled while it starts, an app leaves nothing that listens, and no file."""
    app = small_app()
    trio.socket.set_custom_hostname_resolver(TwoAddresses(free_port(), free_port()))
    files = open_files()
    step = 0
    started = False
    while not started:
        step += 1
        with trio.CancelScope() as scope, at_step(step, scope.cancel):
            async with listening(app, ANY_PORT, f"unix:{tmp_path / 'socket'}", "name.test:80"):
                started = True
        assert os.listdir(tmp_path) == []
        assert open_files() == files
    gc.collect()  # a forgotten socket would warn
    assert step > 2
