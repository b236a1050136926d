"""The lifespan of ASGI apps: startup, shutdown, state, failures, and several servers, in virtual time."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, Request, Timeouts
from humphrey_trio.http import LifespanError
from humphrey_trio.testing import HttpClient, http_client, memory_connection
from tests.support import ANY_PORT, PATIENCE
from tests.support.asgi import BODY, START, Message, Receive, Send
from tests.support.draining import in_memory
from tests.support.logs import errors

Clock = trio.testing.MockClock

COMPLETE = {"type": "lifespan.startup.complete"}
SHUT_DOWN = {"type": "lifespan.shutdown.complete"}


class Recorder:
    """An ASGI app with a lifespan, which records what happens in order.

    Args:
        startup, shutdown: the messages that it sends.
        startup_time, shutdown_time: the seconds that it takes.
        request_time: the seconds that it works after a response.
    """

    def __init__(
        self,
        *,
        startup: Message = COMPLETE,
        shutdown: Message = SHUT_DOWN,
        startup_time: float = 0,
        shutdown_time: float = 0,
        request_time: float = 0,
    ) -> None:
        self._startup = startup
        self._shutdown = shutdown
        self._times = startup_time, shutdown_time
        self._request_time = request_time
        self.events: list[str] = []
        self.tasks: set[trio.lowlevel.Task] = set()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            self.tasks.add(trio.lowlevel.current_task())
            await self._live(scope, receive, send)
            return
        self.events.append(f"request {scope['state']}")
        await send(START)
        await send(BODY)
        await trio.sleep(self._request_time)
        self.events.append("done")

    async def _live(self, scope: Message, receive: Receive, send: Send) -> None:
        assert await receive() == {"type": "lifespan.startup"}
        self.events.append("startup")
        await trio.sleep(self._times[0])
        scope["state"]["number"] = 1
        await send(self._startup)
        assert await receive() == {"type": "lifespan.shutdown"}
        self.events.append("shutdown")
        await trio.sleep(self._times[1])
        await send(self._shutdown)
        self.events.append("end")


async def get(app: App, client: HttpClient | None = None) -> str:
    """The response of an app that runs."""
    ours, theirs = memory_connection()

    async def connect() -> trio.abc.Stream:
        return ours

    async with trio.open_nursery() as nursery:
        nursery.start_soon(app.serve_stream, theirs)
        async with HttpClient(connect) as client:
            return (await client.get("/")).text


async def test_startup_and_shutdown(autojump_clock: Clock) -> None:
    """The startup is complete before ``run`` has started, and the shutdown begins after the calls have ended."""
    recorder = Recorder(startup_time=5, shutdown_time=5, request_time=3)
    shutdown = trio.Event()
    app = App().with_asgi("*", recorder).with_shutdown(shutdown)
    start = trio.current_time()
    async with in_memory(shutdown, app) as stage:
        assert trio.current_time() - start == 5
        assert recorder.events == ["startup"]
        assert await get(app) == "hello"
        stage.drain()
    assert stage.since(stage.http.at) == pytest.approx(8, abs=0.5)
    assert recorder.events == ["startup", "request {'number': 1}", "done", "shutdown", "end"]
    assert len(recorder.tasks) == 1


async def test_the_scope_of_a_lifespan() -> None:
    """The scope has the versions, and an empty state."""
    scopes: list[Message] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        scopes.append(dict(scope))
        if scope["type"] == "lifespan":
            raise NotImplementedError
        await send(START)
        await send(BODY)

    async with http_client(App().with_asgi("*", app)) as client:
        await client.get("/")
    assert scopes[0] == {"type": "lifespan", "asgi": {"version": "3.0", "spec_version": "2.0"}, "state": {}}


async def test_the_state_is_copied(autojump_clock: Clock) -> None:
    """Each call gets a shallow copy of the state of the lifespan."""
    shared: list[int] = []
    seen: list[Message] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            scope["state"]["shared"] = shared
            await receive()
            await send(COMPLETE)
            await receive()
            return
        seen.append(dict(scope["state"]))
        assert scope["state"]["shared"] is shared
        scope["state"]["own"] = True
        await send(START)
        await send(BODY)

    async with http_client(App().with_asgi("*", app)) as client:
        await client.get("/")
        await client.get("/")
    assert seen == [{"shared": shared}] * 2


@pytest.mark.parametrize("returns", [False, True])
async def test_an_app_without_a_lifespan(returns: bool, caplog: pytest.LogCaptureFixture) -> None:
    """An app that raises an exception for the scope, or returns, is served without a lifespan."""
    caplog.set_level(logging.INFO)

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            if returns:
                return
            raise KeyError("lifespan")
        await send(START)
        await send(BODY)

    async with http_client(App().with_asgi("*", app)) as client:
        assert (await client.get("/")).text == "hello"
    told = [
        record for record in caplog.records if "has no lifespan: it has raised KeyError" in record.getMessage()
    ]
    assert len(told) == (0 if returns else 1)
    assert not errors(caplog)


class Failure(Exception):
    """Raised by the apps of these tests."""


async def fails_at_startup(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "Traceback:\n  line\nKeyError: 'db'\n"})
    raise Failure


async def says_so_and_returns(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed"})


async def says_so_and_waits(receive: Receive, send: Send) -> None:
    await receive()
    await send({"type": "lifespan.startup.failed", "message": "no database"})
    await receive()


async def fails_while_running(receive: Receive, send: Send) -> None:
    await receive()
    await send(COMPLETE)
    await trio.sleep(1)
    raise Failure


async def says_so_while_running(receive: Receive, send: Send) -> None:
    await receive()
    await send(COMPLETE)
    await trio.sleep(1)
    await send({"type": "lifespan.shutdown.failed", "message": "lost the database"})
    raise Failure


async def fails_at_shutdown(receive: Receive, send: Send) -> None:
    await receive()
    await send(COMPLETE)
    await receive()
    raise Failure


async def says_so_at_shutdown(receive: Receive, send: Send) -> None:
    await receive()
    await send(COMPLETE)
    await receive()
    await send({"type": "lifespan.shutdown.failed", "message": "not closed"})


async def fails_after_shutdown(receive: Receive, send: Send) -> None:
    await receive()
    await send(COMPLETE)
    await receive()
    await send(SHUT_DOWN)
    raise Failure


def sends(*messages: Any) -> Callable[[Receive, Send], Any]:
    """A lifespan that receives the startup, and sends some messages."""

    async def live(receive: Receive, send: Send) -> None:
        await receive()
        for message in messages:
            await send(message)
        await receive()

    return live


@pytest.mark.parametrize(
    ("live", "reason", "has_cause"),
    [
        (fails_at_startup, "its startup has failed: KeyError: 'db'$", True),
        (says_so_and_returns, "its startup has failed: it has given no reason$", False),
        (says_so_and_waits, "its startup has failed: no database$", False),
        (fails_while_running, "it has raised an exception$", True),
        (says_so_while_running, "its shutdown has failed: lost the database$", True),
        (fails_at_shutdown, "it has raised an exception$", True),
        (says_so_at_shutdown, "its shutdown has failed: not closed$", False),
        (fails_after_shutdown, "it has raised an exception$", True),
        (
            sends(SHUT_DOWN),
            "has sent 'lifespan.shutdown.complete', but expected is 'lifespan.startup.complete'",
            True,
        ),
        (sends(COMPLETE, COMPLETE), "it has raised an exception", True),
        (sends(COMPLETE, SHUT_DOWN), "it has raised an exception", True),
        (sends({"type": "http.response.start"}), "has sent 'http.response.start', but expected", True),
        (sends({"type": "lifespan.startup.failed", "message": b"x"}), "must be a str, not bytes", True),
        (sends(None), "has sent a NoneType", True),
    ],
)
async def test_lifespans_that_fail(
    live: Callable[[Receive, Send], Any], reason: str, has_cause: bool, autojump_clock: Clock
) -> None:
    """``run`` ends with the failure, which names the app and has its exception as the cause."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        assert scope["type"] == "lifespan"
        await live(receive, send)

    shutdown = trio.Event()
    started: list[bool] = []

    async def serve(task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        with pytest.raises(LifespanError, match=reason) as caught:
            await App().with_asgi("*", app).with_shutdown(shutdown).run(ANY_PORT, task_status=task_status)
        assert "the lifespan of the ASGI app tests.test_asgi_lifespan.test_" in str(caught.value)
        assert (caught.value.__cause__ is not None) == has_cause
        started.append(True)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await trio.sleep(2)
            shutdown.set()
    assert started


async def test_a_lifespan_that_returns_early(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A lifespan that returns after its startup needs no shutdown."""

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await send(COMPLETE)
            return
        await send(START)
        await send(BODY)

    shutdown = trio.Event()
    mount = App().with_asgi("*", app).with_shutdown(shutdown)
    async with in_memory(shutdown, mount) as stage:
        await trio.sleep(5)
        assert await get(mount) == "hello"
        stage.drain()
    assert stage.since(stage.http.at) < 1
    assert not errors(caplog)


async def test_a_shutdown_that_takes_too_long(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A shutdown is cancelled at the end of ``Timeouts.drain``, which is logged."""
    recorder = Recorder(shutdown_time=100)
    shutdown = trio.Event()
    app = App(timeouts=Timeouts(drain=4)).with_asgi("*", recorder).with_shutdown(shutdown)
    async with in_memory(shutdown, app) as stage:
        stage.drain()
    assert stage.since(stage.http.at) == 4
    (record,) = errors(caplog)
    assert "lifespan of the ASGI app tests.test_asgi_lifespan.Recorder was cancelled" in record.getMessage()


async def test_a_startup_that_takes_too_long(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """A graceful end that begins during the startup has its time limit, too."""
    shutdown = trio.Event()
    app = App(timeouts=Timeouts(drain=4)).with_asgi("*", Recorder(startup_time=100)).with_shutdown(shutdown)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(app.run, ANY_PORT)
            await trio.sleep(1)
            shutdown.set()
            start = trio.current_time()
    assert trio.current_time() - start == 4
    assert len(errors(caplog)) == 1


async def test_calls_that_take_too_long(autojump_clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """Work after a response is cancelled before the end of ``Timeouts.drain``, so that the shutdown has time."""
    recorder = Recorder(request_time=100)
    shutdown = trio.Event()
    app = App(timeouts=Timeouts(drain=4)).with_asgi("*", recorder).with_shutdown(shutdown)
    async with in_memory(shutdown, app) as stage:
        await get(app)
        stage.drain()
    assert stage.since(stage.http.at) == pytest.approx(3, abs=0.1)
    assert recorder.events == ["startup", "request {'number': 1}", "shutdown", "end"]
    assert "1 calls of the ASGI app" in caplog.text


async def test_several_servers(autojump_clock: Clock) -> None:
    """All servers of an App share one lifespan, which ends after the last of them."""
    recorder = Recorder(startup_time=1)
    shutdown = trio.Event()
    app = App().with_asgi("/a", recorder).with_asgi("/b", recorder).with_shutdown(shutdown)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            for _ in range(2):
                await nursery.start(app.run, ANY_PORT)
            shutdown.set()
    assert recorder.events == ["startup", "shutdown", "end"]


async def test_a_server_that_is_cancelled(autojump_clock: Clock) -> None:
    """If the server that runs the lifespan is cancelled, the lifespan begins again in another one."""
    recorder = Recorder(startup_time=1)
    app = App().with_asgi("*", recorder)
    first = trio.CancelScope()

    async def run_first(task_status: trio.TaskStatus[Any] = trio.TASK_STATUS_IGNORED) -> None:
        with first:
            await app.run(ANY_PORT, task_status=task_status)

    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(run_first)
            await nursery.start(app.run, ANY_PORT)
            first.cancel()
            await trio.sleep(0.5)  # the first server has ended, and the second startup is not complete
            assert await get(app) == "hello"
            nursery.cancel_scope.cancel()
    assert recorder.events == ["startup", "startup", "request {'number': 1}", "done"]


async def test_a_second_server_that_is_cancelled(autojump_clock: Clock) -> None:
    """A server that does not run the lifespan can be cancelled without an effect on it."""
    recorder = Recorder()
    app = App().with_asgi("*", recorder)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(app.run, ANY_PORT)
            async with trio.open_nursery() as second:
                await second.start(app.run, ANY_PORT)
                second.cancel_scope.cancel()
            assert await get(app) == "hello"
            nursery.cancel_scope.cancel()
    assert recorder.events == ["startup", "request {'number': 1}", "done"]


async def test_connections_without_a_running_app(autojump_clock: Clock) -> None:
    """``serve_stream`` runs the lifespan for its connection, from the startup to the shutdown."""
    recorder = Recorder(request_time=2)
    app = App().with_asgi("*", recorder)
    assert await get(app) == "hello"
    assert recorder.events == ["startup", "request {'number': 1}", "done", "shutdown", "end"]
    assert await get(app) == "hello"
    assert recorder.events.count("startup") == 2


async def test_an_app_that_does_not_run(caplog: pytest.LogCaptureFixture) -> None:
    """``App.handle`` cannot call an ASGI app that is not running: the log says what to use instead."""
    response = await App().with_asgi("*", Recorder()).handle(Request())
    assert response.status == 500
    assert "http_client" in caplog.text


async def test_two_apps(autojump_clock: Clock) -> None:
    """Several ASGI apps start one after the other, and end in reverse. A failure of one ends the others."""
    order: list[str] = []

    def make(name: str) -> Callable[[Message, Receive, Send], Any]:
        async def app(scope: Message, receive: Receive, send: Send) -> None:
            await receive()
            order.append(f"{name} up")
            await send(COMPLETE)
            await receive()
            order.append(f"{name} down")
            await send(SHUT_DOWN)

        return app

    shutdown = trio.Event()
    app = App().with_asgi("/a", make("a")).with_asgi("/b", make("b")).with_shutdown(shutdown)
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            await nursery.start(app.run, ANY_PORT)
            shutdown.set()
    assert order == ["a up", "b up", "b down", "a down"]
