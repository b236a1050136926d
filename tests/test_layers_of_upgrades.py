"""Upgrades that pass layers: what layers see, add and refuse, and what is left if anything is cancelled."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    ConnectionClosed,
    HandshakeError,
    Message,
    Request,
    Response,
    Upgrade,
    WebsocketStream,
    async_websocket_handler,
    websocket_handler,
)
from humphrey_trio.layers import CallNext, Layer
from tests.support.apps import served_in_memory
from tests.support.clients import RawClient
from tests.support.logs import errors
from tests.support.steps import cancelled_at
from tests.support.wire import TEXT, client_frame, request_bytes

#: What layers saw: the statuses of responses, in order.
Seen = list[int]


def watching(seen: Seen, name: str = "watch") -> Layer[Any]:
    """A layer that records the status of each response and adds a field to it."""

    async def layer(request: Request, state: Any, call_next: CallNext) -> Response:
        response = await call_next(request)
        seen.append(response.status)
        return response.with_header("Seen-By", name)

    return layer


async def unauthorised(request: Request, state: Any, call_next: CallNext) -> Response:
    return Response(401, "no token", {"WWW-Authenticate": "Bearer"})


async def refusing_afterwards(request: Request, state: Any, call_next: CallNext) -> Response:
    await call_next(request)
    return Response(429, "too many")


async def failing_afterwards(request: Request, state: Any, call_next: CallNext) -> Response:
    await call_next(request)
    raise ValueError("oops")


async def echo(stream: WebsocketStream, state: Any) -> None:
    async for message in stream:
        await stream.send(message)


async def echo_message(stream: AsyncStream[Any], message: Message, state: Any) -> None:
    await stream.send(message)


@asynccontextmanager
async def kinds(*layers: Layer[Any]) -> AsyncGenerator[Callable[[str], Awaitable[RawClient]]]:
    """Serve routes of both kinds, /hook and /coroutine, with layers. Yields a function that connects a client."""
    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(echo_message)
    app = App()
    app.with_websocket_route("/hook", async_websocket_handler(websocket_app.connect_hook()))
    app.with_websocket_route("/coroutine", websocket_handler(echo))
    for layer in layers:
        app.with_layer(layer)
    async with trio.open_nursery() as nursery:
        await nursery.start(websocket_app.run)
        async with served_in_memory(app) as connect:

            async def client(path: str) -> RawClient:
                raw = RawClient(connect())
                await raw.send(request_bytes(f"GET {path} HTTP/1.1"))
                return raw

            yield client
        nursery.cancel_scope.cancel()


both_kinds = pytest.mark.parametrize("path", ["/hook", "/coroutine"])


@both_kinds
async def test_a_101_has_the_fields_of_the_layers(path: str, autojump_clock: MockClock) -> None:
    """Layers see a 101, and the fields that they add are sent with it; then the stream works."""
    seen: Seen = []
    async with kinds(watching(seen, "outer"), watching(seen, "inner")) as client:
        raw = await client(path)
        reply = await raw.reply()
        assert (reply.status, reply.headers.get_all("Seen-By")) == (101, ("inner", "outer"))
        assert seen == [101, 101]
        await raw.send(client_frame(TEXT, b"hello"))
        assert await raw.frame() == (TEXT, b"hello")


@both_kinds
@pytest.mark.parametrize(
    ("layer", "status"), [(unauthorised, 401), (refusing_afterwards, 429), (failing_afterwards, 500)]
)
async def test_a_layer_refuses(
    path: str, layer: Layer[Any], status: int, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Another response than the 101, or an exception, refuses the upgrade; HTTP continues on the connection."""
    seen: Seen = []
    async with kinds(watching(seen), layer) as client:
        raw = await client(path)
        reply = await raw.reply()
        assert (reply.status, reply.headers["Seen-By"]) == (status, "watch")
        await raw.send(request_bytes("GET /none HTTP/1.1", [("Host", "x")]))
        assert (await raw.reply()).status in (404, 401, 429, 500)
    assert len(errors(caplog)) == (2 if layer is failing_afterwards else 0)


@both_kinds
async def test_layers_see_the_refusal_of_a_route(path: str, autojump_clock: MockClock) -> None:
    """A handshake that is refused passes the layers as its response."""
    seen: Seen = []
    async with kinds(watching(seen)) as client:
        raw = await client("/none")
        assert (await raw.reply()).headers["Seen-By"] == "watch"
        raw = RawClient(raw.stream)
        await raw.send(request_bytes(f"GET {path} HTTP/1.1", BAD_VERSION))
        reply = await raw.reply()
        assert (reply.status, reply.headers["Seen-By"]) == (426, "watch")
    assert seen == [404, 426]


