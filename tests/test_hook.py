"""The connect hook: the channel through which an HTTP app passes streams to a WebSocket app."""

from __future__ import annotations

import contextlib
import itertools
import logging
from collections.abc import AsyncGenerator, Callable
from typing import Any, NamedTuple

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    ConnectionClosed,
    Message,
    Response,
    WebsocketStream,
    async_websocket_handler,
)
from humphrey_trio._websocket._stream._phase import Phase
from humphrey_trio._websocket._stream._stream import connection_of
from humphrey_trio.testing import WebsocketClient, open_websocket, websocket_client
from humphrey_trio.websocket import HandshakeError, LinkError, Upgrade
from tests.support import PATIENCE
from tests.support.apps import served_in_memory

HOOK_SIZE = 64

Connect = Callable[[], trio.abc.Stream]


def echo_app(**options: Any) -> AsyncWebsocketApp:
    async def echo(stream: AsyncStream[None], message: Message, state: None) -> None:
        await stream.send(message)

    return AsyncWebsocketApp.new_unlinked(**options).with_message_handler(echo)


def http_app(*hooks: trio.MemorySendChannel[WebsocketStream], **options: Any) -> App:
    """An app whose routes ``/0``, ``/1`` and so on lead to the hooks."""
    app = App()
    for number, hook in enumerate(hooks):
        app.with_websocket_route(f"/{number}", async_websocket_handler(hook, **options))
    return app


@contextlib.asynccontextmanager
async def connected(app: App[Any], path: str, **options: Any) -> AsyncGenerator[WebsocketClient]:
    """A client of an app until the end of the block."""
    with trio.fail_after(PATIENCE):
        async with websocket_client(app, path, **options) as client:
            yield client


async def echoed(client: WebsocketClient, text: str = "hello") -> bool:
    await client.send(text)
    return (await client.receive()).text == text


async def refusal(app: App, path: str = "/0") -> Response:
    """The response to an upgrade that is refused."""
    with pytest.raises(HandshakeError) as refused:
        async with connected(app, path):
            pass
    assert refused.value.response is not None
    return refused.value.response


async def close_code(client: WebsocketClient) -> int:
    """Receive until the server closes. Returns the close code."""
    with pytest.raises(ConnectionClosed) as closed:
        await client.receive()
    return closed.value.code


def assert_unavailable(response: Response) -> None:
    assert response.status == 503
    assert int(response.headers["Retry-After"]) >= 1


# ------------------------------------------------------------------------------------- a place in the hook


def test_hook_is_a_memory_channel() -> None:
    """The hook is the send end of a bounded memory channel, the same at every call."""
    websocket_app = AsyncWebsocketApp.new_unlinked()
    hook = websocket_app.connect_hook()
    assert type(hook) is trio.MemorySendChannel
    assert hook is websocket_app.connect_hook()
    assert hook.statistics().max_buffer_size == HOOK_SIZE


async def test_hook_of_any_channel(autojump_clock: trio.testing.MockClock) -> None:
    """The receive end of any channel delivers open streams."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    async with connected(http_app(hook), "/0?mine") as client:
        async for stream in streams:
            assert stream.request.query == "mine"
            assert stream.peer_addr.host == "memory"
            await client.send("ping")
            assert (await stream.receive()).text == "ping"
            await stream.send("pong")
            assert (await client.receive()).text == "pong"
            await stream.close(4001, "enough")
            break
        assert await close_code(client) == 4001


async def test_hook_queues_before_the_app_runs(autojump_clock: trio.testing.MockClock) -> None:
    """Before the app runs, clients wait up to the hook's size; one more gets a 503 after a second."""
    websocket_app = echo_app()
    app = http_app(websocket_app.connect_hook())
    async with served_in_memory(app) as connect, trio.open_nursery() as nursery:
        clients = [await open_websocket(connect(), "/0") for _ in range(HOOK_SIZE)]
        for client in clients:
            await client.send("early")
        asked = trio.current_time()
        assert_unavailable(await refusal(app))
        assert trio.current_time() - asked == pytest.approx(1)

        await nursery.start(websocket_app.run)
        for client in clients:
            assert (await client.receive()).text == "early"
        nursery.cancel_scope.cancel()


