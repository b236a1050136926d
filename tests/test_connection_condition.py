"""The connection condition: which connections it closes, when it is called, and what happens if it fails."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from humphrey_trio import App, Response
from humphrey_trio.http import Address
from humphrey_trio.monitor import Event, EventLevel, EventType, MonitorConfig
from humphrey_trio.testing import http_client
from tests.support import ANY_PORT, PATIENCE
from tests.support.cancellation import living_tasks, no_resource_warning, open_files
from tests.support.clients import RawClient
from tests.support.drain_clients import get
from tests.support.links import Link, each_link, listening
from tests.support.logs import errors

ENDED = (OSError, EOFError, trio.BrokenResourceError)


def greeting_app(state: Any = None, **options: Any) -> App[Any]:
    return App(state, **options).with_stateless_route("/", lambda _: Response(200, "hello"))


async def is_served(stream: trio.abc.Stream) -> bool:
    """Whether a request on a connection is answered. The connection is closed."""
    client = RawClient(stream)
    async with stream:
        try:
            await client.send(get())
            return (await client.reply()).status == 200
        except ENDED:
            return False


async def connect_and_ask(address: Address, link: Link = Link.PLAIN) -> bool:
    """Whether a request on a new connection is answered."""
    try:
        return await is_served(await link.connect(address))
    except ENDED:
        return False


@each_link
async def test_condition_decides(link: Link) -> None:
    """The condition gets the address and the state, and decides about each new connection."""
    seen: list[tuple[Address, Any]] = []
    answers = [True, False, True]

    def condition(address: Address, state: str) -> bool:
        seen.append((address, state))
        return answers[len(seen) - 1]

    app = greeting_app("the state").with_connection_condition(condition)
    async with listening(app, link) as address:
        assert [await connect_and_ask(address, link) for _ in answers] == answers
    assert {(peer.host, state) for peer, state in seen} == {("127.0.0.1", "the state")}
    statistics = app.statistics()
    assert (statistics.accepted, statistics.denied) == (2, 1)
    assert statistics.as_dict()["denied"] == 1


async def test_closed_before_tls() -> None:
    """A connection to a TLS port is closed without a byte of TLS."""
    app = greeting_app().with_connection_condition(lambda address, state: False)
    async with listening(app, Link.TLS) as address, await Link.PLAIN.connect(address) as stream:
        assert await stream.receive_some() == b""


async def test_called_once_for_each_connection(autojump_clock: trio.testing.MockClock) -> None:
    """The condition is called once for a connection, however many requests it has."""
    calls: list[Address] = []

    def condition(address: Address, state: None) -> bool:
        calls.append(address)
        return True

    async with http_client(greeting_app().with_connection_condition(condition)) as client:
        for _ in range(3):
            assert (await client.get("/")).status == 200
    assert calls == [Address("memory")]


async def test_stream_that_is_denied(autojump_clock: trio.testing.MockClock) -> None:
    """``serve_stream`` asks the condition with its ``peer``, and closes the stream if the answer is False."""
    bad = Address("192.0.2.7", 1)
    app = greeting_app().with_connection_condition(lambda address, state: address != bad)
    async with trio.open_nursery() as nursery:
        results = []
        for peer in (bad, Address("192.0.2.8", 1)):
            ours, theirs = trio.testing.memory_stream_pair()
            nursery.start_soon(lambda theirs=theirs, peer=peer: app.serve_stream(theirs, peer=peer))
            results.append(await is_served(ours))
    assert results == [False, True]


async def test_unix_socket(tmp_path: Path) -> None:
    """The address of a client of a Unix socket has the host ``unix:``."""
    seen: list[str] = []
    app = greeting_app().with_connection_condition(lambda address, state: bool(seen.append(address.host)))
    with trio.fail_after(PATIENCE):
        async with trio.open_nursery() as nursery:
            (address,) = await nursery.start(app.run, f"unix:{tmp_path / 'socket'}")
            assert not await connect_and_ask(address)
            nursery.cancel_scope.cancel()
    assert seen == ["unix:"]


def fail(address: Address, state: Any) -> bool:
    raise ValueError("a bug")


@pytest.mark.parametrize("answer", [None, 1, "yes"])
async def test_condition_must_return_a_bool(answer: Any, caplog: pytest.LogCaptureFixture) -> None:
    """An answer other than True or False is logged, and the connection is closed."""
    app = greeting_app().with_connection_condition(lambda address, state: answer)
    async with listening(app) as address:
        assert not await connect_and_ask(address)
    (record,) = errors(caplog)
    assert record.exc_info is not None
    assert "must return True or False" in str(record.exc_info[1])


async def test_failure(caplog: pytest.LogCaptureFixture) -> None:
    """An exception is logged with its traceback, and closes the connection. The server goes on."""
    failing = True

    def condition(address: Address, state: None) -> bool:
        return fail(address, state) if failing else True

    app = greeting_app().with_connection_condition(condition)
    async with listening(app) as address:
        assert not await connect_and_ask(address)
        assert not await connect_and_ask(address)
        failing = False
        assert await connect_and_ask(address)
    line = f"the connection condition {__name__}.test_failure.<locals>.condition failed"
    assert [record.getMessage() for record in errors(caplog)] == [line] * 2
    assert app.statistics().denied == 2


async def test_foreign_cancelled(caplog: pytest.LogCaptureFixture) -> None:
    """A ``trio.Cancelled`` of another task that the condition raises is a failure, and does not end the server."""
    cancelled: list[trio.Cancelled] = []
    with trio.move_on_after(0):
        try:
            await trio.sleep_forever()
        except trio.Cancelled as exc:
            cancelled.append(exc)
            raise

    def condition(address: Address, state: None) -> bool:
        raise cancelled[0]

    async with listening(greeting_app().with_connection_condition(condition)) as address:
        assert not await connect_and_ask(address)
        assert not await connect_and_ask(address)
    assert len(errors(caplog)) == 2


async def test_ctrl_c() -> None:
    """Ctrl-C is raised in the condition, ends the server, and leaves no socket."""
    protected: list[bool] = []

    def condition(address: Address, state: None) -> bool:
        protected.append(trio.lowlevel.currently_ki_protected())
        raise KeyboardInterrupt

    app = greeting_app().with_connection_condition(condition)
    files, tasks = open_files(), living_tasks()
    with no_resource_warning():
        with pytest.RaisesGroup(KeyboardInterrupt, flatten_subgroups=True):
            async with trio.open_nursery() as nursery:
                (address,) = await nursery.start(app.run, ANY_PORT)
                await connect_and_ask(address)
        assert protected == [False]
        assert (open_files(), living_tasks()) == (files, tasks)


async def test_events() -> None:
    """A denied connection has the event CONNECTION_DENIED, and none of an accepted connection."""
    send_channel, events = trio.open_memory_channel[Event](10)
    app = greeting_app().with_connection_condition(lambda address, state: False)
    app.with_monitor(MonitorConfig(send_channel).with_subscription_to(EventLevel.DEBUG))
    async with listening(app) as address:
        assert not await connect_and_ask(address)
    event = events.receive_nowait()
    assert event.kind is EventType.CONNECTION_DENIED
    assert event.peer is not None
    assert event.peer.host == "127.0.0.1"
    assert events.statistics().current_buffer_used == 0


async def test_denied_connections_use_no_slot() -> None:
    """Denied connections do not count for ``max_connections``, and close no lingering connection."""
    allowed: set[bool] = {True}
    app = greeting_app(max_connections=2).with_connection_condition(lambda address, state: bool(allowed))
    async with listening(app) as address, await Link.PLAIN.connect(address) as stream:
        client = RawClient(stream)
        await client.send(get())
        assert (await client.reply()).status == 200
        allowed.clear()
        for _ in range(5):
            assert not await connect_and_ask(address)
        assert app.statistics().connections == 1
        await client.send(get())
        assert (await client.reply()).status == 200


async def test_many_denied_connections_leave_nothing() -> None:
    """A burst of denied connections leaves no task and no socket, and the server goes on."""
    app = greeting_app().with_connection_condition(lambda address, state: app.statistics().denied >= 200)
    async with listening(app) as address:
        files, tasks = open_files(), living_tasks()
        for _ in range(200):
            with socket.create_connection(address[:2]) as sock:
                sock.setblocking(False)
                await trio.lowlevel.wait_readable(sock)
        assert (open_files(), living_tasks()) == (files, tasks)
        assert await connect_and_ask(address)


async def test_running_servers_keep_their_condition() -> None:
    """A condition that is set while a server runs is used for later servers."""
    app = greeting_app()
    async with listening(app) as address:
        app.with_connection_condition(lambda address, state: False)
        assert await connect_and_ask(address)
    async with listening(app) as address:
        assert not await connect_and_ask(address)


async def coroutine(address: Address, state: None) -> bool:
    return True


@pytest.mark.parametrize("condition", [coroutine, None, True])
def test_condition_must_be_a_plain_function(condition: Any) -> None:
    """An async function, or what cannot be called, is a TypeError."""
    with pytest.raises(TypeError, match=r"connection condition (is a plain|must be a) function"):
        App().with_connection_condition(condition)