BAD_VERSION = (
    ("Host", "testserver"),
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "99"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
)


async def test_a_full_hook_is_a_503_with_the_fields_of_the_layers(autojump_clock: MockClock) -> None:
    """If there is no place in the hook after the layers have seen a 101, the 503 has their fields as well."""
    seen: Seen = []
    send, receive = trio.open_memory_channel[WebsocketStream](0)
    app = App().with_websocket_route("/", async_websocket_handler(send)).with_layer(watching(seen))
    async with served_in_memory(app) as connect:
        raw = RawClient(connect())
        await raw.send(request_bytes("GET / HTTP/1.1"))
        reply = await raw.reply()
    receive.close()
    assert (reply.status, reply.headers["Seen-By"]) == (503, "watch")
    assert "Retry-After" in reply.headers
    assert seen == [101]


async def test_the_route_gets_the_request_that_layers_pass_on(autojump_clock: MockClock) -> None:
    """upgrade.request and stream.request are the request that the innermost layer has passed on."""
    queries: list[str] = []

    async def adding(request: Request, state: Any, call_next: CallNext) -> Response:
        return await call_next(request.replace(query="user=1"))

    async def route(upgrade: Upgrade, state: Any) -> None:
        stream = await upgrade.accept()
        queries.extend([upgrade.request.query, stream.request.query])

    app = App().with_websocket_route("/", route).with_layer(adding)
    async with served_in_memory(app) as connect:
        await (await RawClient(connect()).open()).rest()
    assert queries == ["user=1", "user=1"]


async def test_accept_waits_for_the_layers(autojump_clock: MockClock) -> None:
    """A route that accepts waits until the outermost layer has returned."""
    order: list[str] = []

    async def slow(request: Request, state: Any, call_next: CallNext) -> Response:
        response = await call_next(request)
        await trio.sleep(5)
        order.append("layer")
        return response

    async def route(upgrade: Upgrade, state: Any) -> None:
        await upgrade.accept()
        order.append("accepted")

    app = App().with_websocket_route("/", route).with_layer(slow)
    async with served_in_memory(app) as connect:
        await (await RawClient(connect()).open()).rest()
    assert order == ["layer", "accepted"]


async def test_a_route_may_catch_the_refusal_of_a_layer(autojump_clock: MockClock) -> None:
    """accept raises HandshakeError with the status of the layer, and the client gets the response of the layer."""
    statuses: list[int] = []

    async def route(upgrade: Upgrade, state: Any) -> Response:
        with pytest.raises(HandshakeError) as caught:
            await upgrade.accept()
        statuses.append(caught.value.status)
        return Response(403, "the route")

    app = App().with_websocket_route("/", route).with_layer(refusing_afterwards)
    async with served_in_memory(app) as connect:
        raw = RawClient(connect())
        await raw.send(request_bytes("GET / HTTP/1.1"))
        assert (await raw.reply()).content == b"too many"
    assert statuses == [429]


async def test_a_layer_must_not_set_the_fields_of_the_handshake(
    autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A layer that adds a field of the handshake itself to the 101 is a failure that is logged."""

    async def confusing(request: Request, state: Any, call_next: CallNext) -> Response:
        return (await call_next(request)).with_header("Sec-WebSocket-Accept", "x")

    async with kinds(confusing) as client:
        assert (await (await client("/coroutine")).reply()).status == 500
    assert len(errors(caplog)) == 1


async def test_fields_of_other_responses_are_left_out_of_a_101(autojump_clock: MockClock) -> None:
    """A layer that adds Connection and Content-Length to every response does not change the 101."""

    async def adding(request: Request, state: Any, call_next: CallNext) -> Response:
        response = (await call_next(request)).with_header("Connection", "close")
        return response.with_header("Content-Length", "0")

    async with kinds(adding) as client:
        reply = await (await client("/coroutine")).reply()
        assert reply.status == 101
        assert reply.headers.get_all("Connection") == ("Upgrade",)
        assert "Content-Length" not in reply.headers


@both_kinds
async def test_layers_are_cancelled_at_every_step(path: str, autojump_clock: MockClock) -> None:
    """If the server is cancelled at any step of an upgrade with layers, it ends, and the client sees the end."""
    step = 0
    going_on = True
    while going_on:
        step += 1

        async def exchange() -> None:
            async with kinds(watching([]), watching([])) as client:
                raw = await client(path)
                await raw.reply()
                await raw.send(client_frame(TEXT, b"hello"))
                await raw.frame()

        try:
            going_on = await cancelled_at(step, exchange)
        except (ConnectionClosed, EOFError):  # pragma: no cover - the client may see the end first
            going_on = True