async def test_hook_place_becomes_free_in_time(autojump_clock: trio.testing.MockClock) -> None:
    """A client that waits for a place in the hook is accepted if one becomes free in time."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    async with served_in_memory(http_app(hook)) as connect, trio.open_nursery() as nursery:
        await open_websocket(connect(), "/0?first")
        asked = trio.current_time()
        nursery.start_soon(open_websocket, connect(), "/0?second")
        await trio.sleep(0.5)
        assert streams.statistics().tasks_waiting_send == 1
        assert [(await streams.receive()).request.query for _ in range(2)] == ["first", "second"]
        assert trio.current_time() - asked == pytest.approx(0.5)


@pytest.mark.parametrize("timeout", [0.1, 3.0])
async def test_place_timeout(timeout: float, autojump_clock: trio.testing.MockClock) -> None:
    """``place_timeout`` of the route is the time that a client waits for a place."""
    hook, _ = trio.open_memory_channel[WebsocketStream](0)
    app = http_app(hook, place_timeout=timeout)
    asked = trio.current_time()
    assert_unavailable(await refusal(app))
    assert trio.current_time() - asked == pytest.approx(timeout)


@pytest.mark.parametrize("option", ["place_timeout", "take_timeout"])
@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_invalid_timeouts(option: str, seconds: float) -> None:
    """A timeout that is not above zero is a ValueError when the route is made."""
    hook = AsyncWebsocketApp.new_unlinked().connect_hook()
    options: dict[str, Any] = {option: seconds}
    with pytest.raises(ValueError, match=option):
        async_websocket_handler(hook, **options)


async def test_refused_client_keeps_its_connection(autojump_clock: trio.testing.MockClock) -> None:
    """After a 503 the connection serves further requests, including an upgrade."""
    hook, streams = trio.open_memory_channel[WebsocketStream](0)
    app = http_app(hook).with_stateless_route("/page", lambda _: Response(200, "a page"))
    async with served_in_memory(app) as connect, trio.open_nursery() as nursery:
        stream = connect()
        with pytest.raises(HandshakeError):
            await open_websocket(stream, "/0")
        await stream.send_all(b"GET /page HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (await stream.receive_some()).endswith(b"a page")
        # Longer than any timeout of the upgrade that failed.
        await trio.sleep(30)
        nursery.start_soon(streams.receive)
        client = await open_websocket(stream, "/0")
        assert client.close_code is None


async def test_stream_that_is_not_taken_is_closed(autojump_clock: trio.testing.MockClock) -> None:
    """A stream that is not taken within ten seconds is closed with 1013, and an app skips it later."""
    websocket_app = echo_app()
    app = http_app(websocket_app.connect_hook())
    served: list[str] = []

    async def on_connect(stream: AsyncStream[None], state: None) -> None:
        served.append(stream.request.query)

    websocket_app.with_connect_handler(on_connect)
    async with trio.open_nursery() as nursery:
        async with connected(app, "/0?early") as early:
            opened = trio.current_time()
            assert await close_code(early) == 1013
            assert trio.current_time() - opened == pytest.approx(10, abs=0.5)
        await nursery.start(websocket_app.run)
        async with connected(app, "/0?late") as late:
            assert await echoed(late)
            await trio.sleep(15)
            assert await echoed(late)
        nursery.cancel_scope.cancel()
    assert served == ["late"]


async def test_take_timeout(autojump_clock: trio.testing.MockClock) -> None:
    """``take_timeout`` of the route is the time until a stream has to be taken; any use of it takes it."""
    hook, streams = trio.open_memory_channel[WebsocketStream](2)
    app = http_app(hook, take_timeout=3.0)
    async with connected(app, "/0") as left, websocket_client(app, "/0") as used:
        await streams.receive()
        await (await streams.receive()).send("hello")
        opened = trio.current_time()
        assert await close_code(left) == 1013
        assert trio.current_time() - opened == pytest.approx(3, abs=0.5)
        await trio.sleep(30)
        assert (await used.receive()).text == "hello"
        assert used.close_code is None
        await used.disconnect()  # the test does not read its Close


# ---------------------------------------------------------------------------------------------- before the 101


async def test_stream_is_used_before_its_101(autojump_clock: trio.testing.MockClock) -> None:
    """A stream may be used as soon as it is received: messages sent before the 101 follow it in order."""
    hook, streams = trio.open_memory_channel[WebsocketStream](0)
    async with served_in_memory(http_app(hook)) as connect, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def take() -> None:
            await trio.sleep(0.5)
            stream = streams.receive_nowait()
            await stream.send("0")
            # The route, which waited for the place, has not run since.
            assert connection_of(stream).lifecycle.phase is Phase.OPENING
            await stream.ping(b"1")
            await stream.send("2")
            assert (await stream.receive()).text == "first"
            await stream.send("3")

        client = await open_websocket(connect(), "/0")
        await client.send("first")
        assert [(await client.receive()).text for _ in range(3)] == ["0", "2", "3"]


async def test_shutdown_before_the_101(autojump_clock: trio.testing.MockClock) -> None:
    """When the app ends, clients that wait for a place get a 503, those that have one a Close with 1001."""
    websocket_app = echo_app(max_connections=1)
    app = http_app(websocket_app.connect_hook())
    statuses: list[int] = []

    async def wait_for_place(connect: Connect) -> None:
        with pytest.raises(HandshakeError) as refused:
            await open_websocket(connect(), "/0")
        statuses.append(refused.value.status)

    async with served_in_memory(app) as connect, trio.open_nursery() as waiting:
        async with trio.open_nursery() as nursery:
            await nursery.start(websocket_app.run)
            clients = [await open_websocket(connect(), "/0") for _ in range(1 + HOOK_SIZE)]
            assert await echoed(clients[0])
            for _ in range(3):
                waiting.start_soon(wait_for_place, connect)
            await trio.testing.wait_all_tasks_blocked()
            assert statuses == []
            nursery.cancel_scope.cancel()
        for client in clients:
            assert await close_code(client) == 1001
    assert statuses == [503, 503, 503]


async def test_receiver_closes_while_a_client_waits(
    caplog: pytest.LogCaptureFixture, autojump_clock: trio.testing.MockClock
) -> None:
    """When the receive end of the channel is closed, a client that waits for a place gets a 503 at once."""
    hook, streams = trio.open_memory_channel[WebsocketStream](0)
    app = http_app(hook)
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def close_soon() -> None:
            await trio.sleep(0.5)
            streams.close()

        asked = trio.current_time()
        assert_unavailable(await refusal(app))
        assert trio.current_time() - asked == pytest.approx(0.5)
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


@pytest.mark.parametrize("end", ["sender", "receiver"])
async def test_closed_hook(end: str, autojump_clock: trio.testing.MockClock) -> None:
    """If either end of the channel is closed, a client gets a 503 at once."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    (hook if end == "sender" else streams).close()
    asked = trio.current_time()
    assert_unavailable(await refusal(http_app(hook)))
    assert trio.current_time() == asked


