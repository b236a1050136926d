"""ASGI apps in the server: beside other routes, inside layers, in the access log, and in its graceful end."""

from __future__ import annotations

import logging
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from humphrey_trio import App, AsyncWebsocketApp, Message, Response, Timeouts
from humphrey_trio.http import Address
from humphrey_trio.layers import Cors, compression
from humphrey_trio.testing import HttpClient, ResponseError, http_client, websocket_client
from tests.support import ANY_PORT
from tests.support.asgi import BODY, LAST, PART, START, AsgiApp, Receive, Send, mounted, without_lifespan
from tests.support.asgi import Message as AsgiMessage
from tests.support.draining import in_memory
from tests.support.logs import errors

Clock = trio.testing.MockClock

DISCONNECT = {"type": "http.disconnect"}


def says(text: bytes) -> AsgiApp:
    """An ASGI app with one response."""

    async def app(scope: AsgiMessage, receive: Receive, send: Send) -> None:
        await send(START)
        await send({**BODY, "body": text})

    return without_lifespan(app)


async def test_apps_beside_each_other() -> None:
    """Routes, WebSocket apps and ASGI apps share one App. The route that was added first is used."""

    async def repeat(stream: object, message: Message, state: None) -> None:
        await stream.send(message)  # type: ignore[attr-defined]

    app = (
        App()
        .with_stateless_route("/", lambda _: Response(200, "ours"))
        .with_stateless_route("/api/health", lambda _: Response(200, "well"))
        .with_websocket_app("/ws", AsyncWebsocketApp.new_unlinked().with_message_handler(repeat))
        .with_asgi("/api", says(b"api"))
        .with_asgi("/admin", says(b"admin"))
        .with_asgi("*", says(b"rest"))
    )
    paths = ["/", "/api/health", "/api", "/api/x", "/admin/", "/apis", "/elsewhere"]
    async with http_client(app) as client:
        texts = [(await client.get(path)).text for path in paths]
    assert texts == ["ours", "well", "api", "api", "admin", "rest", "rest"]
    async with websocket_client(app, "/ws") as websocket:
        await websocket.send("hi")
        assert (await websocket.receive()).text == "hi"


async def test_an_app_alone() -> None:
    """An app at ``*`` gets every path and method, also ``OPTIONS *`` and methods that are not registered."""
    async with http_client(mounted(says(b"all"))) as client:
        for method, target in [("GET", "/"), ("OPTIONS", "*"), ("PURGE", "/x"), ("DELETE", "/a/b?c")]:
            assert (await client.request(method, target)).text == "all"


async def test_cors() -> None:
    """The layer of CORS answers preflight requests, and adds its fields to responses and errors of the app."""

    async def app(scope: AsgiMessage, receive: Receive, send: Send) -> None:
        if scope["path"] == "/error":
            raise ZeroDivisionError
        await send(START)
        if scope["path"] == "/parts":
            await send(PART)
        await send(BODY)

    page = {"Origin": "https://a.example"}
    async with http_client(mounted(app).with_cors(Cors(origins={"https://a.example"}))) as client:
        for path, status in [("/", 200), ("/parts", 200), ("/error", 500)]:
            response = await client.get(path, headers=page)
            assert (response.status, response.headers["Access-Control-Allow-Origin"]) == (status, page["Origin"])
        preflight = await client.options("/", headers={**page, "Access-Control-Request-Method": "GET"})
        assert preflight.status == 204


@pytest.mark.parametrize("streamed", [False, True])
async def test_compression(streamed: bool) -> None:
    """The layer of compression compresses the responses of the app."""
    text = b"hello " * 10_000
    field = (b"content-type", b"text/plain")
    length = (b"content-length", b"%d" % len(text))

    async def app(scope: AsgiMessage, receive: Receive, send: Send) -> None:
        await send({**START, "headers": [field, length]})
        half = len(text) // 2 if streamed else len(text)
        await send({**PART, "body": text[:half]})
        await send({**BODY, "body": text[half:]})

    async with http_client(mounted(app).with_layer(compression())) as client:
        response = await client.get("/", headers={"Accept-Encoding": "gzip"})
        assert response.headers["Content-Encoding"] == "gzip"
        assert len(response.content) < len(text) / 10
        assert (await client.get("/")).content == text


async def test_access_log(caplog: pytest.LogCaptureFixture) -> None:
    """The access log has a line for each response of an app, whole or streamed, with its size."""
    caplog.set_level(logging.INFO, "humphrey_trio.access")

    async def app(scope: AsgiMessage, receive: Receive, send: Send) -> None:
        await send(START)
        if scope["path"] == "/api/parts":
            await send(PART)
        await send(BODY)

    async with http_client(mounted(app, "/api")) as client:
        await client.get("/api/parts")
        await client.get("/api/whole")
    lines = [record for record in caplog.records if record.name == "humphrey_trio.access"]
    assert [line.getMessage().split()[1:5] for line in lines] == [
        ['"GET', '/api/parts"', "200", "9"],
        ['"GET', '/api/whole"', "200", "5"],
    ]
    assert [line.__dict__["route"] for line in lines] == ["/api/*", "/api/*"]


