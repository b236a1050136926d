"""TLS with many clients: broadcasts, resets, and incomplete handshakes."""

from __future__ import annotations

import ast
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from humphrey_trio import App, AsyncStream, AsyncWebsocketApp, Message, Response, Timeouts
from humphrey_trio.http import Address
from tests.support import ANY_PORT, PATIENCE
from tests.support.apps import linked
from tests.support.certificates import authority
from tests.support.clients import RawClient
from tests.support.links import Link, each_link, reset
from tests.support.programs import running
from tests.support.wire import TEXT, client_frame, request_bytes

# ----------------------------------------------------------------------------------------- many clients

CLIENTS, BROADCASTS, SIZE = 100, 40, 65_000

#: Reads from many connections as fast as it can; prints the frames of each by their first byte and their size.
READERS = """
import collections, ssl, sys, trio

async def read(port, context, request, counts):
    received = bytearray()
    async with await trio.open_ssl_over_tcp_stream("127.0.0.1", port, ssl_context=context) as stream:
        await stream.send_all(request)
        while data := await stream.receive_some():
            received += data
            if received.endswith(b"\\x88\\x02\\x03\\xe9"):
                await stream.send_all(b"\\x88\\x82\\0\\0\\0\\0\\x03\\xe9")
    at = received.index(b"\\r\\n\\r\\n") + 4
    while at < len(received):
        size, start = received[at + 1], at + 2
        if size == 126:
            size, start = int.from_bytes(received[start : start + 2], "big"), start + 2
        counts[received[at], size] += 1
        at = start + size
    assert at == len(received)

async def main(port, authority, request, clients):
    context, counts = ssl.create_default_context(cafile=authority), collections.Counter()
    async with trio.open_nursery() as nursery:
        for _ in range(clients):
            nursery.start_soon(read, port, context, request, counts)
    print(dict(counts), flush=True)

trio.run(main, int(sys.argv[1]), sys.argv[2], bytes.fromhex(sys.argv[3]), int(sys.argv[4]))
"""


async def test_all_clients_get_every_broadcast(tmp_path: Path) -> None:
    """100 clients that read at full speed get all of 40 broadcasts of 65 kB, and none is closed as slow."""
    authority().cert_pem.write_to_path(tmp_path / "authority.pem")
    shutdown, complete = trio.Event(), trio.Event()

    async def count(stream: AsyncStream, state: None) -> None:
        if websocket_app.statistics().connections == CLIENTS:
            complete.set()

    websocket_app = AsyncWebsocketApp.new_unlinked().with_connect_handler(count).with_shutdown(shutdown)
    async with linked(websocket_app) as app, trio.open_nursery() as nursery:
        (address,) = await nursery.start(Link.TLS.run(app), ANY_PORT)
        request = request_bytes("GET / HTTP/1.1").hex()
        arguments = (str(address.port), str(tmp_path / "authority.pem"), request, str(CLIENTS))
        with running("-c", READERS, *arguments) as program:
            await complete.wait()
            for number in range(BROADCASTS):
                await websocket_app.sender().broadcast(number.to_bytes(4, "big") * (SIZE // 4))
            shutdown.set()
            printed = await trio.to_thread.run_sync(program.read_line)
            ending = await trio.to_thread.run_sync(program.finish)
        nursery.cancel_scope.cancel()
    assert ending.stderr == ""
    assert Counter(ast.literal_eval(printed)) == {(0x82, SIZE): CLIENTS * BROADCASTS, (0x88, 2): CLIENTS}
    assert websocket_app.statistics().slow_closes == 0


# ------------------------------------------------------------------------------ clients that disconnect


@each_link
@pytest.mark.parametrize("count", [0, 40], ids=["reading", "reading is paused"])
async def test_reset_cancels_a_handler(count: int, link: Link) -> None:
    """A handler is cancelled within half a second of a reset by its client, also while reading is paused."""
    began, cancelled = trio.Event(), trio.Event()

    async def sleep(stream: AsyncStream, message: Message, state: None) -> None:
        began.set()
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    websocket_app = AsyncWebsocketApp.new_unlinked(max_read_ahead=2).with_message_handler(sleep)
    async with linked(websocket_app) as app, trio.open_nursery() as nursery:
        (address,) = await nursery.start(link.run(app), ANY_PORT)
        client = await RawClient(await link.connect(address)).open()
        await client.send(client_frame(TEXT, b"x" * 1000))
        await began.wait()
        for _ in range(count):
            await client.send(client_frame(TEXT, b"x" * 1000))
        await trio.sleep(0.6)  # more than a sweep: whether the app reads ahead or has paused
        assert websocket_app.statistics().read_ahead == (2 if count else 0)
        reset(client.stream)
        left = trio.current_time()
        await cancelled.wait()
        assert trio.current_time() - left < 0.5
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------------------------ half-open handshakes


@asynccontextmanager
async def half_open(address: Address, count: int) -> AsyncGenerator[None]:
    """Connections with an incomplete ClientHello, or without any byte."""
    async with AsyncExitStack() as streams:
        for number in range(count):
            stream = await streams.enter_async_context(await trio.open_tcp_stream(address.host, address.port))
            await stream.send_all(b"\x16\x03\x01" * (number % 2))
        yield


async def test_half_open_handshakes_time_out(autojump_clock: trio.testing.MockClock) -> None:
    """Five times ``max_connections`` incomplete handshakes time out, and then a request is served."""
    app = App(max_connections=10, timeouts=Timeouts(handshake=3))
    app.with_stateless_route("/", lambda _: Response(200, "hello"))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(Link.TLS.run(app), ANY_PORT)
            began = trio.current_time()
            async with half_open(address, 50):
                await trio.testing.wait_all_tasks_blocked(0.01)
                assert app.statistics().connections == 10
                async with await Link.TLS.connect(address) as stream:
                    client = RawClient(stream)
                    await client.send(request_bytes("GET / HTTP/1.1", [("Host", "testserver")]))
                    assert (await client.reply()).content == b"hello"
                assert 5 * 3 <= trio.current_time() - began < 5 * 3.5 + 1
            nursery.cancel_scope.cancel()
    assert app.statistics().connections == 0