@pytest.mark.parametrize("keyword", ["origins", "subprotocols", "deflate", "accept"])
def test_unlinked_app_refuses_route_options(keyword: str) -> None:
    """An unlinked app refuses options that its routes decide, instead of ignoring them."""
    options: Any = {keyword: None}
    with pytest.raises(LinkError, match=f"{keyword}= belongs to a route"):
        AsyncWebsocketApp.new_unlinked(**options)


async def test_closing_the_hook_of_an_app(autojump_clock: trio.testing.MockClock) -> None:
    """Closing an app's hook refuses new clients, and does not affect connected ones."""
    websocket_app = echo_app()
    app = http_app(websocket_app.connect_hook())
    async with trio.open_nursery() as nursery:
        await nursery.start(websocket_app.run)
        async with websocket_client(app, "/0") as client:
            assert await echoed(client)
            websocket_app.connect_hook().close()
            assert_unavailable(await refusal(app))
            assert await echoed(client, "still connected")
        nursery.cancel_scope.cancel()


# ----------------------------------------------------------------------------------------- start and shutdown


class Pair(NamedTuple):
    """Two linked apps that run, with their cancel scopes and the close codes of disconnect handlers."""

    app: App
    websocket_app: AsyncWebsocketApp
    connect: Connect
    http_scope: trio.CancelScope
    websocket_scope: trio.CancelScope
    disconnect_codes: list[int | None]


