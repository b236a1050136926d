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


async def send_slowly(client: Client, data: bytes) -> None:
    """Send one byte a second, until the server closes the connection."""
    with suppress(trio.BrokenResourceError):
        for at in range(len(data)):
            await client.send(data[at : at + 1])
            await trio.sleep(1)


async def seconds_until_end(
    client: Client, while_sending: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
) -> tuple[float, bytes]:
    """The seconds until the server ends the connection, and the bytes that it sends before."""
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(while_sending)
        last = await client.rest()
        elapsed = trio.current_time() - start
        nursery.cancel_scope.cancel()
    return elapsed, last


@pytest.mark.parametrize("silence", [0, 9])
async def test_header_timeout_of_a_slow_head(silence: float, autojump_clock: trio.testing.MockClock) -> None:
    """A head that is not complete at the header timeout, counted from the accept, gets a 408."""
    async with in_memory(small_app()) as connect:
        client = connect()

        async def wait_and_drip() -> None:
            await trio.sleep(silence)
            await send_slowly(client, get("/" + "a" * 100))

        seconds, last = await seconds_until_end(client, wait_and_drip)
    assert 10 <= seconds <= 10.25
    assert last.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert b"\r\nConnection: close\r\n" in last


async def test_slow_head_within_the_header_timeout(autojump_clock: trio.testing.MockClock) -> None:
    """The header timeout ends with the head: a slow client whose head is complete in time is served."""
    async with in_memory(small_app()) as connect:
        client = connect()
        await client.send(get()[:-5])
        await send_slowly(client, get()[-5:])
        await trio.sleep(30)
        assert (await client.receive()).content == b"fine"


async def test_header_timeout_without_a_byte(autojump_clock: trio.testing.MockClock) -> None:
    """A client that sends nothing is closed at the header timeout, without a response."""
    async with in_memory(small_app(timeouts=Timeouts(header=3))) as connect:
        seconds, last = await seconds_until_end(connect())
    assert 3 <= seconds <= 3.25
    assert last == b""


async def test_idle_timeout(autojump_clock: trio.testing.MockClock) -> None:
    """Between two requests a connection may be idle for the idle timeout; then it is closed without a response."""
    async with in_memory(small_app(timeouts=Timeouts(idle=20))) as connect:
        client = connect()
        for _ in range(3):
            assert (await client.ask(get())).content == b"fine"
            await trio.sleep(19)
        seconds, last = await seconds_until_end(client)
    assert 1 <= seconds <= 1.25
    assert last == b""


async def test_header_timeout_of_a_later_request(autojump_clock: trio.testing.MockClock) -> None:
    """The header timeout of a later request counts from its first byte."""
    async with in_memory(small_app()) as connect:
        client = connect()
        await client.ask(get())
        await trio.sleep(50)
        seconds, last = await seconds_until_end(client, lambda: send_slowly(client, get("/" + "a" * 100)))
    assert 10 <= seconds <= 10.25
    assert last.startswith(b"HTTP/1.1 408 ")


async def test_header_timeout_of_a_head_in_the_previous_read(autojump_clock: trio.testing.MockClock) -> None:
    """The header timeout holds for a head that began in the read of the previous request."""
    async with in_memory(small_app()) as connect:
        client = connect()
        assert (await client.ask(get() + b"GET /")).content == b"fine"
        seconds, last = await seconds_until_end(client)
    assert 10 <= seconds <= 10.25
    assert last.startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize("line", ["Content-Length: 1000", "Transfer-Encoding: chunked"])
async def test_body_timeout(line: str, autojump_clock: trio.testing.MockClock) -> None:
    """A body that is not complete at the body timeout, counted from its head, gets a 408."""
    async with in_memory(small_app(timeouts=Timeouts(body=40))) as connect:
        client = connect()
        await client.send(post("/echo", line))
        seconds, last = await seconds_until_end(client, lambda: send_slowly(client, b"3e8\r\n" + b"0" * 1000))
    assert 40 <= seconds <= 40.25
    assert last.startswith(b"HTTP/1.1 408 ")


async def test_no_timeout_while_a_handler_runs(autojump_clock: trio.testing.MockClock) -> None:
    """No timeout counts while a handler runs."""

    async def take_long(request: Request) -> Response:
        await trio.sleep(1_000)
        return Response(200, request.content)

    async with in_memory(App().with_stateless_route("/", take_long), patience=10_000) as connect:
        client = connect()
        for _ in range(2):
            assert (await client.ask(sized("/", b"late"))).content == b"late"


async def test_infinite_timeouts(autojump_clock: trio.testing.MockClock) -> None:
    """A timeout of infinity never fires."""
    forever = float("inf")
    app = small_app(timeouts=Timeouts(header=forever, idle=forever))
    async with in_memory(app, patience=10_000) as connect:
        client = connect()
        for _ in range(2):
            await trio.sleep(1_000)
            await client.send(get()[:5])
            await trio.sleep(1_000)
            assert (await client.ask(get()[5:])).content == b"fine"


async def test_write_timeout(autojump_clock: trio.testing.MockClock) -> None:
    """A client that does not read its response is closed at the write timeout, and others are served."""
    async with in_memory(big_app(10**6), stream_pair=trio.testing.lockstep_stream_pair) as connect:
        stuck, other = connect(), connect()
        await stuck.send(get("/big"))
        start = trio.current_time()
        assert (await other.ask(get())).content == b"fine"
        with pytest.raises(trio.BrokenResourceError):
            await stuck.send(get())
        assert 30 <= trio.current_time() - start <= 31


async def test_write_timeout_of_a_slow_reader(autojump_clock: trio.testing.MockClock) -> None:
    """The write timeout counts from the last byte that was sent, so a slow reader gets the whole response."""
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


async def test_write_timeout_of_an_error_response(autojump_clock: trio.testing.MockClock) -> None:
    """An error response that is not read ends at the write timeout, as every response does."""
    app = small_app(timeouts=Timeouts(write=7))
    async with in_memory(app, stream_pair=trio.testing.lockstep_stream_pair) as connect:
        client = connect()
        start = trio.current_time()
        await client.send(b"\x00")
        with pytest.raises(trio.BrokenResourceError):
            await client.send(b"x")
        assert trio.current_time() - start == pytest.approx(7, abs=0.5)


async def test_slow_reader_gets_a_long_error_response(autojump_clock: trio.testing.MockClock) -> None:
    """A slow reader gets the whole page of an error handler for a request that could not be parsed."""
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
