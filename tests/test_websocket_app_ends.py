"""How WebSocket apps that an App runs end: with a graceful shutdown, a cancellation or a failure."""

from __future__ import annotations

import itertools
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import (
    App,
    AsyncStream,
    AsyncWebsocketApp,
    ConnectionClosed,
    HandshakeError,
    Message,
)
from humphrey_trio.http import Address, Drain, Request, Response, Timeouts
from humphrey_trio.testing import HttpClient, memory_connection, open_websocket, websocket_client
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
from tests.support.hosted_apps import answers, echo_app
from tests.support.links import Link
from tests.support.logs import errors
from tests.support.steps import at_step
from tests.support.times import soon_after

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


async def test_a_stream_that_comes_after_the_cancelled_run() -> None:
    """While the server of a cancelled App waits for a shielded handler, upgrades get a 503. The hook is empty."""
    begun, release = trio.Event(), trio.Event()

    async def shielded(request: Request) -> Response:
        with trio.CancelScope(shield=True):
            begun.set()
            await release.wait()
        return Response(204)

    websocket_app = echo_app()
    app = App().with_websocket_app("/ws", websocket_app).with_stateless_route("/", shielded)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery, trio.open_nursery() as run:
            (address,) = await run.start(app.run, ANY_PORT)
            ours, theirs = memory_connection()
            nursery.start_soon(app.serve_stream, theirs)
            nursery.start_soon(get_root, address)
            await begun.wait()
            run.cancel_scope.cancel()
            with trio.CancelScope(shield=True):
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(HandshakeError) as refused:
                    await open_websocket(ours, "/ws")
                release.set()
    assert refused.value.status == 503
    assert websocket_app.statistics().waiting_in_hook == 0
    async with websocket_client(app, "/ws") as client:  # the next run
        await client.send("hello")
        assert (await client.receive()).text == "hello"


async def get_root(address: Address) -> None:
    async with HttpClient(partial(trio.open_tcp_stream, *address)) as client:
        with suppress(ConnectionError):
            await client.get("/")