@contextlib.asynccontextmanager
async def running_pair(**options: Any) -> AsyncGenerator[Pair]:
    """Run both apps of a pair in scopes of their own, and record the close codes in disconnect handlers."""
    websocket_app = echo_app(**options)
    app = http_app(websocket_app.connect_hook())
    http_scope, websocket_scope = trio.CancelScope(), trio.CancelScope()
    disconnect_codes: list[int | None] = []
    serving: trio.Event = trio.Event()
    connect: Connect | None = None

    async def on_disconnect(stream: AsyncStream[None], state: None) -> None:
        await trio.sleep(0.1)
        disconnect_codes.append(stream.close_code)

    async def run_http() -> None:
        nonlocal connect
        with http_scope:
            async with served_in_memory(app) as connect:
                serving.set()
                await trio.sleep_forever()

    async def run_websocket() -> None:
        with websocket_scope:
            await websocket_app.run()

    websocket_app.with_disconnect_handler(on_disconnect)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_http)
            nursery.start_soon(run_websocket)
            await serving.wait()
            assert connect is not None
            yield Pair(app, websocket_app, connect, http_scope, websocket_scope, disconnect_codes)
            nursery.cancel_scope.cancel()


@pytest.mark.parametrize("first", ["http", "websocket"])
async def test_either_app_may_start_first(first: str, autojump_clock: trio.testing.MockClock) -> None:
    """The order in which the two apps start does not matter."""
    websocket_app = echo_app()
    app = http_app(websocket_app.connect_hook())
    async with trio.open_nursery() as nursery:
        if first == "websocket":
            await nursery.start(websocket_app.run)
        async with connected(app, "/0") as client:
            await trio.sleep(1)
            if first == "http":
                await nursery.start(websocket_app.run)
            assert await echoed(client)
        nursery.cancel_scope.cancel()


async def test_cancelled_http_app(autojump_clock: trio.testing.MockClock) -> None:
    """Cancelling the HTTP app closes its streams with 1001 and runs the disconnect handlers."""
    async with running_pair() as pair:
        clients = [await open_websocket(pair.connect(), "/0") for _ in range(3)]
        for client in clients:
            assert await echoed(client)
        pair.http_scope.cancel()
        for client in clients:
            assert await close_code(client) == 1001
        await trio.sleep(1)
        assert pair.disconnect_codes == [1001, 1001, 1001]
        assert not pair.websocket_scope.cancel_called
        # The WebSocket app serves clients of another HTTP app.
        async with connected(http_app(pair.websocket_app.connect_hook()), "/0") as client:
            assert await echoed(client)


