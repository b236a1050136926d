"""WebSocket apps that an App runs: their link, their runs, their settings and their ends."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from contextlib import suppress
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
    ConnectionClosed,
    HandshakeError,
    LinkError,
    Message,
    Request,
    Response,
    SubApp,
    async_websocket_handler,
)
from humphrey_trio._websocket._stream._routes import HookRouteOptions
from humphrey_trio.http import Drain, Timeouts
from humphrey_trio.testing import WebsocketClient, open_websocket, websocket_client
from tests.support import ANY_PORT, PATIENCE
from tests.support.cancellation import (
    Connect,
    Handlers,
    cancel_at_every_step,
    echo,
    living_tasks,
    no_resource_warning,
    serve_stream,
    talk_to,
)
from tests.support.drain_clients import receive_all_until_closed, receive_until_closed
from tests.support.drain_handlers import DisconnectRecorder, Slow
from tests.support.draining import BUSY, Clock, in_memory
from tests.support.links import Link, each_link
from tests.support.logs import errors
from tests.support.steps import at_step
from tests.support.times import soon_after


async def send_back(stream: AsyncStream[None], message: Message, state: Any) -> None:
    await stream.send(message)


async def send_to_all(stream: AsyncStream[None], message: Message, state: Any) -> None:
    await stream.broadcast(message)


def echo_app(**options: Any) -> AsyncWebsocketApp:
    return AsyncWebsocketApp.new_unlinked(**options).with_message_handler(send_back)


async def answers(client: WebsocketClient) -> bool:
    """Whether a client gets its echo."""
    await client.send("text")
    return (await client.receive()).text == "text"


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


async def serve_in_scope(
    app: App, stream: trio.abc.Stream, *, task_status: trio.TaskStatus[trio.CancelScope]
) -> None:
    """Serve one connection in a cancel scope."""
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await app.serve_stream(stream)


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
    with pytest.raises(LinkError, match="create a new one"):
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
def test_what_is_not_an_app(wrong: str) -> None:
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


# --------------------------------------------------------------------------------------------------- ends


async def test_drain_ends_both_apps(autojump_clock: Clock) -> None:
    """One ``with_shutdown`` ends both apps: streams get its code, reason and spread, and ``run`` returns."""
    shutdown, disconnected = trio.Event(), DisconnectRecorder()
    websocket_app = echo_app().with_disconnect_handler(disconnected)
    app = App().with_websocket_app("/ws", websocket_app)
    app.with_shutdown(shutdown, Drain(code=1012, spread=10, retry_after=29.5))
    async with in_memory(shutdown, app) as stage:
        clients = [await stage.open() for _ in range(5)]
        late = await stage.connect()
        stage.drain()
        with pytest.raises(HandshakeError) as refused:
            await open_websocket(late, "/ws")
        assert refused.value.status == 503
        closings = await receive_all_until_closed(clients)
        assert {(closing.code, closing.reason) for closing in closings} == {(1012, BUSY.reason)}
        assert [round(stage.since(closing.at), 6) for closing in closings] == [0, 2, 4, 6, 8]
        await stage.http.returned.wait()
        assert stage.now == pytest.approx(8)
    assert disconnected.codes == [1012] * 5


async def test_drain_waits_for_disconnect_handlers(autojump_clock: Clock) -> None:
    """``run`` returns after the last disconnect handler, although all connections have ended."""
    shutdown, ended = trio.Event(), trio.Event()

    async def on_disconnect(stream: AsyncStream[None], state: None) -> None:
        await trio.sleep(7)
        ended.set()

    app = (
        App().with_websocket_app("/ws", echo_app().with_disconnect_handler(on_disconnect)).with_shutdown(shutdown)
    )
    async with in_memory(shutdown, app) as stage:
        client = await stage.open()
        stage.drain()
        assert (await receive_until_closed(client)).code == 1001
        await stage.http.returned.wait()
        assert stage.now == pytest.approx(7)
    assert ended.is_set()


async def test_drain_has_one_deadline(autojump_clock: Clock) -> None:
    """Handlers that do not return end within ``Timeouts.drain`` of the App, with its ``Timeouts.disconnect``."""
    shutdown = trio.Event()

    async def never(*_: object) -> None:
        await trio.sleep_forever()

    websocket_app = AsyncWebsocketApp.new_unlinked().with_message_handler(never).with_disconnect_handler(never)
    app = App(timeouts=Timeouts(drain=8, disconnect=2)).with_websocket_app("/ws", websocket_app)
    app.with_shutdown(shutdown, Drain(patience=100))
    async with in_memory(shutdown, app) as stage:
        await stage.open_busy()
        stage.drain()
        await stage.http.returned.wait()
        assert stage.now == pytest.approx(8)


async def test_drain_of_two_runs(autojump_clock: Clock) -> None:
    """One event ends two runs of an App, and its WebSocket app in both."""
    shutdown, disconnected = trio.Event(), DisconnectRecorder()
    app = App().with_websocket_app("/ws", echo_app().with_disconnect_handler(disconnected))
    app.with_shutdown(shutdown, Drain(code=4000))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            addresses = [(await nursery.start(app.run, ANY_PORT))[0] for _ in range(2)]
            streams = [await Link.PLAIN.connect(address) for address in addresses * 3]
            clients = [await open_websocket(stream, "/ws") for stream in streams]
            for client in clients:
                assert await answers(client)
            shutdown.set()
            assert [closing.code for closing in await receive_all_until_closed(clients)] == [4000] * 6
            for stream in streams:
                await trio.aclose_forcefully(stream)
    assert disconnected.codes == [4000] * 6


async def test_event_that_was_set_before(autojump_clock: Clock) -> None:
    """An App whose event is set returns at once. With a new event it serves WebSockets again."""
    shutdown = trio.Event()
    shutdown.set()
    app = App().with_websocket_app("/ws", echo_app()).with_shutdown(shutdown)
    with trio.fail_after(1):
        await app.run(ANY_PORT)
    app.with_shutdown(trio.Event())
    async with websocket_client(app, "/ws") as client:
        assert await answers(client)


async def test_drain_cuts_waiting_clients(autojump_clock: Clock) -> None:
    """Streams that wait in the hook for a place in the WebSocket app are closed when the drain begins."""
    shutdown, disconnected = trio.Event(), DisconnectRecorder()
    websocket_app = echo_app(max_connections=1).with_message_handler(Slow(4)).with_disconnect_handler(disconnected)
    app = App().with_websocket_app("/ws", websocket_app).with_shutdown(shutdown, Drain(code=4000))
    async with in_memory(shutdown, app) as stage:
        busy, *waiting = [await stage.open_busy() for _ in range(4)]
        stage.drain()
        closings = await receive_all_until_closed([busy, *waiting])
        assert [closing.code for closing in closings] == [4000] * 4
        assert [stage.since(closing.at) for closing in closings] == [4, 0, 0, 0]
    assert disconnected.codes == [4000]


async def test_cancelled_run(autojump_clock: Clock) -> None:
    """Cancelling ``run`` closes streams with 1001. Disconnect handlers have ``Timeouts.disconnect`` of the App."""
    limits: list[float] = []

    async def on_disconnect(stream: AsyncStream[None], state: None) -> None:
        began = trio.current_time()
        try:
            await trio.sleep_forever()
        finally:
            limits.append(trio.current_time() - began)

    websocket_app = echo_app().with_disconnect_handler(on_disconnect)
    app = App(timeouts=Timeouts(disconnect=3)).with_websocket_app("/ws", websocket_app)
    async with trio.open_nursery() as nursery:
        ours, theirs = trio.testing.memory_stream_pair()
        await nursery.start(serve_stream, app, theirs)
        client = await open_websocket(ours, "/ws")
        assert await answers(client)
        nursery.cancel_scope.cancel()
    assert (await receive_until_closed(client)).code == 1001
    assert limits == [pytest.approx(3)]


async def test_failure_ends_the_run(autojump_clock: Clock) -> None:
    """What ends a WebSocket app ends ``run`` of its App as well, such as a SystemExit in a handler."""

    async def leave(stream: AsyncStream[None], message: Message, state: None) -> None:
        raise SystemExit(3)

    app = App().with_websocket_app("/", AsyncWebsocketApp.new_unlinked().with_message_handler(leave))
    tasks = living_tasks()
    with pytest.RaisesGroup(SystemExit, flatten_subgroups=True):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(app.run, ANY_PORT)
            async with await Link.PLAIN.connect(address) as stream:
                client = await open_websocket(stream)
                with suppress(ConnectionClosed):
                    await client.send("leave")
                    await client.receive()
                await trio.sleep_forever()
    assert living_tasks() == tasks


async def test_failed_handler_ends_only_its_stream(
    caplog: pytest.LogCaptureFixture, autojump_clock: Clock
) -> None:
    """An exception of a handler is logged, and closes its stream with 1011; the others go on."""

    async def fail(stream: AsyncStream[None], message: Message, state: None) -> None:
        raise ValueError("a bug")

    app = App().with_websocket_app("/ws", AsyncWebsocketApp.new_unlinked().with_message_handler(fail))
    async with in_memory(trio.Event(), app) as stage:
        client, other = await stage.open(), await stage.open()
        await client.send("text")
        assert (await receive_until_closed(client)).code == 1011
        await other.close()
        assert other.close_code == 1000
    assert len(errors(caplog)) == 1


async def test_address_in_use() -> None:
    """An address that cannot be listened on is an OSError, as without a WebSocket app."""
    app = App().with_websocket_app("/", echo_app())
    async with trio.open_nursery() as nursery:
        (address,) = await nursery.start(app.run, ANY_PORT)
        with pytest.raises(OSError, match="cannot listen on"):
            await app.run(str(address))
        nursery.cancel_scope.cancel()


async def test_ctrl_c_reaches_handlers(autojump_clock: Clock) -> None:
    """Ctrl-C is raised in the handlers of the WebSocket app, and in no other of its tasks."""
    protected: list[bool] = []

    async def look(stream: AsyncStream[None], message: Message, state: None) -> None:
        protected.append(trio.lowlevel.currently_ki_protected())
        raise KeyboardInterrupt

    app = App().with_websocket_app("/", AsyncWebsocketApp.new_unlinked().with_message_handler(look))
    with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
        async with websocket_client(app) as client:
            await client.send("text")
            await trio.sleep_forever()
    assert protected == [False]


# ------------------------------------------------------------------------------------- at every checkpoint


def hosted(handlers: Handlers) -> App:
    return App().with_websocket_app("/", handlers.attach(AsyncWebsocketApp.new_unlinked()))


def over_memory(handlers: Handlers) -> Any:
    ours, theirs = trio.testing.memory_stream_pair()

    async def connect() -> trio.abc.Stream:
        return ours

    return {"http": (serve_stream, (hosted(handlers), theirs))}, lambda started: connect


def without_a_run(handlers: Handlers) -> Any:
    ours, theirs = trio.testing.memory_stream_pair()
    app = hosted(handlers)

    connected = trio.Event()

    async def connect() -> trio.abc.Stream:
        connected.set()
        return ours

    async def serve(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await connected.wait()
        await app.serve_stream(theirs)
        await trio.sleep_forever()

    return {"http": (serve, ())}, lambda started: connect


def over_sockets(link: Link, handlers: Handlers) -> Any:
    def connect_to(started: dict[str, Any]) -> Connect:
        async def connect() -> trio.abc.Stream:
            return await link.connect(started["http"][0])

        return connect

    return {"http": (link.run(hosted(handlers)), (ANY_PORT,))}, connect_to


@pytest.mark.parametrize(
    "make", [over_memory, without_a_run, partial(over_sockets, Link.PLAIN), partial(over_sockets, Link.TLS)]
)
async def test_cancelled_at_every_step(make: Any) -> None:
    """An App that is cancelled at any step of an exchange leaves no task or file, and disconnects once."""
    await cancel_at_every_step(make, echo, {"http"})


@pytest.mark.parametrize("first", [True, False], ids=["first", "second"])
async def test_one_of_two_runs_cancelled_at_every_step(first: bool) -> None:
    """If one of two runs is cancelled at any step of an exchange with the other, the exchange goes on."""
    for step in itertools.count():
        handlers = Handlers()
        app = hosted(handlers)
        tasks = living_tasks()
        async with trio.open_nursery() as nursery:
            scope = trio.CancelScope()

            async def run_one(*, task_status: trio.TaskStatus[Any]) -> None:
                with scope:  # noqa: B023
                    await app.run(ANY_PORT, task_status=task_status)  # noqa: B023

            runs = [partial(nursery.start, run_one), partial(nursery.start, app.run, ANY_PORT)]
            started = [await run() for run in runs[:: 1 if first else -1]]
            ((address,), _) = started[::-1] if first else started

            async def connect() -> trio.abc.Stream:
                return await Link.PLAIN.connect(address)  # noqa: B023

            with at_step(step + 1, scope.cancel) as cancel:
                assert await talk_to(connect, echo)
            nursery.cancel_scope.cancel()
        assert living_tasks() == tasks
        assert len(handlers.connected) == 1
        assert handlers.connected == handlers.disconnecting == handlers.disconnected
        if not cancel.fired:
            break
    assert step > 20


async def test_drain_begins_at_every_step(caplog: pytest.LogCaptureFixture, autojump_clock: Clock) -> None:
    """A drain that begins at any step of an exchange ends, disconnects the client once, and logs no error."""
    for step in itertools.count():
        shutdown, handlers = trio.Event(), Handlers()
        websocket_app = handlers.attach(AsyncWebsocketApp.new_unlinked())
        app = App().with_websocket_app("/ws", websocket_app).with_shutdown(shutdown, BUSY)
        async with in_memory(shutdown, app) as stage:
            with at_step(step + 1, stage.drain) as drain, suppress(HandshakeError, ConnectionClosed, OSError):
                client = await stage.open()
                await echo(client)
                await client.close()
            stage.drain()
            await stage.close()
            await stage.http.returned.wait()
            assert stage.now == soon_after(0, sweeps=8)
        assert handlers.connected == handlers.disconnecting == handlers.disconnected
        if not drain.fired:
            break
    assert step > 20
    assert errors(caplog) == []


async def drain_and_cancel(step: int) -> bool:
    """Cancel ``run`` of an App at a step of its drain. Returns whether the drain was not over before."""
    shutdown, handlers, tasks = trio.Event(), Handlers(), living_tasks()
    app = hosted(handlers).with_shutdown(shutdown)
    ours, theirs = trio.testing.memory_stream_pair()
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            scope = await nursery.start(run_in_scope, app)
            nursery.start_soon(app.serve_stream, theirs)
            client = await open_websocket(ours)
            await echo(client)
            with at_step(step + 1, scope.cancel) as cancel:
                shutdown.set()
                # A cancelled write over a trio stream may have left half a frame, so that no Close may follow.
                assert (await receive_until_closed(client)).code in (1001, 1006)
                await ours.aclose()
        # The nursery has ended by itself.
    assert living_tasks() == tasks
    assert len(handlers.connected) == 1
    assert handlers.connected == handlers.disconnecting == handlers.disconnected
    return cancel.fired


async def run_in_scope(app: App, *, task_status: trio.TaskStatus[trio.CancelScope]) -> None:
    """Run an app in a cancel scope."""
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(app.run, ANY_PORT)
            task_status.started(scope)


async def test_drain_cancelled_at_every_step(autojump_clock: Clock) -> None:
    """A drain that is cancelled at any step leaves no task, and disconnects the client once."""
    step = 0
    with no_resource_warning():
        while await drain_and_cancel(step):
            step += 1
    assert step > 5


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
