"""The timeouts of HTTP connections, in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
import trio.testing

from humphrey_trio.http import App, Request, Response, Timeouts
from tests.support.http_clients import Client, get, in_memory, post, sized
from tests.support.parsers import each_parser as each_parser  # the fixture
from tests.support.small_app import big_app, small_app

# Every test runs with each parser of request heads.
pytestmark = pytest.mark.usefixtures("each_parser")


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


@pytest.mark.parametrize("silence", [0, 9])
async def test_a_dripping_head_is_cut_off(silence: float, autojump_clock: trio.testing.MockClock) -> None:
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


async def test_a_head_that_comes_in_time_is_served(autojump_clock: trio.testing.MockClock) -> None:
    """The header timeout ends with the head: a client that drips quickly enough is served."""
    async with in_memory(small_app()) as connect:
        client = connect()
        await client.send(get()[:-5])
        await drip(client, get()[-5:])
        await trio.sleep(30)
        assert (await client.receive()).content == b"fine"


async def test_a_silent_client_is_closed_silently(autojump_clock: trio.testing.MockClock) -> None:
    """A client that never sends anything is closed without a word at the header timeout."""
    async with in_memory(small_app(timeouts=Timeouts(header=3))) as connect:
        seconds, last = await seconds_until_end(connect())
    assert 3 <= seconds <= 3.25
    assert last == b""


async def test_an_idle_connection_is_closed_silently(autojump_clock: trio.testing.MockClock) -> None:
    """Between two requests a connection may be idle for its timeout; then it is closed without a word."""
    async with in_memory(small_app(timeouts=Timeouts(idle=20))) as connect:
        client = connect()
        for _ in range(3):
            assert (await client.ask(get())).content == b"fine"
            await trio.sleep(19)
        seconds, last = await seconds_until_end(client)
    assert 1 <= seconds <= 1.25
    assert last == b""


async def test_a_later_head_has_its_own_time(autojump_clock: trio.testing.MockClock) -> None:
    """The head of a later request is due within the header timeout from its first byte on."""
    async with in_memory(small_app()) as connect:
        client = connect()
        await client.ask(get())
        await trio.sleep(50)
        seconds, last = await seconds_until_end(client, lambda: drip(client, get("/" + "a" * 100)))
    assert 10 <= seconds <= 10.25
    assert last.startswith(b"HTTP/1.1 408 ")


async def test_half_a_request_behind_another_has_its_time(autojump_clock: trio.testing.MockClock) -> None:
    """A head that began in the read of the request before it is due within the header timeout too."""
    async with in_memory(small_app()) as connect:
        client = connect()
        assert (await client.ask(get() + b"GET /")).content == b"fine"
        seconds, last = await seconds_until_end(client)
    assert 10 <= seconds <= 10.25
    assert last.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("line", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_a_dripping_body_is_cut_off(line: str, autojump_clock: trio.testing.MockClock) -> None:
    """A body that does not come whole within its timeout from its head on is a 408, however it drips."""
    async with in_memory(small_app(timeouts=Timeouts(body=40))) as connect:
        client = connect()
        await client.send(post("/echo", line))
        seconds, last = await seconds_until_end(client, lambda: drip(client, b"3e8\r\n" + b"0" * 1000))
    assert 40 <= seconds <= 40.25
    assert last.startswith(b"HTTP/1.1 408 ")


async def test_a_handler_has_all_the_time_it_wants(autojump_clock: trio.testing.MockClock) -> None:
    """No timeout counts while a handler runs."""

    async def take_long(request: Request) -> Response:
        await trio.sleep(1_000)
        return Response(200, request.content)

    async with in_memory(App().with_stateless_route("/", take_long), patience=10_000) as connect:
        client = connect()
        for _ in range(2):
            assert (await client.ask(sized("/", b"late"))).content == b"late"


async def test_timeouts_can_be_switched_off(autojump_clock: trio.testing.MockClock) -> None:
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


async def test_a_client_that_never_reads_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    """A client that takes nothing of its response is gone after the write timeout, and others are served."""
    async with in_memory(big_app(10**6), stream_pair=trio.testing.lockstep_stream_pair) as connect:
        stuck, other = connect(), connect()
        await stuck.send(get("/big"))
        start = trio.current_time()
        assert (await other.ask(get())).content == b"fine"
        with pytest.raises(trio.BrokenResourceError):
            await stuck.send(get())
        assert 30 <= trio.current_time() - start <= 31


async def test_a_slow_client_gets_everything(autojump_clock: trio.testing.MockClock) -> None:
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


async def test_a_client_that_reads_no_error_is_cut_off(autojump_clock: trio.testing.MockClock) -> None:
    """An error answer of which nothing is taken ends with ``Timeouts.write``, as every response does."""
    app = small_app(timeouts=Timeouts(write=7))
    async with in_memory(app, stream_pair=trio.testing.lockstep_stream_pair) as connect:
        client = connect()
        start = trio.current_time()
        await client.send(b"\x00")
        with pytest.raises(trio.BrokenResourceError):
            await client.send(b"x")
        assert trio.current_time() - start == pytest.approx(7, abs=0.5)


async def test_a_slow_client_reads_a_long_error_answer(autojump_clock: trio.testing.MockClock) -> None:
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