async def test_cancelled_http_app_with_a_busy_handler(autojump_clock: trio.testing.MockClock) -> None:
    """Cancelling the HTTP app cancels a busy handler of one of its streams."""
    busy = trio.Event()

    async def be_busy(stream: AsyncStream[None], message: Message, state: None) -> None:
        busy.set()
        await trio.sleep_forever()

    async with running_pair() as pair:
        pair.websocket_app.with_message_handler(be_busy)
        client = await open_websocket(pair.connect(), "/0")
        await client.send("be busy")
        await busy.wait()
        pair.http_scope.cancel()
        assert await close_code(client) == 1001
        await trio.sleep(1)
        assert pair.disconnect_codes == [1001]


async def test_cancelled_websocket_app(autojump_clock: trio.testing.MockClock) -> None:
    """When the WebSocket app ends, its streams close with 1001, and upgrades get a 503."""
    async with running_pair() as pair:
        clients = [await open_websocket(pair.connect(), "/0") for _ in range(3)]
        for client in clients:
            assert await echoed(client)
        pair.websocket_scope.cancel()
        for client in clients:
            assert await close_code(client) == 1001
        await trio.sleep(1)
        assert pair.disconnect_codes == [1001, 1001, 1001]
        for _ in range(2):
            asked = trio.current_time()
            with pytest.raises(HandshakeError) as refused:
                await open_websocket(pair.connect(), "/0")
            assert refused.value.response is not None
            assert_unavailable(refused.value.response)
            assert trio.current_time() == asked


async def test_cancelled_websocket_app_closes_streams_in_the_hook(autojump_clock: trio.testing.MockClock) -> None:
    """When the WebSocket app ends, streams in its hook close with 1001, without any handler."""
    async with running_pair(max_connections=1) as pair:
        served, *waiting = [await open_websocket(pair.connect(), "/0") for _ in range(4)]
        assert await echoed(served)
        pair.websocket_scope.cancel()
        for client in (served, *waiting):
            assert await close_code(client) == 1001
        await trio.sleep(1)
        assert pair.disconnect_codes == [1001]


async def test_app_that_is_cancelled_at_once(autojump_clock: trio.testing.MockClock) -> None:
    """An app that is cancelled at once closes the streams that wait for it with 1001."""
    websocket_app = echo_app()
    async with connected(http_app(websocket_app.connect_hook()), "/0") as client:
        with trio.CancelScope() as scope:
            scope.cancel()
            await websocket_app.run()
        assert await close_code(client) == 1001


async def test_unlinked_app_without_a_link(autojump_clock: trio.testing.MockClock) -> None:
    """An unlinked app without a link runs until it is cancelled."""
    with trio.move_on_after(60) as scope:
        await AsyncWebsocketApp.new_unlinked().run()
    assert scope.cancelled_caught


# ---------------------------------------------------------------------------------------------- combinations


@pytest.mark.parametrize(("apps", "routes", "websocket_apps"), list(itertools.product((1, 2), repeat=3)))
async def test_apps_and_hooks_in_any_combination(
    apps: int, routes: int, websocket_apps: int, autojump_clock: trio.testing.MockClock
) -> None:
    """Several Apps and routes feed several WebSocket apps, and each stream reaches its own app."""
    seen: list[list[str]] = [[] for _ in range(websocket_apps)]
    targets: list[AsyncWebsocketApp] = []
    for number in range(websocket_apps):

        async def note(stream: AsyncStream[None], state: None, number: int = number) -> None:
            seen[number].append(f"{stream.request.path}?{stream.request.query}")

        targets.append(echo_app().with_connect_handler(note))
    hooks = [target.connect_hook() for target in targets for _ in range(routes)]
    sources = [http_app(*hooks) for _ in range(apps)]

    async with trio.open_nursery() as nursery:
        for target in targets:
            await nursery.start(target.run)
        for source, path in itertools.product(range(apps), range(len(hooks))):
            async with connected(sources[source], f"/{path}?{source}") as client:
                assert await echoed(client)
        nursery.cancel_scope.cancel()
    for number in range(websocket_apps):
        paths = range(number * routes, (number + 1) * routes)
        assert seen[number] == [f"/{path}?{source}" for source in range(apps) for path in paths]