async def test_a_large_file(tmp_path: Path) -> None:
    """A file of any size is sent by its path, over sockets and in memory."""
    content = bytes(range(256)) * 8192
    (tmp_path / "file").write_bytes(content)

    async def app(scope: AsgiMessage, receive: Receive, send: Send) -> None:
        await send(START)
        await send({"type": "http.response.pathsend", "path": str(tmp_path / scope["path"][1:])})

    (tmp_path / "empty").write_bytes(b"")
    mount = mounted(app)
    async with http_client(mount) as client:
        assert (await client.get("/file")).content == content
        assert (await client.get("/empty")).content == b""
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(mount.run, ANY_PORT)
        async with HttpClient(partial(trio.open_tcp_stream, *Address(*address))) as client:
            response = await client.get("/file")
            assert (response.content, response.headers["Content-Length"]) == (content, str(len(content)))
        nursery.cancel_scope.cancel()


# The graceful end...


async def test_a_graceful_end(autojump_clock: Clock) -> None:
    """Requests that have begun are answered, and their apps work on afterwards."""
    events: list[str] = []

    async def app(scope: AsgiMessage, receive: Receive, send: Send) -> None:
        await trio.sleep(3)
        await send(START)
        await send(BODY)
        events.append("answered")
        await trio.sleep(5)
        events.append("worked on")

    shutdown = trio.Event()
    mount = mounted(app).with_shutdown(shutdown)
    async with in_memory(shutdown, mount) as stage:
        stream = await stage.connect()

        async def connect() -> trio.abc.Stream:
            return stream

        async with trio.open_nursery() as nursery, HttpClient(connect) as client:
            nursery.start_soon(client.get, "/")
            await trio.sleep(1)
            stage.drain()
    assert events == ["answered", "worked on"]
    assert stage.since(stage.http.at) == pytest.approx(7, abs=0.5)


@pytest.mark.parametrize("late", [False, True])
async def test_event_streams_end(late: bool, autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A graceful end ends streams of events, also those that begin after it, and the app gets the disconnect."""
    received: list[object] = []

    async def app(scope: AsgiMessage, receive: Receive, send: Send) -> None:
        await receive()
        await trio.sleep(3 if late else 0)
        await send({**START, "headers": [(b"content-type", b"text/event-stream; charset=utf-8")]})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(listen, receive)
            while True:
                await send({**PART, "body": b"data: 1\n\n"})
                await trio.sleep(1)

    async def listen(receive: Receive) -> None:
        received.append(await receive())

    shutdown = trio.Event()
    async with in_memory(shutdown, mounted(app).with_shutdown(shutdown)) as stage:
        stream = await stage.connect()
        bodies: list[bytes] = []

        async def connect() -> trio.abc.Stream:
            return stream

        async def read() -> None:
            async with HttpClient(connect) as client:
                bodies.append((await client.get("/")).content)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(2.5)
            stage.drain()
    assert bodies == [b"data: 1\n\n" * (1 if late else 3)]
    assert received == [DISCONNECT]
    assert stage.since(stage.http.at) < 3
    assert not errors(caplog)


async def test_a_response_that_does_not_end(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Another streamed response is cut before the end of ``Timeouts.drain``, and its app ends."""
    ended = trio.Event()

    async def app(scope: AsgiMessage, receive: Receive, send: Send) -> None:
        await send(START)
        try:
            while True:
                await send(PART)
                await trio.sleep(1)
        finally:
            ended.set()

    shutdown = trio.Event()
    mount = mounted(app, timeouts=Timeouts(drain=6)).with_shutdown(shutdown)
    async with in_memory(shutdown, mount) as stage:
        stream = await stage.connect()

        async def connect() -> trio.abc.Stream:
            return stream

        async def read() -> None:
            async with HttpClient(connect) as client:
                with pytest.raises((ResponseError, trio.BrokenResourceError)):
                    await client.get("/")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read)
            await trio.sleep(1)
            stage.drain()
    assert ended.is_set()
    assert 4 < stage.since(stage.http.at) <= 6
    assert not errors(caplog)


async def test_cancelled_with_its_server(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """If ``run`` is cancelled, so are the calls of the app. Nothing is logged as an error."""
    events: list[str] = []

    async def app(scope: AsgiMessage, receive: Receive, send: Send) -> None:
        await send(START)
        await send(BODY)
        try:
            await trio.sleep_forever()
        finally:
            events.append("cancelled")

    async with http_client(mounted(app)) as client:
        assert (await client.get("/")).text == "hello"
    assert events == ["cancelled"]
    assert not errors(caplog)


async def test_last_message_is_enough() -> None:
    """A response without a body needs no part of one."""
    async with http_client(mounted(lambda _scope, _receive, send: two(send))) as client:
        assert (await client.get("/")).content == b""


async def two(send: Send) -> None:
    await send(START)
    await send(LAST)
