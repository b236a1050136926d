"""WebSocket apps that an App runs: their link, their runs, and their settings."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing
import trio_websocket

from humphrey_trio import (
    Accept,
    App,
    AsyncStream,
    AsyncWebsocketApp,
    HandshakeError,
    LinkError,
    Request,
    Response,
    SubApp,
    async_websocket_handler,
)
from humphrey_trio._websocket._stream._hook_route import HookRouteOptions
from humphrey_trio.http import Drain, Timeouts
from humphrey_trio.testing import open_websocket, websocket_client
from tests.support import ANY_PORT, PATIENCE
from tests.support.drain_clients import receive_until_closed
from tests.support.drain_handlers import DisconnectRecorder
from tests.support.draining import Clock
from tests.support.hosted_apps import answers, echo_app, send_back, send_to_all, serve_in_scope
from tests.support.links import Link, each_link

# ------------------------------------------------------------------------------------------------- the link


async def test_the_app_runs_with_each_connection(autojump_clock: Clock) -> None:
    """For each connection of an App that does not run, the WebSocket app runs as long as the connection."""
    disconnected = DisconnectRecorder()
    app = App().with_websocket_app("/ws", echo_app().with_disconnect_handler(disconnected))
    for _ in range(3):
        async with websocket_client(app, "/ws") as client:
            assert await answers(client)
    assert disconnected.codes == [1000] * 3


@pytest.mark.parametrize("first", [0, 1])
async def test_connections_share_the_app(first: int, autojump_clock: Clock) -> None:
    """Connections of an App that does not run share the WebSocket app, and the end of one leaves the other."""
    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(send_to_all)
    app = App().with_websocket_app("/ws", websocket_app)
    async with trio.open_nursery() as nursery:
        scopes, clients = [], []
        for _ in range(2):
            ours, theirs = trio.testing.memory_stream_pair()
            scopes.append(await nursery.start(serve_in_scope, app, theirs))
            clients.append(await open_websocket(ours, "/ws"))
        await clients[0].send("to all")
        assert [(await client.receive()).text for client in clients] == ["to all"] * 2
        assert websocket_app.statistics().connections == 2
        scopes[first].cancel()
        assert (await receive_until_closed(clients[first])).code == 1001
        left = clients[1 - first]
        assert await answers(left)
        async with websocket_client(app, "/ws") as late:
            await late.send("to two")
            assert (await late.receive()).text == (await left.receive()).text == "to two"
        assert await answers(left)
        nursery.cancel_scope.cancel()
    assert websocket_app.statistics().connections == 0


@each_link
async def test_two_runs_share_the_app(link: Link) -> None:
    """Two runs of an App serve the clients of one WebSocket app; the end of one run closes its clients only."""
    for cancelled in range(2):
        disconnected = DisconnectRecorder()
        websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(send_to_all)
        websocket_app.with_disconnect_handler(disconnected)
        app = App().with_websocket_app("/ws", websocket_app)
        scopes = [trio.CancelScope(), trio.CancelScope()]
        returned = [trio.Event(), trio.Event()]

        async def run(number: int, *, task_status: trio.TaskStatus[Any]) -> None:
            with scopes[number]:  # noqa: B023
                await [app.run, link.run(app)][number](ANY_PORT, task_status=task_status)  # noqa: B023
            returned[number].set()  # noqa: B023

        with trio.fail_after(PATIENCE):
            async with trio.open_nursery() as nursery:
                links = [Link.PLAIN, link]
                addresses = [(await nursery.start(run, number))[0] for number in range(2)]
                streams = [await links[number].connect(addresses[number]) for number in range(2)]
                clients = [await open_websocket(stream, "/ws") for stream in streams]
                await clients[0].send("to all")
                assert [(await client.receive()).text for client in clients] == ["to all"] * 2
                scopes[cancelled].cancel()
                await returned[cancelled].wait()
                assert (await receive_until_closed(clients[cancelled])).code == 1001
                other = 1 - cancelled
                late_stream = await links[other].connect(addresses[other])
                late = await open_websocket(late_stream, "/ws")
                await late.send("to the other")
                for client in (late, clients[other]):
                    assert (await client.receive()).text == "to the other"
                assert disconnected.codes == [1001]
                nursery.cancel_scope.cancel()
            for stream in (*streams, late_stream):
                await trio.aclose_forcefully(stream)
        assert disconnected.codes == [1001] * 3


async def test_limit_of_two_runs(autojump_clock: Clock) -> None:
    """``max_connections`` of the WebSocket app limits its clients in all runs together."""
    websocket_app = echo_app(max_connections=1)
    app = App().with_websocket_app("/ws", websocket_app)
    async with websocket_client(app, "/ws") as first, websocket_client(app, "/ws") as second:
        assert await answers(first)
        await second.send("text")
        with trio.move_on_after(5) as scope:
            await second.receive()
        assert scope.cancelled_caught
        assert websocket_app.statistics().connections == 1
        await first.close()
        assert (await second.receive()).text == "text"


async def test_two_paths_and_two_apps(autojump_clock: Clock) -> None:
    """An App may have a WebSocket app at two paths with different options, and two WebSocket apps."""
    one, two = echo_app(), AsyncWebsocketApp.new_unlinked().with_message_handler(send_to_all)
    app = App().with_websocket_app("/a", one).with_websocket_app("/b", one, origins="https://x.example")
    app.with_websocket_app("/c", two)
    for path in ("/a", "/b", "/c"):
        async with websocket_client(app, path) as client:
            assert await answers(client)
    headers = {"Origin": "https://x.example"}
    async with websocket_client(app, "/b", headers=headers) as client:
        assert await answers(client)
    with pytest.raises(HandshakeError):
        async with websocket_client(app, "/a", headers=headers):
            pass


async def test_options_of_the_route(autojump_clock: Clock) -> None:
    """The options are those of ``async_websocket_handler``."""
    seen: list[Any] = []

    async def accept(request: Request, state: str) -> Accept | Response:
        return Accept(value=state) if request.query == "yes" else Response(401, "no")

    async def note(stream: AsyncStream[None], state: None) -> None:
        seen.append((stream.value, stream.subprotocol))

    app = App("the state of the App").with_websocket_app(
        "/ws", echo_app().with_connect_handler(note), accept=accept, subprotocols=["chat"]
    )
    async with websocket_client(app, "/ws?yes", headers={"Sec-WebSocket-Protocol": "chat"}) as client:
        assert await answers(client)
    with pytest.raises(HandshakeError) as refused:
        async with websocket_client(app, "/ws"):
            pass
    assert refused.value.status == 401
    assert seen == [("the state of the App", "chat")]


def test_option_names() -> None:
    """The typed keywords are the keyword arguments of ``async_websocket_handler``, with the same types."""
    parameters = inspect.signature(async_websocket_handler).parameters.values()
    keywords = {one.name: one.annotation for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY}
    assert {name: hint.__forward_arg__ for name, hint in HookRouteOptions.__annotations__.items()} == keywords


async def test_further_routes(autojump_clock: Clock) -> None:
    """The hook of the WebSocket app may be used in a route of a SubApp, and of another App."""
    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(send_to_all)
    route = async_websocket_handler(websocket_app.connect_hook())
    subapp = SubApp[None]().with_websocket_route("/sub", route)
    app = App().with_websocket_app("/ws", websocket_app).with_host("*.example.com", subapp)
    other = App().with_websocket_route("/other", route)
    async with (
        websocket_client(app, "/ws") as mine,
        websocket_client(app, "/sub", headers={"Host": "a.example.com"}) as sub,
        websocket_client(other, "/other") as foreign,
    ):
        await mine.send("to all")
        for client in (mine, sub, foreign):
            assert (await client.receive()).text == "to all"


async def test_client_of_another_app_waits(autojump_clock: Clock) -> None:
    """A client of another App waits in the hook while no App runs the WebSocket app, and is served after."""
    websocket_app = echo_app()
    app = App().with_websocket_app("/ws", websocket_app)
    other = App().with_websocket_route("/", async_websocket_handler(websocket_app.connect_hook()))
    async with websocket_client(app, "/ws") as client:
        assert await answers(client)
    async with websocket_client(other) as foreign:
        await trio.sleep(5)
        async with websocket_client(app, "/ws") as client:
            assert await answers(client)
            assert await answers(foreign)
        # The WebSocket app has ended with the last connection of its App.
        assert (await receive_until_closed(foreign)).code == 1001


# --------------------------------------------------------------------------------------------- wrong links


def of_another_app(websocket_app: AsyncWebsocketApp) -> None:
    App().with_websocket_app("/", websocket_app)


def with_its_own_event(websocket_app: AsyncWebsocketApp) -> None:
    websocket_app.with_shutdown(trio.Event())


@pytest.mark.parametrize(
    ("make", "prepare", "remedy"),
    [
        (AsyncWebsocketApp.new_unlinked, of_another_app, "with_websocket_route"),
        (AsyncWebsocketApp.new_unlinked, with_its_own_event, "call with_shutdown of the App"),
        (
            partial(AsyncWebsocketApp.new_unlinked, timeouts=Timeouts(disconnect=9)),
            None,
            "pass timeouts= to the App",
        ),
        (AsyncWebsocketApp, None, "new_unlinked"),
    ],
    ids=["another App", "with_shutdown", "timeouts", "internal"],
)
def test_apps_that_cannot_be_adopted(
    make: Callable[[], AsyncWebsocketApp], prepare: Callable[[AsyncWebsocketApp], None] | None, remedy: str
) -> None:
    """A WebSocket app of another App, or with a link or settings of its own, is a LinkError with a remedy."""
    websocket_app = make()
    if prepare is not None:
        prepare(websocket_app)
    with pytest.raises(LinkError, match=remedy):
        App().with_websocket_app("/", websocket_app)


async def test_app_that_has_run(autojump_clock: Clock) -> None:
    """A WebSocket app that has run cannot be adopted, and an adopted one has no run and no shutdown of its own."""
    websocket_app = echo_app()
    with trio.move_on_after(1):
        await websocket_app.run()
    with pytest.raises(LinkError, match="create a new AsyncWebsocketApp"):
        App().with_websocket_app("/", websocket_app)
    adopted = echo_app()
    App().with_websocket_app("/", adopted)
    with pytest.raises(LinkError, match="remove this call of run"):
        await adopted.run()
    with pytest.raises(LinkError, match="of the App"):
        adopted.with_shutdown(trio.Event())
    with pytest.raises(LinkError, match="does not listen"):
        adopted.with_address(ANY_PORT)


def test_timeouts_of_the_app_are_accepted() -> None:
    """A WebSocket app may have the timeouts of its App."""
    timeouts = Timeouts(disconnect=9)
    App(timeouts=timeouts).with_websocket_app("/", echo_app(timeouts=timeouts))


@pytest.mark.parametrize("wrong", ["hook", "coroutine"])
def test_with_websocket_app_takes_an_app(wrong: str) -> None:
    """A hook or a coroutine is a TypeError that names ``with_websocket_route``."""
    argument: Any = echo_app().connect_hook() if wrong == "hook" else send_back
    with pytest.raises(TypeError, match="with_websocket_route"):
        App().with_websocket_app("/", argument)


@pytest.mark.parametrize(
    ("pattern", "options"), [("no slash", {}), ("/", {"take_timeout": 0}), ("/", {"origins": "nonsense://*:x"})]
)
def test_bad_routes_adopt_nothing(pattern: str, options: Any) -> None:
    """A malformed pattern or option leaves the WebSocket app as it was."""
    websocket_app = echo_app()
    with pytest.raises(ValueError):  # noqa: PT011  (any message: others test them)
        App().with_websocket_app(pattern, websocket_app, **options)
    App().with_websocket_app("/", websocket_app)


async def test_another_run_of_trio(autojump_clock: Clock) -> None:
    """While an App runs in one run of trio, it cannot run its WebSocket app in another one."""
    app = App().with_websocket_app("/", echo_app())

    def run_there() -> None:
        with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="another run of trio")):
            trio.run(app.run, ANY_PORT)

    async with websocket_client(app) as client:
        await trio.to_thread.run_sync(run_there)
        assert await answers(client)


async def test_several_runs_of_trio(autojump_clock: Clock) -> None:
    """One App with a WebSocket app may be used in one run of trio after the other."""
    app = App().with_websocket_app("/", echo_app())

    async def converse() -> None:
        async with websocket_client(app) as client:
            assert await answers(client)

    await converse()
    await trio.to_thread.run_sync(trio.run, converse)
    await converse()


# -------------------------------------------------------------------------------------------- real clients


@each_link
async def test_a_client_of_another_library(link: Link) -> None:
    """A client of another library gets its echo, and its Close in a drain."""
    shutdown = trio.Event()
    app = App().with_websocket_app("/ws", echo_app()).with_shutdown(shutdown, Drain(code=4001))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(link.run(app), ANY_PORT)
            stream = await link.connect(address)
            connection = await trio_websocket.wrap_client_stream(nursery, stream, "127.0.0.1", "/ws")
            await connection.send_message("hello")
            assert await connection.get_message() == "hello"
            shutdown.set()
            with pytest.raises(trio_websocket.ConnectionClosed) as closed:
                await connection.get_message()
            assert closed.value.reason is not None
            assert closed.value.reason.code == 4001
            await trio.aclose_forcefully(stream)