async def test_broadcast_reaches_the_clients_of_every_app(autojump_clock: trio.testing.MockClock) -> None:
    """A broadcast reaches all clients of its WebSocket app, through whichever App, and no others."""
    mine, other = echo_app(), echo_app()
    apps = [http_app(mine.connect_hook(), mine.connect_hook(), other.connect_hook()) for _ in range(2)]
    async with trio.open_nursery() as nursery, contextlib.AsyncExitStack() as stack:
        await nursery.start(mine.run)
        await nursery.start(other.run)
        clients = {
            (app, path): await stack.enter_async_context(connected(app, f"/{path}"))
            for app in apps
            for path in range(3)
        }
        for client in clients.values():
            assert await echoed(client)
        await mine.sender().broadcast("to mine")
        await other.sender().broadcast("to the other's")
        for (_, path), client in clients.items():
            assert (await client.receive()).text == ("to mine" if path < 2 else "to the other's")
        await stack.aclose()
        nursery.cancel_scope.cancel()


# ------------------------------------------------------------------------------------------------ own routes


async def test_own_route_that_ends_in_a_hook(autojump_clock: trio.testing.MockClock) -> None:
    """A route may call a hook route: it refuses, or the WebSocket app gets the stream."""
    websocket_app = echo_app()
    hook_route = async_websocket_handler(websocket_app.connect_hook())

    async def members_only(upgrade: Upgrade, state: str) -> Response | None:
        await trio.sleep(0.1)
        if upgrade.request.query != state:
            return Response(401, "members only")
        return await hook_route(upgrade, state)

    app = App("password").with_websocket_route("/0", members_only)
    async with trio.open_nursery() as nursery:
        await nursery.start(websocket_app.run)
        with pytest.raises(HandshakeError) as refused:
            async with connected(app, "/0?guess"):
                pass
        assert refused.value.status == 401
        async with connected(app, "/0?password") as client:
            assert await echoed(client)
            # The route has returned, and its stream is still open.
            await trio.sleep(20)
            assert await echoed(client)
        nursery.cancel_scope.cancel()
    with pytest.raises(HandshakeError) as refused:
        async with connected(app, "/0?password"):
            pass
    assert refused.value.response is not None
    assert_unavailable(refused.value.response)


@pytest.mark.parametrize("cancelled", ["http", "websocket"])
async def test_shutdown_closes_streams_of_own_routes(
    cancelled: str, autojump_clock: trio.testing.MockClock
) -> None:
    """A stream of an own route closes with 1001 when either app is cancelled."""
    async with running_pair() as pair:
        hook_route = async_websocket_handler(pair.websocket_app.connect_hook())

        async def through(upgrade: Upgrade, state: None) -> Response | None:
            return await hook_route(upgrade, state)

        pair.app.with_websocket_route("/own", through)
        client = await open_websocket(pair.connect(), "/own")
        assert await echoed(client)
        (pair.http_scope if cancelled == "http" else pair.websocket_scope).cancel()
        assert await close_code(client) == 1001
        await trio.sleep(1)
        assert pair.disconnect_codes == [1001]


async def test_hook_route_checks_origins(autojump_clock: trio.testing.MockClock) -> None:
    """A hook's route refuses pages of other origins with 403, before it takes a place in the hook."""
    hook, streams = trio.open_memory_channel[WebsocketStream](1)
    app = App().with_websocket_route("/", async_websocket_handler(hook, origins={"https://friend.example"}))
    with pytest.raises(HandshakeError) as refused:
        async with connected(app, "/", headers={"Origin": "https://foe.example"}):
            pass
    assert refused.value.status == 403
    assert streams.statistics().current_buffer_used == 0
    async with connected(app, "/", headers={"Origin": "https://friend.example"}):
        assert streams.statistics().current_buffer_used == 1
