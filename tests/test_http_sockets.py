"""HTTP connections on sockets: error responses, resets, and cancellation at every step."""

from __future__ import annotations

import gc
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import NamedTuple

import pytest
import trio
import trio.testing

from humphrey_trio.http import Address, Request, Response
from tests.support import ANY_PORT
from tests.support.cancellation import open_files
from tests.support.http_clients import EXPECT, Client, Closed, dial, get, is_served, post, reset, serving, sized
from tests.support.links import is_refused
from tests.support.parsers import each_parser as each_parser  # the fixture
from tests.support.small_app import big_app, small_app
from tests.support.steps import at_step

# Every test runs with each parser of request heads.
pytestmark = pytest.mark.usefixtures("each_parser")

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
async def test_error_responses_reach_the_client_before_a_reset(
    fault: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A client that sends far more than was read gets the whole error response and an end of file, not a reset.

    The next client is served, and a client's fault is none of the server's.
    """
    raw, status = BAD[fault]
    async with serving(small_app()) as [address]:
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
async def test_early_response_is_read_after_the_whole_body(path: str) -> None:
    """A client that sends a refused body completely, and only then reads, gets the response and no reset."""
    async with serving(small_app()) as [address]:
        client = await dial(address)
        async with client.stream:
            await client.send(post(path, "Content-Length: 10000000"))
            await trio.testing.wait_all_tasks_blocked()
            await client.send(MUCH)
            await trio.testing.wait_all_tasks_blocked()
            assert (await client.receive()).status in (404, 413)
            assert await client.rest() == b""


async def test_half_closed_socket_gets_all_responses() -> None:
    """Over a socket, a client that has sent an end of file gets all responses, then an end of file."""
    async with serving(big_app(3_000_000)) as [address]:
        client = await dial(address)
        async with client.stream:
            await client.send(get() + get("/big") + sized("/echo", MUCH))
            assert isinstance(client.stream, trio.SocketStream)
            await client.stream.send_eof()
            sizes = [len((await client.receive()).content) for _ in range(3)]
            assert sizes == [4, 3_000_000, len(MUCH)]
            assert await client.rest() == b""


async def test_write_timeout_of_a_socket(autojump_clock: trio.testing.MockClock) -> None:
    """A client that does not read its socket is closed at the write timeout, and others are served."""
    async with serving(big_app(30_000_000)) as [address]:
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


Stage = Callable[[Client, "HandlerEvents"], Awaitable[None]]


class HandlerEvents(NamedTuple):
    """Events that a handler sets when it begins, and awaits before it ends."""

    begun: trio.Event
    may_end: trio.Event


async def before_the_request(client: Client, _: HandlerEvents) -> None:
    pass


async def in_the_head(client: Client, _: HandlerEvents) -> None:
    await client.send(get()[:-4])


async def in_the_body(client: Client, _: HandlerEvents) -> None:
    await client.send(post("/echo", "Content-Length: 1000000") + b"x")


async def in_the_handler(client: Client, handler: HandlerEvents) -> None:
    await client.send(get("/handler"))
    await handler.begun.wait()


async def in_the_response(client: Client, _: HandlerEvents) -> None:
    await client.send(get("/big"))
    await client.stream.receive_some(1)


async def between_requests(client: Client, _: HandlerEvents) -> None:
    await client.ask(get())


async def while_the_server_lingers(client: Client, _: HandlerEvents) -> None:
    await client.ask(b"\x00")


async def in_a_pipeline(client: Client, handler: HandlerEvents) -> None:
    await client.send(get("/handler") + get("/big") * 10)
    await handler.begun.wait()


@pytest.mark.parametrize(
    "stage",
    [
        before_the_request,
        in_the_head,
        in_the_body,
        in_the_handler,
        in_the_response,
        between_requests,
        while_the_server_lingers,
        in_a_pipeline,
    ],
)
async def test_a_reset_ends_one_connection_only(stage: Stage, caplog: pytest.LogCaptureFixture) -> None:
    """A client may reset its connection at any moment: others are served, and nothing is logged."""
    handler = HandlerEvents(trio.Event(), trio.Event())

    async def answer_late(_: Request) -> Response:
        handler.begun.set()
        await handler.may_end.wait()
        return Response(200, "late")

    async with serving(big_app(10_000_000).with_stateless_route("/handler", answer_late)) as [address]:
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
    """An unexpected exception in the server ends one connection and is logged; the next client is served."""
    async with serving(small_app()) as [address]:
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


async def exchange_everything(address: Address) -> bool:
    """Exchange a chunked body, a 100 Continue, a long response and an error; whether all completed."""
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


async def test_app_cancelled_at_every_step() -> None:
    """An app that is cancelled at any checkpoint of an exchange leaves no task and no socket."""
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
            ):  # the listener may be closed already
                complete = await exchange_everything(address)
            assert complete or scope.cancel_called
            scope.cancel()
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert open_files() == files
        assert await is_refused(address)
    gc.collect()  # a forgotten socket would warn
    assert step > 30
