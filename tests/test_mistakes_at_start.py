"""Mistakes that show when an app is run: an error that says what to write, or a WARNING if the app goes on."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio

from humphrey_trio import App, AsyncWebsocketApp, Response, async_websocket_handler
from humphrey_trio.http import Address
from humphrey_trio.testing import http_client, websocket_client
from humphrey_trio.websocket import HandshakeError
from tests.support import ANY_PORT, PATIENCE
from tests.support.certificates import server_context
from tests.support.draining import Clock


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The messages of the warnings that were logged."""
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# ------------------------------------------------------------------------------------------------- asyncio


async def open_client(kind: Any) -> None:
    async with kind(App()):
        pass


@pytest.mark.parametrize(
    ("call", "advice"),
    [
        (lambda: App().run(ANY_PORT), "write trio.run(app.run, '127.0.0.1:8080')"),
        (lambda: App().with_cert(server_context()).run_tls(ANY_PORT), "write trio.run(app.run, '127.0.0.1:8080')"),
        (lambda: AsyncWebsocketApp().with_address(ANY_PORT).run(), "write trio.run(app.run)"),
        (lambda: AsyncWebsocketApp.new_unlinked().run(), "write trio.run(app.run)"),
        (lambda: App().serve_stream(trio.testing.memory_stream_pair()[0]), "trio.run(app.serve_stream, stream)"),
        (lambda: open_client(http_client), "write async tests for trio, as with pytest-trio"),
        (lambda: open_client(websocket_client), "write async tests for trio, as with pytest-trio"),
    ],
)
def test_asyncio(call: Callable[[], Any], advice: str) -> None:
    """In asyncio, everything that runs an app is a RuntimeError that says how to run it."""
    with pytest.raises(RuntimeError, match="humphrey_trio runs on trio") as refused:
        asyncio.run(call())
    assert advice in str(refused.value)


def test_run_that_is_called() -> None:
    """trio explains that its argument is a function, and not the result of a call."""
    coroutine = App().run("127.0.0.1:8080")
    with pytest.raises(TypeError, match="Trio was expecting an async function, but instead it got a coroutine"):
        trio.run(coroutine)  # type: ignore[arg-type]
    coroutine.close()


# --------------------------------------------------------------------------------------------- values of tests


async def test_arguments_of_handle_and_serve_stream() -> None:
    """``handle`` takes a Request, ``serve_stream`` a stream."""
    app: Any = App()
    with pytest.raises(TypeError, match=r"handle takes a Request, not str: write handle\(Request\(path='/'\)\)"):
        await app.handle("/")
    with pytest.raises(TypeError, match="serve_stream takes a trio stream, not int"):
        await app.serve_stream(5)


# ------------------------------------------------------------------------------------------------------- TLS

WITHOUT_TLS = ["with_cert was called, but run listens without TLS: call run_tls for HTTPS"]


async def start(nursery: trio.Nursery, *runs: Callable[..., Awaitable[None]]) -> None:
    for run in runs:
        await nursery.start(run, ANY_PORT)


async def test_certificate_without_run_tls(caplog: pytest.LogCaptureFixture, autojump_clock: Clock) -> None:
    """An app with a certificate that only listens without TLS logs a WARNING after a second, once."""
    app = App().with_cert(server_context())
    async with trio.open_nursery() as nursery:
        await start(nursery, app.run)
        await trio.sleep(0.9)
        assert warnings(caplog) == []
        await trio.sleep(60)
        nursery.cancel_scope.cancel()
    assert warnings(caplog) == WITHOUT_TLS


@pytest.mark.parametrize("first", ["run", "run_tls"])
async def test_certificate_with_run_tls(
    first: str, caplog: pytest.LogCaptureFixture, autojump_clock: Clock
) -> None:
    """No WARNING if ``run_tls`` is called as well, in any order; nor for an app without a certificate."""
    app, other = App().with_cert(server_context()), App()
    async with trio.open_nursery() as nursery:
        await start(nursery, *((app.run, app.run_tls) if first == "run" else (app.run_tls, app.run)), other.run)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert warnings(caplog) == []


async def test_certificate_without_listeners(caplog: pytest.LogCaptureFixture, autojump_clock: Clock) -> None:
    """No WARNING for a single connection, which a test serves without TLS."""
    app = App().with_cert(server_context()).with_stateless_route("/", lambda _: Response(200))
    async with http_client(app) as client:
        await client.get("/")
        await trio.sleep(5)
        await client.get("/")
    assert warnings(caplog) == []


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([piece async for piece in stream])


async def connect(address: Address) -> trio.SocketStream:
    return await trio.open_tcp_stream(address.host, address.port)


async def test_tls_on_a_plain_port(caplog: pytest.LogCaptureFixture) -> None:
    """A ClientHello on a port without TLS is a 400 that says so, and a line at level INFO with the client."""
    caplog.set_level(logging.INFO, "humphrey_trio.http")
    hello = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), hello, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(App().run, ANY_PORT)
            async with await connect(address) as stream:
                await stream.send_all(hello.read())
                answer = await receive_all(stream)
            nursery.cancel_scope.cancel()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"this is TLS, and the port is for plain HTTP: use http:// instead of https://" in answer
    (line,) = [text for text in caplog.messages if "TLS" in text]
    assert line.startswith("TLS from 127.0.0.1:")
    assert line.endswith("on a port without TLS: use run_tls, or --tls-cert of the command line")


@pytest.mark.parametrize("first", [b"\x16\x02", b"\x16\x16", b"\x00\x03", b"\x80\x2e\x01\x03"])
async def test_other_bytes_are_not_http(first: bytes, caplog: pytest.LogCaptureFixture) -> None:
    """Other bytes that are not HTTP are a 400 that does not mention TLS."""
    caplog.set_level(logging.INFO, "humphrey_trio.http")
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(App().serve_stream, theirs)
        await ours.send_all(first)
        await ours.send_eof()
        assert b"this is not HTTP" in await receive_all(ours)
        await ours.aclose()
    assert caplog.messages == []


# ---------------------------------------------------------------------------------------------- linked apps


async def test_websocket_app_that_has_ended(caplog: pytest.LogCaptureFixture, autojump_clock: Clock) -> None:
    """If only the WebSocket app has shut down, clients get a 503, and a WARNING says so, once in a minute."""
    shutdown = trio.Event()
    websocket_app = AsyncWebsocketApp.new_unlinked().with_shutdown(shutdown)
    app = App().with_websocket_route("/ws", async_websocket_handler(websocket_app.connect_hook()))
    async with trio.open_nursery() as nursery:
        await nursery.start(websocket_app.run)
        shutdown.set()
    with pytest.raises(HandshakeError):
        async with websocket_client(app, "/ws"):
            pass
    assert warnings(caplog) == []  # the HTTP app may be about to end
    await trio.sleep(1)
    for _ in range(3):
        with pytest.raises(HandshakeError) as refused:
            async with websocket_client(app, "/ws"):
                pass
        assert refused.value.status == 503
    (warning,) = warnings(caplog)
    assert warning.startswith("a client of the websocket route /ws gets a 503: its AsyncWebsocketApp has ended")
    assert "Call with_shutdown of both with the same event" in warning
    await trio.sleep(61)
    with pytest.raises(HandshakeError):
        async with websocket_client(app, "/ws"):
            pass
    assert len(warnings(caplog)) == 2
